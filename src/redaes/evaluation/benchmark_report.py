"""How well scorers agree with people, on one page: who is best and by how much, where each errs, and on which pictures.

In: a folder that `redaes evaluate` has filled (`redaes.evaluation.scored`); no scorer is asked. Out: one HTML file that
loads nothing. What is shown is chosen by rule, never by taste. Choices [O, not from the paper]:

- Wherever one number stands for a scorer, failed parses count as its mean prediction, as in the paired differences;
  the tables of measures give both treatments.
- Scorers have other scales than people. Errors are measured after the least-squares line from predictions to scores of
  people, as `mae_fit` is: a scorer is not blamed for its scale, only for its order and its spread.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from redaes.data.benchmarks import Item
from redaes.data.manifest import write_atomically
from redaes.errors import UserError
from redaes.evaluation import charts
from redaes.evaluation.comparison import LOWER_IS_BETTER, differences
from redaes.evaluation.density import Quantity, joint_chart
from redaes.evaluation.html import Album, render
from redaes.evaluation.predictions import Answer
from redaes.evaluation.scored import Scored, read_scored
from redaes.registry import find, load_plugin

if TYPE_CHECKING:
    from markupsafe import Markup

PICTURES_LIMIT = 2_400_000
"""Bytes of the pictures of a page."""
PICTURES = 240
"""How many pictures a page has, about; each of its rows has from `FEWEST` to `MOST` of them."""
FEWEST, MOST = 2, 6
PICTURE_SIDE = 208
DUELS = 3
"""Scorers that the best one of a benchmark is shown against in full."""
UNFOLDED = 3
"""Scorers of a benchmark that a reader need not unfold to see."""
COLOURS = ("after", "third", "fourth")
HEADLINE = "failures_as_mean"
MEASURES = {
    "srcc": ("SRCC", "the same order?"),
    "plcc": ("PLCC", "on one line?"),
    "krcc": ("KRCC", "pairs in order, from −1 to 1"),
    "pairwise_accuracy": ("pairs", "share of pairs in the right order"),
    "srcc_within": ("SRCC within", "the same order inside each group?"),
    "mae_fit": ("MAE", "mean error on [0, 1] after the best line; lower is better"),
    "plcc_logistic": ("PLCC, logistic", "on one curve?"),
}
TREATMENTS = {
    "failures_as_mean": "An answer without a score counts as the scorer’s mean prediction",
    "parsed_only": "Answers without a score are left out",
}


@dataclass(frozen=True)
class Said:
    """What a scorer said of one image.

    Attributes:
        name: of the scorer.
        colour: name of a CSS variable.
        value: its prediction, in [0, 10].
        fitted: the same on people's scale.
        words: its reasoning, or else its raw answer.
    """

    name: str
    colour: str
    value: float
    fitted: float
    words: str


@dataclass(frozen=True)
class Shot:
    """One image of a contact sheet.

    Attributes:
        item: the image.
        picture: a `data:` address; empty if there is none to show.
        why: there is none.
        said: of it.
    """

    item: Item
    picture: str
    why: str
    said: Sequence[Said]


@dataclass(frozen=True)
class Sheet:
    """A row of images with the rule they were chosen by."""

    title: str
    rule: str
    shots: Sequence[Shot]


class Entry:
    """One scorer on one split, as the page needs it.

    Args:
        scored: what it said.
        anchor: its place on the page.
        colour: name of a CSS variable.
    """

    def __init__(self, scored: Scored, anchor: str, colour: str) -> None:
        self.scored, self.anchor, self.colour = scored, anchor, colour
        self.result = scored.result
        self.items = [i for i in scored.measured.values() if scored.answers[i.id].value is not None]
        self.mos = np.array([item.mos for item in self.items], dtype=np.float64)
        self.values = 10 * scored.predicted(self.items)
        self.intercept, self.slope = _line(self.values, self.mos)
        self.residuals = self.mos - self.fitted(self.values)

    @property
    def name(self) -> str:
        """Of the scorer."""
        return self.scored.name

    def fitted(self, values: Any) -> Any:
        """Predictions on people's scale."""
        return self.intercept + self.slope * values

    @property
    def silent(self) -> list[Answer]:
        """Of images that it gave no score, in the order of the list."""
        answers = (self.scored.answers[item.id] for item in self.scored.items)
        return [answer for answer in answers if answer.status != "ok"]

    def measure(self, name: str, treatment: str = HEADLINE) -> Mapping[str, Any]:
        """A measure with its interval; all null where it was not made."""
        measured: Mapping[str, Mapping[str, Any]] = self.result["measures"].get(treatment, {})
        return measured.get(name, {"value": None, "low": None, "high": None})

    def said(self, item: Item) -> Said:
        """What it said of an image that it scored."""
        answer = self.scored.answers[item.id]
        value = 0.0 if answer.value is None else answer.value
        return Said(self.name, self.colour, value, float(self.fitted(value)), answer.reasoning or answer.text)

    def scatter(self) -> "Markup":
        """Predicted against what people say."""
        assert self.scored.benchmark is not None
        low, high = self.scored.benchmark.native_range
        slope = 10 / (high - low)
        return joint_chart(
            f"{self.name} on {self.scored.split[0]}",
            Quantity("mean opinion score", self.mos.tolist(), "before"),
            Quantity("predicted", self.values.tolist(), self.colour),
            colour=self.colour,
            guide=(-low * slope, slope),
        )

    def residual_chart(self) -> "Markup":
        """What the best line leaves."""
        return joint_chart(
            f"{self.name} on {self.scored.split[0]}, after the best line",
            Quantity("predicted", self.values.tolist(), self.colour),
            Quantity("people minus fitted", self.residuals.tolist(), "before"),
            colour=self.colour,
            guide=(0.0, 0.0),
        )

    def sheets(self, album: Album, count: int) -> list[Sheet]:
        """Where it is right, and where it is most wrong in either direction."""
        order = np.argsort(-self.mos, kind="stable")
        parts = [part for part in np.array_split(order, min(count, len(order))) if len(part)]
        closest = [int(part[np.argmin(np.abs(self.residuals[part]))]) for part in parts]
        rows = (
            ("Closest", "From each part of the images, best rated to worst rated, the one predicted most closely.",
             closest),
            ("Overrated most", "The scorer likes these far more than people do.",
             _furthest(-self.residuals, count)),
            ("Underrated most", "People like these far more than the scorer does.",
             _furthest(self.residuals, count)),
        )  # fmt: skip
        return [Sheet(title, rule, [_shot(self.items[k], album, self) for k in chosen]) for title, rule, chosen in rows]


@dataclass(frozen=True)
class Duel:
    """Two scorers side by side.

    Attributes:
        a: the one.
        b: the other.
        chart: a minus b for each measure that is a correlation or a share.
        scatter: what the one says against what the other says; None if no image was scored by both.
        sheets: images on which they disagree most.
    """

    a: Entry
    b: Entry
    chart: "Markup"
    scatter: "Markup | None"
    sheets: Sequence[Sheet]


@dataclass(frozen=True)
class Section:
    """One split of a benchmark.

    Attributes:
        title: of the benchmark.
        split: which part of it.
        anchor: its place on the page.
        entries: its scorers, best first.
        rows: paired differences by the places of two scorers among the entries, better one first.
        ranking: SRCC of every scorer.
    """

    title: str
    split: str
    anchor: str
    entries: Sequence[Entry]
    rows: Mapping[tuple[int, int], Mapping[str, Mapping[str, Any]]]
    ranking: "Markup"

    @property
    def best(self) -> Entry:
        """The scorer with the highest SRCC."""
        return self.entries[0]

    @property
    def lead(self) -> Mapping[str, Any] | None:
        """The best one's SRCC minus that of the next; None without a next or without an interval."""
        row = self.rows.get((0, 1), {}).get("srcc")
        return None if row is None or row["low"] is None else row

    @property
    def measures(self) -> list[str]:
        """That any of its scorers has."""
        return [name for name in MEASURES if any(e.measure(name)["value"] is not None for e in self.entries)]

    @property
    def compared(self) -> list[str]:
        """Measures by which its scorers are compared."""
        return [name for name in MEASURES if any(name in row for row in self.rows.values())]

    @property
    def failures(self) -> int:
        """Answers without a score, of all scorers."""
        return sum(e.result["n_unparsed"] + e.result["n_failed"] for e in self.entries)

    def leaders(self, name: str) -> set[str]:
        """The anchors of the scorers that have the best value of a measure; none where there is nothing to compare."""
        values = {e.anchor: e.measure(name)["value"] for e in self.entries if e.measure(name)["value"] is not None}
        if len(values) < 2:
            return set()
        best = (min if name in LOWER_IS_BETTER else max)(values.values())
        return {anchor for anchor, value in values.items() if value == best}

    def left_out(self) -> list[tuple[str, int]]:
        """Why listed images are not among those found, with how many."""
        return list(self.best.result.get("left_out", {}).items())

    def duels(self, album: Album, count: int) -> list[Duel]:
        """The best scorer against those that follow it."""
        return [
            _duel(self.best, other, self.rows.get((0, place), {}), album, count)
            for place, other in enumerate(self.entries[1 : 1 + DUELS], 1)
            if other.items and self.best.items
        ]


def write_report(folder: str | Path, page: str | Path, names: Collection[str] | None = None) -> Path:
    """Write one page about everything that a folder holds.

    Args:
        folder: of the evaluation: what `redaes evaluate --predictions` names.
        page: the file to write.
        names: of the benchmarks to show; None shows all.

    Returns:
        The page.

    Raises:
        UserError: nothing was evaluated there, or the page cannot be written.
    """
    scored = read_scored(folder, names)
    if not scored:
        of = "" if names is None else f" of {', '.join(names)}"
        raise UserError(f"{folder} holds no result{of}; `redaes evaluate --benchmark NAME --root FOLDER` makes one")
    path = Path(page)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page_of(scored))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def page_of(scored: Sequence[Scored], pictures_limit: int = PICTURES_LIMIT) -> str:
    """The page, as one file.

    Args:
        scored: of `redaes.evaluation.scored.read_scored`, at least one.
        pictures_limit: bytes of pictures at most; those that do not fit are left out.
    """
    sections = _sections(scored)
    rows = sum(3 * len(s.entries) + 2 * min(DUELS, len(s.entries) - 1) for s in sections)
    count = max(FEWEST, min(MOST, PICTURES // rows))
    album = Album(pictures_limit)
    shown = [
        {
            "section": section,
            "duels": section.duels(album, count),
            "scorers": [(entry, entry.sheets(album, count) if entry.items else []) for entry in section.entries],
        }
        for section in sections
    ]
    return render(
        "benchmarks.html",
        sections=sections,
        shown=shown,
        table=_table(sections),
        marks={entry.name: entry.result["fingerprint"] for section in sections for entry in section.entries},
        measures=MEASURES,
        treatments=TREATMENTS,
        headline=HEADLINE,
        unfolded=UNFOLDED,
        album=album,
    )


def _sections(scored: Sequence[Scored]) -> list[Section]:
    splits: dict[tuple[str, str], list[Scored]] = {}
    for each in scored:
        splits.setdefault(each.split, []).append(each)
    return [_section(f"b{number}", split, each) for number, (split, each) in enumerate(splits.items(), 1)]


def _section(anchor: str, split: tuple[str, str], scored: Sequence[Scored]) -> Section:
    ranked = sorted(scored, key=lambda s: -_number(s.result["measures"].get(HEADLINE, {}).get("srcc", {}).get("value")))
    entries = [Entry(s, f"{anchor}s{k}", COLOURS[k % len(COLOURS)]) for k, s in enumerate(ranked)]
    places = {entry.result["fingerprint"]: place for place, entry in enumerate(entries)}
    rows: dict[tuple[int, int], dict[str, Mapping[str, Any]]] = {}
    for row in differences(ranked):
        pair = places[row["a_fingerprint"]], places[row["b_fingerprint"]]
        rows.setdefault(pair, {})[row["measure"]] = row
    whiskers = [
        charts.Whisker(e.name, colour=e.colour, **{k: e.measure("srcc")[k] for k in ("value", "low", "high")})
        for e in entries
    ]
    title = _title(split[0])
    ranking = charts.interval_chart(f"SRCC on {title}", whiskers, zero="0 is chance, 1 is people’s order")
    return Section(title, split[1], anchor, entries, rows, ranking)


def _title(benchmark: str) -> str:
    """What a known set is called; others, such as a table of one's own, by their name."""
    if benchmark not in find("benchmarks"):
        return benchmark
    about = load_plugin("benchmarks", benchmark).about
    return str(about.title) if about.images else benchmark


def _table(sections: Sequence[Section]) -> list[tuple[str, list[tuple[Section, Entry | None]]]]:
    """One row per scorer, best on average first: its entry in each section."""
    by_name: dict[str, dict[str, Entry]] = {}
    for section in sections:
        for entry in section.entries:
            by_name.setdefault(entry.name, {})[section.anchor] = entry

    def mean(name: str) -> float:
        values = [e.measure("srcc")["value"] for e in by_name[name].values()]
        return float(np.mean([_number(value) for value in values]))

    ordered = sorted(by_name, key=lambda name: (-mean(name), name))
    return [(name, [(s, by_name[name].get(s.anchor)) for s in sections]) for name in ordered]


def _duel(a: Entry, b: Entry, rows: Mapping[str, Mapping[str, Any]], album: Album, count: int) -> Duel:
    whiskers = [
        charts.Whisker(MEASURES[name][0], row["value"], row["low"], row["high"], a.colour)
        for name, row in ((name, rows[name]) for name in MEASURES if name in rows and name not in LOWER_IS_BETTER)
    ]
    chart = charts.interval_chart(
        f"{a.name} minus {b.name}", whiskers, zero=f"right of 0: {a.name} is better", digits=3
    )
    there = {item.id for item in b.items}
    common = [item for item in a.items if item.id in there]
    if not common:
        return Duel(a, b, chart, None, [])
    first, second = ([entry.said(item) for item in common] for entry in (a, b))
    gaps = np.array([x.fitted - y.fitted for x, y in zip(first, second, strict=True)])
    x, y = ([said.value for said in each] for each in (first, second))
    ends = min(*x, *y), max(*x, *y)
    scatter = joint_chart(
        f"{a.name} and {b.name}",
        Quantity(a.name, x, a.colour, ends),
        Quantity(b.name, y, b.colour, ends),
        colour="soft",
        guide=(0.0, 1.0),
        trend=False,
    )
    sheets = [
        Sheet(
            f"{liker.name} likes these more", "", [_shot(common[k], album, a, b) for k in _furthest(sign * gaps, count)]
        )
        for liker, sign in ((a, 1), (b, -1))
    ]
    return Duel(a, b, chart, scatter, sheets)


def _shot(item: Item, album: Album, *entries: Entry) -> Shot:
    before = album.left_out
    picture = album.picture(str(item.path), PICTURE_SIDE)
    why = "left out to keep this page small" if album.left_out > before else "the file is not there or damaged"
    return Shot(item, picture, why, [entry.said(item) for entry in entries])


def _furthest(values: Any, count: int) -> list[int]:
    """Places of the largest values above zero, largest first."""
    order = np.argsort(-values, kind="stable")[:count]
    return [int(place) for place in order if values[place] > 0]


def _line(x: Any, y: Any) -> tuple[float, float]:
    """Intercept and slope of the least-squares line; level where x is constant, 0 without a value."""
    if not len(x):
        return 0.0, 0.0
    dx = x - x.mean()
    square = float(dx @ dx)
    slope = float(dx @ y) / square if square > 0 else 0.0
    return float(y.mean() - slope * x.mean()), slope


def _number(value: float | None) -> float:
    """To order by: an undefined measure is no better than chance at its worst."""
    return -1.0 if value is None else value
