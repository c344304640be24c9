"""What each of two processes does for tests/training/test_strategies.py: a fit through Lightning, on CPUs over gloo.

Arguments: a JSON object with `checkpoint`, `batches` (a file of encoded batches), `folder`, `strategy`, and optionally
`lora`, `checkpointing`, `resume`, `accumulate`.
"""

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from redaes.models.forward import answer_logprobs
from redaes.models.vlm import Backbone, Lora, export
from redaes.training.base import Optimisation
from redaes.training.calibration import Calibration
from redaes.training.strategies import Zero


class Sampling(Callback):
    """Between two steps, every process runs the model as often as its rank says: alone they would wait for ever."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with pl_module.gathered_weights(), torch.no_grad():
            for _ in range(trainer.global_rank):
                answer_logprobs(pl_module.model, batch)


class Exporting(Callback):
    """Writes the trained model with every process taking part."""

    def __init__(self, path):
        self.path = path

    def on_fit_end(self, trainer, pl_module):
        export(pl_module.model, pl_module.processor, self.path)


class ZeroOnCPU(Zero):
    """Lightning starts DeepSpeed on CUDA alone; DeepSpeed itself also runs on CPUs (DS_ACCELERATOR=cpu), over gloo."""

    def __init__(self, config):
        super().__init__(config, process_group_backend="gloo")

    @property
    def root_device(self):
        return torch.device("cpu", 0)

    def setup_environment(self):
        DDPStrategy.setup_environment(self)

    def setup_distributed(self):
        self.set_world_ranks()
        self._init_deepspeed_distributed()


class Stopping(Callback):
    """Ends training early, with the schedule of the whole."""

    def __init__(self, after):
        self.after = after

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.after


def fit(
    checkpoint, batches, folder, strategy, devices=2, lora=False, checkpointing=False, resume=None, stop_after=4,
    dtype="float32", precision="32-true", accumulate=1,
):  # fmt: skip
    """Four optimiser steps, or as many as `stop_after`; returns the module and its trainer."""
    folder = Path(folder)
    seed_everything(0, verbose=False)
    adapter = Lora(r=4, alpha=8) if lora else None
    module = Calibration(
        Backbone(checkpoint, lora=adapter, gradient_checkpointing=checkpointing, dtype=dtype),
        Optimisation(lr=1e-3, clip_grad_norm=0.5, warmup=0.0, schedule="linear"),
        max_new_tokens=4,
    )
    if strategy.startswith("zero"):
        strategy = ZeroOnCPU(strategy)
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, strategy=strategy, precision=precision,
        max_steps=4, max_epochs=-1, logger=False, accumulate_grad_batches=accumulate,
        enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, log_every_n_steps=1,
        callbacks=[
            Sampling(),
            Stopping(stop_after),
            Exporting(folder / "exported"),
            ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0, every_n_train_steps=2),
        ],
    )  # fmt: skip
    # Lightning's own sampler would shuffle: every process takes its turn.
    encoded = torch.load(batches, weights_only=False)[4 // (devices * accumulate)]
    mine = encoded[int(os.environ.get("RANK", "0")) :: devices]
    loader = DataLoader(mine, batch_size=None)
    trainer.fit(module, loader, loader, ckpt_path=resume, weights_only=False)
    return module, trainer


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    module, trainer = fit(**given)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (Path(given["folder"]) / f"rank{trainer.global_rank}.json").write_text(json.dumps(logged))
