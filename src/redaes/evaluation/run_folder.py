"""A run folder opened for reading: what is there, and what is not.

    run/
      run.json                    {"steps": {name: {"seconds": ...}}}
      data/                       the dataset (`redaes.data.manifest`)
      sft|calibration|grpo/       metrics.csv of Lightning's CSVLogger; grpo/completions.jsonl
      evaluation/<stage>.json     of `redaes evaluate`: initial, sft, calibration, grpo

Every part may be missing: a run can be unfinished, or pruned. A part that is there but damaged is an error.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.evaluation.runner import Prediction, read_evaluation

STAGES = ("initial", "sft", "calibration", "grpo")
# The nano tower's pre-training happens in the step that makes the initial model.
TRAINING_STEPS = ("initial", "sft", "calibration", "grpo")


@dataclass(frozen=True)
class Curve:
    """One logged quantity: `y[i]` at step `x[i]`, finite values only."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """One model's evaluation: what `redaes evaluate` wrote."""

    document: Mapping[str, Any]
    predictions: Sequence[Prediction]

    def measure(self, name: str, treatment: str = "failures_as_mean") -> dict[str, float | None]:
        """`{value, low, high}` of one measure."""
        result: dict[str, float | None] = self.document["metrics"][treatment][name]
        return result


@dataclass(frozen=True)
class Run:
    """Everything a report is made of.

    Attributes:
        root: the folder.
        seconds: of each step, in order; empty without run.json.
        dataset: None without one.
        curves: by stage and name of the quantity.
        completions: rows of grpo/completions.jsonl.
        evaluations: by stage, in the order of `STAGES`.
    """

    root: Path
    seconds: Mapping[str, float]
    dataset: Manifest | None
    curves: Mapping[str, Mapping[str, Curve]]
    completions: Sequence[Mapping[str, Any]]
    evaluations: Mapping[str, Evaluation]


def open_run(root: str | Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: not a folder, nothing of a run in it, or a part that is damaged.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"no run folder at {folder}; a run is made by `redaes run`")
    evaluations = {stage: folder / "evaluation" / f"{stage}.json" for stage in STAGES}
    run = Run(
        root=folder,
        seconds=_seconds(folder / "run.json"),
        dataset=Manifest(folder / "data") if (folder / "data" / "manifest.json").is_file() else None,
        curves={stage: _curves(folder / stage / "metrics.csv") for stage in TRAINING_STEPS},
        completions=_json_lines(folder / "grpo" / "completions.jsonl"),
        evaluations={s: Evaluation(*read_evaluation(path)) for s, path in evaluations.items() if path.is_file()},
    )
    if not (run.seconds or run.dataset or run.evaluations or any(run.curves.values())):
        raise UserError(f"{folder} holds nothing of a run (no run.json, data/, evaluation/ or metrics)")
    return run


def _seconds(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        return {name: float(step["seconds"]) for name, step in steps.items() if step.get("seconds") is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the record of a run: {error!r}") from error


def _curves(path: Path) -> dict[str, Curve]:
    """Columns of a sparse CSV as curves; cells that are empty or not finite are left out."""
    curves: dict[str, Curve] = {}
    if not path.is_file():
        return curves
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            step = _finite(row.get("step")) if row.get("step") else float(number)
            for name, cell in row.items():
                value = _finite(cell)
                if step is not None and value is not None and name not in {"step", "epoch"}:
                    curve = curves.setdefault(name, Curve())
                    curve.x.append(step)
                    curve.y.append(value)
    return curves


def _finite(cell: str | None) -> float | None:
    try:
        value = float(cell or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines if line]
    except ValueError as error:
        raise UserError(f"{path} holds a line that is not JSON: {error}") from error
