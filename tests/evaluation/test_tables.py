"""Ours beside the paper's: every number comes from what was measured, and only like is compared with like."""

import math
from pathlib import Path

import pytest
from tests.evaluation.results_of_benchmarks import OFFICIAL, made_result

from redaes.data.manifest import Manifest, read_records
from redaes.engine.build import build
from redaes.engine.config import EngineConfig
from redaes.engine.runners import SerialRunner
from redaes.errors import UserError
from redaes.evaluation.tables import (
    NOT_IN_PAPER,
    Cell,
    average_of,
    benchmark_table,
    editors_table,
    fusion_table,
    judges_table,
)
from redaes.records import Edit


def rows_of(table):
    return {row.name: row for row in table.rows}


def test_without_results_the_papers_numbers_stand_alone_and_a_line_says_how() -> None:
    table = benchmark_table([], how="do this")
    assert not table.measured
    assert table.how == "do this"
    assert table.rows[0].cells["ava.srcc"] == Cell(paper=0.3684)


def test_ours_stands_beside_the_papers_with_its_interval_and_the_difference() -> None:
    found = made_result("ava", "gpt-5")
    cell = rows_of(benchmark_table([found]))["GPT-5"].cells["ava.plcc"]
    assert (cell.ours, cell.low, cell.high) == tuple(found["plcc"][key] for key in ("value", "low", "high"))
    assert (cell.paper, cell.n) == (0.4852, 30)
    assert cell.difference == pytest.approx(found["plcc"]["value"] - 0.4852, abs=1e-12)


def test_a_partial_row_shows_what_there_is_and_no_average() -> None:
    results = [made_result(name, "nima") for name in OFFICIAL]
    row = rows_of(benchmark_table(results[:4]))["NIMA"]
    assert sum(cell.measured for cell in row.cells.values()) == 8
    assert not row.cells["average.plcc"].measured
    whole = rows_of(benchmark_table(results))["NIMA"]
    values = [whole.cells[f"{name}.plcc"].ours for name in OFFICIAL]
    assert whole.cells["average.plcc"].ours == pytest.approx(sum(values) / 5, abs=1e-15)
    assert whole.cells["average.plcc"].n == 150


def test_an_averages_interval_adds_the_squares_of_the_parts() -> None:
    parts = [Cell(ours=value, low=value - 0.03, high=value + 0.04) for value in (0.2, 0.4, 0.9)]
    average = average_of(parts)
    assert average is not None
    assert average.ours == pytest.approx(0.5)
    assert average.low == pytest.approx(0.5 - 0.03 / math.sqrt(3))
    assert average.high == pytest.approx(0.5 + 0.04 / math.sqrt(3))


def test_two_checkpoints_of_one_name_are_never_mixed() -> None:
    older = [made_result("ava", "redaes-7b", fingerprint="a")]
    newer = [made_result(name, "redaes-7b", fingerprint="b", noise=0.1) for name in ("ava", "para")]
    rows = rows_of(benchmark_table([*older, *newer]))
    assert rows["RED-Aes-7B (Ours)"].cells["ava.srcc"].ours == newer[0]["srcc"]["value"]
    other = rows["redaes-7b [a]"]
    assert other.family == NOT_IN_PAPER
    assert other.cells["ava.srcc"].ours == older[0]["srcc"]["value"]
    assert "para.srcc" not in other.cells


def test_scorers_that_the_paper_has_not_come_last_without_a_difference() -> None:
    last = benchmark_table([made_result("ava", "pyiqa-musiq-ava")]).rows[-1]
    assert (last.name, last.family) == ("pyiqa-musiq-ava", NOT_IN_PAPER)
    assert last.cells["ava.plcc"].difference is None


def test_a_scorer_that_is_called_like_a_row_does_not_fill_it() -> None:
    rows = rows_of(benchmark_table([made_result("ava", "NIMA", fingerprint="mine")]))
    assert not rows["NIMA"].cells["ava.plcc"].measured
    assert rows["NIMA [mine]"].family == NOT_IN_PAPER


def test_a_result_without_what_is_needed_is_refused() -> None:
    found = made_result("ava", "gpt-5")
    del found["n_listed"]
    with pytest.raises(UserError, match="n_listed"):
        benchmark_table([found])


def test_both_treatments_of_failed_parses_can_be_asked_for() -> None:
    found = made_result("aadb", "gpt-4o", unparsed=6)
    left_out = rows_of(benchmark_table([found], "parsed_only"))["GPT-4o"].cells["aadb.plcc"]
    as_mean = rows_of(benchmark_table([found], "failures_as_mean"))["GPT-4o"].cells["aadb.plcc"]
    assert (left_out.n, as_mean.n) == (24, 30)
    assert left_out.ours == found["measures"]["parsed_only"]["plcc"]["value"]
    assert as_mean.ours == found["measures"]["failures_as_mean"]["plcc"]["value"]
    assert left_out.ours != as_mean.ours
    assert "6 of 30 answers hold no score." in left_out.remark


def test_a_sample_and_another_split_are_remarked_upon_and_the_papers_split_is_preferred() -> None:
    subset = made_result("ava", "gpt-5", listed=100, n=40)
    assert "On 40 images of generic_test, not the 19,930 that" in _only(subset).remark
    assert _only(made_result("ava", "gpt-5")).remark == "On 30 of 19,930 images."
    both = rows_of(benchmark_table([made_result("ava", "gpt-5", n=20), subset]))["GPT-5"].cells["ava.srcc"]
    assert both.n == 20


def _only(result: dict) -> Cell:
    return rows_of(benchmark_table([result]))["GPT-5"].cells[f"{result['benchmark']}.srcc"]


def test_an_undefined_correlation_is_said_to_be() -> None:
    cell = _only(made_result("ava", "gpt-5", constant=True))
    assert cell.ours is None
    assert cell.difference is None
    assert cell.measured
    assert "constant" in cell.remark


def test_the_fusion_takes_the_papers_method_in_every_cell() -> None:
    cells = [cell for row in fusion_table().rows for cell in row.cells.values()]
    assert len(cells) == 9
    assert all(cell.same for cell in cells)


@pytest.fixture(scope="module", params=["eager", "lazy"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(request.param) / "data"
    config = EngineConfig.model_validate(
        {
            "mode": request.param,
            "split": {"test": ["coffee"], "validation": ["rocket"]},
            "sources": {"train": 8, "validation": 1, "test": 1, "size": 48},
            "editors": ["procedural/tone", "procedural/colour"],
            "verifiers": ["pixel/success"],
            "judges": ["pixel/detail", "pixel/tone"],
            "verification": {"min_passing": 1},
            "groups": {"train": 2, "instructions": 3, "min_variants": 1},
        }
    )
    build(config, output, SerialRunner())
    return output


def test_tables_8_and_9_are_what_the_edits_say(built: Path) -> None:
    info = Manifest(built).info
    edits = list(read_records(built / "edits.jsonl", Edit))
    lazy = info["config"]["mode"] == "lazy"
    editors, judges = editors_table(info["statistics"]), judges_table(info["statistics"])
    verified = [edit for edit in edits if edit.editor == "procedural/tone" and edit.verifications]
    cell = rows_of(editors)["procedural/tone"].cells["success_rate"]
    assert cell.n == len(verified)
    assert cell.ours == pytest.approx(sum(bool(edit.passed) for edit in verified) / len(verified), abs=1e-4)
    judged = [[verdict.value for verdict in edit.verdicts] for edit in edits if len(edit.verdicts) == 2]
    agreed = sum((a > 0) - (a < 0) == (b > 0) - (b < 0) for a, b in judged)
    agreement = rows_of(judges)["pixel/detail | pixel/tone"].cells["agreement"]
    assert agreement.ours == pytest.approx(agreed / len(judged), abs=1e-4)
    assert agreement.n == (None if lazy else len(judged))
    for table in (editors, judges):
        assert any("biased" in note for note in table.notes) == lazy
        assert rows_of(table)["Average"].cells[table.columns[-1].key].difference is None
    if not lazy:
        assert cell.low < cell.ours < cell.high


def test_the_papers_crew_is_compared_in_every_row_and_a_lazy_build_in_none() -> None:
    names = ("Qwen-Image-Edit", "FLUX.2", "LongCat-Image", "Nano-Banana", "Seedream-4.5")
    statistics = {"biased": [], "verification": {n: {"mean": 7.5, "success_rate": 0.6, "n": 50} for n in names}}
    table = rows_of(editors_table(statistics))
    assert table["Nano-Banana"].cells["viescore"].difference == pytest.approx(7.5 - 7.89)
    assert table["Average"].cells["success_rate"].difference == pytest.approx(0.6 - 0.637)
    biased = editors_table({**statistics, "biased": ["verification"]})
    assert all(cell.difference is None for row in biased.rows for cell in row.cells.values())


def test_judges_are_matched_in_either_order() -> None:
    pair = "gpt-5 | Qwen2.5-VL-72B-Instruct"
    statistics = {"biased": [], "judge_agreement": {pair: 0.7}, "categories": {"exposure": {"judged": 200}}}
    cell = rows_of(judges_table(statistics))["Qwen2.5-VL | GPT-5"].cells["agreement"]
    assert cell.difference == pytest.approx(0.7 - 0.689)
    assert cell.n == 200
