"""A drawing of many images stays inside its frame, counts every one of them, and stays small."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.evaluation.charts import WIDTH
from redaes.evaluation.density import HEIGHT, MOST_DOTS, Quantity, joint_chart

numbers = st.floats(-1e6, 1e6)


def drawn(x, y, **how) -> str:
    return str(
        joint_chart(
            "m", Quantity("people", list(x), "before"), Quantity("said", list(y), "after"), colour="after", **how
        )
    )


def cells(svg: str) -> list[tuple[float, float]]:
    return [
        (float(a), float(b))
        for path in ElementTree.fromstring(svg).iter("path")
        if path.get("fill-opacity")
        for a, b in re.findall(r"M([\d.]+) ([\d.]+)", str(path.get("d")))
    ]


@settings(deadline=None, max_examples=40)
@given(points=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=80), many=st.booleans())
def test_every_mark_lies_inside_the_frame(points: list[tuple[float, float]], many: bool) -> None:
    x, y = zip(*(points * (1 + MOST_DOTS // len(points)) if many else points), strict=True)
    svg = drawn(x, y, guide=(0.0, 1.0))
    root = ElementTree.fromstring(svg)
    dots = [(float(str(e.get("cx"))), float(str(e.get("cy")))) for e in root.iter("circle")]
    lines = [
        (float(str(e.get(a))), float(str(e.get(b)))) for e in root.iter("line") for a, b in (("x1", "y1"), ("x2", "y2"))
    ]
    trend = [tuple(map(float, p.split(","))) for e in root.iter("polyline") for p in str(e.get("points")).split()]
    assert len(dots) == (0 if many else len(points))
    assert bool(cells(svg)) == many
    for a, b in (*dots, *lines, *trend, *cells(svg)):
        assert -10 <= a <= WIDTH + 10
        assert -10 <= b <= HEIGHT + 10


def test_points_of_one_place_are_one_cell_and_the_fullest_is_told() -> None:
    n = MOST_DOTS + 1
    svg = drawn([1.0] * n + [9.0], [2.0] * n + [8.0])
    assert len(cells(svg)) == 2
    assert f"up to {n} in one cell" in svg
    strengths = [float(s) for s in re.findall(r'fill-opacity="([\d.]+)"', svg)]
    assert max(strengths) == 1
    assert min(strengths) < 0.4


def test_a_cell_is_drawn_where_its_points_are() -> None:
    rng = np.random.default_rng(0)
    dots = [(float(a), float(b)) for a, b in rng.uniform(0, 10, (MOST_DOTS, 2))]
    corners = [(0.0, 0.0), (10.0, 10.0)]
    few = drawn(*zip(*dots[:-2], *corners, strict=True))
    many = drawn(*zip(*dots, *corners, strict=True))
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', few)
    middles = [(a, b + 5) for a, b in cells(many)]  # a path begins at the top of its hexagon
    for a, b in places:
        assert min(np.hypot(float(a) - c, float(b) - d) for c, d in middles) <= 5.2


def test_twenty_thousand_images_are_some_kilobytes() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(5, 1.5, 20_000)
    svg = drawn(x, x + rng.normal(0, 2, x.size))
    assert len(svg) < 60_000
    assert "of 20,000 images" in svg


def test_the_guide_is_where_both_are_equal_and_left_out_where_it_does_not_pass() -> None:
    (line,) = re.findall(r'<line ([^>]*)class="diagonal"', drawn([0, 10], [0, 10], guide=(0.0, 1.0)))
    (x1, y1), (x2, y2) = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn([0, 10], [0, 10]))
    assert line.split() == [f'x1="{x1}"', f'y1="{y1}"', f'x2="{x2}"', f'y2="{y2}"']
    assert "diagonal" not in drawn([0, 1], [0, 1], guide=(50.0, 1.0))


def test_the_trend_follows_the_mean() -> None:
    x = np.linspace(0, 10, 200)
    flat, rising = (drawn(x, y) for y in (np.full(200, 5.0), x))
    heights = [
        [float(p.split(",")[1]) for p in re.findall(r'points="([^"]*)"', svg)[0].split()] for svg in (flat, rising)
    ]
    assert np.ptp(heights[0]) == 0
    assert heights[1] == sorted(heights[1], reverse=True)
    assert "polyline" not in drawn(x[:20], x[:20])


def test_histograms_are_along_their_own_sides_and_labels_are_escaped() -> None:
    svg = str(
        joint_chart(
            "<b>", Quantity("<i>", [1.0, 1.0, 3.0], "before"), Quantity("&", [5.0, 6.0, 7.0], "after"), colour="after"
        )
    )
    ElementTree.fromstring(svg)
    assert "<i>" not in svg
    sides = re.findall(r'class="side" style="fill: var\(--(\w+)\)"', svg)
    assert sides == ["before", "after"]


@pytest.mark.parametrize("value", [0.0, 5.0, -3.25])
def test_constant_numbers_can_be_drawn(value: float) -> None:
    ElementTree.fromstring(drawn([value] * 3, [value] * 3, guide=(0.0, 1.0)))
    ElementTree.fromstring(drawn([value] * 500, [value] * 500, guide=(0.0, 0.0)))
