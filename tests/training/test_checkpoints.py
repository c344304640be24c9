"""A run that was stopped and continued is the run that was not: weights, metrics and tables, from any checkpoint."""

import csv
import shutil

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from redaes.data.modules import CalibrationData, ComparativeData, GroupData
from redaes.models.vlm import Backbone, Lora
from redaes.training.base import Optimisation
from redaes.training.calibration import Calibration
from redaes.training.callbacks import AnswerTable, CompletionTable
from redaes.training.checkpoints import Checkpoints
from redaes.training.grpo import GRPO
from redaes.training.sft import ComparativeSFT

SCHEDULED = Optimisation(lr=3e-3, schedule="cosine", warmup=0.2)
BY_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None}


def dropping(checkpoint):
    """A backbone whose training draws random numbers."""
    return Backbone(str(checkpoint), lora=Lora(r=4, dropout=0.3, targets=["q_proj", "down_proj"]))


def sft(checkpoint, dataset, workers=0):
    module = ComparativeSFT(dropping(checkpoint), SCHEDULED, max_new_tokens=4)
    return module, ComparativeData(str(dataset), batch_size=13, num_workers=workers)


def calibration(checkpoint, dataset, workers=0):
    module = Calibration(dropping(checkpoint), SCHEDULED, max_new_tokens=4)
    return module, CalibrationData(str(dataset), batch_size=6, num_workers=workers, validation_groups=2)


def grpo(checkpoint, dataset, workers=0):
    module = GRPO(
        Backbone(str(checkpoint)), reward={"class_path": "tests.training.rewards.Brevity"}, optimisation=SCHEDULED,
        k=3, max_new_tokens=4, inner_epochs=2,
    )  # fmt: skip
    return module, GroupData(str(dataset), groups_per_batch=2, group_size=3, num_workers=workers, validation_groups=2)


RUNS = {
    "sft, epochs and validation out of step": (sft, {**BY_STEPS, "max_steps": 9, "val_check_interval": 3}, {}),
    "sft, accumulated gradients": (sft, {**BY_STEPS, "max_steps": 5, "accumulate_grad_batches": 2}, {}),
    "sft, loader processes": (sft, {**BY_STEPS, "max_steps": 6, "val_check_interval": 2}, {"workers": 2}),
    "calibration, whole epochs": (calibration, {"max_epochs": 4, "check_val_every_n_epoch": 2}, {}),
    "calibration, loader processes": (calibration, {"max_epochs": 3}, {"workers": 1}),
    "grpo, two steps on a rollout": (grpo, {**BY_STEPS, "max_steps": 14, "val_check_interval": 2}, {}),
}


class Trained(Callback):
    """Counts the batches trained on by this process, and remembers the epochs they were of."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((trainer.current_epoch, batch_idx))


def run(root, start, options, **checkpointing):
    seed_everything(3)
    module, data = start
    trained = Trained()
    checkpoints = Checkpoints(**{"every_n_steps": 1, "train_time_interval": None, "keep": 99, **checkpointing})
    trainer = Trainer(
        default_root_dir=root,
        accelerator="cpu",
        logger=[CSVLogger(root, name="", version=""), TensorBoardLogger(root, name="tensorboard", version="")],
        callbacks=[checkpoints, trained, AnswerTable(samples=2), CompletionTable(every_n_steps=1)],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 1, **options},
    )
    checkpoints.prepare(trainer)
    trainer.fit(module, data)
    return {name: value.clone() for name, value in module.state_dict().items()}, trained.batches


def rows(root):
    with (root / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", RUNS)
def test_from_every_checkpoint_the_run_ends_with_the_same_bits(name, dataset, checkpoint, tmp_path):
    stage, options, settings = RUNS[name]
    whole = tmp_path / "whole"
    expected, batches = run(whole, stage(checkpoint, dataset, **settings), options)
    assert len({epoch for epoch, _ in batches}) > 1
    written = sorted((whole / "checkpoints").iterdir())
    assert len(written) >= 4
    for path in written:
        root = tmp_path / path.stem
        shutil.copytree(whole, root)
        for other in (root / "checkpoints").iterdir():
            if other.name != path.name:
                other.unlink()
        found, continued = run(root, stage(checkpoint, dataset, **settings), options)
        done = int(path.stem.rpartition("=")[2])
        assert continued == batches[done:], path
        assert all(torch.equal(expected[key], found[key]) for key in expected), path
        assert rows(root) == rows(whole), path
        assert (root / "completions.jsonl").read_text() == (whole / "completions.jsonl").read_text(), path
