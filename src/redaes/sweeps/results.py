"""A sweep's results: one row for every run and seed that was evaluated, in `results.parquet`; and what they say.

Intervals are Student's t over the seeds, at 95 %; two rows are compared seed by seed (paired), since they share
photographs, edits and initial weights. A difference whose interval holds 0 is within noise; with one seed nothing is
known of the noise.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redaes.errors import UserError
from redaes.sweeps.plan import Cell, Sweep

FILE = "results.parquet"
HEADLINE = "srcc_within"
SHOWN = (HEADLINE, "srcc", "plcc")


def collect(sweep: Sweep, cells: Sequence[Cell], seconds: dict[str, float], commit: str) -> list[dict[str, Any]]:
    """Rows of the results, of the cells that are evaluated.

    Args:
        sweep: of the table's name.
        cells: of the grid.
        seconds: of every step, by name; a step that cells share counts in each.
        commit: of the sources.

    Returns:
        table, run, seed, stage, the model's folder in the sweep's, every measure with failed parses counted as the mean
        prediction, `n`, `parse_failure_rate`, seconds, commit.
    """
    rows = []
    for cell in cells:
        if not cell.evaluation.is_file():
            continue
        metrics = json.loads(cell.evaluation.read_text(encoding="utf-8"))["metrics"]
        measured = {name: value["value"] for name, value in metrics["failures_as_mean"].items()}
        counts = {"n": metrics["n"], "parse_failure_rate": metrics["parse_failure_rate"]}
        took = sum(seconds.get(step.name, 0.0) for step in cell.steps)
        of = {"table": sweep.table, "preset": sweep.preset, "run": cell.run, "seed": cell.seed, "stage": cell.stage}
        of["model"] = cell.model
        rows.append({**of, **measured, **counts, "seconds": round(took, 2), "commit": commit})
    return rows


def write(folder: Path, rows: Sequence[dict[str, Any]], quick: bool) -> None:
    """Put rows in the place of the same runs' in a folder's results; other rows stay."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["table"], row["preset"], row["quick"], row["run"], row["seed"]

    path = folder / FILE
    before = pq.read_table(path).to_pylist() if path.is_file() else []
    merged = {key(row): row for row in [*before, *({**row, "quick": quick} for row in rows)]}
    if merged:
        draft = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(list(merged.values())), draft)
        draft.replace(path)


def read(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder.

    Raises:
        UserError: there are none.
    """
    import pyarrow.parquet as pq

    if not (folder / FILE).is_file():
        raise UserError(f"no {FILE} in {folder}; run `redaes sweep FILE --output {folder}` first")
    rows: list[dict[str, Any]] = pq.read_table(folder / FILE).to_pylist()
    return rows


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


def interval(values: Sequence[float | None]) -> Interval:
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


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A page of every table: means with intervals over seeds, and how each row compares with the best."""
    parts = ["# Ablations", "", "Mean ± half of a 95 % t interval over seeds; differences are paired by seed.", ""]
    for table, preset, quick in sorted({(r["table"], r["preset"], r["quick"]) for r in rows}):
        chosen = [r for r in rows if (r["table"], r["preset"], r["quick"]) == (table, preset, quick)]
        parts += _table(f"{table} on {preset}", chosen, quick)
    return "\n".join(parts)


def _table(title: str, rows: Sequence[dict[str, Any]], quick: bool) -> list[str]:
    by_run: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(row["run"], {})[row["seed"]] = row
    means = {run: interval([r[HEADLINE] for r in seeds.values()]) for run, seeds in by_run.items()}
    best = max(means, key=lambda run: -math.inf if math.isnan(means[run].mean) else means[run].mean)
    lines = [f"## {title}", ""]
    if quick:
        lines += ["**Made with --quick: shows that it runs, says nothing of what is better.**", ""]
    lines += [f"| run | stage | seeds | {' | '.join(SHOWN)} | {best} − run | reading | seconds |"]
    lines += ["|---|---|---:|" + "---:|" * len(SHOWN) + "---:|---|---:|"]
    for run, seeds in by_run.items():
        shown = [str(interval([r[name] for r in seeds.values()])) for name in SHOWN]
        gap, reading = ("", "best mean") if run == best else _compare(by_run[best], seeds)
        if not means[run].n:
            gap, reading = "", "undefined: no answer could be read"
        seconds = statistics.fmean(r["seconds"] for r in seeds.values())
        stage = next(iter(seeds.values()))["stage"]
        lines.append(f"| {run} | {stage} | {len(seeds)} | {' | '.join(shown)} | {gap} | {reading} | {seconds:.0f} |")
    return [*lines, ""]


def _compare(best: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> tuple[str, str]:
    pairs = [(best[s][HEADLINE], other[s][HEADLINE]) for s in sorted(best.keys() & other.keys())]
    gap = interval([a - b for a, b in pairs if a is not None and b is not None])
    if gap.n < 2:
        return str(gap), "unknown: fewer than two seeds"
    return str(gap), "within noise" if abs(gap.mean) <= gap.half else "worse beyond noise"
