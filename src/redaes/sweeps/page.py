"""A sweep's results as one page that needs no network: intervals, every seed, the paper's numbers beside, a reading."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from redaes.evaluation import html
from redaes.evaluation.charts import Whisker, interval_chart
from redaes.sweeps.reading import (
    BETTER,
    HEADLINE,
    REFERENCE,
    SHOWN,
    WORSE,
    Interval,
    RunReading,
    TableReading,
    caveats,
    readings,
)

COLOURS = {BETTER: "good", WORSE: "bad", REFERENCE: "third"}


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page of a sweep's folder.

    Args:
        rows: see `redaes.sweeps.results`.
    """
    tables = readings(rows)
    return html.render(
        "ablations.html",
        tables=[(table, _means(table), _gaps(table)) for table in tables],
        caveats=caveats(tables),
        measures=SHOWN,
        headline=HEADLINE,
        reference=REFERENCE,
        colours=COLOURS,
        failures=lambda run: statistics.fmean(row.get("parse_failure_rate") or 0.0 for row in run.seeds.values()),
        made=time.strftime("%Y-%m-%d"),
    )


def _means(table: TableReading) -> Markup:
    whiskers = [_whisker(run, run.mean(), run.values(), 1.0) for run in table.runs]
    return interval_chart("SRCC within groups", whiskers, zero="0 = chance")


def _gaps(table: TableReading) -> Markup | None:
    own = next((run.seeds for run in table.runs if run.run == table.reference), {})
    whiskers = []
    for run in table.runs:
        if run.run == table.reference or not own:
            continue
        pairs = [(seed[HEADLINE], own[number][HEADLINE]) for number, seed in run.seeds.items() if number in own]
        gaps = [a - b for a, b in pairs if a is not None and b is not None]
        whiskers.append(_whisker(run, run.gap, gaps, 2.0))
    title = f"less {table.reference}"
    return interval_chart(title, whiskers, zero=f"0 = like {table.reference}") if whiskers else None


def _whisker(run: RunReading, found: Interval, dots: Sequence[float | None], furthest: float) -> Whisker:
    """A row of a chart; an interval is drawn as far as the measure can reach."""
    low, high = (None if end is None else max(-furthest, min(furthest, end)) for end in found.ends)
    known = tuple(dot for dot in dots if dot is not None)
    return Whisker(run.run, found.mean if found.n else None, low, high, COLOURS.get(run.verdict, "before"), known)
