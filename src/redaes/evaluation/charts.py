"""Charts as inline SVG: no script, no dependency, readable in light and dark, with words for those who cannot see them.

In: numbers. Out: `markupsafe.Markup`; every text that goes in is escaped. Colours are CSS variables of the page
(`templates/base.css`), so that a chart follows the reader's theme.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 40
_SMOOTHING_SHARE = 0.05


@dataclass(frozen=True)
class Whisker:
    """One row of an interval chart.

    Attributes:
        label: what was measured.
        value: the point; None is shown as 'undefined'.
        low: lower end of the interval.
        high: upper end of the interval.
        colour: name of a CSS variable, without the dashes.
        dots: single measurements that the point sums up.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    colour: str
    dots: tuple[float, ...] = ()


@dataclass(frozen=True)
class Axis:
    """A linear map from values in [low, high] to pixels in [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that span [low, high]: the first is at most `low`, the last at least `high`.

    Example:
        >>> nice_ticks(0.13, 0.87)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high - low <= max(1e-12, 1e-9 * max(abs(low), abs(high))):  # one value, as far as a chart can show
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 2 - math.floor(math.log10(step))
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


def line_chart(title: str, x: Sequence[float], y: Sequence[float], *, x_label: str = "step", colour: str) -> Markup:
    """A curve: every value faintly, their running mean boldly (over a twentieth of the curve).

    Args:
        title: what y is.
        x: (n,) ascending, n >= 1.
        y: (n,) finite.
        x_label: what x is.
        colour: name of a CSS variable, without the dashes.
    """
    mean = running_mean(y, max(1, round(len(y) * _SMOOTHING_SHARE)))
    x_ticks, y_ticks = nice_ticks(min(x), max(x)), nice_ticks(min(y), max(y))
    if len(x) > 1:
        x_ticks = [tick for tick in x_ticks if min(x) <= tick <= max(x)]
    across = Axis(min(*x_ticks, *x), max(*x_ticks, *x), _LEFT, WIDTH - _RIGHT)
    up = Axis(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    raw, smooth = (" ".join(f"{across.at(a)},{up.at(b)}" for a, b in zip(x, ys, strict=True)) for ys in (y, mean))
    marks = Markup('<polyline points="{}" class="raw" style="stroke: var(--{})"/>').format(raw, colour)
    marks += Markup('<polyline points="{}" class="curve" style="stroke: var(--{})"/>').format(smooth, colour)
    if len(x) == 1:
        marks += Markup('<circle cx="{}" cy="{}" r="3" style="fill: var(--{})"/>').format(
            across.at(x[0]), up.at(y[0]), colour
        )
    words = f"{title}: {_short(mean[0])} at {x_label} {_short(x[0])}, {_short(mean[-1])} at {x_label} {_short(x[-1])}"
    return svg(words, frame(across, up, x_ticks, y_ticks, x_label) + marks)


def scatter_chart(title: str, truth: Sequence[float], prediction: Sequence[float], *, colour: str) -> Markup:
    """Predicted against true scores on [0, 10], with the diagonal on which perfect predictions lie.

    Args:
        title: of which model.
        truth: (n,) in [0, 10], drawn to the right.
        prediction: (n,) in [0, 10], drawn upwards.
        colour: name of a CSS variable, without the dashes.
    """
    height = WIDTH - 20
    ticks = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    across, up = Axis(0, 10, _LEFT, WIDTH - _RIGHT), Axis(0, 10, height - _BOTTOM, _TOP)
    diagonal = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="diagonal"/>').format(
        across.at(0), up.at(0), across.at(10), up.at(10)
    )
    dots = Markup("").join(
        Markup('<circle cx="{}" cy="{}" r="3.2"/>').format(across.at(a), up.at(b))
        for a, b in zip(truth, prediction, strict=True)
    )
    marks = diagonal + Markup('<g class="dots" style="fill: var(--{})">{}</g>').format(colour, dots)
    words = f"{title}: predicted against true score of {len(truth)} images"
    return svg(words, frame(across, up, ticks, ticks, "true score", "predicted", height) + marks, height)


def interval_chart(title: str, rows: Sequence[Whisker], *, zero: str, digits: int = 2) -> Markup:
    """Points with their intervals, one below the other, on a common scale that includes zero.

    Args:
        title: what was measured.
        rows: from top to bottom.
        zero: what the vertical line at zero means.
        digits: of the numbers at the points.
    """
    row_height, left = 40, 142
    height = row_height * len(rows) + 52
    numbers = [v for row in rows for v in (row.value, row.low, row.high, *row.dots) if v is not None]
    ticks = nice_ticks(min([0.0, *numbers]), max([0.0, *numbers]))
    across = Axis(ticks[0], ticks[-1], left, WIDTH - 16)
    marks = Markup("").join(_vertical(across.at(t), 8, height - 44, _short(t), height - 28, t == 0) for t in ticks)
    for index, row in enumerate(rows):
        marks += _whisker(row, across, 8 + row_height * (index + 0.5), digits)
    note = Markup('<text x="{}" y="{}" text-anchor="middle" class="label">{}</text>').format(
        (left + WIDTH - 16) / 2, height - 6, zero
    )
    words = "; ".join(f"{row.label} {_short(row.value)}" for row in rows)
    return svg(f"{title}: {words}", marks + note, height)


def histogram_chart(
    title: str, low: float, high: float, counts: Sequence[int], *, x_label: str, colour: str, below: str = ""
) -> Markup:
    """Counts in bins of equal width.

    Args:
        title: of what.
        low: lower end of the first bin.
        high: upper end of the last bin.
        counts: (bins,) >= 0, bins >= 1.
        x_label: what is counted.
        colour: name of a CSS variable, without the dashes.
        below: another one for bins below zero.
    """
    ticks = [float(t) for t in nice_ticks(0, max(1, *counts)) if float(t).is_integer()]
    across = Axis(low, high, _LEFT, WIDTH - _RIGHT)
    up = Axis(0, ticks[-1], HEIGHT - _BOTTOM, _TOP)
    edges = [low + (high - low) * i / len(counts) for i in range(len(counts) + 1)]
    bars = Markup("").join(
        _bar(across.at(left) + 0.75, up.at(n), across.at(right) - across.at(left) - 1.5, up.start - up.at(n)).format(
            below if below and right <= 0 else colour
        )
        for left, right, n in zip(edges, edges[1:], counts, strict=False)
        if n
    )
    words = f"{title}: {sum(counts)} values between {_short(low)} and {_short(high)}"
    if any(counts):
        fullest = counts.index(max(counts))
        words += f", most of them from {_short(edges[fullest])} to {_short(edges[fullest + 1])}"
    return svg(words, frame(across, up, nice_ticks(low, high), ticks, x_label) + bars)


def bar_chart(title: str, rows: Sequence[tuple[str, int]], *, colour: str) -> Markup:
    """Counts as bars, one below the other.

    Args:
        title: what was counted.
        rows: (label, count >= 0) from top to bottom, one or more.
        colour: name of a CSS variable, without the dashes.
    """
    left, height = 148, 30
    across = Axis(0, max(1, *(n for _, n in rows)), left, WIDTH - 56)
    marks = Markup("")
    for index, (label, n) in enumerate(rows):
        y = height * index
        marks += Markup('<text x="0" y="{}" class="row">{}</text>').format(y + 20, _fitted(label))
        marks += _bar(left, y + 6, max(1.0, across.at(n) - left), 18).format(colour)
        marks += Markup('<text x="{}" y="{}" class="value">{}</text>').format(
            max(left + 1, across.at(n)) + 6, y + 20, f"{n:,}"
        )
    return svg(f"{title}: {'; '.join(f'{label} {n}' for label, n in rows)}", marks, height * len(rows))


def funnel_chart(title: str, rows: Sequence[tuple[str, int]], *, colour: str) -> Markup:
    """What is left after each step: bars about one middle, joined where something falls away.

    Args:
        title: of what.
        rows: (label, count >= 0) from the wide end to the narrow one, one or more.
        colour: name of a CSS variable, without the dashes.
    """
    height, bar, middle = 54, 20, WIDTH / 2
    widest = max(1, *(n for _, n in rows))
    halves = [max(1.0, n / widest * (middle - 2)) for _, n in rows]
    marks = Markup("")
    for index, ((label, n), half) in enumerate(zip(rows, halves, strict=True)):
        y = height * index + 20
        marks += _bar(round(middle - half, 1), y, round(2 * half, 1), bar).format(colour)
        marks += Markup('<text x="0" y="{}" class="row">{}</text>').format(y - 6, label)
        marks += Markup('<text x="{}" y="{}" text-anchor="end" class="value">{}</text>').format(WIDTH, y - 6, f"{n:,}")
    return svg(f"{title}: {'; '.join(f'{label} {n}' for label, n in rows)}", marks, height * len(rows) - 8)


def _bar(x: float, y: float, width: float, height: float) -> Markup:
    """A bar whose colour is still to be filled in."""
    shape = Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="2" style="fill: var(--{{}})"/>')
    return shape.format(*(round(v, 1) for v in (x, y, width, height)))


def _fitted(label: str, longest: int = 20) -> str:
    """A label that fits to the left of its row."""
    return label if len(label) <= longest else f"{label[: longest - 1]}…"


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and its neighbours, at most `window` on either side; shorter at the ends.

    Example:
        >>> running_mean([0, 3, 6], 1)
        [1.5, 3.0, 4.5]
    """
    if window <= 1 and len(values) < 3:
        return list(values)
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    ends = [(max(0, i - window), min(len(values), i + window + 1)) for i in range(len(values))]
    return [(total[b] - total[a]) / (b - a) for a, b in ends]


def _whisker(row: Whisker, across: Axis, y: float, digits: int) -> Markup:
    label = Markup('<text x="0" y="{}" class="row">{}</text>').format(y + 4, _fitted(row.label))
    if row.value is None:
        return label + Markup('<text x="{}" y="{}" class="label">undefined</text>').format(across.start + 6, y + 4)
    style = Markup('style="stroke: var(--{0}); fill: var(--{0})"').format(row.colour)
    line = Markup("")
    if row.low is not None and row.high is not None:
        line = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="whisker" {}/>').format(
            across.at(row.low), y, across.at(row.high), y, style
        )
    point = Markup('<circle cx="{}" cy="{}" r="5.5" {}/>').format(across.at(row.value), y, style)
    point += Markup("").join(
        Markup('<circle cx="{}" cy="{}" r="3" class="dot" style="stroke: var(--{})"/>').format(
            across.at(dot), y + 12, row.colour
        )
        for dot in row.dots
    )
    number = Markup('<text x="{}" y="{}" text-anchor="middle" class="value">{}</text>').format(
        across.at(row.value), y - 10, f"{row.value:.{digits}f}".replace("-", "−")
    )
    return label + line + point + number


def frame(
    across: Axis,
    up: Axis,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str = "",
    height: int = HEIGHT,
) -> Markup:
    """Grid lines, ticks and the names of both axes."""
    parts = [
        Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="gridline"/>').format(
            across.start, across.end, up.at(t)
        )
        + Markup('<text x="{}" y="{}" text-anchor="end" class="tick">{}</text>').format(
            across.start - 6, up.at(t) + 4, _short(t)
        )
        for t in y_ticks
    ]
    parts += [
        Markup('<text x="{}" y="{}" text-anchor="middle" class="tick">{}</text>').format(
            across.at(t), up.start + 16, _short(t)
        )
        for t in x_ticks
    ]
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle" class="label">{}</text>').format(
            (across.start + across.end) / 2, height - 6, x_label
        )
    )
    if y_label:
        middle = (up.start + up.end) / 2
        parts.append(
            Markup(
                '<text x="12" y="{0}" text-anchor="middle" class="label" transform="rotate(-90 12 {0})">{1}</text>'
            ).format(middle, y_label)
        )
    return Markup("").join(parts)


def _vertical(x: float, top: float, bottom: float, text: str, text_y: float, strong: bool) -> Markup:
    return Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="{3}"/>').format(
        x, top, bottom, "zero" if strong else "gridline"
    ) + Markup('<text x="{}" y="{}" text-anchor="middle" class="tick">{}</text>').format(x, text_y, text)


def svg(words: str, content: Markup, height: int = HEIGHT) -> Markup:
    """A drawing of `WIDTH` units across, with words for those who cannot see it."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="chart">{}</svg>').format(
        WIDTH, height, escape(words), content
    )


def _short(value: float | None) -> str:
    if value is None:
        return "undefined"
    whole = abs(value) >= 1000 or float(value).is_integer()
    text = f"{value:.0f}" if whole and abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−")
