"""Logs of a run that is continued: what was logged up to the checkpoint stays, what came after it is logged again.

Rows of `metrics.csv` are numbered from 0, by batches, or by optimiser steps where batches are accumulated; rows of the
tables of completions by optimiser steps and batches from 1.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from redaes.data.manifest import write_atomically
from redaes.training.callbacks import AnswerTable, CompletionTable


def continue_logs(trainer: Trainer, logged: float, steps: float, batches: float) -> None:
    """Cut what an earlier start of the same run has logged; to be called before the loggers begin.

    Args:
        trainer: of the run.
        logged: rows of `metrics.csv` there were when the checkpoint was written that training goes on from; 0 without
            one.
        steps: optimiser steps done then.
        batches: batches done then. A step may be of several, and a table may have rows of each.
    """
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger._experiment = MetricsFile(logger.log_dir, logged)
        elif isinstance(logger, TensorBoardLogger) and 0 < logged < float("inf"):
            # Readers of event files then hide what an earlier start logged from this step on.
            logger._kwargs.setdefault("purge_step", int(logged))
    for path in _tables(trainer):
        lines = [line for line in _whole_lines(path) if _moment_of(line) <= (steps, batches)]
        write_atomically(path, "".join(lines))


def flush_logs(trainer: Trainer) -> None:
    """Have on the disk what was logged so far, before a checkpoint says that it was."""
    for logger in trainer.loggers:
        logger.save()
    metrics = [Path(logger.experiment.metrics_file_path) for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    for path in [*metrics, *_tables(trainer)]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


class MetricsFile(ExperimentWriter):
    """Lightning's `metrics.csv`, but an earlier file is continued, and never half rewritten.

    Args:
        log_dir: the folder.
        batches: rows of this step and later ones are dropped.
    """

    def __init__(self, log_dir: str, batches: float) -> None:
        self._batches = batches
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        """Where Lightning deletes the earlier file."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        reader = csv.DictReader(_whole_lines(path))
        kept = [row for row in reader if _number(row.get("step")) < self._batches]
        if not kept:
            path.unlink()
            return
        self.metrics_keys = list(reader.fieldnames or [])
        self._write(kept, self.metrics_keys)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(list(csv.DictReader(_whole_lines(Path(self.metrics_file_path)))), fieldnames)

    def _write(self, rows: list[dict[str, str]], fieldnames: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(Path(self.metrics_file_path), text.getvalue())


def _tables(trainer: Trainer) -> list[Path]:
    """The tables of completions that exist."""
    names = {c.filename for c in trainer.callbacks if isinstance(c, AnswerTable | CompletionTable)}
    paths = [Path(trainer.default_root_dir) / name for name in sorted(names)]
    return [path for path in paths if path.is_file()]


def _number(text: Any) -> float:
    """A step; infinite where there is none to be read, which a crash of the machine may leave behind the last flush."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("inf")


def _moment_of(line: str) -> tuple[float, float]:
    """Optimiser steps and batches done when a row of a table was written."""
    try:
        row = json.loads(line)
        return _number(row["step"]), _number(row.get("batch", 0))
    except (AttributeError, TypeError, KeyError, ValueError):
        return float("inf"), float("inf")


def _whole_lines(path: Path) -> Iterator[str]:
    """Lines of a text file without the last one if it was not written to its end."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from (line for line in file if line.endswith("\n"))
