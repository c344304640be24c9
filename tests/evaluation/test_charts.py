"""Charts are well-formed SVG inside their frame, whatever the numbers."""

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.evaluation.charts import (
    WIDTH,
    Whisker,
    bar_chart,
    funnel_chart,
    histogram_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    running_mean,
    scatter_chart,
)

numbers = st.floats(-1e6, 1e6)


def _points(svg: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)
    lines = [tuple(map(float, p.split(","))) for e in root.iter("polyline") for p in str(e.get("points")).split()]
    dots = [(float(str(e.get("cx"))), float(str(e.get("cy")))) for e in root.iter("circle")]
    return lines + dots


def _bars(svg: str) -> list[tuple[float, float, float, float]]:
    root = ElementTree.fromstring(svg)
    places = ("x", "y", "width", "height")
    return [tuple(float(str(e.get(p))) for p in places) for e in root.iter("rect")]  # type: ignore[misc]


@settings(deadline=None)
@given(low=numbers, width=st.floats(1e-6, 1e6))
def test_ticks_are_evenly_spaced_and_span_the_numbers(low: float, width: float) -> None:
    high = low + width
    ticks = nice_ticks(low, high)
    tolerance = 1e-6 * max(abs(low), abs(high), 1)
    assert ticks[0] <= low + tolerance
    assert ticks[-1] >= high - tolerance
    assert 2 <= len(ticks) <= 8
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(steps) - min(steps) <= tolerance


@settings(deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=60))
def test_a_curve_stays_inside_its_frame(values: list[float]) -> None:
    svg = str(line_chart("loss", list(range(len(values))), values, colour="after"))
    assert all(0 <= x <= WIDTH and 0 <= y <= 250 for x, y in _points(svg))


def test_a_rising_curve_rises_on_the_page() -> None:
    points = _points(str(line_chart("reward", [0, 1, 2], [0.1, 0.2, 0.4], colour="after")))[:3]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[1][1] > points[2][1]


def test_a_perfect_prediction_lies_on_the_diagonal() -> None:
    points = _points(str(scatter_chart("m", [0, 5, 10], [0, 5, 10], colour="after")))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (y0 - y1) / (x1 - x0) == pytest.approx((y1 - y2) / (x2 - x1), rel=0.01)


def test_an_undefined_value_is_said_not_drawn() -> None:
    svg = str(
        interval_chart("t", [Whisker("a", None, None, None, "after"), Whisker("b", -0.2, -0.5, 0.1, "after")], zero="0")
    )
    assert "undefined" in svg
    assert len(_points(svg)) == 1


def test_labels_are_escaped() -> None:
    svg = str(interval_chart("<b>", [Whisker("<script>", 1.0, 0.5, 1.5, "after")], zero='"&'))
    assert "<script>" not in svg
    assert re.search(r'aria-label="&lt;b&gt;', svg)
    ElementTree.fromstring(svg)


@settings(deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=40), window=st.integers(1, 10))
def test_a_running_mean_stays_between_the_extremes(values: list[float], window: int) -> None:
    mean = running_mean(values, window)
    assert len(mean) == len(values)
    assert min(values) - 1e-3 <= min(mean) <= max(mean) <= max(values) + 1e-3


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=60))
def test_a_histogram_has_a_bar_for_every_count_above_zero_inside_its_frame(counts: list[int]) -> None:
    bars = _bars(str(histogram_chart("S", -10, 10, counts, x_label="score", colour="good", below="bad")))
    assert len(bars) == sum(n > 0 for n in counts)
    assert all(x >= 0 and y >= 0 and x + w <= WIDTH and y + h <= 250 for x, y, w, h in bars)


def test_bars_are_as_long_as_their_counts_say() -> None:
    low, high = _bars(str(histogram_chart("S", 0, 10, [0, 3, 6], x_label="score", colour="after")))
    assert high[3] == pytest.approx(2 * low[3], abs=0.2)
    three, six = _bars(str(bar_chart("sizes", [("a", 3), ("b", 6)], colour="after")))
    assert six[2] == pytest.approx(2 * three[2], abs=0.2)
    wide, narrow = _bars(str(funnel_chart("pairs", [("made", 8), ("kept", 2)], colour="after")))
    assert wide[2] == pytest.approx(4 * narrow[2], abs=0.3)
    assert wide[0] + wide[2] / 2 == pytest.approx(narrow[0] + narrow[2] / 2, abs=0.1) == WIDTH / 2


def test_charts_of_counts_escape_their_labels_and_say_their_numbers() -> None:
    for chart in (bar_chart, funnel_chart):
        svg = str(chart("<b>", [('<script>&"', 1_234)], colour="after"))
        ElementTree.fromstring(svg)
        assert "<script>" not in svg
        assert "1,234" in svg
    empty = str(histogram_chart("S", 0, 1, [0, 0], x_label="x", colour="after"))
    assert _bars(empty) == []
    assert "0 values" in empty
