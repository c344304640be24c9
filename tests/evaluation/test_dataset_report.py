"""The report of a dataset: one page that loads nothing and runs only its own script, and the manifest's numbers."""

import json
import re
import shutil
import subprocess
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.evaluation.a_finished_run import HOSTILE
from tests.evaluation.pages import Page

from redaes.cli import main
from redaes.data.manifest import Manifest, canonical_json, read_records, write_atomically, write_records
from redaes.engine.build import build
from redaes.engine.config import EngineConfig
from redaes.engine.ledger import CallRecord, Ledger
from redaes.engine.runners import SerialRunner
from redaes.errors import UserError
from redaes.evaluation.dataset_report import FILES, audit, numbers_of, page_of
from redaes.evaluation.html import LONGEST_TEXT
from redaes.evaluation.words import consensus_words, outcome, outcome_words
from redaes.fusion import ConsensusFusion
from redaes.records import Edit, Instruction, PairRecord, Verdict, Verification

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Total(NamedTuple):
    role: str
    plugin: str
    model: str
    status: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset as the engine builds it."""
    output = tmp_path_factory.mktemp("built") / "data"
    config = EngineConfig.model_validate(
        {
            "mode": "eager",
            "split": {"test": ["coffee"], "validation": ["rocket"]},
            "sources": {"train": 14, "validation": 3, "test": 3, "size": 48},
            "editors": ["procedural/tone", "procedural/colour", "procedural/detail"],
            "verifiers": ["pixel/success", "pixel/fidelity"],
            "judges": ["pixel/detail", "pixel/tone", "pixel/colour"],
            "groups": {"train": 3, "instructions": 6, "min_variants": 2},
        }
    )
    build(config, output, SerialRunner())
    return output


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page(page_of(audit(built)))


def text_of(page: Page) -> str:
    return " ".join(" ".join(page.words).split())


def copied(dataset: Path, folder: Path) -> Path:
    return Path(shutil.copytree(dataset, folder / "data"))


def rewritten(dataset: Path, name: str, kind: type[Any], change: Any) -> None:
    """Every record of a file, changed."""
    path = dataset / f"{name}.jsonl"
    write_records(path, [change(record) for record in read_records(path, kind)])


def cards_of(page: Page) -> list[dict[str, str | None]]:
    return [attrs for attrs in page.having("li") if "data-kind" in attrs]


def test_the_page_loads_nothing_and_may_run_only_its_own_script(page: Page) -> None:
    assert page.open == []
    assert not page.having("link")
    (only,) = page.having("script")
    assert "src" not in only
    pictures = [str(image["src"]) for image in page.having("img") if "src" in image]
    assert len(pictures) > 20
    assert all(address.startswith("data:image/jpeg;base64,") for address in pictures)
    assert all(str(a.get("href", "#")).startswith("#") for a in page.having("a"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    policy = str(next(m["content"] for m in page.having("meta") if m.get("http-equiv")))
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[\w+/]{43}='", policy
    )


def test_every_picture_chart_and_control_has_words(page: Page) -> None:
    inside = [image for image in page.having("img") if "src" in image]
    assert all(image["alt"] for image in inside)
    assert all(chart["aria-label"] for chart in page.having("svg"))
    assert all("aria-label" in i or "name" in i for i in page.having("input"))


def test_its_counts_are_the_manifest_s(built: Path, page: Page) -> None:
    info = Manifest(built).info
    numbers = numbers_of(audit(built))
    assert numbers["counts"] == {name: info["counts"][name] for name in FILES}
    assert numbers["statistics"] == info["statistics"]
    assert numbers["warnings"] == []
    funnel = info["statistics"]["funnel"]
    assert numbers["outcomes"]["valid"] == funnel["pair_edits_unanimously_better"] + funnel["group_edits_unanimous"]
    assert sum(numbers["outcomes"].values()) == funnel["pair_edits"] + funnel["group_edits"]
    judged = funnel["pair_edits_judged"] + funnel["group_edits"]
    assert numbers["distributions"]["delta"]["n"] == judged
    assert numbers["answers"]["compare"] == 3 * judged
    assert numbers["distributions"]["score"]["n"] == sum(numbers["distributions"]["score"]["counts"]) == 20
    assert sum(cell["n"] for cell in numbers["consensus"]) == sum(info["statistics"]["consensus_levels"].values())
    assert sum(numbers["licences"].values()) == info["counts"]["sources"]
    by_category = Counter[str]()
    for row in info["statistics"]["categories"].values():
        by_category.update(row)
    assert sum((Counter(row) for row in numbers["orientations"].values()), Counter()) == by_category
    shown = text_of(page)
    for name, row in info["statistics"]["verification"].items():
        words = name.replace("/", "/ ")  # a line may break there
        assert f"{words} {row['n']} {row['mean']:.2f} {100 * row['success_rate']:.1f} %" in shown
    for judges, share in info["statistics"]["judge_agreement"].items():
        assert f"{judges.replace(' | ', ' and ')} {100 * share:.1f} %" in shown
    assert "63.7 % 55.8 to 71.5 %" in shown
    assert "66.2 to 68.9 %" in shown


def test_the_gallery_holds_what_was_asked_for_and_the_draw_depends_on_the_seed_alone(built: Path, page: Page) -> None:
    info = Manifest(built).info
    kinds = Counter(card["data-kind"] for card in cards_of(page))
    assert kinds["pair"] == info["counts"]["pairs"] > 0
    assert kinds["group"] == info["counts"]["groups"] > 0
    few = [numbers_of(audit(built, pairs=2, groups=1, rejected=3, seed=s))["sampled"] for s in (1, 1, 2)]
    assert [len(few[0][kind]) for kind in ("pairs", "groups", "rejected")] == [2, 1, 3]
    assert few[0] == few[1] != few[2]
    assert page_of(audit(built, seed=1)) == page_of(audit(built, seed=1))


def test_a_pair_is_shown_with_every_verdict_its_verification_and_why(built: Path, page: Page) -> None:
    (pair, *_) = Manifest(built).pairs("train")
    shown = text_of(page)
    assert pair.edit.instruction.text in shown
    for verdict in pair.edit.verdicts:
        assert verdict.reasoning in shown
    for check in pair.edit.verifications:
        assert f"{check.verifier} {check.success:.1f} {check.over_editing:.1f} {check.value:.1f}" in shown
    assert pair.edit.fused is not None
    assert consensus_words(pair.edit.verdicts, pair.edit.fused) in shown
    (scored,) = [record for record in Manifest(built).sources("train") if record.source.id == pair.source.id]
    assert f"S(x) {scored.fused.value:.2f}" in shown
    assert consensus_words(scored.verdicts, scored.fused) in shown
    (card,) = [c for c in cards_of(page) if c["data-kind"] == "pair" and c["data-deltas"] == str(pair.delta)]
    assert (card["data-split"], card["data-score"]) == ("train", str(pair.score))


def test_what_models_wrote_is_shown_as_text(built: Path, tmp_path: Path) -> None:
    dataset = copied(built, tmp_path)
    evil = HOSTILE + " </script><img src=http://evil.example/x onerror=alert(1)> \u202eשלום مرحبا 🎞️ " + "x" * 400

    def planted(pair: PairRecord) -> PairRecord:
        verdicts = tuple(
            v.model_copy(update={"judge": f"j{i}{evil}", "reasoning": evil}) for i, v in enumerate(pair.edit.verdicts)
        )
        instruction = Instruction(text=evil, category=f'"{evil}', orientation="content", analysis=evil)
        edit = pair.edit.model_copy(update={"verdicts": verdicts, "instruction": instruction, "editor": f"' {evil}"})
        source = pair.source.model_copy(update={"license": evil})
        return pair.model_copy(update={"edit": edit, "source": source})

    rewritten(dataset, "pairs", PairRecord, planted)
    info = Manifest(dataset).info
    info["statistics"]["verification"] = {evil: {"mean": 7.0, "success_rate": 0.5, "n": 2}}
    info["statistics"]["judge_agreement"] = {f"{evil} | {evil}": 0.5}
    info["statistics"]["categories"] = {evil: {"judged": 2, "better": 1, "worse": 0}}
    info["statistics"]["fusion_methods"] = {evil: 2}
    info["statistics"][evil] = {evil: evil}
    info["config"]["source"] = evil
    write_atomically(dataset / "manifest.json", canonical_json(info))
    totals = [Total("edit", evil, evil, "ok", 1, 1, 1, 0.5)]
    html = page_of(audit(dataset, totals))
    page = Page(html)
    assert "<script>alert" not in html
    assert len(page.having("script")) == 1
    assert not any("evil.example" in str(image.get("src", "")) for image in page.having("img"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE in text_of(page)
    assert "cell of its table" not in text_of(page), "the table belongs to the default fusion"


def test_long_texts_are_cut_and_say_so(built: Path, tmp_path: Path) -> None:
    dataset = copied(built, tmp_path)

    def wordy(pair: PairRecord) -> PairRecord:
        verdicts = tuple(v.model_copy(update={"reasoning": "word " * 40_000}) for v in pair.edit.verdicts)
        return pair.model_copy(update={"edit": pair.edit.model_copy(update={"verdicts": verdicts})})

    rewritten(dataset, "pairs", PairRecord, wordy)
    page = Page(page_of(audit(dataset)))
    assert "199,999 characters in all" in text_of(page)
    assert max(len(words) for words in page.words if "word word" in words) < LONGEST_TEXT + 50


def test_the_page_stays_within_its_size_and_says_what_it_left_out(built: Path) -> None:
    found = audit(built)
    whole = page_of(found)
    small = page_of(found, pictures_limit=40_000)
    pictures = re.findall(r"data:image/jpeg;base64,[\w+/=]+", small)
    assert 0 < sum(map(len, pictures)) <= 40_000
    left = len(re.findall(r"data:image/jpeg;base64,", whole)) - len(pictures)
    assert f"{left} pictures are left out" in text_of(Page(small))
    assert "pictures are left out" not in text_of(Page(whole))
    with pytest.raises(UserError, match=r"would have .* MB, more than 0.05 MB; lower --pairs"):
        page_of(found, pictures_limit=0, page_limit=50_000)


def test_pictures_that_are_gone_are_said_to_be(built: Path, tmp_path: Path) -> None:
    dataset = copied(built, tmp_path)
    shutil.rmtree(dataset / "images")
    page = Page(page_of(audit(dataset)))
    assert not [image for image in page.having("img") if "src" in image]
    assert "is not in this page" in text_of(page)
    assert len(cards_of(page)) > 0


def test_a_picture_outside_the_dataset_is_refused(built: Path, tmp_path: Path) -> None:
    dataset = copied(built, tmp_path)
    rewritten(
        dataset,
        "pairs",
        PairRecord,
        lambda p: p.model_copy(update={"source": p.source.model_copy(update={"image": "../../secret.png"})}),
    )
    with pytest.raises(UserError, match="leaves the dataset folder"):
        page_of(audit(dataset))


def test_the_cost_is_summed_by_role_plug_in_and_model_and_a_missing_ledger_is_said(built: Path, page: Page) -> None:
    assert "no ledger beside this dataset" in text_of(page)
    assert numbers_of(audit(built))["cost"] is None
    totals = [
        Total("compare", "chat", "m-1", "ok", 1200, 5_000_000, 70_000, 12.5),
        Total("compare", "chat", "m-1", "retried", 30, 100_000, 0, 0.25),
        Total("compare", "chat", "m-1", "failed", 2, 0, 0, 0.0),
        Total("score", "chat", "m-1", "ok", 40, 1000, 10, 1.0),
    ]
    rows = numbers_of(audit(built, totals))["cost"]
    assert [row["role"] for row in rows] == ["score", "compare"]
    assert rows[1] == {
        "role": "compare", "plugin": "chat", "model": "m-1", "ok": 1200, "retried": 30, "failed": 2,
        "input_tokens": 5_100_000, "output_tokens": 70_000, "cost": 12.75,
    }  # fmt: skip
    shown = text_of(Page(page_of(audit(built, totals))))
    assert "compare chat m-1 1,200 30 2 5,100,000 70,000 12.75" in shown
    assert "all 1,240 30 2 5,101,000 70,010 13.75" in shown
    assert "holds no call" in text_of(Page(page_of(audit(built, []))))


def test_the_ledger_beside_a_dataset_is_read_or_the_one_that_is_named(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = copied(built, tmp_path)
    record = CallRecord(
        key="k", role="compare", plugin="chat", version="1", model="m-1", prompt="", parameters="{}", images=(),
        source="s", status="ok", replies="[]", result="{}", input_tokens=100, output_tokens=5, images_made=0,
        cost=0.25, latency=0.1, attempt=1, error="", at=0.0,
    )  # fmt: skip
    with Ledger.create_or_open(tmp_path / "data.ledger") as ledger:
        ledger.put(record)
    (tmp_path / "data.ledger").rename(tmp_path / "shared")

    def cost(*words: str) -> Any:
        assert main(["data", "report", str(dataset), "--format", "json", *words]) == 0
        return json.loads(capsys.readouterr().out)["cost"]

    assert cost() is None
    (named,) = cost("--ledger", str(tmp_path / "shared"))
    assert (named["role"], named["ok"], named["input_tokens"], named["cost"]) == ("compare", 1, 100, 0.25)
    (tmp_path / "shared").rename(tmp_path / "data.ledger")
    assert cost() == [named]
    assert main(["data", "report", str(dataset), "--ledger", str(tmp_path / "nowhere")]) == 2
    assert "no ledger" in capsys.readouterr().err


def test_a_lazy_dataset_is_shown_with_its_bias_and_with_the_calls_it_saved(built: Path, tmp_path: Path) -> None:
    dataset = copied(built, tmp_path)
    info = Manifest(dataset).info
    info["config"]["mode"] = "lazy"
    info["statistics"]["calls"] = {"edit": {"made": 60, "saved": 40}, "compare": {"made": 30, "saved": 90}}
    info["counts"]["incomplete"] = 3
    write_atomically(dataset / "manifest.json", canonical_json(info))
    found = audit(dataset)
    assert any("shares of Tab. 8 and 9 are biased" in warning for warning in found.warnings())
    assert any("3 sources are left out" in warning for warning in found.warnings())
    shown = text_of(Page(page_of(found)))
    assert "Biased: this dataset was built lazily." in shown
    assert "Not needed: what a lazy build did not ask" in shown
    made = found.survey.answers["edit"]
    assert f"40 {100 * 40 / (made + 40):.1f} %" in shown


def test_files_that_do_not_hold_what_the_manifest_says_are_named(built: Path, tmp_path: Path) -> None:
    dataset = copied(built, tmp_path)
    path = dataset / "edits.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    (warning,) = audit(dataset).warnings()
    assert warning == f"edits.jsonl holds {len(lines) - 1} records, the manifest says {len(lines)}."
    assert warning in text_of(Page(page_of(audit(dataset))))


@pytest.mark.parametrize("name", ["sources", "edits", "pairs", "groups", "calibration"])
def test_a_damaged_record_is_named_by_file_and_line(
    built: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = copied(built, tmp_path)
    path = dataset / f"{name}.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, '{"torn": ', *rest]))
    assert main(["data", "report", str(dataset)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name}.jsonl:2 is not a" in line
    assert not (tmp_path / "data.html").exists()


def test_a_damaged_manifest_and_a_missing_dataset_are_one_line(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = copied(built, tmp_path)
    (dataset / "manifest.json").write_text("{")
    for folder, words in ((dataset, "manifest.json is damaged"), (tmp_path / "nowhere", "no dataset at")):
        assert main(["data", "report", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_dataset_without_statistics_pairs_or_groups_has_a_page_that_says_so(built: Path, tmp_path: Path) -> None:
    dataset = copied(built, tmp_path)
    for name in ("pairs", "groups", "edits", "sources", "calibration"):
        (dataset / f"{name}.jsonl").write_text("")
    write_atomically(dataset / "manifest.json", canonical_json({"schema_version": 1}))
    page = Page(page_of(audit(dataset)))
    shown = text_of(page)
    for words in ("records no funnel", "No edit was verified", "There are no groups", "There is nothing to show"):
        assert words in shown
    assert not page.having("script")


def test_the_command_writes_beside_the_dataset_or_where_it_is_told(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = copied(built, tmp_path)
    few = ["--pairs", "1", "--groups", "1", "--rejected", "1"]
    assert main(["data", "report", str(dataset), *few]) == 0
    assert len(cards_of(Page((tmp_path / "data.html").read_text(encoding="utf-8")))) == 3
    assert main(["data", "report", str(dataset), "-o", str(tmp_path / "other.html"), *few]) == 0
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "data.html").read_bytes()
    capsys.readouterr()
    assert main(["data", "report", str(dataset), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["counts"]["pairs"] == Manifest(dataset).info["counts"]["pairs"] > 0
    assert main(["data", "report", str(dataset), "--pairs", "301"]) == 2
    assert "it must be from 0 to 300" in capsys.readouterr().err
    assert main(["data", "report", str(dataset), "-o", str(tmp_path / "no" / "page.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_dataset(built: Path, tmp_path: Path) -> None:
    def peak(copies: int) -> int:
        dataset = tmp_path / f"{copies}"
        dataset.mkdir()
        shutil.copy(built / "manifest.json", dataset)
        for name in ("sources", "edits", "pairs"):
            text = (built / f"{name}.jsonl").read_text(encoding="utf-8")
            with (dataset / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(re.sub("(train|validation|test)-0", rf"\1-{copy}x", text) for copy in range(copies))
        for name in ("groups", "calibration"):
            shutil.copy(built / f"{name}.jsonl", dataset)
        tracemalloc.start()
        found = audit(dataset, pairs=10, rejected=10)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.survey.counts["sources"] == 20 * copies
        return size

    peak(2)  # what is imported and cached on first use
    grown = peak(60) - peak(6)  # pydantic's cache of short strings fills, up to its bound; the records are some 20 MB
    assert grown < 2_000_000


# --- words ----------------------------------------------------------------------------------------------------------


def edit(passed: bool | None, values: tuple[float, ...], checks: tuple[float, ...] = ()) -> Edit:
    verdicts = tuple(Verdict(judge=f"j{i}", value=v, reasoning="") for i, v in enumerate(values))
    return Edit(
        id="s-p0",
        source_id="s",
        editor="e",
        instruction=Instruction(text="Brighten.", category="brighten", orientation="quality"),
        image="",
        verifications=tuple(Verification(verifier=f"v{i}", success=c, over_editing=9) for i, c in enumerate(checks)),
        passed=passed,
        verdicts=verdicts,
        fused=ConsensusFusion()(values) if values else None,
    )


@pytest.mark.parametrize(
    ("made", "key", "words"),
    [
        (edit(False, (), (4, 6)), "not_verified", "Not verified: 5.0 on average, 7.5 are needed."),
        (edit(True, (), (8, 8)), "not_judged", "Verified but not judged: too few edits of this source passed."),
        (
            edit(True, (1, -0.5, 2), (8, 8)),
            "not_better",
            "Not unanimous: j1 says −0.5, and every judge must say better.",
        ),
        (edit(True, (1, 0.5, 2), (8, 8)), "valid", "Valid, but another valid edit of this source was drawn."),
        (edit(None, (1, -0.5, 2)), "no_direction", "No common direction: j0 says +1.0, j1 says −0.5, j2 says +2.0."),
        (edit(None, (-1, -0.5, -2)), "valid", "Valid, but the group was full or too small."),
        (edit(None, ()), "not_examined", "Never examined."),
    ],
)
def test_why_an_edit_was_left_out_is_said_with_its_numbers(made: Edit, key: str, words: str) -> None:
    assert outcome(made) == key
    assert outcome_words(made, 7.5, lazy=False) == words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((1.0, 1.2, 1.1), "Three verdicts close together (standard deviation 0.08), none stands out: weighted average"),
        ((1.0, 1.1, 9.0), "Three verdicts far apart (standard deviation 3.75), j2 stands out: median"),
        (
            (1.0, 1.1, 0.9, 1.0, 1.2, 9.0, -9.0),
            "Seven verdicts far apart (standard deviation 4.83), j5 and j6 stand out: robust median",
        ),
    ],
)
def test_why_a_consensus_is_what_it_is_is_said_in_words(values: tuple[float, ...], words: str) -> None:
    made = edit(None, values)
    assert made.fused is not None
    assert consensus_words(made.verdicts, made.fused).startswith(words)


# --- in a browser ---------------------------------------------------------------------------------------------------


def in_a_browser(page: Path, choice: str) -> Page:
    """What the page is after its script has run."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    ran = subprocess.run([*command, f"file://{page}#{choice}"], capture_output=True, timeout=60, check=True)
    return Page(ran.stdout.decode("utf-8"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_filters_and_sorts_in_a_browser(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page_of(audit(built)), encoding="utf-8")
    every = cards_of(in_a_browser(path, ""))
    assert not any("hidden" in card for card in every)

    pairs = in_a_browser(path, "kind=pair&sort=largest")
    shown = [card for card in cards_of(pairs) if "hidden" not in card]
    assert {card["data-kind"] for card in shown} == {"pair"}
    deltas = [float(str(card["data-deltas"])) for card in shown]
    assert deltas == sorted(deltas, reverse=True)
    assert len(deltas) > 2
    assert f"{len(shown)} of {len(every)} shown" in text_of(pairs)
    ready = [attrs for attrs in pairs.having("div") if "ready" in str(attrs.get("class")).split()]
    assert len(ready) == len(shown)

    bound = deltas[1]
    ranged = [c for c in cards_of(in_a_browser(path, f"kind=pair&low={bound}")) if "hidden" not in c]
    assert sorted(float(str(c["data-deltas"])) for c in ranged) == sorted(d for d in deltas if d >= bound)

    nobody = in_a_browser(path, "text=no+such+words+anywhere")
    assert all("hidden" in card for card in cards_of(nobody))
    assert not any(attrs.get("id") == "nothing" and "hidden" in attrs for attrs in nobody.having("p"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_script_planted_in_the_page_itself_would_not_run(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    planted = "<script>document.title = 'planted'</script><img src=x onerror=\"document.title = 'planted'\"></main>"
    path.write_text(page_of(audit(built)).replace("</main>", planted), encoding="utf-8")
    page = in_a_browser(path, "kind=pair")
    assert any("hidden" in card for card in cards_of(page)), "the page's own script has run"
    assert any("a dataset of redaes" in words for words in page.words)
