"""Checkpoints from which training goes on bit by bit as if it had never stopped.

    run/checkpoints/
      step=250-batch=250.ckpt     a file, or a folder where the strategy shards (FSDP, DeepSpeed)
      step=240-batch=240.ckpt     the one before, in case the newest is damaged
      .step=260-batch=260.ckpt.part     being written; of no use after a crash, and removed

Written under a temporary name, synchronised to the disk, then renamed. A checkpoint is always the state between two
batches: gradients of accumulated batches are never split by one, and validation after a batch belongs to that batch.
It holds what Lightning stores (weights, optimiser, schedule, progress) and the random states of every process; the
position in the epoch follows from the progress (`redaes.data.modules`).

A training that is asked to stop, by SIGUSR1 or SIGTERM to any of its processes, writes one after the optimiser step and
ends with exit code 75 (`redaes.training.stopping`). Lightning's own answers are put out of work: one writes from inside
the signal handler whatever the moment, the other waits for no step.
"""

import json
import os
import pickle
import random
import re
import shutil
import sys
import time
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from redaes.data.manifest import canonical_json, write_atomically
from redaes.data.modules import trained_position
from redaes.errors import UserError
from redaes.training.logs import continue_logs, flush_logs
from redaes.training.stopping import EXIT_CODE, StopRequest

SIZES = "sizes.json"


class Checkpoints(Checkpoint):
    """Writes checkpoints, and continues from the newest valid one in the same folder.

    Our data modules keep the position in the epoch; loaders of another kind begin the interrupted epoch anew.

    Args:
        dirpath: where; None is `checkpoints/` in the trainer's root folder.
        every_n_steps: optimiser steps between two checkpoints; None: by time alone.
        train_time_interval: time between two checkpoints, such as `00:10:00`; None: by steps alone.
        keep: how many of the newest are kept, at least 1.

    Raises:
        UserError: a number below 1.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_n_steps: int | None = None,
        train_time_interval: timedelta | None = timedelta(minutes=10),
        keep: int = 2,
    ) -> None:
        for name, number in (("every_n_steps", every_n_steps), ("keep", keep)):
            if number is not None and number < 1:
                raise UserError(f"{name} of the checkpoints is {number}; it must be at least 1")
        self.dirpath = dirpath
        self.every_n_steps = every_n_steps
        self.train_time_interval = train_time_interval
        self.keep = keep
        self._prepared = False
        self._chosen: Path | None = None
        self._saving = False
        self._loaded: dict[str, Any] | None = None
        self._last = (0, 0.0)
        self._stop = StopRequest()

    def prepare(self, trainer: Trainer, explicit: str | Path | None = None, *, automatic: bool | None = None) -> None:
        """Choose the checkpoint to go on from, and cut the logs back to it. The first process decides for all.

        To be called before `Trainer.fit`: when it sets up the loggers, Lightning deletes what they wrote before.

        Args:
            trainer: whose run it is.
            explicit: a checkpoint that was asked for instead.
            automatic: Lightning takes the optimiser steps, one row of the logs for each; if not, there is a row for
                each batch. None: as if it did where batches are accumulated.
        """
        self._prepared = True
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        self._chosen = Path(explicit) if explicit else newest_checkpoint(self._folder(trainer))
        if self._chosen is not None and not explicit:
            _say(f"continuing from {self._chosen} (--fresh starts over)")
        batches, steps = _numbers(self._chosen) if self._chosen else (0, 0)
        by_steps = trainer.accumulate_grad_batches > 1 if automatic is None else automatic
        continue_logs(trainer, steps if by_steps else batches, steps, batches)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the trainer load what was chosen, and listen to who asks it to stop."""
        if stage != "fit":
            return
        trainer._signal_connector.register_signal_handlers = lambda: None
        self._stop.listen()
        if not self._prepared:
            self.prepare(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = _PlainFile()
        connector = trainer._checkpoint_connector
        load = connector.resume_start

        def resume_start(checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
            load(checkpoint_path or trainer.strategy.broadcast(self._chosen), weights_only=True)

        connector.resume_start = resume_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Another `fit` of the same trainer chooses anew."""
        self._prepared, self._chosen = False, None
        self._stop.ignore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """No `teardown` follows."""
        self._stop.ignore()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count from here."""
        self._last = (trainer.global_step, time.monotonic())
        if self._loaded is not None:
            # Sharding strategies load after the loaders were made, whose processes then work on the wrong batches.
            iter(trainer.fit_loop._data_fetcher)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two batches: finish continuing, write a checkpoint if one is due, and stop if that was asked for.

        Raises:
            SystemExit: any process was asked to stop; the checkpoint is written.
        """
        if self._loaded is not None:
            self._restore(trainer, self._loaded)
            self._loaded = None
        batches = trainer.fit_loop.epoch_loop.batch_progress
        if trainer.fast_dev_run or batches.current.completed % trainer.accumulate_grad_batches != 0:
            return
        due, stop = self._due_and_stop(trainer)
        if (due or stop) and batches.total.completed > 0:
            self._save(trainer)
        if stop:
            if trainer.is_global_zero:
                _say(f"stopped on request after step {trainer.global_step}; the same command goes on from there")
            raise SystemExit(EXIT_CODE)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end, so that a crash while the model is exported costs nothing."""
        if not trainer.fast_dev_run:
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the random states: what validation draws must not reach training."""
        self._before_validation = random_state(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them back."""
        set_random_state(self._before_validation, pl_module.device)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the random states and make the progress that of a trainer between two batches."""
        if not self._saving:
            return
        loops = checkpoint["loops"]["fit_loop"]
        _settle(loops, *trained_position(trainer))
        checkpoint["callbacks"][self.state_key] = {
            "random": _gather(trainer, random_state(pl_module.device)),
            "logged_steps": loops["epoch_loop.state_dict"]["_batches_that_stepped"],
            "parts": trainer.accumulate_grad_batches,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count batches as they are cut now: a step may have been accumulated from another number of them."""
        parts = trainer.accumulate_grad_batches
        # A checkpoint from before this was noted is of as many parts as now.
        before = checkpoint["callbacks"].get(self.state_key, {}).get("parts", parts)
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counters, known in ((batches["total"], None), (batches["current"], _begins_at(trainer))):
            for name, count in counters.items():
                counters[name] = count // before * parts if known is None else known

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training begins: what happens in between may draw random numbers."""
        self._loaded = state_dict

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.dirpath) if self.dirpath else Path(trainer.default_root_dir) / "checkpoints"

    def _due_and_stop(self, trainer: Trainer) -> tuple[bool, bool]:
        """Whether a checkpoint is due, and whether to stop: the same on all processes."""
        step, when = self._last
        interval = self.train_time_interval
        late = interval is not None and time.monotonic() - when >= interval.total_seconds()
        device = trainer.strategy.root_device if trainer.world_size > 1 else None  # alone, no card need be waited for
        flags = torch.tensor([late, self._stop.received is not None], dtype=torch.float, device=device)
        late, stop = trainer.strategy.reduce(flags, reduce_op="sum").tolist()
        enough = self.every_n_steps is not None and trainer.global_step - step >= self.every_n_steps
        return enough or bool(late), bool(stop)

    def _save(self, trainer: Trainer) -> None:
        folder = self._folder(trainer)
        name = f"step={trainer.global_step}-batch={trainer.fit_loop.epoch_loop.batch_progress.total.completed}.ckpt"
        temporary = folder / f".{name}.part"
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            flush_logs(trainer)
        self._saving = True
        trainer.save_checkpoint(temporary, weights_only=False)
        self._saving = False
        if trainer.is_global_zero:
            commit(temporary, folder / name)
            _prune(folder, folder / name, self.keep)
        trainer.strategy.barrier("Checkpoints")
        self._last = (trainer.global_step, time.monotonic())

    def _restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        # Lightning restores it as if a batch had been interrupted; the steps of the curves would drift.
        trainer.fit_loop.epoch_loop._batches_that_stepped = state["logged_steps"]
        if len(state["random"]) == trainer.world_size:
            set_random_state(state["random"][trainer.global_rank], trainer.strategy.root_device)
        elif trainer.is_global_zero:
            _say(
                f"{len(state['random'])} processes wrote the checkpoint, {trainer.world_size} go on: batches are the "
                "same, random numbers (dropout) are not"
            )


def _begins_at(trainer: Trainer) -> int | None:
    """Batches of the epoch that our data modules leave out; None: loaders of another kind."""
    data: Any = getattr(trainer, "datamodule", None)
    return data.begins_at[1] if hasattr(data, "begins_at") else None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest valid checkpoint of a folder; what is damaged or half-written is put out of the way, and said."""
    for leftover in folder.glob(".*.part"):
        _remove(leftover)
    found = _checkpoints(folder)
    for path in found:
        if is_whole(path):
            return path
        aside = path.with_name(path.name + ".damaged")
        _remove(aside)
        path.rename(aside)
        _say(f"{path} is damaged, and was renamed to {aside.name}; trying the one before")
    if found:
        _say(f"no valid checkpoint in {folder}; starting from the beginning")
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written: checksums of a file, names and sizes of a folder."""
    try:
        if path.is_dir():
            sizes = json.loads((path / SIZES).read_text(encoding="utf-8"))
            return all((path / name).stat().st_size == size for name, size in sizes.items())
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            # Torch is stricter about headers than the standard library. This maps the file, but reads no weights.
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        return True  # The bytes are right; what is wrong with them, loading will say.
    except Exception:
        # Readers raise almost anything on damaged bytes; whatever it was, training cannot go on from here.
        return False
    return damaged is None


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the newest first."""
    found = [path for path in folder.glob("step=*-batch=*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: _numbers(path)[0], reverse=True)


_NAME = re.compile(r"step=(\d+)-batch=(\d+)\.ckpt")


def _numbers(path: Path) -> tuple[float, float]:
    """Batches and optimiser steps done when a checkpoint was written; infinite for a file of another name."""
    found = _NAME.fullmatch(path.name)
    return (int(found[2]), int(found[1])) if found else (float("inf"), float("inf"))


def commit(temporary: Path, path: Path) -> None:
    """Give a written checkpoint its name once its bytes are on the disk."""
    if temporary.is_dir():
        files = [file for file in temporary.rglob("*") if file.is_file()]
        sizes = {str(file.relative_to(temporary)): file.stat().st_size for file in files}
        write_atomically(temporary / SIZES, canonical_json(sizes))
        for entry in [*temporary.rglob("*"), temporary]:
            _synchronise(entry)
    else:
        _synchronise(temporary)
    if path.is_dir():
        _remove(path)
    os.replace(temporary, path)
    _synchronise(path.parent)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(folder: Path, written: Path, keep: int) -> None:
    """Keep the newest; those beyond the one just written are of a run that went another way."""
    batches = _numbers(written)[0]
    found = _checkpoints(folder)
    past = [path for path in found if _numbers(path)[0] <= batches]
    for path in found:
        if path not in past[:keep]:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settle(loops: dict[str, Any], epoch: int, steps: int) -> None:
    """Rewrite Lightning's progress as that of a trainer that has finished `steps` batches of an epoch, and no more.

    Lightning tells from small differences between its counters in which hook a checkpoint was written, and resumes
    differently from each; at the ends of epochs it skips or repeats hooks, and its counters drift.
    """
    epochs = loops["epoch_progress"]
    begun = epochs["current"]["started"] > epoch
    for counters in (epochs["total"], epochs["current"]):
        counters.update(ready=epoch + begun, started=epoch + begun, processed=epoch, completed=epoch)
    batches = loops["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    for counters, done in ((batches["total"], batches["total"]["completed"]), (batches["current"], steps)):
        counters.update(ready=done, started=done, processed=done, completed=done)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every global random generator of this process, as plain values and tensors."""
    legacy: Any = np.random.get_state()
    name, key, *rest = legacy
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(key.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of `random_state`."""
    random.setstate(state["python"])
    name, key, *rest = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _gather(trainer: Trainer, value: Any) -> list[Any]:
    """The values of all processes, on every process."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _PlainFile(TorchCheckpointIO):
    """Writes straight to the file it is given: Lightning's own takes a copy in memory and one in the system's /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, path)
