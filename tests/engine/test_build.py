"""A build gives the same bytes however it is run, keeps its promises in every record, and survives being killed."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image
from scipy.stats import chisquare

from redaes.data.manifest import Manifest, read_records
from redaes.engine.build import Standing, build
from redaes.engine.config import EngineConfig, load_config
from redaes.engine.ledger import Ledger
from redaes.engine.plan import plan_jobs, sample_calibration, split_photographs
from redaes.engine.runners import ProcessRunner, SerialRunner
from redaes.engine.statistics import FUNNEL
from redaes.engine.work import OpenPhotographs
from redaes.errors import UserError
from redaes.fusion import ConsensusFusion
from redaes.records import Edit, Verdict
from redaes.sources import Photograph
from redaes.sources.skimage_photos import SkimagePhotos

SPLITS = ("train", "validation", "test")

YAML = """
mode: eager
source: {class_path: skimage, init_args: {names: [astronaut, chelsea, coffee, rocket]}}
split: {test: [coffee], validation: [rocket]}
sources: {train: 24, validation: 2, test: 4, faults: {share: 0.6}}
editors: [procedural/tone, procedural/colour, procedural/detail, procedural/geometry, procedural/content]
verifiers: [pixel/success, pixel/fidelity]
judges: [pixel/detail, pixel/tone, pixel/colour]
groups: {train: 5, instructions: 7, min_variants: 2}
calibration: 10
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "data.yaml"
    path.write_text(YAML)
    return load_config(path)


@pytest.fixture(scope="session")
def dataset(config, tmp_path_factory):
    root = tmp_path_factory.mktemp("engine") / "data"
    build(config, root, SerialRunner())
    return Manifest(root)


def edits(manifest):
    return list(read_records(manifest.root / "edits.jsonl", Edit))


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bytes(config, dataset, tmp_path, workers):
    build(config, tmp_path / "again", ProcessRunner(workers))
    assert digest(tmp_path / "again") == digest(dataset.root)


def test_another_seed_cuts_other_sources(config, dataset, tmp_path):
    build(config.model_copy(update={"seed": 1}), tmp_path / "other", SerialRunner())
    before, after = digest(dataset.root), digest(tmp_path / "other")
    sources = [name for name in before if name.startswith("images/") and name.count("-") == 1]
    assert len(sources) == 30
    assert all(before[name] != after[name] for name in sources)


def test_training_sources_alone_are_varied_and_keep_their_pixels(config, dataset, tmp_path):
    varied = config.model_copy(update={"sources": config.sources.model_copy(update={"vary": True})})
    build(varied, tmp_path / "varied", SerialRunner())
    manifest, changed = Manifest(tmp_path / "varied"), 0
    for split in SPLITS:
        for record in dataset.sources(split):
            before, after = dataset.open(record.source.image), manifest.open(record.source.image)
            if split != "train":
                assert before == after
            assert sorted(before.tobytes()) == sorted(after.tobytes())
            changed += before != after
    assert changed > 20


def test_no_photograph_is_in_two_splits(dataset):
    seen = {split: {r.source.photograph for r in dataset.sources(split)} for split in ("train", "validation", "test")}
    assert seen == {"train": {"astronaut", "chelsea"}, "validation": {"rocket"}, "test": {"coffee"}}
    assert {r.source.split for r in dataset.calibration()} == {"train"}
    assert not dataset.pairs("test")


def test_every_kept_pair_was_verified_and_is_unanimously_better(config, dataset):
    pairs = dataset.pairs("train")
    assert pairs
    for pair in pairs:
        means = sum(v.value for v in pair.edit.verifications) / len(pair.edit.verifications)
        assert means >= 7.5
        assert len(pair.edit.verdicts) == 3
        assert all(v.value > 0 for v in pair.edit.verdicts)
        assert pair.delta == ConsensusFusion()([v.value for v in pair.edit.verdicts]).value
        distance = {v.reasoning: abs(v.value - pair.delta) for v in pair.edit.verdicts}
        assert distance[pair.reasoning] == min(distance.values())


def test_a_source_is_judged_only_if_four_of_five_edits_pass(dataset):
    by_source: dict[str, list[Edit]] = {}
    for edit in edits(dataset):
        if edit.passed is not None:
            by_source.setdefault(edit.source_id, []).append(edit)
    assert by_source
    for made in by_source.values():
        assert len(made) == 5
        enough = sum(bool(e.passed) for e in made) >= 4
        assert {bool(e.verdicts) for e in made if e.passed} <= {enough}
        assert not any(e.verdicts for e in made if not e.passed)


def test_what_was_dropped_had_to_be_dropped(config, dataset):
    """Recomputed from the audit trail alone: a pair or a group exists exactly where the method says so."""
    pairs, groups = {p.id for s in SPLITS for p in dataset.pairs(s)}, {g.id for s in SPLITS for g in dataset.groups(s)}
    better, decided, asked = set(), Counter(), set()
    for edit in edits(dataset):
        values = [v.value for v in edit.verdicts]
        if edit.passed is not None and values and all(v > 0 for v in values):
            better.add(edit.source_id)
        if edit.passed is None:
            asked.add(edit.source_id)
            decided[edit.source_id] += all(v > 0 for v in values) or all(v < 0 for v in values)
        if edit.verifications:
            mean = sum(min(v.success, v.over_editing) for v in edit.verifications) / len(edit.verifications)
            assert edit.passed == (mean >= config.verification.threshold)
    assert pairs == better
    assert groups == {source for source in asked if decided[source] >= config.groups.min_variants}
    assert len(asked) == 5 + 2 + 4


def test_every_group_holds_its_source_first_and_unanimous_variants(dataset):
    groups = dataset.groups("train") + dataset.groups("test")
    assert groups
    for group in groups:
        first, *variants = group.members
        assert first.g == 0
        assert first.edit is None
        assert len(variants) >= 2
        for member in variants:
            signs = {v.value > 0 for v in member.edit.verdicts}
            assert len(signs) == 1
            assert (member.g > 0) == signs.pop()
            assert member.g == ConsensusFusion()([v.value for v in member.edit.verdicts]).value


def test_every_image_a_record_names_is_there_and_no_other(dataset):
    named = {r.source.image for split in ("train", "validation", "test") for r in dataset.sources(split)}
    named |= {e.image for e in edits(dataset) if e.image}
    assert {f"images/{p.name}" for p in (dataset.root / "images").iterdir()} == named
    for group in dataset.groups("train"):
        assert all(dataset.open(m.image).size == (112, 112) for m in group.members)


def test_the_statistics_are_those_of_the_records(dataset):
    statistics = dataset.info["statistics"]
    assert set(statistics["funnel"]) == set(FUNNEL)
    made = [e for e in edits(dataset) if e.verifications]
    for editor, row in statistics["verification"].items():
        rows = [e for e in made if e.editor == editor]
        assert row["success_rate"] == round(sum(bool(e.passed) for e in rows) / len(rows), 4)
    judged = [e for e in edits(dataset) if e.verdicts]
    for a, b in combinations(range(3), 2):
        key = f"{judged[0].verdicts[a].judge} | {judged[0].verdicts[b].judge}"
        agree = [np.sign(e.verdicts[a].value) == np.sign(e.verdicts[b].value) for e in judged]
        assert statistics["judge_agreement"][key] == round(sum(agree) / len(agree), 4)


def test_the_calibration_set_is_drawn_uniformly(config):
    ids = [f"train-{k:06d}" for k in range(25)]
    draws = [sample_calibration(ids, config.model_copy(update={"seed": seed})) for seed in range(800)]
    assert {len(drawn) for drawn in draws} == {10}
    counts = Counter(i for drawn in draws for i in drawn)
    assert chisquare([counts[i] for i in ids]).pvalue > 0.001


def test_a_finished_dataset_is_left_alone_and_another_is_not_overwritten(config, dataset):
    before = digest(dataset.root)
    assert build(config, dataset.root, SerialRunner()).already
    with pytest.raises(UserError, match="another configuration"):
        build(config.model_copy(update={"seed": 9}), dataset.root, SerialRunner())
    assert digest(dataset.root) == before


def test_overwriting_gives_what_a_fresh_build_gives(config, dataset, tmp_path):
    out = tmp_path / "out"
    build(few(config, "chelsea"), out, SerialRunner())
    assert not build(config, out, SerialRunner(), overwrite=True).already
    assert digest(out) == digest(dataset.root)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.ledger"]


def few(config: EngineConfig, *names: str) -> EngineConfig:
    """The configuration with three sources of the named photographs, and nothing held out."""
    values = config.model_dump(mode="json") | {
        "source": {"class_path": "skimage", "init_args": {"names": list(names)}},
        "split": {"test_fraction": 0.0, "validation_fraction": 0.0},
        "sources": {"train": 3, "validation": 0, "test": 0, "size": 64},
        "groups": {"train": 1, "min_variants": 1},
    }
    return EngineConfig.model_validate(values)


@pytest.mark.parametrize("content", ["diary.txt", "manifest.json"])
def test_a_folder_with_something_else_in_it_is_not_touched(config, tmp_path, content):
    (tmp_path / content).write_text("mine")
    with pytest.raises(UserError, match=r"not a dataset|damaged"):
        build(config, tmp_path, SerialRunner(), overwrite=True)
    assert (tmp_path / content).read_text() == "mine"


def test_a_file_in_the_way_is_not_touched(config, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="not a dataset"):
        build(config, tmp_path / "out", SerialRunner(), overwrite=True)


def test_an_empty_folder_even_the_current_one_becomes_the_dataset(config, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build(few(config, "chelsea"), Path("."), SerialRunner())
    assert len(Manifest(tmp_path / "here").sources("train")) == 3


def interrupt_after(done: int):
    def watch(standing: Standing) -> None:
        if standing.done >= done:
            raise KeyboardInterrupt

    return watch


class Seen(list[int]):
    """How many sources were finished each time a build told."""

    def __call__(self, standing: Standing) -> None:
        self.append(standing.done)


def test_unfinished_work_of_another_configuration_is_kept(config, dataset, tmp_path):
    out, seen = tmp_path / "out", Seen()
    with pytest.raises(KeyboardInterrupt):
        build(config, out, SerialRunner(), interrupt_after(4))
    build(few(config, "chelsea"), out, SerialRunner())
    build(config, out, SerialRunner(), seen, overwrite=True)
    assert seen[0] == 4
    assert digest(out) == digest(dataset.root)


def test_work_on_other_photographs_is_not_gone_on_with(config, tmp_path):
    """A photograph added meanwhile moves the split; sources of the old plan must not mix with the new one."""
    photos = tmp_path / "photos"
    photos.mkdir()
    open_photo = SkimagePhotos(["chelsea", "coffee", "rocket"]).open
    for name in ("chelsea", "coffee"):
        open_photo(name).save(photos / f"{name}.png")
    folder = few(config, "chelsea").model_copy(
        update={"source": {"class_path": "folder", "init_args": {"root": str(photos)}}}
    )
    with pytest.raises(KeyboardInterrupt):
        build(folder, tmp_path / "out", SerialRunner(), interrupt_after(2))
    open_photo("rocket").save(photos / "rocket.png")
    seen = Seen()
    build(folder, tmp_path / "out", SerialRunner(), seen)
    assert seen[0] == 0
    assert {r.source.photograph for r in Manifest(tmp_path / "out").sources("train")} == {
        "chelsea.png",
        "coffee.png",
        "rocket.png",
    }
    (photos / "coffee.png").unlink()
    with pytest.raises(UserError, match="other photographs"):
        build(folder, tmp_path / "out", SerialRunner())


@pytest.mark.parametrize("harm", ["lost image", "torn image", "half an image", "lost results"])
def test_damaged_unfinished_work_is_redone(config, dataset, tmp_path, harm):
    with pytest.raises(KeyboardInterrupt):
        build(config, tmp_path / "out", SerialRunner(), interrupt_after(6))
    ledger, seen = tmp_path / "out.ledger", Seen()
    first = min((ledger / "objects").rglob("*.png"), key=lambda p: p.stat().st_mtime_ns)
    if harm == "lost image":
        first.unlink()
    elif harm == "torn image":
        first.write_bytes(first.read_bytes()[:-20])
    elif harm == "half an image":
        (ledger / "objects" / "unfinished" / "half.77.png").write_bytes(b"half")
    else:
        for file in ledger.glob("ledger.sqlite*"):
            file.unlink()
    build(config, tmp_path / "out", SerialRunner(), seen)
    assert seen[0] == 6
    assert seen[-1] == 30
    assert digest(tmp_path / "out") == digest(dataset.root)


def test_a_killed_putting_together_does_not_spoil_the_next_build(config, dataset, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build(config, out, SerialRunner(), interrupt_after(30))
    (noted,) = (tmp_path / "out.ledger" / "builds").glob("*.json")
    half = tmp_path / f"out.partial-{noted.stem}" / "dataset" / "images"
    half.mkdir(parents=True)
    (half / "stray.png").write_bytes(b"half")
    build(config, out, SerialRunner())
    assert digest(out) == digest(dataset.root)
    assert not half.exists()


def test_lazy_and_eager_give_the_same_pairs_groups_and_images(config, dataset, tmp_path):
    lazy = config.model_copy(update={"mode": "lazy"})
    info = build(lazy, tmp_path / "lazy", SerialRunner()).info
    before, after = digest(dataset.root), digest(tmp_path / "lazy")
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert differing == {"edits.jsonl", "manifest.json"}
    eager = dataset.info["statistics"]
    assert eager["biased"] == []
    assert info["statistics"]["biased"] == ["categories", "judge_agreement", "verification"]
    for role in ("edit", "verify"):
        calls = info["statistics"]["calls"][role]
        assert calls["made"] + calls["saved"] == eager["calls"][role]["made"]
        assert calls["saved"] > 0
        assert eager["calls"][role]["saved"] == 0
    same = ("sources", "sources_with_enough_verified", "pairs", "groups")
    assert [info["statistics"]["funnel"][k] for k in same] == [eager["funnel"][k] for k in same]


def test_datasets_may_share_a_ledger_and_its_answers(config, tmp_path):
    few_eager = few(config, "chelsea")
    shared = tmp_path / "shared"
    build(few_eager, tmp_path / "one", SerialRunner(), ledger=shared)
    calls = answered(shared)
    build(few_eager.model_copy(update={"mode": "lazy"}), tmp_path / "two", SerialRunner(), ledger=shared)
    assert {r: n for r, n in answered(shared).items() if r != "edit"} == {r: n for r, n in calls.items() if r != "edit"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "shared", "two"]


def answered(ledger: Path) -> Counter[str]:
    """Answers in a ledger, by role."""
    count: Counter[str] = Counter()
    with Ledger.open_for_reading(ledger) as book:
        for total in book.totals():
            count[total.role] += total.calls
    return count


class Moody:
    """A judge that fails on one picture of a build: the brightest."""

    name = "moody"

    def __init__(self, limit: float, tell: bool = False) -> None:
        self.limit = limit
        self.tell = tell

    def score(self, image: Image) -> Verdict:
        if np.asarray(image).mean() > self.limit:
            raise (UserError if self.tell else ZeroDivisionError)("too bright for me")
        return Verdict(judge=self.name, value=5.0, reasoning="fine")

    def compare(self, source: Image, edited: Image) -> Verdict:
        return Verdict(judge=self.name, value=1.0, reasoning="fine")


@pytest.mark.parametrize(("tell", "kind"), [(True, UserError), (False, RuntimeError)])
@pytest.mark.parametrize("runner", [SerialRunner(), ProcessRunner(2)], ids=["serial", "processes"])
def test_a_failing_plugin_is_named_with_the_source(config, dataset, tmp_path, runner, tell, kind):
    means = {r.source: np.asarray(dataset.open(r.source.image)).mean() for r in dataset.sources("train")}
    second, brightest = sorted(means, key=means.__getitem__)[-2:]
    judge = {
        "class_path": "tests.engine.test_build.Moody",
        "init_args": {"limit": float(means[second] + means[brightest]) / 2, "tell": tell},
    }
    moody = config.model_copy(update={"judges": (judge,), "groups": config.groups.model_copy(update={"train": 0})})
    with pytest.raises(kind, match=rf"source {brightest.id} \({brightest.photograph}\): .*too bright for me"):
        build(moody, tmp_path / "out", runner)


def test_two_judges_of_one_name_are_refused(config, tmp_path):
    twins = config.model_copy(update={"judges": ("pixel/tone", "pixel/tone")})
    with pytest.raises(UserError, match="judges: 2 are called 'pixel/tone'"):
        build(twins, tmp_path / "out", SerialRunner())


def test_a_full_disk_is_one_line(config, dataset, tmp_path):
    """No file may grow beyond a limit: the same error path as a disk without space."""
    (tmp_path / "data.yaml").write_text(YAML)
    code = (
        "import resource; from pathlib import Path; from redaes.engine.build import build;"
        "from redaes.engine.config import load_config; from redaes.engine.runners import SerialRunner;"
        "from redaes.errors import UserError;"
        "config = load_config(Path('data.yaml'));"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: build(config, Path('out'), SerialRunner())\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert re.fullmatch(
        r"source train-0000\d\d \(\w+\): cannot read or write \S+out\.ledger/\S+: (File too large|disk I/O error.*)\n",
        done.stdout,
    )
    assert not (tmp_path / "out").exists()


def test_open_photographs_stay_within_their_budget():
    photographs = OpenPhotographs(SkimagePhotos(), budget=600_000)
    first = photographs.open("chelsea")
    assert photographs.open("chelsea") is first
    for name in ("rocket", "coffee", "astronaut", "chelsea"):
        assert photographs.open(name).size == SkimagePhotos().open(name).size
    assert sum(i.width * i.height for i in photographs.kept.values()) <= 600_000
    huge = OpenPhotographs(SkimagePhotos(), budget=1)
    assert huge.open("coffee").size == (600, 400)


def test_photographs_without_named_splits_are_split_at_random_but_always_the_same(config):
    free = config.model_copy(update={"split": config.split.model_copy(update={"test": (), "validation": ()})})
    photographs = [Photograph(f"p{k:02d}.jpg", "") for k in range(20)]
    splits = split_photographs(photographs, free)
    assert {k: len(v) for k, v in splits.items()} == {"train": 14, "validation": 2, "test": 4}
    assert splits == split_photographs(photographs, free)
    alone = split_photographs(photographs[:1], free)
    assert [len(v) for v in alone.values()] == [1, 0, 0]


def test_calibration_and_group_sources_do_not_depend_on_other_counts(config):
    photographs = [Photograph(n, "") for n in ("astronaut", "chelsea", "coffee", "rocket")]
    jobs = plan_jobs(photographs, config)
    assert sum(j.group and j.source.split == "train" for j in jobs) == 5
    without_pairs = plan_jobs(photographs, config.model_copy(update={"pairs": False}))
    assert [j.source for j in without_pairs] == [j.source for j in jobs]
    assert [j.group for j in without_pairs] == [j.group for j in jobs]


@pytest.mark.parametrize("editors", [1, 3, 5, 7])
@pytest.mark.parametrize("judges", [1, 3, 5])
def test_any_number_of_editors_and_judges_works(editors, judges, tmp_path):
    names = ["tone", "colour", "detail", "geometry", "content"]
    crew = [{"class_path": f"procedural/{names[k % 5]}", "name": f"e{k}"} for k in range(editors)]
    panel = [{"class_path": f"pixel/{names[k % 3]}", "name": f"j{k}", "gain": 3 + k} for k in range(judges)]
    small = EngineConfig.model_validate(
        {
            "mode": "eager",
            "source": {"class_path": "skimage", "init_args": {"names": ["chelsea"]}},
            "sources": {"train": 3, "validation": 0, "test": 0},
            "editors": crew,
            "verifiers": ["pixel/success"],
            "judges": panel,
            "groups": {"train": 0},
        }
    )
    info = build(small, tmp_path / "data", SerialRunner()).info
    assert info["counts"]["sources"] == 3
    assert info["counts"]["edits"] == 3 * editors
    assert small.min_passing == {1: 1, 3: 3, 5: 4, 7: 6}[editors]
