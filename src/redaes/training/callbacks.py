"""Callbacks: export a plain checkpoint, keep a table of completions."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from redaes.models.vlm import export


@dataclass(frozen=True)
class CompletionRow:
    """One sampled output, as the table of completions shows it."""

    step: int
    group: str
    image: str
    g: float
    score: float | None
    reward: float
    advantage: float
    text: str


class ExportCheckpoint(Callback):
    """Writes a plain Hugging Face directory when training ends.

    Args:
        dirpath: where; None is `model/` in the trainer's root folder.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the trained model, unless training was interrupted."""
        if trainer.interrupted or not trainer.is_global_zero:
            return
        path = Path(self.dirpath) if self.dirpath else Path(trainer.default_root_dir) / "model"
        module: Any = pl_module
        export(module.model, module.processor, path)


class CompletionTable(Callback):
    """Appends sampled outputs to `completions.jsonl`, and to a W&B table where W&B is the logger.

    Args:
        every_n_steps: how often.
        filename: inside the trainer's root folder.
    """

    def __init__(self, every_n_steps: int = 25, filename: str = "completions.jsonl") -> None:
        self.every_n_steps = every_n_steps
        self.filename = filename

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the rows of this step, if it is its turn."""
        rows: list[CompletionRow] = getattr(pl_module, "completion_rows", [])
        if not rows or not trainer.is_global_zero or (trainer.global_step - 1) % self.every_n_steps:
            return
        path = Path(trainer.default_root_dir) / self.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                columns = [f.name for f in fields(CompletionRow)]
                data = [[asdict(row)[c] for c in columns] for row in rows]
                logger.log_table("train/completions", columns=columns, data=data, step=trainer.global_step)
