"""Correlations equal scipy's, resampling equals repeating, and the within-group measures mean what they say."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from redaes.evaluation.correlations import (
    STATISTICS,
    estimate,
    krcc,
    mae,
    pairwise_accuracy,
    pairwise_statistic,
    plcc,
    srcc,
    srcc_within,
    treat_failures,
    within_srcc_statistic,
)

REFERENCES = {"plcc": stats.pearsonr, "srcc": stats.spearmanr, "krcc": stats.kendalltau}
FUNCTIONS = {"plcc": plcc, "srcc": srcc, "krcc": krcc}
NAN = float("nan")

tenths = st.integers(0, 40).map(lambda v: v / 10)
paired = st.integers(2, 25).flatmap(
    lambda n: st.tuples(st.lists(tenths, min_size=n, max_size=n), st.lists(tenths, min_size=n, max_size=n))
)


def _reference_scipy(name: str, x: list[float], y: list[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(REFERENCES[name](x, y).statistic)


@pytest.mark.parametrize("name", REFERENCES)
@settings(deadline=None)
@given(pair=paired)
def test_correlations_equal_scipy_on_samples_full_of_ties(name: str, pair: tuple[list[float], list[float]]) -> None:
    x, y = pair
    assert FUNCTIONS[name](x, y) == pytest.approx(_reference_scipy(name, x, y), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_correlations_equal_scipy_on_continuous_samples(name: str, scale: float) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=300)
    y = (x + rng.normal(size=300)) * scale + 5
    assert FUNCTIONS[name](x, y) == pytest.approx(_reference_scipy(name, x, y), abs=1e-12)


SHAPES = {
    "continuous": lambda v: v,
    "rounded": lambda v: np.round(v, 1),
    "one value for most": lambda v: np.where(v < 0.5, 0.0, v),
    "two values": lambda v: (v > 0).astype(float),
    "some infinite": lambda v: np.where(np.abs(v) > 2, np.copysign(np.inf, v), v),
}


@pytest.mark.parametrize("of_truth", SHAPES)
@pytest.mark.parametrize("of_prediction", SHAPES)
def test_ranks_of_large_resamples_equal_scipys_of_the_repeated_images(of_prediction: str, of_truth: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=1100)
    y = SHAPES[of_truth](x + rng.normal(size=1100))
    x = SHAPES[of_prediction](x)
    counts = rng.multinomial(1100, np.full(1100, 1 / 1100), size=3)
    weighted = {name: STATISTICS[name](x, y)(counts.astype(float)) for name in ("srcc", "krcc")}
    for name, values in weighted.items():
        repeated = [REFERENCES[name](np.repeat(x, row), np.repeat(y, row)).statistic for row in counts]
        assert values == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize("function", [plcc, srcc, krcc, mae, pairwise_accuracy])
def test_no_images_give_nan(function) -> None:
    assert math.isnan(function([], []))


@pytest.mark.parametrize("function", [plcc, srcc, krcc])
@pytest.mark.parametrize("value", [0.0, 5.3, 0.1 + 0.2])
def test_a_constant_input_or_a_nan_gives_nan(function, value: float) -> None:
    assert math.isnan(function([value] * 7, range(7)))
    assert math.isnan(function(range(7), [value] * 7))
    assert math.isnan(function([1.0, NAN, 2.0], [1, 2, 3]))
    assert math.isnan(function([1.0], [2.0]))


def test_unequal_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 predictions for 2 truths"):
        plcc([1, 2, 3], [1, 2])


@pytest.mark.parametrize("name", STATISTICS)
@settings(deadline=None)
@given(pair=paired, data=st.data())
def test_weighting_by_counts_equals_repeating(name: str, pair: tuple[list[float], list[float]], data) -> None:
    x, y = (np.array(values) for values in pair)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=x.size, max_size=x.size)))
    weighted = STATISTICS[name](x, y)(counts[None].astype(float))[0]
    repeated = {**FUNCTIONS, "mae": mae}[name](np.repeat(x, counts), np.repeat(y, counts))
    assert weighted == pytest.approx(repeated, abs=1e-9, nan_ok=True)


@settings(deadline=None)
@given(pair=paired)
def test_rank_statistics_do_not_see_a_monotone_change(pair: tuple[list[float], list[float]]) -> None:
    x, y = pair
    cubed = [v**3 + v for v in x]
    for function in (srcc, krcc, pairwise_accuracy):
        assert function(cubed, y) == pytest.approx(function(x, y), abs=1e-12, nan_ok=True)


@settings(deadline=None)
@given(pair=paired)
def test_reversing_the_prediction_reverses_the_verdict(pair: tuple[list[float], list[float]]) -> None:
    x, y = pair
    reversed_x = [-v for v in x]
    for function in (plcc, srcc, krcc):
        assert function(reversed_x, y) == pytest.approx(-function(x, y), abs=1e-12, nan_ok=True)
    assert pairwise_accuracy(reversed_x, y) == pytest.approx(1 - pairwise_accuracy(x, y), abs=1e-12, nan_ok=True)


def test_within_groups_is_the_mean_of_each_groups_srcc() -> None:
    prediction, truth = [1, 2, 3, 9, 7, 8], [1, 2, 3, 1, 2, 3]
    expected = (1.0 + stats.spearmanr([9, 7, 8], [1, 2, 3]).statistic) / 2
    assert srcc_within(prediction, truth, list("aaabbb")) == pytest.approx(expected)


def test_the_order_of_rows_does_not_matter_within_groups() -> None:
    rng = np.random.default_rng(1)
    prediction, truth, groups = rng.normal(size=40), rng.normal(size=40), rng.choice(list("abcde"), size=40)
    shuffled = rng.permutation(40)
    for function in (srcc_within, pairwise_accuracy):
        assert function(prediction, truth, groups) == pytest.approx(
            function(prediction[shuffled], truth[shuffled], groups[shuffled])
        )


def test_groups_too_small_or_of_constant_truth_do_not_count() -> None:
    assert srcc_within([1, 2, 2, 1, 3, 2, 1], [1, 2, 5, 5, 5, 1, 2], list("aabbbcc")) != 0
    assert math.isnan(srcc_within([1, 2, 1, 2, 3], [1, 2, 5, 5, 5], list("aabbb")))


def test_a_constant_prediction_in_a_group_counts_as_no_correlation() -> None:
    assert srcc_within([4, 4, 4], [1, 2, 3], list("aaa")) == 0.0
    assert pairwise_accuracy([4, 4, 4], [1, 2, 3], list("aaa")) == 0.5


def test_pairs_are_compared_within_groups_only() -> None:
    assert pairwise_accuracy([1, 2, 3, 4], [3, 4, 1, 2], list("aabb")) == 1.0
    assert pairwise_accuracy([1, 2, 3, 4], [3, 4, 1, 2]) == pytest.approx(2 / 6)
    assert math.isnan(pairwise_accuracy([1, 2], [5, 5], list("aa")))


def test_failures_are_left_out_or_become_the_mean_prediction() -> None:
    values, kept = treat_failures([4.0, NAN, 8.0], "parsed_only")
    assert values[kept].tolist() == [4.0, 8.0]
    values, kept = treat_failures([4.0, NAN, 8.0], "failures_as_mean")
    assert values[kept].tolist() == [4.0, 6.0, 8.0]
    _, kept = treat_failures([NAN, NAN], "failures_as_mean")
    assert not kept.any()


def test_intervals_are_seeded_ordered_and_shrink_with_more_images() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=800)
    y = x + rng.normal(size=800)
    few, many = (estimate(STATISTICS["srcc"], x[:n], y[:n], seed=5) for n in (50, 800))
    assert few == estimate(STATISTICS["srcc"], x[:50], y[:50], seed=5)
    assert few != estimate(STATISTICS["srcc"], x[:50], y[:50], seed=6)
    for interval in (few, many):
        assert interval.low <= interval.value <= interval.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=120)
    y = x + rng.normal(size=120)
    ours = estimate(STATISTICS["plcc"], x, y, resamples=4000)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=1,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=100)
        y = x + rng.normal(size=100)
        interval = estimate(STATISTICS["plcc"], x, y, resamples=300, seed=seed)
        covered += interval.low <= math.sqrt(0.5) <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_drawing_whole_groups_widens_the_interval_of_dependent_images() -> None:
    rng = np.random.default_rng(0)
    groups = [str(i) for i in range(15) for _ in range(8)]
    level = np.repeat(rng.normal(size=15), 8)
    x, y = (level + 0.1 * rng.normal(size=120) for _ in range(2))
    y = y + np.repeat(rng.normal(size=15), 8)
    single, grouped = (estimate(STATISTICS["plcc"], x, y, clusters) for clusters in (None, groups))
    assert single.value == grouped.value
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)


def test_within_group_measures_have_intervals_over_groups() -> None:
    rng = np.random.default_rng(0)
    groups = [str(i) for i in range(20) for _ in range(6)]
    truth = rng.normal(size=120)
    prediction = truth + rng.normal(size=120)
    for statistic, function in [
        (within_srcc_statistic(groups), srcc_within),
        (pairwise_statistic(groups), pairwise_accuracy),
    ]:
        interval = estimate(statistic, prediction, truth, groups)
        assert interval.value == pytest.approx(function(prediction, truth, groups))
        assert interval.low < interval.value < interval.high


def test_an_undefined_statistic_has_no_interval_and_is_null_in_json() -> None:
    interval = estimate(STATISTICS["srcc"], [3.0] * 10, range(10))
    assert interval.as_json() == {"value": None, "low": None, "high": None}


def test_a_thousand_resamples_of_a_benchmark_fit_into_seconds_and_memory() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 100, size=(2, 5000)).astype(float)
    interval = estimate(STATISTICS["srcc"], x, y)
    assert interval.high - interval.low < 0.08
