"""Callbacks: export a plain checkpoint, keep a table of completions."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from redaes.data.modules import ComparativeData
from redaes.models.vlm import export
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout
from redaes.training.base import VisionLanguageModule


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


@dataclass(frozen=True)
class AnswerRow:
    """One answer to a validation sample, as the table of completions shows it; `images` are paths in the dataset."""

    step: int
    objective: str
    images: str
    expected: str
    text: str


class ExportCheckpoint(Callback):
    """Writes a plain Hugging Face directory when training ends.

    Args:
        dirpath: where; None is `model/` in the trainer's root folder.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the trained model, unless training was interrupted; weights in pieces are gathered from all."""
        if trainer.interrupted:
            return
        path = Path(self.dirpath) if self.dirpath else Path(trainer.default_root_dir) / "model"
        module: Any = pl_module
        export(module.model, module.processor, path)


class CompletionTable(Callback):
    """Appends sampled outputs of stage 3 to `completions.jsonl`, and to a W&B table where W&B is the logger.

    Args:
        every_n_steps: how often, in rollouts.
        filename: inside the trainer's root folder.
    """

    def __init__(self, every_n_steps: int = 25, filename: str = "completions.jsonl") -> None:
        self.every_n_steps = every_n_steps
        self.filename = filename

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the rows of this rollout, if it is its turn."""
        rows: list[CompletionRow] = getattr(pl_module, "completion_rows", [])
        if rows and batch_idx % self.every_n_steps == 0:
            _write(trainer, self.filename, "train/completions", rows)


class AnswerTable(Callback):
    """After every validation of a supervised stage, the model's greedy answers to a few validation samples.

    They go to `completions.jsonl`, beside what was expected, and to a W&B table where W&B is the logger.

    Args:
        samples: how many, the same ones every time.
        filename: inside the trainer's root folder.
    """

    def __init__(self, samples: int = 8, filename: str = "completions.jsonl") -> None:
        self.samples = samples
        self.filename = filename

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer and write, but not in the sanity check before training."""
        data, module = trainer.datamodule, pl_module
        if trainer.sanity_checking or not isinstance(data, ComparativeData):
            return
        found = data.samples("validation")
        chosen = random.Random(0).sample(found, min(self.samples, len(found)))
        if not chosen or not isinstance(module, VisionLanguageModule):
            return
        images = [[data.manifest.open(path) for path in sample.images] for sample in chosen]
        prompts = module.processor.batch(images, [sample.question for sample in chosen]).to(module.device)
        sampling = Sampling(temperature=0.0, max_new_tokens=module.max_new_tokens)
        with module.gathered_weights():
            texts = InProcessRollout()(module.model, module.processor, prompts, sampling).texts
        rows = [
            AnswerRow(trainer.global_step, sample.objective, ", ".join(sample.images), sample.answer, text)
            for sample, text in zip(chosen, texts, strict=True)
        ]
        _write(trainer, self.filename, "val/completions", rows)


def _write(trainer: Trainer, filename: str, table: str, rows: Sequence[CompletionRow | AnswerRow]) -> None:
    """Append rows to a file of JSON lines, and to a table of W&B where W&B is a logger; from one process only."""
    if not trainer.is_global_zero:
        return
    path = Path(trainer.default_root_dir) / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    # A run that is continued drops what came after its checkpoint (training.logs).
    batch = trainer.fit_loop.epoch_loop.batch_progress.total.ready
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({**asdict(row), "batch": batch}, ensure_ascii=False) + "\n" for row in rows)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            columns = [f.name for f in fields(rows[0])]
            data = [[asdict(row)[c] for c in columns] for row in rows]
            logger.log_table(table, columns=columns, data=data, step=trainer.global_step)
