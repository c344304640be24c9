"""What a sweep's results say, and what they do not: means over seeds, differences from the paper's own row, in words.

Intervals are Student's t over the seeds, at 95 %. A row is compared with the reference seed by seed (paired), since
they share photographs, edits and initial weights; a difference whose interval holds 0 is within noise, and with one
seed nothing is known of the noise. Every comparison has its own 5 %: nothing is corrected for their number.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redaes.evaluation.paper_tables import PaperTable, paper_tables

HEADLINE = "srcc_within"
SHOWN = {HEADLINE: "SRCC within groups", "srcc": "SRCC, all images", "plcc": "PLCC, all images"}
PAPER = "average.srcc"
REFERENCE, BETTER, WORSE = "reference", "better beyond noise", "worse beyond noise"
NOISE, ONCE, UNDEFINED = "within noise", "unknown: fewer than two seeds", "undefined: no answer could be read"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds; `half` is half the width of its 95 % interval, NaN with fewer than two."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "–"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.half) else f" ± {self.half:.3f}")

    @property
    def ends(self) -> tuple[float, float] | tuple[None, None]:
        """Of the interval, if there is one."""
        return (None, None) if math.isnan(self.half) else (self.mean - self.half, self.mean + self.half)


def interval(values: Iterable[float | None]) -> Interval:
    """Student's t interval of a mean.

    Example:
        >>> print(interval([0.1, 0.2, 0.3]))
        0.200 ± 0.248
    """
    from scipy.stats import t

    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return Interval(math.nan, math.nan, 0)
    if len(known) < 2:
        return Interval(known[0], math.nan, 1)
    half = float(t.ppf(0.975, len(known) - 1)) * statistics.stdev(known) / math.sqrt(len(known))
    return Interval(statistics.fmean(known), half, len(known))


@dataclass(frozen=True)
class RunReading:
    """One row of a table.

    Attributes:
        run: its name in the sweep.
        name: its name in the paper; the run's where the paper has none.
        seeds: its results by seed.
        gap: of the headline measure, this row less the reference, paired by seed.
        verdict: what the gap allows to say.
        paper: the paper's mean SRCC over its benchmarks, and the same less the paper's reference; None without.
    """

    run: str
    name: str
    seeds: Mapping[int, Mapping[str, Any]]
    gap: Interval
    verdict: str
    paper: float | None
    paper_gap: float | None

    def values(self, measure: str = HEADLINE) -> list[float | None]:
        """Of each seed."""
        return [row.get(measure) for row in self.seeds.values()]

    def mean(self, measure: str = HEADLINE) -> Interval:
        """Over the seeds."""
        return interval(self.values(measure))

    @property
    def stage(self) -> str:
        """Where the row ends."""
        return str(next(iter(self.seeds.values()))["stage"])


@dataclass(frozen=True)
class TableReading:
    """One table made in one way."""

    table: str
    preset: str
    quick: bool
    settings: str
    title: str
    reference: str
    runs: tuple[RunReading, ...]

    @property
    def how(self) -> str:
        """The table and how it was made."""
        quick = " with --quick" if self.quick else ""
        return f"{self.table} on {self.preset}{quick}" + (f" ({self.settings})" if self.settings else "")

    @property
    def commits(self) -> list[str]:
        """Of the sources that rows were made with."""
        return sorted({row.get("commit") or "?" for run in self.runs for row in run.seeds.values()})

    def words(self) -> list[str]:
        """What may be said of the table, a sentence each."""
        others = [run for run in self.runs if run.run != self.reference]
        said = [_seeds(self.runs)]
        lost = {run.run: len(run.seeds) - run.mean().n for run in self.runs if run.mean().n}
        if any(lost.values()):
            named = ", ".join(f"{run} ({n})" for run, n in lost.items() if n)
            said.append(f"Seeds without a measure, left out of means and differences: {named}.")
        if len(others) == len(self.runs):
            return [*said, f"{self.reference}, the row to compare with, was not run: no row is compared."]
        for verdict in (WORSE, BETTER, NOISE, ONCE, UNDEFINED):
            found = [run.run for run in others if run.verdict == verdict]
            if found:
                said.append(f"{', '.join(found)}: {_VERDICTS[verdict].format(self.reference)}")
        return said + _beside_the_paper(others)


_VERDICTS = {
    WORSE: "below {} in these seeds, beyond what the spread between seeds explains.",
    BETTER: "above {} in these seeds, beyond what the spread between seeds explains.",
    NOISE: "not to be told apart from {} by these seeds, which is no proof that there is no difference.",
    ONCE: "too few seeds in common with {} to say anything.",
    UNDEFINED: "no measure, so no comparison with {}: no answer could be read, or all scores were alike.",
}


def _seeds(runs: Sequence[RunReading]) -> str:
    counts = sorted({len(run.seeds) for run in runs})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{n} {'seed' if counts[-1] == 1 else 'seeds'} a row."


def _beside_the_paper(others: Sequence[RunReading]) -> list[str]:
    """Whether the clear differences point where the paper's do; sizes are of unlike measures and are not compared."""
    clear = [run for run in others if run.verdict in (WORSE, BETTER) and run.paper_gap]
    if not clear:
        return ["Nothing here confirms or contradicts the paper's order."] if others else []
    same = [run.run for run in clear if (run.gap.mean > 0) == ((run.paper_gap or 0) > 0)]
    against = [run.run for run in clear if run.run not in same]
    said = []
    if same:
        said.append(f"The direction is the paper's for {', '.join(same)}.")
    if against:
        said.append(f"The direction is against the paper's for {', '.join(against)}.")
    return said


def readings(rows: Sequence[Mapping[str, Any]]) -> list[TableReading]:
    """Every table of a folder's results, in order.

    Args:
        rows: see `redaes.sweeps.results`.
    """
    tables: dict[tuple[str, str, bool, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        made = (row["table"], row["preset"], bool(row["quick"]), row.get("settings") or "")
        tables.setdefault(made, []).append(row)
    return [_table(*made, tables[made]) for made in sorted(tables)]


def _table(table: str, preset: str, quick: bool, settings: str, rows: Sequence[Mapping[str, Any]]) -> TableReading:
    number = re.fullmatch(r"table(\d)", table)
    paper = paper_tables().get(int(number[1])) if number else None
    names = {row.run: row.name for row in paper.rows} if paper else {}
    by_run: dict[str, dict[int, Mapping[str, Any]]] = {name: {} for name in names}
    for row in sorted(rows, key=lambda row: row["seed"]):
        by_run.setdefault(row["run"], {})[row["seed"]] = row
    runs = {run: seeds for run, seeds in by_run.items() if seeds}
    reference = next((row["reference"] for row in rows if row.get("reference")), "") or next(reversed(runs))
    printed = _printed(paper)

    def read(run: str) -> RunReading:
        gap = _gap(runs[run], runs.get(reference, {}))
        theirs, own = printed.get(run), printed.get(reference)
        less = None if theirs is None or own is None else theirs - own
        verdict = REFERENCE if run == reference else _verdict(interval(r[HEADLINE] for r in runs[run].values()), gap)
        return RunReading(run, names.get(run, run), runs[run], gap, verdict, theirs, less)

    title = paper.title if paper else table
    return TableReading(table, preset, quick, settings, title, reference, tuple(map(read, runs)))


def _printed(paper: PaperTable | None) -> dict[str, float]:
    cells = {row.run: row.paper.get(PAPER) for row in paper.rows} if paper else {}
    return {run: number for run, number in cells.items() if isinstance(number, float)}


def _gap(row: Mapping[int, Mapping[str, Any]], reference: Mapping[int, Mapping[str, Any]]) -> Interval:
    pairs = [(row[seed][HEADLINE], reference[seed][HEADLINE]) for seed in sorted(row.keys() & reference.keys())]
    return interval(a - b for a, b in pairs if a is not None and b is not None)


def _verdict(own: Interval, gap: Interval) -> str:
    if not own.n:
        return UNDEFINED
    if gap.n < 2:
        return ONCE
    if abs(gap.mean) <= gap.half:
        return NOISE
    return BETTER if gap.mean > 0 else WORSE


CAVEATS = (
    "Differences are this row less the reference, paired by seed; a seed changes photographs, edits, weights and "
    "sampling. With three seeds the interval reaches 2.5 standard deviations of the seeds to either side, so that only "
    "large differences show. Each comparison has its own 5 % of false alarms: nothing is corrected for their number.",
    "The paper's numbers are SRCC on people's ratings (mean of AVA, FLICKR-AES and TAD66K), of other models. Ours are "
    "measured on the sweep's own dataset, with its judges for truth. They stand side by side for the order of rows; "
    "nothing is subtracted.",
)
ON_NANO = (
    "On nano the models have about a million parameters and the judges measure pixels: a row that wins here shows what "
    "this training does with these judges, not what makes a large model see beauty as people do."
)
WITH_QUICK = (
    "Made with --quick: training was cut to between a tenth and a fifth, so rows are compared before they have learnt "
    "all they can. Their order may be another after full training; for numbers to rely on, sweep without --quick."
)


def caveats(tables: Sequence[TableReading]) -> list[str]:
    """What holds for all of them."""
    said = [WITH_QUICK] if any(table.quick for table in tables) else []
    said += [ON_NANO] if any(table.preset == "nano" for table in tables) else []
    return [*said, *CAVEATS]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """All tables: means with intervals over seeds, differences from the reference, the paper's numbers, a reading."""
    tables = readings(rows)
    parts = ["# Ablations", "", "Mean ± half of a 95 % t interval over seeds.", ""]
    for table in tables:
        parts += _markdown(table)
    return "\n".join([*parts, "## What holds for all of them", "", *(f"- {words}" for words in caveats(tables)), ""])


def _markdown(table: TableReading) -> list[str]:
    columns = [
        *SHOWN.values(),
        "unreadable",
        f"within groups, less {table.reference}",
        "reading",
        "paper: SRCC",
        "less own",
    ]
    lines = [f"## {table.how}: {table.title}", "", f"| run | ends with | seeds | {' | '.join(columns)} | s |"]
    lines += ["|---|---|---:|" + "---:|" * (len(SHOWN) + 2) + "---|---:|---:|---:|"]
    for run in table.runs:
        shown = [str(run.mean(measure)) for measure in SHOWN]
        failures = statistics.fmean(row.get("parse_failure_rate") or 0.0 for row in run.seeds.values())
        gap = "" if run.verdict == REFERENCE else str(run.gap)
        paper = ["" if v is None else f"{v:{form}}" for v, form in ((run.paper, ".3f"), (run.paper_gap, "+.3f"))]
        seconds = statistics.fmean(row["seconds"] for row in run.seeds.values())
        cells = [run.run, run.stage, str(len(run.seeds)), *shown, f"{100 * failures:.1f} %", gap, run.verdict, *paper]
        lines.append(f"| {' | '.join(cells)} | {seconds:.0f} |")
    return [*lines, "", *(f"- {words}" for words in table.words()), ""]
