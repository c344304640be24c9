"""A table of the paper with ours beside it, as data; `table_formats` shows it.

In: the paper's numbers (`paper_tables`) and ours: results of benchmarks, the fusion itself, a dataset's statistics.
Tab. 2-6, of sweeps, are filled by `redaes.sweeps.tables`. Out: a `Table` of cells, each with the paper's number, ours,
its 95 % interval, what it rests on and the difference.

A difference is only given between like and like: not for a biased number, nor an average over other parts than the
paper's. An average of ours is there when all its parts are.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

from redaes.data.benchmarks import about
from redaes.data.benchmarks.lists import KNOWN_MISSING
from redaes.errors import UserError
from redaes.evaluation.correlations import FailureTreatment
from redaes.evaluation.paper_tables import MEASURES, PaperTable, paper_tables
from redaes.fusion import ConsensusFusion, Level

Kind = Literal["correlation", "score", "share", "words"]
NOT_IN_PAPER = "Not in the paper"
BENCHMARK_TITLES = {"tad66k": "TAD66K", "flickr_aes": "FLICKR", "average": "Average"}
COLUMNS: dict[str, tuple[str, Kind]] = {
    "no_outliers": ("no outliers", "words"),
    "one_outlier": ("one outlier", "words"),
    "multiple_outliers": ("multiple outliers", "words"),
    "viescore": ("VIEScore", "score"),
    "success_rate": ("success rate", "share"),
    "agreement": ("agreement", "share"),
}


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        key: of its cells; `ava.srcc`, `success_rate`.
        title: `SRCC`.
        over: the heading that neighbouring columns share; `AVA`.
        kind: how its numbers are written.
    """

    key: str
    title: str
    over: str = ""
    kind: Kind = "correlation"


@dataclass(frozen=True)
class Cell:
    """One number of the paper's and ours.

    Attributes:
        paper: as printed; None where the paper has none.
        ours: None where there is none, or none that is defined.
        low: lower end of the 95 % interval of ours.
        high: its upper end.
        n: what ours rests on: images, edits, or seeds where the column is a sweep's.
        comparable: ours and the paper's are the same measure of the same thing.
        paper_remark: a footnote to the paper's number.
        remark: a footnote to ours.
    """

    paper: float | str | None = None
    ours: float | str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    comparable: bool = True
    paper_remark: str = ""
    remark: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the paper's; None where there is nothing to compare.

        Example:
            >>> Cell(paper=0.5, ours=0.75).difference
            0.25
        """
        if self.comparable and isinstance(self.ours, float) and isinstance(self.paper, float):
            return self.ours - self.paper
        return None

    @property
    def same(self) -> bool | None:
        """Whether words are the paper's; None for numbers."""
        if isinstance(self.ours, str) and isinstance(self.paper, str):
            return self.ours == self.paper
        return None

    @property
    def measured(self) -> bool:
        """There is something of ours to say."""
        return self.ours is not None or self.n is not None


@dataclass(frozen=True)
class Row:
    """One row: its name, the heading it stands under, and its cells by column."""

    name: str
    family: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """A whole table.

    Attributes:
        number: of the paper's.
        title: what it compares.
        section: where the paper speaks of it.
        columns: in order.
        rows: the paper's in its order, then others of ours.
        notes: what a reader must know.
        how: the one line that says how ours get in; empty where there are any.
    """

    number: int
    title: str
    section: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    how: str = ""

    @property
    def measured(self) -> bool:
        """Some cell has something of ours."""
        return any(cell.measured for row in self.rows for cell in row.cells.values())


def beside(
    number: int,
    ours: Mapping[str, Mapping[str, Cell]],
    *,
    columns: Sequence[Column] = (),
    notes: Sequence[str] = (),
    how: str = "",
) -> Table:
    """The paper's table with ours beside it.

    Args:
        number: 1 to 9.
        ours: cells by column, by the row's name; rows that the paper has not come last.
        columns: of ours alone, after the paper's.
        notes: after the paper's own.
        how: shown only if nothing is measured.
    """
    paper = paper_tables()[number]
    known = {row.name: row for row in paper.rows}
    rows = []
    for name in dict.fromkeys((*known, *ours)):
        printed = known.get(name)
        cells = dict(ours.get(name, {}))
        if printed:
            for key, value in printed.paper.items():
                cells[key] = replace(cells.get(key, Cell()), paper=value, paper_remark=printed.remark(key))
        rows.append(Row(name, printed.family if printed else NOT_IN_PAPER, cells))
    table = Table(number, paper.title, paper.section, (*_columns(paper), *columns), tuple(rows))
    return replace(table, notes=(*paper.notes, *notes), how="" if table.measured else how)


def _columns(paper: PaperTable) -> tuple[Column, ...]:
    if paper.columns:
        return tuple(Column(key, COLUMNS[key][0], kind=COLUMNS[key][1]) for key in paper.columns)
    parts = (key.split(".") for key in paper.keys)
    return tuple(Column(f"{b}.{m}", m.upper(), BENCHMARK_TITLES.get(b, b.upper())) for b, m in parts)


# --- Tab. 1: results of benchmarks ----------------------------------------------------------------------------------


def benchmark_table(
    results: Iterable[Mapping[str, Any]], failures: FailureTreatment = "parsed_only", how: str = ""
) -> Table:
    """Tab. 1 from results on disk. A row is the results of one scorer, told by the name of its ready configuration.

    Two scorers of one name (another checkpoint, other settings) are never mixed in one row: the one with more results
    takes the paper's row, the others get rows of their own.

    Args:
        results: as `redaes.evaluation.results.read_results` gives them.
        failures: what is done with answers that hold no score.
        how: as of `beside`.
    """
    paper = paper_tables()[1]
    by_scorer: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result["benchmark"] in paper.benchmarks:
            by_scorer[result["scorer"]][result["fingerprint"]].append(result)
    rows = {row.scorer: row.name for row in paper.rows}
    ours: dict[str, dict[str, Cell]] = {}
    for scorer, marks in sorted(by_scorer.items()):
        cells = [(mark, cells_of(found, paper.benchmarks, failures)) for mark, found in sorted(marks.items())]
        cells.sort(key=lambda pair: _extent(pair[1]), reverse=True)
        for place, (mark, found) in enumerate(cells):
            ours[_row_name(scorer, mark, rows, first=not place)] = found
    return beside(1, ours, notes=[_failures_note(failures)] if ours else [], how=how)


def _row_name(scorer: str, mark: str, rows: Mapping[str, str], first: bool) -> str:
    if first and scorer in rows:
        return rows[scorer]
    return scorer if first and scorer not in rows.values() else f"{scorer} [{mark}]"


def cells_of(
    results: Iterable[Mapping[str, Any]], benchmarks: Sequence[str], failures: FailureTreatment
) -> dict[str, Cell]:
    """What one scorer came to, by column: its benchmarks, and their average if all are there.

    Args:
        results: of one scorer; of several on one benchmark that on the paper's split counts, else the largest.
        benchmarks: that the average is over.
        failures: what is done with answers that hold no score.

    Raises:
        UserError: a result that `redaes evaluate` has not written in this form.
    """
    try:
        return _cells_of(results, benchmarks, failures)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"a result of `redaes evaluate` lacks {error}; evaluate again, nothing is scored twice"
        ) from error


def _cells_of(
    results: Iterable[Mapping[str, Any]], benchmarks: Sequence[str], failures: FailureTreatment
) -> dict[str, Cell]:
    chosen: dict[str, Mapping[str, Any]] = {}
    for result in sorted(results, key=lambda r: (_is_papers_split(r), r["n_scored"])):
        chosen[result["benchmark"]] = result
    cells = {f"{b}.{m}": _cell(chosen[b], m, failures) for b in benchmarks if b in chosen for m in MEASURES}
    for measure in MEASURES:
        parts = [cells.get(f"{benchmark}.{measure}", Cell()) for benchmark in benchmarks]
        if average := average_of(parts):
            cells[f"average.{measure}"] = average
    return cells


def average_of(parts: Sequence[Cell]) -> Cell | None:
    """The plain mean of numbers of ours; None unless all are there.

    Its interval adds the squared distances to the ends of the parts' intervals (Zou and Donner's MOVER), as the sets
    have no image in common.

    Example:
        >>> average_of([Cell(ours=0.5, low=0.2, high=0.9), Cell(ours=0.7, low=0.3, high=1.0)])
        Cell(paper=None, ours=0.6, low=0.35, high=0.85, n=None, comparable=True, paper_remark='', remark='')
    """
    values = [part.ours for part in parts if isinstance(part.ours, float)]
    if not values or len(values) < len(parts):
        return None
    mean = math.fsum(values) / len(values)
    down = [value - part.low for value, part in zip(values, parts, strict=True) if part.low is not None]
    up = [part.high - value for value, part in zip(values, parts, strict=True) if part.high is not None]
    known = len(down) == len(up) == len(values)
    low, high = (
        (mean - math.hypot(*down) / len(values), mean + math.hypot(*up) / len(values)) if known else (None, None)
    )
    counts = [part.n for part in parts if part.n is not None]
    return Cell(
        ours=mean,
        low=low,
        high=high,
        n=sum(counts) if len(counts) == len(parts) else None,
        comparable=all(part.comparable for part in parts),
        remark="" if not any(part.remark for part in parts) else "See the footnotes to its parts.",
    )


def _cell(result: Mapping[str, Any], measure: str, failures: FailureTreatment) -> Cell:
    found = result["measures"][failures][measure]
    failed = result["n_unparsed"] + result["n_failed"]
    n = result["n_scored"] + (failed if failures == "failures_as_mean" else 0)
    asked, size = result["n_scored"] + failed, _split_size(result)
    remarks = []
    if not _is_papers_split(result):
        expected = about()[result["benchmark"]].images
        remarks.append(f"On {asked:,} images of {result['split']}, not the {expected:,} that papers report on.")
    elif asked < size:
        remarks.append(f"On {asked:,} of {size:,} images.")
    if failed:
        remarks.append(f"{failed:,} of {asked:,} answers hold no score.")
    if found["value"] is None:
        remarks.append("Undefined: the scores are constant, or there are none.")
    return Cell(ours=found["value"], low=found["low"], high=found["high"], n=n, remark=" ".join(remarks))


def _is_papers_split(result: Mapping[str, Any]) -> bool:
    """Whether the split is as large as the one that papers report on; its name differs where a list was given."""
    return _split_size(result) == about()[result["benchmark"]].images


def _split_size(result: Mapping[str, Any]) -> int:
    """Images that could be there."""
    size: int = result["n_listed"] - result["left_out"].get(KNOWN_MISSING, 0)
    return size


def _extent(cells: Mapping[str, Cell]) -> tuple[int, int]:
    return len(cells), sum(cell.n or 0 for cell in cells.values())


def _failures_note(failures: FailureTreatment) -> str:
    treated = {"parsed_only": "are left out", "failures_as_mean": "count as the mean prediction"}[failures]
    return f"Answers without a score {treated} (--failures); intervals are bootstrap intervals at 95 %."


# --- Tab. 7: the fusion itself --------------------------------------------------------------------------------------

# Five scores about 0, whose deviations make none, one and two of them outliers at any scale.
_SPREADS = {
    "no_outliers": (-1.0, -0.5, 0.0, 0.5, 1.0),
    "one_outlier": (-0.1, -0.05, 0.0, 0.05, 1.0),
    "multiple_outliers": (-1.0, -0.05, 0.0, 0.05, 1.0),
}
_SCALES = (0.3, 0.5, 0.8, 1.2, 1.7, 2.5, 3.5, 4.5)


def fusion_table() -> Table:
    """Tab. 7: the methods that our fusion really takes, found by fusing scores of every consensus and outlier count.

    Example:
        >>> fusion_table().rows[0].cells["one_outlier"].ours
        'normal average'
    """
    fuse = ConsensusFusion()
    ours: dict[str, dict[str, Cell]] = {level: {} for level in get_args(Level)}
    for (column, spread), scale in product(_SPREADS.items(), _SCALES):
        fused = fuse([5 + scale * deviation for deviation in spread])
        if min(len(fused.outliers), 2) == list(_SPREADS).index(column):
            ours[fused.level].setdefault(column, Cell(ours=fused.method.replace("_", " ")))
    note = (
        f"Ours: high below a standard deviation of {fuse.high_std:g}, medium below {fuse.medium_std:g}, an outlier "
        f"beyond a modified z-score of {fuse.outlier_threshold:g}; none of it from the paper. With three experts the "
        "last column cannot be reached."
    )
    return beside(7, ours, notes=[note])


# --- Tab. 8 and 9: a dataset's statistics ---------------------------------------------------------------------------


def editors_table(statistics: Mapping[str, Any] | None, how: str = "") -> Table:
    """Tab. 8 from the statistics of a dataset's manifest; None shows the paper's alone.

    Success rates have Wilson's interval, as if edits were independent; the mean VIEScore has none, the manifest keeps
    no spread.
    """
    if statistics is None:
        return beside(8, {}, how=how)
    biased = "verification" in statistics["biased"]
    ours = {}
    for editor, found in statistics["verification"].items():
        plain = Cell(n=found["n"], comparable=not biased)
        rate = _share(plain, found["success_rate"])
        ours[editor] = {"viescore": replace(plain, ours=float(found["mean"])), "success_rate": rate}
    return _with_average(8, ours, biased, how)


def judges_table(statistics: Mapping[str, Any] | None, how: str = "") -> Table:
    """Tab. 9 from the statistics of a dataset's manifest; None shows the paper's alone.

    Every judge of an eager build sees every judged edit, which is the n of each pair; intervals as in Tab. 8.
    """
    if statistics is None:
        return beside(9, {}, how=how)
    biased = "judge_agreement" in statistics["biased"]
    n = None if biased else sum(row["judged"] for row in statistics["categories"].values())
    names = {frozenset(row.judges): row.name for row in paper_tables()[9].rows if row.judges}
    ours = {}
    for pair, agreement in statistics["judge_agreement"].items():
        name = names.get(frozenset(pair.split(" | ")), pair)
        ours[name] = {"agreement": _share(Cell(n=n, comparable=not biased), agreement)}
    return _with_average(9, ours, biased, how)


def _share(cell: Cell, share: float) -> Cell:
    from scipy.stats import binomtest

    if not cell.n or not cell.comparable:
        return replace(cell, ours=float(share))
    interval = binomtest(round(share * cell.n), cell.n).proportion_ci(method="wilson")
    return replace(cell, ours=float(share), low=float(interval.low), high=float(interval.high))


def _with_average(number: int, ours: dict[str, dict[str, Cell]], biased: bool, how: str) -> Table:
    """The table with the plain mean over our rows, which is the paper's only if these are the paper's rows."""
    theirs = {row.name for row in paper_tables()[number].rows} - {"Average"}
    same = ours.keys() == theirs
    cells: dict[str, Cell] = {}
    for key in paper_tables()[number].keys:
        parts = [replace(row[key], low=None, n=None) for row in ours.values()]
        if average := average_of(parts):
            cells[key] = replace(average, comparable=same and not biased)
    notes = ["Intervals are Wilson's at 95 %, as if edits were independent."] if not biased else []
    if biased:
        notes.append(
            "Ours is biased: the dataset was built lazily and asked only what could change it. No difference is given; "
            "build with mode=eager to measure it."
        )
    if not same:
        notes.append("Ours come from another crew than the paper's; the averages are not compared.")
    return beside(number, {**ours, "Average": cells}, notes=notes, how=how)
