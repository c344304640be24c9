"""Trainings that are killed, and trainings on two processes, as a person starts them."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.resume import batches, digest, measure, prepare, start, train

pytestmark = pytest.mark.slow
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]

# Two processes that hold half of the weights each, and draw random numbers. All batches are equal.
SHARDED = """
import sys, torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from redaes.training.checkpoints import Checkpoints

class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 4)

    def configure_model(self):
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return (self.net(batch) * torch.rand(4)).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

seed_everything(1)
checkpoints, module = Checkpoints(every_n_steps=1, keep=9), Tiny()
trainer = Trainer(
    default_root_dir=".", accelerator="cpu", devices=2, strategy=ModelParallelStrategy(2, 1), max_steps=6,
    callbacks=[checkpoints], logger=False, enable_progress_bar=False, enable_model_summary=False,
)
checkpoints.prepare(trainer)
trainer.fit(module, DataLoader(torch.ones(20, 4), batch_size=2))
weight = module.net.weight.full_tensor().detach()
if trainer.is_global_zero:
    torch.save(weight, "weight.pt")
"""


def test_sharded_checkpoints_are_folders_and_an_incomplete_one_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(SHARDED)

    def trained() -> tuple[torch.Tensor, str]:
        done = subprocess.run(
            [sys.executable, "tiny.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
        )
        return torch.load(tmp_path / "weight.pt", weights_only=True), done.stderr

    expected, _ = trained()
    folders = {int(path.stem.rpartition("=")[2]): path for path in (tmp_path / "checkpoints").iterdir()}
    assert sorted(folders) == [1, 2, 3, 4, 5, 6]
    for number in (4, 5, 6):
        shutil.rmtree(folders[number])
    (folders[3] / "__1_0.distcp").unlink()
    found, said = trained()
    assert f"{folders[3].name} is damaged" in said
    assert f"continuing from {Path('checkpoints') / folders[2].name}" in said.replace(f"{tmp_path}/", "")
    assert torch.equal(expected, found)


@pytest.mark.parametrize("stage", ["sft", "calibration", "grpo"])
def test_a_training_killed_twice_ends_with_the_same_bits(stage: str, tmp_path: Path) -> None:
    result = measure(tmp_path, stage, kills=2, seed=1)
    assert result["kills"] == 2
    assert result["learnt"]
    assert result["identical"]
    assert result["logs_identical"]


def curves(root: Path) -> dict[str, list[float]]:
    """Every column of metrics.csv, in order of the steps."""
    with (root / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


@pytest.mark.parametrize("stage", ["sft", "calibration"])
def test_two_processes_follow_the_curves_of_one(stage: str, tmp_path: Path) -> None:
    length = ["--trainer.max_epochs=-1", "--trainer.max_steps=10", "--trainer.val_check_interval=5"]
    words = [*prepare(tmp_path, stage), *length, "--trainer.check_val_every_n_epoch=null"]
    train(words, tmp_path / "one")
    train([*words, *TWO], tmp_path / "two")
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one["train/loss"]) == 10
    assert any(name.startswith("val/") for name in one)
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-5, abs=1e-5, nan_ok=True), name


def test_two_processes_that_were_killed_end_with_the_same_bits(tmp_path: Path) -> None:
    words = [*prepare(tmp_path, "sft"), "--trainer.max_steps=12", "--trainer.val_check_interval=6", *TWO]
    train(words, tmp_path / "whole")
    process = start(words, tmp_path / "broken")
    while batches(tmp_path / "broken") < 5:
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    train(words, tmp_path / "broken")
    assert "continuing from" in (tmp_path / "broken" / "output.log").read_text()
    assert digest(tmp_path / "whole") == digest(tmp_path / "broken")


def test_two_processes_stop_together_though_one_was_asked_or_everything_was(tmp_path: Path) -> None:
    words = [*prepare(tmp_path, "sft"), "--trainer.max_steps=8", "--trainer.val_check_interval=6", *TWO]
    words.append("--data.num_workers=1")
    train(words, tmp_path / "whole")
    broken = tmp_path / "broken"
    for after, send, number in ((3, os.kill, signal.SIGUSR1), (9, os.killpg, signal.SIGTERM)):
        process = start(words, broken)
        while batches(broken) < after:
            assert process.poll() is None
        send(process.pid, number)
        assert process.wait(timeout=100) == 75
        said = (broken / "output.log").read_text().splitlines()
        (line,) = [line for line in said[-3:] if "stopped on request" in line]
        assert f"after step {batches(broken) // 2};" in line
    train(words, broken)
    assert digest(tmp_path / "whole") == digest(broken)
