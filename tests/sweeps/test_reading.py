"""What a sweep's results are said to mean: differences from the paper's own row, with what they rest on."""

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel
from tests.evaluation.pages import Page

from redaes.cli import main
from redaes.errors import UserError
from redaes.sweeps.reading import interval, markdown, readings
from redaes.sweeps.results import read, write

GOOD, NEAR, BAD = [0.70, 0.74, 0.73], [0.69, 0.75, 0.72], [0.40, 0.41, 0.45]


def row(run: str, seed: int, value: float | None, **more: Any) -> dict[str, Any]:
    facts = {"table": "table6", "preset": "nano", "settings": "", "run": run, "seed": seed, "reference": "n8"}
    measures = {"srcc_within": value, "srcc": value, "plcc": value, "parse_failure_rate": 0.0}
    return {**facts, "stage": "grpo", "model": "m", **measures, "seconds": 1.0, "commit": "abc", "quick": False, **more}


def rows(**runs: list[float | None]) -> list[dict[str, Any]]:
    return [row(run, seed, value) for run, values in runs.items() for seed, value in enumerate(values)]


def test_the_reading_is_a_paired_test_over_seeds_against_the_papers_own_row() -> None:
    (table,) = readings(rows(n10=BAD, n6=NEAR, n8=GOOD))
    verdicts = {run.run: run for run in table.runs}
    assert list(verdicts) == ["n6", "n8", "n10"]  # as the paper prints them
    for run, values in (("n6", NEAR), ("n10", BAD)):
        expected = "worse beyond noise" if ttest_rel(GOOD, values).pvalue < 0.05 else "within noise"
        assert verdicts[run].verdict == expected
        test = ttest_rel(values, GOOD).confidence_interval()
        assert verdicts[run].gap.ends == pytest.approx((test.low, test.high))
    assert verdicts["n8"].verdict == "reference"
    assert verdicts["n10"].paper_gap == pytest.approx(0.6737 - 0.6758)


def test_the_reference_need_not_be_the_best() -> None:
    (table,) = readings(rows(n4=GOOD, n8=BAD))
    assert [run.verdict for run in table.runs] == ["better beyond noise", "reference"]
    assert "The direction is against the paper's for n4." in table.words()


def test_only_seeds_that_both_rows_have_are_compared() -> None:
    (table,) = readings([*rows(n8=GOOD), row("n4", 2, 0.5), row("n4", 7, 0.9)])
    (four,) = [run for run in table.runs if run.run == "n4"]
    assert (four.gap.n, four.verdict) == (1, "unknown: fewer than two seeds")


def test_nothing_is_claimed_of_what_is_undefined_or_seen_once() -> None:
    (table,) = readings(rows(n4=[None], n6=[0.4], n8=[0.5]))
    assert [run.verdict for run in table.runs][:2] == [
        "undefined: no answer could be read",
        "unknown: fewer than two seeds",
    ]
    assert "Nothing here confirms or contradicts the paper's order." in table.words()
    assert math.isnan(interval([0.5]).half)


def test_seeds_without_a_measure_are_counted() -> None:
    (table,) = readings(rows(n4=[0.4, None, 0.5], n8=GOOD))
    assert "Seeds without a measure, left out of means and differences: n4 (1)." in table.words()
    assert table.runs[0].gap.n == 2


def test_without_the_reference_no_row_is_compared() -> None:
    (table,) = readings(rows(n4=GOOD))
    assert "n8, the row to compare with, was not run: no row is compared." in table.words()


def test_runs_of_other_presets_settings_and_lengths_are_not_mixed() -> None:
    several = [row("n8", 0, 0.5), row("n8", 0, 0.5, quick=True), row("n8", 0, 0.5, settings="family=qwen3_vl")]
    assert [table.how for table in readings(several)] == [
        "table6 on nano",
        "table6 on nano (family=qwen3_vl)",
        "table6 on nano with --quick",
    ]
    assert "Made with --quick" in markdown(several)
    assert "Made with --quick" not in markdown(several[::2])


def test_a_repeated_run_takes_its_own_place_and_a_stale_one_goes(tmp_path: Path) -> None:
    write(tmp_path, rows(n8=GOOD), False)
    write(tmp_path, [row("n8", 0, 0.1)], False, {("table6", "nano", False, "", "n8", 1)})
    assert sorted((r["seed"], r["srcc_within"]) for r in read(tmp_path)) == [(0, 0.1), (2, 0.73)]


def test_the_report_of_a_folder_is_printed_or_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, rows(n8=GOOD, n4=BAD, n6=[None, None, None]), True)
    assert main(["sweep", "report", str(tmp_path)]) == 0
    assert "| n4 | grpo | 3 | 0.420 ± 0.066 |" in capsys.readouterr().out
    assert main(["sweep", "report", str(tmp_path), "--html", str(tmp_path / "a.html")]) == 0
    page = Page((tmp_path / "a.html").read_text())
    assert not page.open
    assert not page.having("script")
    dots = [attrs for attrs in page.having("circle") if attrs.get("class") == "dot"]
    assert len(dots) == 3 + 3 + 3  # the seeds of n8 and n4, and of the difference of n4
    text = " ".join(" ".join(page.words).split())
    assert "n4: below n8 in these seeds" in text
    assert "n6: no measure" in text
    assert "−0.017 from its own" in text  # the paper's n4
    assert main(["sweep", "report", str(tmp_path), "--html", str(tmp_path)]) == 2


def test_names_in_results_are_shown_and_never_run(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    write(tmp_path, [row(hostile, 0, 0.5, table=hostile, settings=hostile, commit=hostile, reference=hostile)], False)
    assert main(["sweep", "report", str(tmp_path), "--html", str(tmp_path / "a.html")]) == 0
    assert not Page((tmp_path / "a.html").read_text()).having("img")


def test_a_folder_without_results_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results\.parquet"):
        read(tmp_path)
