"""A run that was stopped and continued is the run that was not: weights, metrics and tables, from any checkpoint."""

import csv
import os
import random
import shutil
import signal
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from redaes.data.modules import CalibrationData, ComparativeData, GroupData
from redaes.errors import UserError
from redaes.models.vlm import Backbone, Lora
from redaes.training.base import Optimisation
from redaes.training.calibration import Calibration
from redaes.training.callbacks import AnswerTable, CompletionTable
from redaes.training.checkpoints import (
    Checkpoints,
    commit,
    is_whole,
    newest_checkpoint,
    random_state,
    set_random_state,
)
from redaes.training.grpo import GRPO
from redaes.training.sft import ComparativeSFT

SCHEDULED = Optimisation(lr=3e-3, schedule="cosine", warmup=0.2)
BY_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None}


def dropping(checkpoint):
    """A backbone whose training draws random numbers."""
    return Backbone(str(checkpoint), lora=Lora(r=4, dropout=0.3, targets=["q_proj", "down_proj"]))


def sft(checkpoint, dataset, workers=0, size=13):
    module = ComparativeSFT(dropping(checkpoint), SCHEDULED, max_new_tokens=4)
    return module, ComparativeData(str(dataset), batch_size=size, num_workers=workers)


def calibration(checkpoint, dataset, workers=0):
    module = Calibration(dropping(checkpoint), SCHEDULED, max_new_tokens=4)
    return module, CalibrationData(str(dataset), batch_size=6, num_workers=workers, validation_groups=2)


def grpo(checkpoint, dataset, workers=0):
    module = GRPO(
        Backbone(str(checkpoint)), reward={"class_path": "tests.training.rewards.Brevity"}, optimisation=SCHEDULED,
        k=3, max_new_tokens=4, inner_epochs=2,
    )  # fmt: skip
    return module, GroupData(str(dataset), groups_per_batch=2, group_size=3, num_workers=workers, validation_groups=2)


class EverySecond(GroupData):
    """In every second batch of an epoch no group can be read: no optimiser step is taken."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        collate, unreadable = loader.collate_fn, {m.image for group in loader.dataset.groups[::2] for m in group}

        def spoil(items):
            batch = collate(items)
            batch.unreadable = torch.tensor([member.image in unreadable for member in batch.members])
            return batch

        loader.collate_fn = spoil
        return loader


def grpo_with_lost_batches(checkpoint, dataset, workers=0):
    module, _ = grpo(checkpoint, dataset)
    return module, EverySecond(str(dataset), group_size=3, num_workers=workers)


RUNS = {
    "sft, epochs and validation out of step": (sft, {**BY_STEPS, "max_steps": 9, "val_check_interval": 3}, {}),
    "sft, accumulated gradients": (sft, {**BY_STEPS, "max_steps": 5, "accumulate_grad_batches": 2}, {"size": 8}),
    "sft, validation within a step": (
        sft,
        {**BY_STEPS, "max_steps": 5, "accumulate_grad_batches": 2, "val_check_interval": 3},
        {"size": 8},
    ),
    "sft, loader processes": (sft, {**BY_STEPS, "max_steps": 6, "val_check_interval": 2}, {"workers": 2}),
    "calibration, whole epochs": (calibration, {"max_epochs": 4, "check_val_every_n_epoch": 2}, {}),
    "calibration, loader processes": (calibration, {"max_epochs": 3}, {"workers": 1}),
    "calibration, loaded late": (calibration, {"max_epochs": 3, "late": True}, {"workers": 1}),
    "grpo, two steps on a rollout": (grpo, {**BY_STEPS, "max_steps": 14, "val_check_interval": 2}, {}),
    "grpo, batches without a step": (grpo_with_lost_batches, {**BY_STEPS, "max_steps": 8, "limit_val_batches": 0}, {}),
}


class Late(SingleDeviceStrategy):
    """Loads checkpoints after the loaders were made, as strategies that shard do."""

    restore_checkpoint_after_setup = True


class Trained(Callback):
    """Counts the batches trained on by this process, and remembers the epochs they were of."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((trainer.current_epoch, batch_idx))


class Asking(Callback):
    """Sends this process a signal while it trains on a batch, as a scheduler would."""

    def __init__(self, number, batch):
        self.number, self.batch = number, batch

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready == self.batch:
            os.kill(os.getpid(), self.number)


def run(root, start, options, more=(), **checkpointing):
    options = dict(options)
    strategy = Late("cpu") if options.pop("late", False) else "auto"
    seed_everything(3)
    module, data = start
    trained = Trained()
    checkpoints = Checkpoints(**{"every_n_steps": 1, "train_time_interval": None, "keep": 99, **checkpointing})
    trainer = Trainer(
        default_root_dir=root,
        accelerator="cpu",
        strategy=strategy,
        logger=[CSVLogger(root, name="", version=""), TensorBoardLogger(root, name="tensorboard", version="")],
        callbacks=[checkpoints, trained, AnswerTable(samples=2), CompletionTable(every_n_steps=1), *more],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 1, "num_sanity_val_steps": 0, **options},
    )
    checkpoints.prepare(trainer, automatic=module.automatic_optimization)
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
    paths = sorted((whole / "checkpoints").iterdir())
    assert len(paths) >= 4
    for path in paths:
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


def test_a_run_goes_on_with_its_steps_cut_into_other_parts(dataset, checkpoint, tmp_path):
    """In mid-epoch, from one part to two and to three: by hand, or by how much of a step a process may hold."""
    options = {**BY_STEPS, "max_steps": 5, "limit_val_batches": 0}

    def stage(size, **data):
        module = ComparativeSFT(Backbone(str(checkpoint)), SCHEDULED, max_new_tokens=4)
        return module, ComparativeData(str(dataset), batch_size=size, **data)

    expected, batches = run(tmp_path / "whole", stage(12), options)
    assert len(batches) == 5
    assert batches[2] == (1, 0), "two steps to an epoch"
    by_hand, by_size = {**options, "accumulate_grad_batches": 2}, {"samples_per_process": 4}
    for name, start, more, parts in (("hand", stage(6), by_hand, 2), ("size", stage(12, **by_size), options, 3)):
        root = tmp_path / name
        shutil.copytree(tmp_path / "whole", root)
        for other in (root / "checkpoints").iterdir():
            if other.name != "step=3-batch=3.ckpt":
                other.unlink()
        found, continued = run(root, start, more)
        assert continued == [(1, parts + n) for n in range(parts)] + [(2, n) for n in range(parts)]
        for key, value in expected.items():
            if "k_proj.bias" not in key:  # its gradient is rounding alone, which AdamW blows up
                torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5)
        assert [row["step"] for row in rows(root)] == [row["step"] for row in rows(tmp_path / "whole")]
        losses = [[float(row["train/loss"]) for row in rows(place)] for place in (root, tmp_path / "whole")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert (root / "checkpoints" / f"step=5-batch={5 * parts}.ckpt").is_file()


def test_a_step_of_another_size_goes_on_from_about_the_same_place_and_says_so(dataset):
    data = ComparativeData(str(dataset), batch_size=16)
    with pytest.warns(UserWarning, match="an optimiser step was of 8 when the checkpoint was written and is of 16 now"):
        data.load_state_dict({"epoch": 1, "steps": 6, "parts": 2, "step_size": 8})
    assert data.begins_at == (1, 1)
    data.load_state_dict({"epoch": 1, "steps": 6})
    assert data.begins_at == (1, 6), "written before parts and sizes were noted"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("slurm", [False, True])
def test_who_is_asked_to_stop_writes_a_checkpoint_after_the_step_and_goes_on_later(
    dataset, checkpoint, tmp_path, monkeypatch, capsys, number, slurm
):
    """Asked in the first of two accumulated batches, with a loader that has a process; under SLURM or not."""
    if slurm:
        monkeypatch.setenv("SLURM_NTASKS", "1")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
            monkeypatch.setenv(name, "0")
    stage = partial(sft, checkpoint, dataset, workers=1, size=8)
    options = {**BY_STEPS, "max_steps": 5, "limit_val_batches": 0, "accumulate_grad_batches": 2}
    expected, _ = run(tmp_path / "whole", stage(), options, every_n_steps=99)
    handlers, root = [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGTERM)], tmp_path / "asked"
    with pytest.raises(SystemExit) as stopped:
        run(root, stage(), options, more=[Asking(number, batch=5)], every_n_steps=99)
    assert stopped.value.code == 75
    assert "stopped on request after step 3" in capsys.readouterr().err
    assert [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGTERM)] == handlers
    assert [path.name for path in (root / "checkpoints").iterdir()] == ["step=3-batch=6.ckpt"]
    assert not list(root.glob("hpc_ckpt_*"))
    found, batches = run(root, stage(), options, every_n_steps=99)
    assert len(batches) == 4
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert rows(root) == rows(tmp_path / "whole")


def test_every_generator_draws_the_same_again_and_its_state_is_plain(tmp_path):
    cpu = torch.device("cpu")
    draws = lambda: (random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item())  # noqa: E731
    np.random.randn()
    torch.save(random_state(cpu), tmp_path / "state")
    expected = draws()
    set_random_state(torch.load(tmp_path / "state", weights_only=True), cpu)
    assert draws() == expected
    assert draws() != expected


class Drawing(Callback):
    """Draws random numbers in validation, as a metric or a rollout may."""

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        torch.rand(3), random.random(), np.random.rand()


def test_what_validation_draws_does_not_reach_training(dataset, checkpoint, tmp_path):
    options = {**BY_STEPS, "max_steps": 4, "limit_val_batches": 0}
    expected, _ = run(tmp_path / "without", sft(checkpoint, dataset), options)
    options |= {"limit_val_batches": 2, "val_check_interval": 1, "num_sanity_val_steps": 1}
    found, _ = run(tmp_path / "with", sft(checkpoint, dataset), options, more=[Drawing()])
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def written(folder, *batches):
    """A folder of small checkpoints, newest last."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"step={2 * number}-batch={number}.ckpt" for number in batches]
    for path in paths:
        torch.save({"weights": torch.arange(200.0), "name": path.name}, path)
    return paths


def test_the_newest_is_taken_by_number_and_what_was_half_written_is_removed(tmp_path, capsys):
    *_, newest = written(tmp_path, 9, 10)
    half = tmp_path / ".step=22-batch=11.ckpt.part"
    half.write_bytes(newest.read_bytes()[:100])
    (tmp_path / "best.ckpt").write_bytes(b"somebody else's")
    assert newest_checkpoint(tmp_path) == newest
    assert not half.exists()
    assert (tmp_path / "best.ckpt").exists()
    assert capsys.readouterr().err == ""


def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path, capsys):
    before, newest = written(tmp_path, 1, 2)
    newest.write_bytes(newest.read_bytes()[:-300])
    assert newest_checkpoint(tmp_path) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert str(newest) in line
    assert "damaged" in line
    assert newest_checkpoint(tmp_path) == before
    assert capsys.readouterr().err == ""


def test_without_a_valid_one_training_begins_anew_and_says_so(tmp_path, capsys):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert capsys.readouterr().err == ""
    for path in written(tmp_path, 1, 2):
        path.write_bytes(b"")
    assert newest_checkpoint(tmp_path) is None
    assert "starting from the beginning" in capsys.readouterr().err.splitlines()[-1]


def test_whatever_byte_is_wrong_a_checkpoint_is_refused_or_loads_unharmed(tmp_path):
    (path,) = written(tmp_path, 1)
    good, expected = path.read_bytes(), torch.load(path, weights_only=True)
    rng, refused = random.Random(0), 0
    for _ in range(600):
        damaged = bytearray(good)
        damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        if is_whole(path):
            found = torch.load(path, weights_only=True)
            assert torch.equal(found["weights"], expected["weights"])
            assert found["name"] == expected["name"]
        else:
            refused += 1
    assert refused > 200


def sharded(folder):
    folder.mkdir(parents=True)
    for rank in range(2):
        (folder / f"__{rank}_0.distcp").write_bytes(bytes(1000 + rank))
    (folder / "meta.pt").write_bytes(b"meta")
    return folder


def test_a_folder_of_shards_is_valid_only_if_it_is_complete(tmp_path):
    path = tmp_path / "step=4-batch=4.ckpt"
    assert not is_whole(sharded(path))
    commit(sharded(tmp_path / ".step=4-batch=4.ckpt.part"), path)
    assert is_whole(path)
    assert not (tmp_path / ".step=4-batch=4.ckpt.part").exists()
    assert newest_checkpoint(tmp_path) == path
    (path / "__1_0.distcp").write_bytes(bytes(1000))
    assert not is_whole(path)
    (path / "__1_0.distcp").unlink()
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_two_are_kept_and_the_end_is_one_of_them(dataset, checkpoint, tmp_path):
    options = {**BY_STEPS, "max_steps": 5, "limit_val_batches": 0}
    run(tmp_path, calibration(checkpoint, dataset), options, every_n_steps=2, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step=4-batch=4.ckpt",
        "step=5-batch=5.ckpt",
    ]
    stored = torch.load(tmp_path / "checkpoints" / "step=5-batch=5.ckpt", weights_only=True)
    assert stored["global_step"] == 5


def test_a_checkpoint_can_be_due_by_time_alone(dataset, checkpoint, tmp_path):
    options = {**BY_STEPS, "max_steps": 3, "limit_val_batches": 0}
    often = {"every_n_steps": None, "train_time_interval": timedelta(0), "keep": 9}
    run(tmp_path / "often", calibration(checkpoint, dataset), options, **often)
    assert len(list((tmp_path / "often" / "checkpoints").iterdir())) == 3
    run(tmp_path / "rarely", calibration(checkpoint, dataset), options, **often | {"train_time_interval": timedelta(1)})
    assert len(list((tmp_path / "rarely" / "checkpoints").iterdir())) == 1


def test_rows_after_the_checkpoint_and_half_written_ones_are_dropped(dataset, checkpoint, tmp_path):
    options = {**BY_STEPS, "max_steps": 4, "val_check_interval": 2}
    run(tmp_path, calibration(checkpoint, dataset), options)
    metrics, table = tmp_path / "metrics.csv", tmp_path / "completions.jsonl"
    before, answers = rows(tmp_path), table.read_text()
    later = metrics.read_text().splitlines()[-1].replace(",3,", ",4,", 1)
    assert later.split(",")[1] == "4"
    with metrics.open("a") as file:
        file.write(later + "\r\n\0\0\0\r\n1")
    with table.open("a") as file:
        file.write(answers.splitlines()[-1].replace('"step": 4', '"step": 5') + '\n\0\0\n{"step": 1')
    run(tmp_path, calibration(checkpoint, dataset), options)
    assert rows(tmp_path) == before
    assert table.read_text() == answers


@pytest.mark.parametrize("name", ["every_n_steps", "keep"])
def test_a_number_below_one_is_refused(name):
    with pytest.raises(UserError, match=f"{name} of the checkpoints is 0"):
        Checkpoints(**{name: 0})
