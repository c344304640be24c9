"""Intervals hold the truth as often as they promise, whatever the model."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redaes.data.benchmarks import Benchmark, Item
from redaes.evaluation.intervals import conformal_intervals, image_intervals, summary
from redaes.evaluation.predictions import Answer


def draw(seed, n=2000, bias=0.0, overconfident=1.0, skewed=False):
    """Truths, and means and deviations of answers whose errors grow with their spread."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(2, 8, n)
    spread = rng.gamma(2.0, 0.4, n)
    error = (rng.exponential(1.0, n) - 1 if skewed else rng.normal(0, 1, n)) * spread * overconfident
    return truth + bias + error, spread, truth, [f"{seed}-{index}.jpg" for index in range(n)]


MODELS = {
    "honest": {},
    "biased by two points": {"bias": 2.0},
    "five times too sure": {"overconfident": 5.0},
    "wrong to one side": {"skewed": True},
}


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("model", MODELS)
def test_they_cover_the_truth_as_often_as_they_promise(model, level):
    held = []
    for seed in range(20):
        mean, std, truth, names = draw(seed, **MODELS[model])
        low, high = conformal_intervals(mean, std, truth, names, level)
        held.append(((low <= truth) & (truth <= high)).mean())
    # 20 x 2000 images: one standard error of the rate is 0.002 at 0.8.
    assert np.mean(held) == pytest.approx(level, abs=0.008)


def test_the_spread_of_the_answers_alone_would_not_cover():
    mean, std, truth, _ = draw(0, overconfident=5.0)
    assert (np.abs(truth - mean) <= 1.96 * std).mean() < 0.5


def test_where_answers_agree_an_interval_is_narrower():
    mean, std, truth, names = draw(1)
    low, high = conformal_intervals(mean, std, truth, names, 0.8)
    sure = std < np.median(std)
    assert (high - low)[sure].mean() < (high - low)[~sure].mean()


def test_no_truth_of_an_image_moves_its_own_interval():
    mean, std, truth, names = draw(2, n=200)
    low, high = conformal_intervals(mean, std, truth, names)
    for place in range(20):
        changed = truth.copy()
        changed[place] = 10.0
        again = conformal_intervals(mean, std, changed, names)
        assert (again[0][place], again[1][place]) == (low[place], high[place])


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5), st.floats(0, 10)), max_size=30),
    st.floats(0.01, 0.99),
)
def test_ends_are_in_order_and_on_the_scale(rows, level):
    mean, std, truth = np.array(rows).reshape(-1, 3).T
    low, high = conformal_intervals(mean, std, truth, [str(index) for index in range(len(rows))], level)
    assert ((low >= 0) & (low <= high) & (high <= 10)).all()


def test_with_too_few_images_an_interval_is_the_whole_scale():
    low, high = conformal_intervals([5.0] * 10, [1.0] * 10, [5.0] * 10, list("abcdefghij"))
    assert (low.min(), high.max()) == (0, 10)
    with pytest.raises(ValueError, match="2 means, 1 deviations"):
        conformal_intervals([1, 2], [1], [1, 2], ["a", "b"])


def answer(name, value, std):
    status = "unparsed" if value is None else "ok"
    return Answer("ava", name, "m", value, std, "", "", status, "", 0.1, 10, 0.0)


def test_a_benchmark_has_an_interval_of_every_image_that_was_scored():
    items = [Item(str(index), Path(), 1 + 9 * index / 99) for index in range(100)]
    answers = {item.id: answer(item.id, index / 10, None if index == 7 else 0.5) for index, item in enumerate(items)}
    answers["3"] = answer("3", None, None)
    rows = image_intervals(Benchmark("ava", "test", (1, 10), items, 100), items, answers)
    assert [row["id"] for row in rows] == [item.id for item in items if item.id != "3"]
    assert rows[0]["truth"] == 0
    assert rows[-1]["truth"] == pytest.approx(10)
    assert next(row["std"] for row in rows if row["id"] == "7") == 0.5  # one answer has no spread: that of the others
    said = summary(rows)
    assert said["n"] == 99
    assert said["coverage"] >= 0.95


def test_a_scorer_without_deviations_has_no_intervals():
    items = [Item("a", Path(), 5.0)]
    assert image_intervals(Benchmark("ava", "test", (1, 10), items, 1), items, {"a": answer("a", 5.0, None)}) == []
    assert summary([]) is None
