"""`redaes data estimate` says what a build will take, and takes nothing."""

import json
from pathlib import Path

import pytest
import yaml

from redaes.calls import Usage
from redaes.cli import main
from redaes.engine.calling import Calls
from redaes.engine.config import FlowSettings
from redaes.engine.ledger import Ledger
from redaes.engine.objects import Picture
from redaes.records import Verdict, Verification
from redaes.sources import Photograph

HERE = "tests.engine.test_estimate"


class Photos:
    """A hundred photographs that nobody opens."""

    def photographs(self):
        return [Photograph(name=f"photo-{index}", license="CC0-1.0") for index in range(100)]

    def open(self, name):
        raise AssertionError("an estimate looks at no photograph")


class Paid:
    """Any role; asking is not allowed."""

    def __init__(self, model: str, endpoint: str = "api.openai.com"):
        self.name = self.model = model
        self.endpoint = endpoint

    def identity(self, role):
        return {"model": self.model}

    def largest_usage(self, role):
        return Usage(4000, 1000, role == "edit")

    def _ask(self, *question):
        raise AssertionError("an estimate asks nothing")

    score = compare = instruct = diversify = verify = edit = _ask


def plugin(model, **settings):
    return {"class_path": f"{HERE}.Paid", "init_args": {"model": model, **settings}}


@pytest.fixture
def config(tmp_path):
    """The paper's crew on a hundred sources."""
    path = tmp_path / "data.yaml"
    judges = [plugin("qwen3-vl-235b-a22b-instruct"), plugin("qwen2.5-vl-72b-instruct"), plugin("gpt-5")]
    settings = {
        "source": f"{HERE}.Photos",
        "split": {"test_fraction": 0.0, "validation_fraction": 0.0},
        "sources": {"train": 100, "validation": 0, "test": 0, "size": 512},
        "instructor": judges[0],
        "editors": [plugin(f"seedream-4-5-{letter}") for letter in "abcde"],
        "verifiers": judges[1:],
        "judges": judges,
        "groups": {"train": 0},
    }
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def run(capsys, *words):
    assert main(["data", "estimate", *words, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def by_role(estimate, role, mode="lazy"):
    return sum(row[mode]["calls"] for row in estimate["rows"] if row["role"] == role)


def test_the_papers_crew_asks_what_its_rates_say(capsys, config):
    estimate = run(capsys, "--config", config)
    assert (estimate["sources"], estimate["pairs"], estimate["groups"]) == (100, 100, 0)
    for mode, total, compares in (("eager", 2020, 516), ("lazy", 1370, 184)):
        assert by_role(estimate, "score", mode) == 300
        assert by_role(estimate, "instruct", mode) == 100
        assert by_role(estimate, "compare", mode) == pytest.approx(compares, abs=3)
        assert estimate[mode]["calls"] - 400 == pytest.approx(total, abs=10)
    assert 0 < estimate["lazy"]["cost"] < estimate["eager"]["cost"] <= estimate["eager"]["cost_at_most"]


def test_tokens_and_cost_follow_from_the_price_table(capsys, config):
    estimate = run(capsys, "--config", config, "--prompt_tokens", "600", "--reply_tokens", "200")
    (row,) = [row for row in estimate["rows"] if (row["role"], row["plugin"]) == ("score", "gpt-5")]
    a_call = 600 + 210
    assert row["eager"]["input_tokens"] == 100 * a_call
    assert row["eager"]["cost"] == pytest.approx(100 * (a_call * 1.25 + 200 * 10.0) / 1e6)
    assert row["eager"]["cost_at_most"] == pytest.approx(100 * (4000 * 1.25 + 1000 * 10.0) / 1e6)
    edits = [row for row in estimate["rows"] if row["role"] == "edit"]
    assert len(edits) == 5
    assert sum(row["lazy"]["cost"] for row in edits) == pytest.approx(0.04 * by_role(estimate, "edit"))


def test_rates_can_be_assumed(capsys, config):
    certain = run(capsys, "--config", config, "--edit_success", "1", "--agreement", "1")
    assert by_role(certain, "edit") == pytest.approx(400)
    assert by_role(certain, "compare") == pytest.approx(300)


def test_photographs_need_not_be_there_yet(capsys, config):
    many = ("--photographs", "50000", "--set+", "sources.train=null")
    empty = ("--set+", 'source={"class_path": "folder", "init_args": {"root": "nowhere"}}')
    assert run(capsys, "--config", config, *many, *empty)["sources"] == 50_000
    assert main(["data", "estimate", "--config", config, "--photographs", "0"]) == 2
    assert capsys.readouterr().err == "error: --photographs is 0; give 1 or more\n"


def test_groups_come_on_top(capsys, config):
    estimate = run(capsys, "--config", config, "--set+", "groups.train=10", "--set+", "pairs=false")
    assert by_role(estimate, "edit", "eager") == 70
    assert by_role(estimate, "compare", "eager") == 210
    assert by_role(estimate, "diversify") == 10
    assert "instruct" not in {row["role"] for row in estimate["rows"]}


def test_a_model_without_a_price_is_named_with_what_to_do_and_the_rest_is_still_told(capsys, config):
    overrides = ["--set+", f"instructor={json.dumps(plugin('gpt-99'))}"]
    estimate = run(capsys, "--config", config, *overrides)
    assert estimate["unpriced"] == ["gpt-99"]
    assert estimate["lazy"]["cost"] is None
    assert [row["model"] for row in estimate["rows"] if row["lazy"]["cost"] is None] == ["gpt-99"]
    assert main(["data", "estimate", "--config", config, *overrides]) == 0
    shown = capsys.readouterr().out
    assert "no price is known of 'gpt-99'" in shown
    assert "flow.prices" in shown


def test_the_table_shows_stages_and_sums(capsys, config):
    assert main(["data", "estimate", "--config", config]) == 0
    shown = capsys.readouterr().out
    for word in ("score", "instruct", "edit", "verify", "compare", "gpt-5", "USD", "lazy asks", "at most"):
        assert word in shown


def test_plug_ins_that_compute_here_cost_nothing(capsys):
    estimate = run(capsys)
    assert estimate["lazy"]["cost"] == estimate["lazy"]["cost_at_most"] == 0
    assert estimate["unpriced"] == []
    assert estimate["lazy"]["calls"] > 10_000


ANSWERS = {
    "score": (Verdict(judge="j", value=5.0, reasoning="w"), 900, 50),
    "verify": (Verification(verifier="v", success=9.0, over_editing=9.0), 1500, 80),
}


def fill(dataset: Path, role: str, model: str, count: int) -> None:
    """Put as many answers of a plug-in into a dataset's ledger, through the calls."""
    from redaes.calls import note

    answer, read, written = ANSWERS[role]

    def answered():
        note("raw", input_tokens=read, output_tokens=written)
        return answer

    with Ledger.create_or_open(dataset.with_name(f"{dataset.name}.ledger")) as ledger:
        calls = Calls(ledger, FlowSettings())
        for index in range(count):
            picture = Picture(None, f"{index:064x}")
            dump, load = (lambda record: record.model_dump(mode="json")), type(answer).model_validate
            calls.ask(role, Paid(model), [picture], {}, answered, "s", dump, load)


def test_what_a_ledger_holds_is_taken_off(capsys, config, tmp_path):
    fill(tmp_path / "set", "score", "gpt-5", 40)
    full, rest = run(capsys, "--config", config), run(capsys, "--config", config, "--output", str(tmp_path / "set"))
    assert rest == run(capsys, "--config", config, "--ledger", str(tmp_path / "set.ledger"))
    (row,) = [row for row in rest["rows"] if (row["role"], row["plugin"]) == ("score", "gpt-5")]
    assert (row["lazy"]["calls"], row["lazy"]["held"]) == (100, 40)
    (before,) = [row for row in full["rows"] if (row["role"], row["plugin"]) == ("score", "gpt-5")]
    assert row["lazy"]["cost"] == pytest.approx(0.6 * before["lazy"]["cost"])
    assert main(["data", "estimate", "--config", config, "--output", str(tmp_path / "set")]) == 0
    assert "100 (40 held)" in capsys.readouterr().out


def test_sizes_and_rates_can_be_measured_on_another_dataset(capsys, config, tmp_path):
    other = tmp_path / "other"
    fill(other, "score", "gpt-5", 3)
    fill(other, "verify", "qwen2.5-vl-72b-instruct", 10)
    fill(other, "verify", "gpt-5", 8)
    estimate = run(capsys, "--config", config, "--rates", str(other))
    assert estimate["rates"]["settled"] == pytest.approx(0.2)
    (row,) = [row for row in estimate["rows"] if (row["role"], row["plugin"]) == ("score", "gpt-5")]
    assert row["measured"]
    assert row["lazy"]["input_tokens"] == 100 * 900
    funnel = {
        "pair_edits": 50,
        "pair_edits_verified": 40,
        "pair_edits_judged": 1000,
        "pair_edits_unanimously_better": 512,
    }
    other.mkdir()
    info = {"schema_version": 1, "statistics": {"funnel": funnel}, "config": {"judges": ["a", "b", "c"]}}
    (other / "manifest.json").write_text(json.dumps(info))
    measured = {"edit_success": 0.8, "better": pytest.approx(0.8), "settled": pytest.approx(0.2)}
    assert run(capsys, "--config", config, "--rates", str(other))["rates"] == measured
    rates = run(capsys, "--config", config, "--rates", str(other), "--edit_success", "0.9")["rates"]
    assert rates == {**measured, "edit_success": 0.9}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--edit_success", "1.5"], "edit_success is 1.5"),
        (["--reply_tokens", "-1"], "an answer of -1"),
        (["--agreement", "0.2"], "agreement is 0.2"),
        (["--rates", "nowhere"], "nothing can be measured there"),
        (["--ledger", "nowhere"], "no ledger in nowhere"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(capsys, config, words, problem):
    assert main(["data", "estimate", "--config", config, *words]) == 2
    assert problem in capsys.readouterr().err
