"""Differences between scorers equal a bootstrap written out, and no image is compared with another."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.evaluation.an_evaluation import a_benchmark, evaluated, some_answers

from redaes.data.benchmarks import Benchmark, Item
from redaes.evaluation.comparison import differences
from redaes.evaluation.correlations import STATISTICS, estimate_difference
from redaes.evaluation.results import read_results
from redaes.evaluation.scored import Scored

MANY = 60


def a_list(n: int = MANY, groups: int = 0) -> Benchmark:
    mos = np.random.default_rng(7).uniform(1, 10, n)
    items = [Item(str(k), Path("gone"), float(m), group=f"g{k % groups}" if groups else "") for k, m in enumerate(mos)]
    return Benchmark("csv", "mine", (1.0, 10.0), items, n)


def scored(benchmark: Benchmark, name: str, noise: float, **how) -> Scored:
    answers = {answer.id: answer for answer in some_answers(benchmark, f"{name}@1", noise, **how)}
    found = {"benchmark": benchmark.name, "split": benchmark.split, "fingerprint": f"{name}@1", "scorer": name}
    return Scored(found, name, benchmark, benchmark.items, answers)


def by_measure(rows: list[dict]) -> dict[str, dict]:
    return {row["measure"]: row for row in rows}


def columns(*entries: Scored) -> tuple[np.ndarray, ...]:
    items = entries[0].benchmark.items
    return (*(e.predicted(items) for e in entries), np.array([item.mos for item in items]))


def test_a_difference_equals_the_paired_bootstrap_of_one_measure() -> None:
    benchmark = a_list()
    a, b = scored(benchmark, "a", 0.5), scored(benchmark, "b", 2.0, seed=1)
    rows = by_measure(differences([a, b], resamples=200, seed=3))
    x, y, truth = columns(a, b)
    for name in ("plcc", "srcc", "krcc"):
        expected = estimate_difference(STATISTICS[name], y, x, truth, resamples=200, seed=3)
        assert [rows[name][key] for key in ("value", "low", "high")] == pytest.approx(
            [expected.value, expected.low, expected.high], abs=1e-9
        )
    assert set(rows) == {"plcc", "srcc", "krcc", "mae_fit", "pairwise_accuracy"}
    assert {row["n"] for row in rows.values()} == {MANY}


def test_a_difference_agrees_with_a_bootstrap_written_out() -> None:
    benchmark = a_list()
    a, b = scored(benchmark, "a", 0.5), scored(benchmark, "b", 2.0, seed=1)
    x, y, truth = columns(a, b)
    rng, drawn = random.Random(0), []
    for _ in range(1000):
        chosen = rng.choices(range(MANY), k=MANY)
        drawn.append(
            stats.spearmanr(x[chosen], truth[chosen]).statistic - stats.spearmanr(y[chosen], truth[chosen]).statistic
        )
    row = by_measure(differences([a, b]))["srcc"]
    assert row["value"] == pytest.approx(stats.spearmanr(x, truth).statistic - stats.spearmanr(y, truth).statistic)
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.025)
    assert row["low"] > 0


@settings(deadline=None, max_examples=15)
@given(noise=st.floats(0.1, 5), seed=st.integers(0, 99), groups=st.sampled_from([0, 6]))
def test_the_other_way_round_everything_changes_its_sign_and_against_itself_it_is_nothing(
    noise: float, seed: int, groups: int
) -> None:
    benchmark = a_list(24, groups)
    a, b = scored(benchmark, "a", 1.0), scored(benchmark, "b", noise, seed=seed)
    there, back = (by_measure(differences(pair, resamples=30)) for pair in ([a, b], [b, a]))
    assert ("srcc_within" in there) == bool(groups)
    for name, row in there.items():
        turned = back[name]
        assert (turned["a"], turned["b"]) == (row["b"], row["a"])
        assert [turned["value"], turned["low"], turned["high"]] == pytest.approx(
            [-row["value"], -row["high"], -row["low"]], abs=1e-12
        )
        assert row["low"] <= row["high"]
    twin = scored(benchmark, "twin", 1.0)
    for row in differences([a, twin], resamples=30):
        assert row["value"] == row["low"] == row["high"] == 0


def test_a_scorer_is_not_measured_on_images_that_the_other_had_no_picture_of() -> None:
    benchmark = a_list()
    a = scored(benchmark, "a", 0.5, unreadable=["0", "1"])
    b = scored(benchmark, "b", 2.0, seed=1, unreadable=["2"], unparsed=["5"], failed=["9"])
    row = by_measure(differences([a, b], resamples=20))["plcc"]
    items = [item for item in benchmark.items if item.id not in ("0", "1", "2")]
    x, y = a.predicted(items), b.predicted(items)
    truth = [item.mos for item in items]
    y = np.where(np.isnan(y), np.nanmean(y), y)  # its two answers without a score
    assert row["n"] == MANY - 3
    assert row["value"] == pytest.approx(stats.pearsonr(x, truth).statistic - stats.pearsonr(y, truth).statistic)


def test_what_cannot_be_compared_has_no_number() -> None:
    benchmark, ids = a_list(12), [str(k) for k in range(12)]
    a = scored(benchmark, "a", 1.0)
    elsewhere = Benchmark("csv", "other", (1.0, 10.0), benchmark.items, 12)
    assert differences([a, scored(elsewhere, "b", 1.0)]) == []
    assert differences([a, scored(benchmark, "b", 1.0, unreadable=ids)]) == []
    silent = differences([a, scored(benchmark, "b", 1.0, unparsed=ids)], resamples=20)
    assert {row["value"] for row in silent if row["measure"] != "pairwise_accuracy"} == {None}


def test_a_result_says_how_it_differs_from_every_other_scorer_of_its_split(tmp_path: Path) -> None:
    benchmark = a_benchmark(tmp_path / "images", n=30)
    folder = tmp_path / "kept"
    first = evaluated(folder, benchmark, some_answers(benchmark, "good@1", 0.3), "good")
    assert first["differences"] == []
    second = evaluated(folder, benchmark, some_answers(benchmark, "bad@1", 3.0, seed=1), "bad")
    third = evaluated(folder, benchmark, some_answers(benchmark, "good@2", 0.3, seed=2), "good")
    assert {(row["a"], row["b"]) for row in second["differences"]} == {("bad", "good")}
    assert {(row["a"], row["b"]) for row in third["differences"]} == {("good (2)", "bad"), ("good (2)", "good (1)")}
    row = by_measure(second["differences"])["srcc"]
    assert row["value"] == pytest.approx(
        second["measures"]["failures_as_mean"]["srcc"]["value"] - first["measures"]["failures_as_mean"]["srcc"]["value"]
    )
    assert row["high"] < 0
    on_disk = {document["fingerprint"]: document for document in read_results(folder)}
    assert on_disk["good@2"]["differences"] == json.loads(json.dumps(third["differences"]))
