"""Trainings that are killed, and trainings on two processes, as a person starts them."""

import csv
import os
import signal
from pathlib import Path

import pytest
from benchmarks.resume import batches, digest, measure, prepare, start, train

pytestmark = pytest.mark.slow
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]


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
