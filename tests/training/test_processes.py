"""Stage 3 on two processes takes the steps that it takes on one, group by group."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3


def trained(root, dataset, checkpoint, devices, *words, strategy="ddp"):
    settings = {
        "model.backbone.path": checkpoint,
        "model.reward": "tests.training.rewards.Brevity",
        "model.optimisation.lr": "1e-3",
        "model.optimisation.schedule": "constant",
        "model.optimisation.warmup": "0",
        "model.k": "3",
        "model.max_new_tokens": "8",
        "model.inner_epochs": "1",
        "data.root": dataset,
        "trainer.default_root_dir": root,
        "trainer.accelerator": "cpu",
        "trainer.devices": devices,
        "trainer.max_steps": STEPS,
        "trainer.limit_val_batches": "0",
        "trainer.log_every_n_steps": "1",
        "trainer.enable_progress_bar": "false",
    }
    if devices > 1:
        settings["trainer.strategy"] = strategy
    options = [f"--{key}={value}" for key, value in settings.items()]
    subprocess.run(
        [sys.executable, "-m", "redaes", "fit", "--config=nano/grpo.yaml", *options, *words],
        check=True,
        capture_output=True,
        timeout=500,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "OMP_NUM_THREADS": "1",
        },
    )
    with (root / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return rows, load_file(root / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        pytest.param("ddp", [], id="ddp"),
        pytest.param("fsdp2", [], id="fsdp2", marks=pytest.mark.slow),
        pytest.param(
            "ddp",
            [
                "--model.mini_batches=2",
                "--model.accumulate=2",
                "--model.aggregation=dapo",
                "--model.scale_rewards=batch",
                "--data.groups_per_batch=2",
                "--data.batching=shuffled",
            ],
            id="ddp, every option",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_take_the_steps_of_one(dataset, checkpoint, tmp_path, strategy, words):
    """An odd group is split between them, so that rewards see images of both."""
    one, weights = trained(tmp_path / "1", dataset, checkpoint, 1, *words)
    two, others = trained(tmp_path / "2", dataset, checkpoint, 2, *words, strategy=strategy)
    assert len(one) == len(two) >= 2
    for name in ("loss", "kl", "entropy", "ratio", "reward", "completion_length", "grad_norm"):
        a, b = ([float(row[f"train/{name}"]) for row in rows if row[f"train/{name}"]] for rows in (one, two))
        assert a == pytest.approx(b, abs=1e-5, rel=1e-4), name
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-4
    first, second = ((tmp_path / n / "completions.jsonl").read_text() for n in "12")
    assert first == second
