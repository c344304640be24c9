"""The estimators of the fusion equal those of numpy, scipy and astropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from redaes import fusion

# As judges write them, to a hundredth: two MADs then never differ by rounding alone.
scores = st.lists(st.integers(-1000, 1000).map(lambda n: n / 100), min_size=1, max_size=12)


@settings(deadline=None)
@given(scores)
def test_mean_median_and_deviation_equal_numpys(values):
    assert fusion.mean(values) == pytest.approx(np.mean(values), abs=1e-12)
    assert fusion.median(values) == pytest.approx(np.median(values), abs=1e-12)
    assert fusion.population_std(values) == pytest.approx(np.std(values, ddof=0), abs=1e-12)


@settings(deadline=None)
@given(scores)
def test_the_mad_equals_scipys(values):
    assert fusion.mad(values) == pytest.approx(stats.median_abs_deviation(values), abs=1e-12)


@settings(deadline=None)
@given(scores)
def test_modified_z_scores_equal_those_of_scipys_deviations(values):
    values_ = np.array(values)
    mad, mean_ad = stats.median_abs_deviation(values_), np.mean(np.abs(values_ - np.median(values_)))
    scale = mad / 0.6745 if mad > 1e-9 else 1.253314 * mean_ad
    expected = (values_ - np.median(values_)) / scale if scale > 1e-9 else np.zeros(len(values))
    assert fusion.modified_z_scores(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_constants_are_those_of_a_normal_distribution():
    assert pytest.approx(stats.norm.ppf(0.75), abs=5e-5) == fusion.NORMAL_CONSISTENCY
    assert pytest.approx(np.sqrt(np.pi / 2), abs=5e-7) == fusion.MEAN_AD_CONSISTENCY


@settings(deadline=None)
@given(values=scores, c=st.sampled_from([2.0, 6.0, 9.0]))
def test_the_biweight_location_equals_astropys(values, c):
    astropy_stats = pytest.importorskip("astropy.stats", reason="astropy is not installed (dependency group 'test')")
    assert fusion.biweight_location(values, c) == pytest.approx(astropy_stats.biweight_location(values, c), abs=1e-9)


@settings(deadline=None)
@given(values=scores, data=st.data())
def test_weighted_average_and_median_equal_numpys(values, data):
    weights = data.draw(st.lists(st.integers(1, 5), min_size=len(values), max_size=len(values)))
    assert fusion.weighted_average(values, weights) == pytest.approx(np.average(values, weights=weights), abs=1e-12)
    quantile = np.quantile(values, 0.5, weights=weights, method="inverted_cdf")  # numpy's is the lower one on a tie
    upper = -np.quantile(-np.array(values), 0.5, weights=weights, method="inverted_cdf")
    assert fusion.weighted_median(values, weights) == pytest.approx((quantile + upper) / 2, abs=1e-12)
