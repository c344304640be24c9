"""Stage 3 under DeepSpeed on two processes without a GPU, in bfloat16 with float32 copies."""

import os
import shutil
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file

from redaes.commands.export import export as export_command
from tests.training.launching import command, curves, finish, kill, said, steps_done, torchrun, wait_for_step, workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles its CPU communication"),
]
# Two optimiser steps on a rollout of ten images, each in two parts.
STEPS = 8
WORDS = ["--data.groups_per_batch=2", "--model.mini_batches=2", "--model.accumulate=2"]
BLIND = "--model.rollout=tests.training.rollouts.Blind"


@pytest.fixture(scope="module")
def words(dataset, checkpoint, tmp_path_factory):
    place = tmp_path_factory.mktemp("words")
    return command(place, "grpo", dataset, checkpoint, steps=STEPS) + WORDS


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    """One process in float32."""
    root = tmp_path_factory.mktemp("alone") / "run"
    finish(torchrun([*words, BLIND], root, "--standalone", "--nproc-per-node=1"), root)
    return root


def start(words, root, stage, *options):
    strategy = ["--trainer.strategy=tests.training.fitting_processes.ZeroOnCPU", f"--trainer.strategy.config={stage}"]
    precision = ["--trainer.precision=bf16-mixed", "--model.backbone.dtype=bfloat16"]
    two = ["--standalone", "--nproc-per-node=2", *options]
    return torchrun([*words, *strategy, *precision], root, *two, DS_ACCELERATOR="cpu")


def change(model, checkpoint):
    """What training did to the weights."""
    before, after = load_file(checkpoint / "model.safetensors"), load_file(model / "model.safetensors")
    return torch.cat([(after[name].float() - before[name].float()).flatten() for name in sorted(before)])


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(one, other, dim=0)


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_two_processes_train_where_one_does_and_go_on_after_one_was_killed(words, checkpoint, alone, tmp_path, stage):
    """With a reference; the processes end their rollouts at different tokens."""
    pytest.importorskip("deepspeed")
    root = tmp_path / "run"
    process = start([*words, BLIND], root, stage, "--max-restarts=3")
    try:
        wait_for_step(process, root, STEPS // 2)
        os.kill(workers(process)[1], signal.SIGKILL)
    except BaseException:
        kill(process)
        raise
    finish(process, root)
    assert "continuing from" in said(root)
    ours, theirs = curves(root), curves(alone)
    assert len(ours["train/loss"]) == len(theirs["train/loss"]) == STEPS // 2
    for name in ("reward", "completion_length", "advantage_abs"):
        assert ours[f"train/{name}"] == theirs[f"train/{name}"], name
    for name in ("grad_norm", "kl", "entropy", "ratio"):
        assert ours[f"train/{name}"] == pytest.approx(theirs[f"train/{name}"], rel=0.05), name
    # Advantages, which add up to about nothing, are nearly all of it.
    assert ours["train/loss"] == pytest.approx(theirs["train/loss"], abs=3e-3)
    assert cosine(change(root / "model", checkpoint), change(alone / "model", checkpoint)) > 0.9
    assert steps_done(root) == STEPS
    (saved,) = (root / "checkpoints").glob(f"step={STEPS}-*.ckpt")
    (root / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"backbone": {"path": str(checkpoint)}}}}))
    export_command(str(saved), str(tmp_path / "consolidated"))
    # The copies, which the model holds rounded.
    held = load_file(root / "model" / "model.safetensors")
    for name, weight in load_file(tmp_path / "consolidated" / "model.safetensors").items():
        torch.testing.assert_close(held[name].float(), weight.float(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_parts_add_up_to_the_gradient_of_the_whole(words, tmp_path, stage):
    """Of an adapter and without a reference; DeepSpeed's norm is that before clipping."""
    pytest.importorskip("deepspeed")
    fixed = [*words, "--model.backbone.lora={r: 4, alpha: 8}", "--model.kl_coef=0", "--model.mini_batches=1"]
    found = []
    for parts in (1, 5):
        root = tmp_path / str(parts)
        finish(start([*fixed, f"--model.accumulate={parts}", "--trainer.max_steps=1"], root, stage), root)
        found.append(curves(root))
    whole, cut = found
    assert whole["train/grad_norm"][0] > 0.01
    for name in ("grad_norm", "loss", "reward", "entropy"):
        assert cut[f"train/{name}"] == pytest.approx(whole[f"train/{name}"], rel=1e-2, abs=1e-5), name
