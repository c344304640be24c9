"""Two quantities of many images in one drawing: dots of a few, a honeycomb of thousands, histograms along both sides.

In: two columns of numbers. Out: inline SVG of some kilobytes however many numbers there are (`redaes.evaluation.charts`
says how charts are made). A cell of the honeycomb is the stronger the more images it holds, in steps of equal ratio:
one image far out can still be seen beside a thousand in the middle.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from redaes.evaluation.charts import WIDTH, Axis, frame, nice_ticks, svg

HEIGHT = 400
MOST_DOTS = 400
"""Images that are drawn one by one; more become a honeycomb."""
STEPS = 6
"""Strengths of a cell."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _SIDE = 50, 4, 4, 42, 40
_RADIUS = 5.0
_BINS = 28
_TREND_IMAGES = 12


@dataclass(frozen=True)
class Quantity:
    """One of the two.

    Attributes:
        label: what it is.
        values: (n,) finite.
        colour: name of a CSS variable, without the dashes, of its histogram.
        ends: the axis spans them too.
    """

    label: str
    values: Sequence[float]
    colour: str
    ends: tuple[float, ...] = ()

    def ticks(self) -> list[float]:
        """Round numbers that span all values."""
        numbers = [*self.ends, *self.values]
        return nice_ticks(min(numbers), max(numbers), 5)


def joint_chart(
    title: str,
    x: Quantity,
    y: Quantity,
    *,
    colour: str,
    guide: tuple[float, float] | None = None,
    trend: bool = True,
) -> Markup:
    """A quantity against another, with the histogram of each along its side.

    Args:
        title: of what, for those who cannot see it.
        x: to the right.
        y: upwards; as many values, in the same order.
        colour: name of a CSS variable, without the dashes, of dots and cells.
        guide: intercept and slope of a dashed line.
        trend: draw the mean of y along x, over equally many images each.
    """
    x_ticks, y_ticks = x.ticks(), y.ticks()
    across = Axis(x_ticks[0], x_ticks[-1], _LEFT, WIDTH - _RIGHT - _SIDE)
    up = Axis(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP + _SIDE)
    places = [(across.at(a), up.at(b)) for a, b in zip(x.values, y.values, strict=True)]
    drawn, fullest = _dots(places) if len(places) <= MOST_DOTS else _honeycomb(places)
    marks = Markup('<g style="fill: var(--{})">{}</g>').format(colour, drawn)
    if guide is not None:
        marks += _guide(across, up, *guide)
    if trend and len(places) >= 3 * _TREND_IMAGES:
        marks += _trend(x.values, y.values, across, up)
    sides = _histogram(x, across, up.end, upwards=True) + _histogram(y, up, across.end, upwards=False)
    grid = frame(across, up, x_ticks, y_ticks, x.label, y.label, HEIGHT)
    words = f"{title}: {y.label} against {x.label} of {len(places):,} images"
    if fullest:
        words += f", up to {fullest:,} in one cell"
        sides += Markup("").join(
            Markup('<text x="{}" y="{}" text-anchor="end" class="tick">{}</text>').format(WIDTH, y, text)
            for y, text in ((12, f"up to {fullest:,}"), (27, "in a cell"))
        )
    return svg(words, grid + sides + marks, HEIGHT)


def _dots(places: Sequence[tuple[float, float]]) -> tuple[Markup, int]:
    dots = Markup("").join(Markup('<circle cx="{}" cy="{}" r="3"/>').format(*place) for place in places)
    return Markup('<g class="dots">{}</g>').format(dots), 0


def _honeycomb(places: Sequence[tuple[float, float]]) -> tuple[Markup, int]:
    """Cells with as much strength as the logarithm of the images in them, and what the fullest holds."""
    cells = Counter(_cell(*place) for place in places)
    fullest = max(cells.values())
    paths: dict[int, list[str]] = {}
    wide, half = round(_RADIUS * math.sqrt(3) / 2, 2), round(_RADIUS / 2, 2)
    edge = f"l{wide} {half}v{_RADIUS}l-{wide} {half}l-{wide}-{half}v-{_RADIUS}z"
    for (a, b), n in sorted(cells.items()):
        step = max(1, math.ceil(STEPS * math.log(n + 1) / math.log(fullest + 1)))
        paths.setdefault(step, []).append(f"M{a:.1f} {b - _RADIUS:.1f}{edge}")
    drawn = Markup("").join(
        Markup('<path d="{}" fill-opacity="{}"/>').format("".join(shapes), round(0.1 + 0.9 * step / STEPS, 2))
        for step, shapes in sorted(paths.items())
    )
    return drawn, fullest


def _cell(x: float, y: float) -> tuple[float, float]:
    """The middle of the hexagon that a point is in: the nearer one of two rectangular lattices."""
    wide, high = _RADIUS * math.sqrt(3), _RADIUS * 3
    even = (round(x / wide) * wide, round(y / high) * high)
    odd = ((math.floor(x / wide) + 0.5) * wide, (math.floor(y / high) + 0.5) * high)
    return min(even, odd, key=lambda middle: (middle[0] - x) ** 2 + (middle[1] - y) ** 2)


def _guide(across: Axis, up: Axis, intercept: float, slope: float) -> Markup:
    """The part of a line that lies inside the frame; nothing if none does."""
    ends = {across.low, across.high}
    if slope:
        ends |= {(level - intercept) / slope for level in (up.low, up.high)}
    slack = 1e-9 * (up.high - up.low)
    inside = sorted(
        x for x in ends if across.low <= x <= across.high and up.low - slack <= intercept + slope * x <= up.high + slack
    )
    if len(inside) < 2:
        return Markup("")
    (x1, y1), (x2, y2) = ((across.at(x), up.at(intercept + slope * x)) for x in (inside[0], inside[-1]))
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="diagonal"/>').format(x1, y1, x2, y2)


def _trend(x: Sequence[float], y: Sequence[float], across: Axis, up: Axis) -> Markup:
    order = np.argsort(x, kind="stable")
    pieces = np.array_split(order, min(16, len(order) // _TREND_IMAGES))
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    points = " ".join(f"{across.at(float(a[p].mean()))},{up.at(float(b[p].mean()))}" for p in pieces)
    return Markup('<polyline points="{}" class="curve trend"/>').format(points)


def _histogram(quantity: Quantity, axis: Axis, edge: float, *, upwards: bool) -> Markup:
    """Bars along a side, away from the plot: `edge` is where they stand, in pixels."""
    counts, edges = np.histogram(quantity.values, bins=_BINS, range=(axis.low, axis.high))
    shapes = []
    for n, left, right in zip(counts.tolist(), edges, edges[1:], strict=False):
        first, last = sorted((axis.at(float(left)), axis.at(float(right))))
        length = round(n / max(1, *counts.tolist()) * (_SIDE - 6), 1)
        if n:
            shapes.append(
                f"M{first + 0.5:.1f} {edge - 3:.1f}V{edge - 3 - length:.1f}H{last - 0.5:.1f}V{edge - 3:.1f}z"
                if upwards
                else f"M{edge + 3:.1f} {first + 0.5:.1f}H{edge + 3 + length:.1f}V{last - 0.5:.1f}H{edge + 3:.1f}z"
            )
    return Markup('<path d="{}" class="side" style="fill: var(--{})"/>').format("".join(shapes), quantity.colour)
