"""Starts `redaes fit` as clusters do: torchrun, one or several agents on this machine, and srun's environment."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    # 26 samples in steps of 8: the third epoch is entered.
    "sft": {"data": {"batch_size": 8, "samples_per_process": 2}},
    "calibration": {"data": {"batch_size": 4, "samples_per_process": 1}},
    "grpo": {
        "data": {"groups_per_batch": 1, "group_size": 5},
        "model": {
            "reward": "tests.training.rewards.Brevity", "k": 3, "max_new_tokens": 6, "inner_epochs": 1, "accumulate": 8
        },
    },
}  # fmt: skip


def command(place, stage, dataset, checkpoint, *, steps=7, trainer=None):
    """The words of a training on the CPU, the same for any number of processes; without the run's folder."""
    model = {
        "backbone": {"path": str(checkpoint)},
        "optimisation": {"lr": 1e-3, "schedule": "linear", "warmup": 0.0},
        **STAGES[stage].get("model", {}),
    }
    settings = {
        "model": {"init_args": model},
        "data": {"init_args": {"root": str(dataset), **STAGES[stage]["data"]}},
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_steps": steps, "max_epochs": -1, "limit_val_batches": 0,
            "check_val_every_n_epoch": None, "log_every_n_steps": 1, "enable_progress_bar": False,
            "callbacks": [
                {"class_path": "redaes.training.checkpoints.Checkpoints", "init_args": {"every_n_steps": 1}},
                {"class_path": "redaes.training.callbacks.ExportCheckpoint"},
            ],
            **(trainer or {}),
        },
    }  # fmt: skip
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return ["-m", "redaes", "fit", f"--config=nano/{stage}.yaml", f"--config={path}"]


def environment(**more):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", **more}


def torchrun(words, root, *options, **more):
    """Start torchrun in a session of its own; its output goes to `output.log` in the run's folder."""
    # Else workers that are started again may find the addresses of those before (pytorch/pytorch#135712).
    more = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **more}
    root.mkdir(parents=True, exist_ok=True)
    with (root / "output.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options, *words, f"--trainer.default_root_dir={root}"],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=environment(**more),
        )  # fmt: skip


def said(root):
    return (root / "output.log").read_text(encoding="utf-8", errors="replace")


def finish(process, root, timeout=400):
    """Wait for the end of a training that must succeed; end all of its processes if it does not come."""
    try:
        assert process.wait(timeout) == 0, said(root)[-5000:]
    finally:
        kill(process)


def kill(process):
    """End everything in the session of a process that is still there."""
    if process.poll() is None:
        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


def descendants(pid):
    """Children of a process, and theirs: torchrun gives every worker a session of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def workers(process):
    """The training processes of a torchrun by rank."""
    found = {}
    for pid in descendants(process.pid):
        try:
            variables = dict(v.split("=", 1) for v in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in v)
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (OSError, ValueError):
            continue  # it has just ended
        if "RANK" in variables and "redaes" in arguments:
            found.setdefault(int(variables["RANK"]), pid)
    return found


def steps_done(root):
    """Optimiser steps of the newest checkpoint."""
    names = (path.stem for path in (root / "checkpoints").glob("step=*.ckpt"))
    return max((int(name.partition("-")[0].removeprefix("step=")) for name in names), default=0)


def wait_for_step(process, root, step, timeout=300):
    """Until a checkpoint of this or a later step is written."""
    last = time.monotonic() + timeout
    while steps_done(root) < step:
        assert process.poll() is None, said(root)[-5000:]
        assert time.monotonic() < last, said(root)[-5000:]
        time.sleep(0.02)


def wait_for_listener(process, port, timeout=100):
    """Until something on this machine answers at a port."""
    last = time.monotonic() + timeout
    while True:
        assert process.poll() is None
        assert time.monotonic() < last
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def curves(root):
    """The logged columns of training, in order of the steps; how much of a cache was hit is not of interest."""
    with (root / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        n: [float(row[n]) for row in rows if row[n]] for n in rows[0] if n.startswith("train/") and "cache" not in n
    }


def weights(root):
    return load_file(root / "model" / "model.safetensors")


def difference(one, other):
    """The largest difference of any weight."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    # The gradient of a key's bias is zero but for rounding, which AdamW blows up to a step of its own.
    return max(float((ours[n] - theirs[n]).abs().max()) for n in ours if "k_proj.bias" not in n)


def learnt(root, checkpoint):
    """The largest change of any weight by a training."""
    before, after = load_file(Path(checkpoint) / "model.safetensors"), weights(root)
    return max(float((after[n].float() - before[n].float()).abs().max()) for n in after if n in before)


def identical(one, other):
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
