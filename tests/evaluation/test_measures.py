"""The measures of a benchmark equal scipy's, and what is not defined says why."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from redaes.evaluation.correlations import pairwise_accuracy
from redaes.evaluation.measures import all_pairs_accuracy, fit_logistic, mae_after_fit, measure_benchmark

tenths = st.integers(0, 20).map(lambda v: v / 10)
rows = st.lists(st.tuples(tenths, tenths, st.integers(0, 3)), min_size=1, max_size=20)
"""Of prediction, truth and how often the image was drawn."""


@settings(deadline=None)
@given(sample=rows)
def test_pairs_and_fit_of_weighted_images_equal_those_of_repeated_ones(sample) -> None:
    x, y, counts = (np.array(values) for values in zip(*sample, strict=True))
    repeated = np.repeat(x, counts), np.repeat(y, counts)
    weights = counts[None].astype(float)
    in_one_group = pairwise_accuracy(*repeated, [""] * repeated[0].size)  # looks at every pair
    assert all_pairs_accuracy(x, y)(weights)[0] == pytest.approx(in_one_group, abs=1e-9, nan_ok=True)
    if counts.sum() and np.ptp(repeated[0]):
        line = stats.linregress(*repeated)
        expected = np.abs(repeated[1] - line.intercept - line.slope * repeated[0]).mean()
        assert mae_after_fit(x, y)(weights)[0] == pytest.approx(expected, abs=1e-9)


def test_a_benchmark_is_measured_under_both_treatments() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=80)
    prediction = np.round(10 * truth + rng.normal(size=80), 1)
    prediction[:4] = np.nan
    groups = [str(i // 8) for i in range(80)]
    found = measure_benchmark(prediction, truth, groups, resamples=50)
    assert (found["n"], found["parsed"]) == (80, 76)
    assert found["distinct"] == len(set(prediction[4:]))
    assert found["parsed_only"]["krcc"]["value"] == pytest.approx(stats.kendalltau(prediction[4:], truth[4:]).statistic)
    filled = np.where(np.isnan(prediction), np.nanmean(prediction), prediction)
    assert found["failures_as_mean"]["srcc"]["value"] == pytest.approx(stats.spearmanr(filled, truth).statistic)
    for measure in found["parsed_only"].values():
        assert measure["low"] <= measure["value"] <= measure["high"]
    assert set(found["parsed_only"]) == {"plcc", "srcc", "krcc", "mae_fit", "pairwise_accuracy", "srcc_within"}
    assert found == measure_benchmark(prediction, truth, groups, resamples=50)


def test_a_logistic_relation_becomes_linear_and_the_plain_plcc_stays() -> None:
    x = np.linspace(0, 10, 60)
    y = 1 / (1 + np.exp(-(x - 5) / 0.3))
    found = measure_benchmark(x, y, logistic=True, resamples=20)["parsed_only"]
    assert found["plcc_logistic"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["plcc"]["value"] == pytest.approx(stats.pearsonr(x, y).statistic)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [([1, 2], [1, 2], "too few"), ([3] * 9, range(9), "constant"), ([1, 2, 3, math.nan], range(4), "not finite")],
)
def test_a_failed_fit_says_why(x, y, reason: str) -> None:
    fitted, words = fit_logistic(x, y)
    assert fitted is None
    assert reason in words


def test_constant_or_unparsed_predictions_have_no_correlation_but_are_counted() -> None:
    found = measure_benchmark([5.0] * 9, range(9), logistic=True, resamples=20)
    assert found["distinct"] == 1
    assert found["parsed_only"]["plcc"] == {"value": None, "low": None, "high": None}
    assert found["parsed_only"]["plcc_logistic"]["reason"] == "the predictions or the truths are constant"
    assert measure_benchmark([math.nan] * 3, range(3))["failures_as_mean"]["srcc"]["value"] is None
