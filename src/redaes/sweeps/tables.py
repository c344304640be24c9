"""Tab. 2-6 of the paper with a sweep's results beside them.

In: the rows of a sweep's `results.parquet`, and results of benchmarks. A sweep measures each row by the order within
groups of its own dataset (SRCC), the paper by PLCC and SRCC on benchmarks: unlike measures, so the sweep's have a
column of their own and no difference. Where the sweep's models were evaluated on benchmarks, those results stand in
the paper's columns and are compared. Several seeds are shown by their mean with Student's t interval.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redaes.errors import UserError
from redaes.evaluation.correlations import FailureTreatment
from redaes.evaluation.paper_tables import paper_tables
from redaes.evaluation.tables import Cell, Column, Table, beside, cells_of
from redaes.sweeps.reading import HEADLINE, interval


def ablation_table(
    number: int,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    failures: FailureTreatment = "parsed_only",
) -> Table:
    """One of Tab. 2-6.

    Args:
        number: 2 to 6.
        folder: of the sweep.
        rows: of its results, of all its tables; those of full runs are taken before those of `--quick`.
        results: of benchmarks, among them those of the sweep's models.
        failures: what is done with answers on benchmarks that hold no score.

    Raises:
        UserError: no row of this table, or rows of several presets.
    """
    name = f"table{number}"
    of_table = [row for row in rows if row["table"] == name]
    chosen = [row for row in of_table if not row["quick"]] or of_table
    if not chosen:
        held = ", ".join(sorted({row["table"] for row in rows})) or "nothing"
        raise UserError(f"{folder} holds no run of {name}, but {held}; run `redaes sweep sweeps/{name}.yaml`")
    presets = sorted({row["preset"] for row in chosen})
    if len(presets) > 1:
        raise UserError(
            f"{folder} holds runs of {name} on {' and '.join(presets)}; sweep each into a folder of its own"
        )
    paper = paper_tables()[number]
    names = {row.run: row.name for row in paper.rows}
    by_run: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in chosen:
        by_run[row["run"]].append(row)
    ours = {}
    for run, seeds in by_run.items():
        on_benchmarks = [cells_of(_results_of(seed, results), paper.benchmarks, failures) for seed in seeds]
        ours[names.get(run, run)] = {HEADLINE: _within(seeds), **_over_seeds(on_benchmarks)}
    column = Column(HEADLINE, "SRCC", f"within groups, {presets[0]}")
    notes = [
        f"Ours: models of the preset {presets[0]}; n is seeds within groups, images on benchmarks. The order within "
        "groups is another measure than the paper's: compare its rows with each other, not with the paper's numbers."
    ]
    if chosen[0]["quick"]:
        notes.append("Ours were made with --quick: they show that it runs, and nothing of what is better.")
    if not any(len(cells) > 1 for cells in ours.values()):
        notes.append(
            "For the paper's own measures evaluate these models: redaes evaluate --benchmark ava --root DIR --model "
            f"{folder / chosen[0].get('model', 'steps/grpo-.../model')}"
        )
    return beside(number, ours, columns=[column], notes=notes)


def _results_of(row: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Results on benchmarks of one row's model, told by the name of its step, which is a hash of what was done."""
    model = row.get("model")
    return [r for r in results if model and Path(r["scorer"]).as_posix().endswith(model)]


def _within(seeds: Sequence[Mapping[str, Any]]) -> Cell:
    found = interval([seed[HEADLINE] for seed in seeds])
    if not found.n:
        return Cell(n=0, remark="Undefined: no answer could be read.")
    return _mean(found.mean, found.half, found.n)


def _mean(mean: float, half: float, n: int | None, remark: str = "") -> Cell:
    ends = (None, None) if math.isnan(half) else (mean - half, mean + half)
    return Cell(ours=mean, low=ends[0], high=ends[1], n=n, remark=remark)


def _over_seeds(cells: Sequence[Mapping[str, Cell]]) -> dict[str, Cell]:
    """One cell for each column: a single seed's own, or the mean over seeds."""
    columns: dict[str, list[Cell]] = defaultdict(list)
    for of_seed in cells:
        for key, cell in of_seed.items():
            columns[key].append(cell)
    merged = {}
    for key, found in columns.items():
        if len(found) == 1:
            merged[key] = found[0]
            continue
        values = interval([cell.ours for cell in found if isinstance(cell.ours, float)])
        remarks = " ".join(dict.fromkeys(cell.remark for cell in found if cell.remark))
        if values.n:
            merged[key] = _mean(values.mean, values.half, found[0].n, f"Mean of {values.n} seeds. {remarks}".strip())
    return merged
