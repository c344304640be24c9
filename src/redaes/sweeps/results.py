"""A sweep's results: one row for every run and seed that was evaluated, in `results.parquet`.

Columns: `table`, `preset`, `quick`, `settings` (of the preset's pipeline, as given to --set), `run` and `seed` say what
a row is of; `reference` names the run that the table's others are compared with; `stage` is where the run ends, `model`
its model's folder in the sweep's. Then every measure with failed parses counted as the mean prediction (`srcc_within`,
`srcc`, `plcc`, ...; null where undefined), `n` images, `parse_failure_rate`, `seconds` of all its steps (one that runs
share counts in each), and `commit` of the sources that it was made with.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from redaes.errors import UserError
from redaes.pipeline import State
from redaes.sweeps.plan import Cell, Sweep

FILE = "results.parquet"
KEY = ("table", "preset", "quick", "settings", "run", "seed")


def record(
    folder: Path, sweep: Sweep, cells: Sequence[Cell], states: Mapping[str, State], quick: bool, commit: str
) -> list[dict[str, Any]]:
    """Bring a folder's results up to date for the cells of a grid; rows of others stay.

    An evaluation that is there, but not done with the present configuration, is none; if it has a row, that goes.

    Args:
        folder: of the sweep.
        sweep: what the rows are.
        cells: of the grid.
        states: of all their steps, by name.
        quick: whether the steps were shortened.
        commit: of the present sources; rows that are there already keep theirs.

    Returns:
        The rows of the cells that are evaluated.
    """
    rows, stale = [], set()
    before = {_key(row): row for row in read(folder)} if (folder / FILE).is_file() else {}
    for cell in cells:
        facts = {
            **{"table": sweep.table, "preset": sweep.preset, "quick": quick, "settings": " ".join(cell.settings)},
            **{"run": cell.run, "seed": cell.seed, "reference": sweep.reference, "stage": cell.stage},
            "model": cell.model,
        }
        key = _key(facts)
        if states[cell.steps[-1].name].status != "done":
            stale.add(key)
            continue
        row = {**facts, **_measured(cell, states)}
        unchanged = key in before and all(before[key].get(name) == value for name, value in row.items())
        rows.append({**row, "commit": before[key]["commit"] if unchanged else commit})
    write(folder, rows, quick, stale)
    return rows


def _measured(cell: Cell, states: Mapping[str, State]) -> dict[str, Any]:
    metrics = json.loads(cell.evaluation.read_text(encoding="utf-8"))["metrics"]
    measured = {name: value["value"] for name, value in metrics["failures_as_mean"].items()}
    counts = {"n": metrics["n"], "parse_failure_rate": metrics["parse_failure_rate"]}
    return {**measured, **counts, "seconds": round(sum(states[step.name].seconds or 0.0 for step in cell.steps), 2)}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def write(
    folder: Path, rows: Sequence[Mapping[str, Any]], quick: bool, stale: Collection[tuple[Any, ...]] = ()
) -> None:
    """Put rows in the place of the same runs' in a folder's results; other rows stay.

    Args:
        folder: of the sweep.
        rows: see above; `quick` is set here.
        quick: whether their steps were shortened.
        stale: the rows that go, by `KEY`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE
    before = pq.read_table(path).to_pylist() if path.is_file() else []
    new = {_key(row): row for row in ({**row, "quick": quick} for row in rows)}
    left = [*(row for row in before if _key(row) not in new and _key(row) not in stale), *new.values()]
    if left or before:
        names = dict.fromkeys(name for row in left for name in row)
        draft = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in left]), draft)
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
