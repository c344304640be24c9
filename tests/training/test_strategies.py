"""Data-parallel strategies over two real processes, against one process that sees the same batches."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed.checkpoint import FileSystemReader

from redaes.commands.export import export as export_command
from redaes.data.modules import CalibrationData
from redaes.models.vlm import Backbone, open_model, open_processor
from redaes.presets import configs_folder
from tests.training.fitting_processes import fit

PROCESSES = Path(__file__).with_name("fitting_processes.py")


@pytest.fixture(scope="module")
def batches(dataset, checkpoint, tmp_path_factory):
    """Four steps of four samples, by the samples in a batch: whole, and in parts for two processes or accumulation.

    The last two steps repeat the first, as training taken up again begins anew.
    """
    data = CalibrationData(str(dataset), batch_size=2)
    data.setup("fit")
    samples, processor = data.samples("train"), open_processor(str(checkpoint), None)

    def encoded(size):
        return [
            processor.batch(
                [[data.manifest.open(path) for path in s.images] for s in samples[i : i + size]],
                [s.question for s in samples[i : i + size]],
                [s.answer for s in samples[i : i + size]],
            )
            for i in range(0, 8, size)
        ]

    path = tmp_path_factory.mktemp("batches") / "batches.pt"
    torch.save({size: encoded(size) * 2 for size in (4, 2, 1)}, path)
    return path


def fit_in_two(checkpoint, batches, folder, strategy, environment=None, **options):
    folder.mkdir(exist_ok=True)
    given = {"checkpoint": str(checkpoint), "batches": str(batches), "folder": str(folder), "strategy": strategy}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROCESSES)]
    done = subprocess.run(
        [*command, json.dumps({**given, **options})],
        capture_output=True, text=True, timeout=900, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def weights_of(path):
    return open_model(Backbone(str(path)))[0].state_dict()


def assert_same_weights(one, other, tolerance=1e-5):
    for name, weight in weights_of(one).items():
        # The gradient of a key's bias is zero but for rounding, which AdamW blows up to a step of its own.
        if "k_proj.bias" not in name:
            torch.testing.assert_close(weights_of(other)[name], weight, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("ddp", {}),
        ("ddp", {"lora": True, "checkpointing": True}),
        ("ddp", {"accumulate": 2}),
        ("fsdp2", {}),
        ("fsdp2", {"checkpointing": True}),
        ("fsdp2", {"accumulate": 2}),
    ],
)
def test_two_processes_train_the_weights_that_one_would(checkpoint, batches, tmp_path, strategy, options):
    whole = {name: value for name, value in options.items() if name != "accumulate"}
    module, trainer = fit(str(checkpoint), batches, tmp_path / "one", "auto", devices=1, **whole)
    ranks = fit_in_two(checkpoint, batches, tmp_path / "two", strategy, **options)
    alone = trainer.callback_metrics
    assert_same_weights(tmp_path / "one" / "exported", tmp_path / "two" / "exported")
    for found in ranks:
        assert found["train/grad_norm"] == pytest.approx(float(alone["train/grad_norm"]), rel=1e-3)
        assert found["train/loss"] == pytest.approx(float(alone["train/loss"]), rel=1e-4)
    assert module.trainer.global_step == 4


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_pieces_are_saved_resumed_and_exported(checkpoint, batches, tmp_path, lora):
    """Stopped after two steps of four, taken up again: the weights of four in one go; the folder opens as a model."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit_in_two(checkpoint, batches, whole, "fsdp2", lora=lora)
    fit_in_two(checkpoint, batches, parts, "fsdp2", lora=lora, stop_after=2)
    saved = parts / "checkpoints" / "last.ckpt"
    assert saved.is_dir()
    fit_in_two(checkpoint, batches, parts, "fsdp2", lora=lora, resume=str(saved))
    assert_same_weights(whole / "exported", parts / "exported", 1e-6)
    backbone = {"path": str(checkpoint), "lora": {"r": 4, "alpha": 8} if lora else None}
    (parts / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"backbone": backbone}}}))
    export_command(str(saved), str(tmp_path / "consolidated"))
    assert_same_weights(whole / "exported", tmp_path / "consolidated", 1e-6)


def training_s_change(path, checkpoint):
    before, after = weights_of(checkpoint), weights_of(path)
    return torch.cat([(after[name] - before[name]).float().flatten() for name in before])


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_pieces_compute_in_bfloat16_and_stay_what_they_are(checkpoint, batches, tmp_path, lora, dtype):
    fit(str(checkpoint), batches, tmp_path / "one", "auto", devices=1, lora=lora)
    fit_in_two(checkpoint, batches, tmp_path / "two", "fsdp2", lora=lora, dtype=dtype, precision="bf16-mixed")
    # From the checkpoint, over float32 weights: the export of bfloat16 ones would be rounded.
    backbone = {"path": str(checkpoint), "lora": {"r": 4, "alpha": 8} if lora else None}
    (tmp_path / "two" / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"backbone": backbone}}}))
    export_command(str(tmp_path / "two" / "checkpoints" / "last.ckpt"), str(tmp_path / "consolidated"))
    alone = training_s_change(tmp_path / "one" / "exported", checkpoint)
    together = training_s_change(tmp_path / "consolidated", checkpoint)
    assert torch.nn.functional.cosine_similarity(alone, together, dim=0) > 0.9
    saved = FileSystemReader(tmp_path / "two" / "checkpoints" / "last.ckpt").read_metadata().state_dict_metadata
    kinds = {
        entry.properties.dtype
        for name, entry in saved.items()
        if name.startswith("state_dict.model.") and ("lora_" in name or not lora)
    }
    assert kinds == {torch.float32}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles its CPU communication")
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_deepspeed_trains_saves_and_exports(checkpoint, batches, tmp_path, strategy):
    """In bfloat16 with float32 copies, so that the direction of training is compared, not every weight."""
    pytest.importorskip("deepspeed")
    fit(str(checkpoint), batches, tmp_path / "one", "auto", devices=1)
    fit_in_two(checkpoint, batches, tmp_path / "two", strategy, {"DS_ACCELERATOR": "cpu"})
    alone, together = (training_s_change(tmp_path / n / "exported", checkpoint) for n in ("one", "two"))
    assert torch.nn.functional.cosine_similarity(alone, together, dim=0) > 0.9
    (tmp_path / "two" / "config.yaml").write_text(
        yaml.safe_dump({"model": {"init_args": {"backbone": {"path": str(checkpoint)}}}})
    )
    saved = tmp_path / "two" / "checkpoints" / "last.ckpt"
    export_command(str(saved), str(tmp_path / "consolidated"))
    masters = training_s_change(tmp_path / "consolidated", checkpoint)
    assert torch.nn.functional.cosine_similarity(alone, masters, dim=0) > 0.9
    exported = weights_of(tmp_path / "two" / "exported")
    for name, weight in weights_of(tmp_path / "consolidated").items():
        torch.testing.assert_close(exported[name], weight, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_the_ready_deepspeed_files_are_read_by_deepspeed(name):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.config import DeepSpeedConfig

    read = DeepSpeedConfig(str(configs_folder() / "deepspeed" / f"{name}.json"))
    assert read.zero_config.stage == int(name[4])
    assert read.bfloat16_config.enabled
    assert (read.gradient_clipping, read.zero_allow_untested_optimizer) == (1.0, True)
    assert (read.zero_config.offload_optimizer is not None) == name.endswith("offload")
