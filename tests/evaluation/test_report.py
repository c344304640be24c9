"""The report of a run: one page without script or network, numbers for programs, and honest gaps."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.evaluation.a_finished_run import HOSTILE, NOISE
from tests.evaluation.pages import Page

from redaes.errors import UserError
from redaes.evaluation.report import write_report
from redaes.evaluation.run_folder import open_run

PARTS = ("run.json", "data", "sft", "calibration", "grpo", "evaluation")


@pytest.fixture(scope="module")
def reported(finished_run: Path) -> Path:
    write_report(finished_run)
    return finished_run


@pytest.fixture(scope="module")
def page(reported: Path) -> Page:
    return Page((reported / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_has_its_sections(page: Page) -> None:
    assert page.open == []
    headings = " ".join(page.words)
    for words in (
        "The result",
        "The data",
        "The training",
        "Predicted against true",
        "Is the order right",
        "does not show",
    ):
        assert words in headings


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert not page.having("script")
    assert not page.having("link")
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.having("img"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    policy = next(m["content"] for m in page.having("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in str(policy)


def test_what_models_and_judges_wrote_is_shown_as_text(reported: Path, page: Page) -> None:
    html = (reported / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert any(HOSTILE in words for words in page.words)


def test_every_picture_and_every_chart_has_words(page: Page) -> None:
    assert len(page.having("img")) > 30
    assert all(image.get("alt") for image in page.having("img"))
    charts = page.having("svg")
    assert len(charts) == 2 + 8 + 2
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in charts)


def test_the_numbers_for_programs_are_those_of_the_evaluations(reported: Path) -> None:
    results = json.loads((reported / "results.json").read_text())
    summary = results["summary"]
    assert set(results["stages"]) == set(NOISE)
    for key, stage in [("srcc_within_calibrated", "calibration"), ("srcc_within_grpo", "grpo")]:
        document = json.loads((reported / "evaluation" / f"{stage}.json").read_text())
        assert summary[key] == document["metrics"]["failures_as_mean"]["srcc_within"]["value"]
        assert results["stages"][stage] == document["metrics"]
    gain = summary["srcc_within_gain"]
    assert gain["value"] == pytest.approx(summary["srcc_within_grpo"] - summary["srcc_within_calibrated"])
    assert summary["seconds_training"] == pytest.approx(180 + 12.5 + 240.3)
    assert summary["seconds_total"] == pytest.approx(518.0)
    assert summary["parse_failure_rate_initial"] > 0.1
    assert summary["report"] == "report.html"


def test_the_table_for_a_readme_has_every_stage_and_measure(reported: Path) -> None:
    table = (reported / "results.md").read_text()
    assert "| | untrained | 1 · fine-tuned | 2 · calibrated | 3 · after GRPO |" in table
    assert re.search(r"\| order within groups \(SRCC\) \| \d\.\d{3} \[", table)
    assert "| unreadable answers | 14 of 48 |" in table


def test_contact_sheets_are_in_the_models_order_with_the_judges_places(page: Page) -> None:
    alts = [str(image["alt"]) for image in page.having("img")]
    places = [re.fullmatch(r"Version at place (\d+) of the model and (\d+) of the judges", alt) for alt in alts]
    shown = [(int(m[1]), int(m[2])) for m in places if m]
    assert [place for place, _ in shown] == [1, 2, 3, 4, 5, 6] * 5
    assert sum(model == judges for model, judges in shown) > 20


def test_the_same_run_gives_the_same_page(reported: Path) -> None:
    before = (reported / "report.html").read_bytes()
    write_report(reported)
    assert (reported / "report.html").read_bytes() == before


@pytest.mark.parametrize("missing", PARTS)
def test_a_run_without_one_of_its_parts_still_has_a_report_that_says_so(
    finished_run: Path, tmp_path: Path, missing: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=lambda _, names: [n for n in names if n == missing])
    page = Page(write_report(run).read_text(encoding="utf-8"))
    text = " ".join(page.words)
    expected = {"data": "dataset is not in this folder", "evaluation": "No model of this run was evaluated"}
    assert expected.get(missing, "The result") in text
    summary = json.loads((run / "results.json").read_text())["summary"]
    if missing == "run.json":
        assert summary["seconds_total"] is None
        assert "Training time" not in text
    if missing == "grpo":
        assert "No sampled answers were kept" in text


@pytest.mark.parametrize("only", PARTS)
def test_one_part_alone_is_enough(finished_run: Path, tmp_path: Path, only: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    copy = shutil.copy if only.endswith(".json") else shutil.copytree
    copy(finished_run / only, run / only)
    Page(write_report(run).read_text(encoding="utf-8"))
    json.loads((run / "results.json").read_text())


def test_a_stage_that_never_answered_is_shown_as_undefined(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    from redaes.data.manifest import Manifest
    from redaes.evaluation.runner import Prediction, evaluation_document, read_evaluation, write_evaluation

    _, predictions = read_evaluation(run / "evaluation" / "grpo.json")
    silent = [Prediction(**{**vars(p), "score": None}) for p in predictions]
    dataset = Manifest(run / "data")
    for stage in ("grpo", "initial"):
        document = evaluation_document(silent, model="m@1", split="test", dataset=dataset, seconds=1.0)
        write_evaluation(run / "evaluation" / f"{stage}.json", document)
    text = " ".join(Page(write_report(run).read_text(encoding="utf-8")).words)
    assert "undefined" in text
    assert json.loads((run / "results.json").read_text())["summary"]["srcc_within_grpo"] is None


def test_pictures_that_are_gone_do_not_stop_the_report(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "data" / "images")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert any("the file is not there" in words for words in page.words)


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", "[]"), ("grpo/completions.jsonl", "{"), ("evaluation/grpo.json", "{}"), ("data/manifest.json", "{}")],
)
def test_a_damaged_part_is_named(finished_run: Path, tmp_path: Path, name: str, content: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / name).write_text(content)
    with pytest.raises(UserError, match=name.rpartition("/")[2].replace(".", r"\.")):
        write_report(run)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing of a run"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        open_run(tmp_path / "missing")


def test_curves_leave_out_empty_cells_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "metrics.csv").write_text("step,epoch,a,b\n0,0,1.5,\n5,0,nan,\n10,0,inf,2\n15,0,x,3\n")
    curves = open_run(tmp_path).curves["sft"]
    assert (curves["a"].x, curves["a"].y) == ([0.0], [1.5])
    assert (curves["b"].x, curves["b"].y) == ([10.0, 15.0], [2.0, 3.0])
