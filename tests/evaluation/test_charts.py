"""Charts are well-formed SVG inside their frame, whatever the numbers."""

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.evaluation.charts import WIDTH, Whisker, interval_chart, line_chart, nice_ticks, running_mean, scatter_chart

numbers = st.floats(-1e6, 1e6)


def _points(svg: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)
    lines = [tuple(map(float, p.split(","))) for e in root.iter("polyline") for p in str(e.get("points")).split()]
    dots = [(float(str(e.get("cx"))), float(str(e.get("cy")))) for e in root.iter("circle")]
    return lines + dots


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
