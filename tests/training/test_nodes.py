"""Trainings as clusters start them, on this machine's CPUs over gloo: torchrun, several agents, srun's environment.

They all run `redaes fit` itself with the same words, whatever the number of processes.
"""

import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from redaes.commands.export import export as export_command
from redaes.data.export import export
from redaes.data.manifest import Manifest
from tests.training.launching import (
    ROOT,
    command,
    curves,
    descendants,
    difference,
    environment,
    finish,
    free_port,
    identical,
    kill,
    learnt,
    said,
    steps_done,
    torchrun,
    wait_for_listener,
    wait_for_step,
    weights,
    workers,
)

STEPS = 7


@pytest.fixture(scope="module")
def words(dataset, checkpoint, tmp_path_factory):
    """The words of a training of one stage."""
    place = tmp_path_factory.mktemp("words")
    return cache(lambda stage: command(place / stage, stage, dataset, checkpoint, steps=STEPS))


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory):
    """Trainings that nothing happens to, by stage, processes and strategy."""
    place = tmp_path_factory.mktemp("undisturbed")

    @cache
    def trained(stage, processes=1, strategy="auto"):
        root = place / f"{stage}-{processes}-{strategy}"
        options = ["--standalone", f"--nproc-per-node={processes}"]
        finish(torchrun([*words(stage), f"--trainer.strategy={strategy}"], root, *options), root)
        return root

    return trained


def assert_same_training(one, other, checkpoint):
    """The same curves and weights but for the order in which floats are added."""
    ours, theirs = curves(one), curves(other)
    assert ours.keys() == theirs.keys()
    assert len(ours["train/loss"]) == STEPS
    for name, values in ours.items():
        assert theirs[name] == pytest.approx(values, rel=1e-4, abs=1e-5, nan_ok=True), name
    assert difference(one, other) < 1e-5
    assert learnt(one, checkpoint) > 1e-3


@pytest.mark.parametrize(
    ("stage", "processes", "strategy"),
    [
        ("sft", 2, "ddp"),
        ("sft", 4, "ddp"),
        pytest.param("sft", 2, "fsdp2", marks=pytest.mark.slow),
        pytest.param("sft", 4, "fsdp2", marks=pytest.mark.slow),
        pytest.param("calibration", 2, "ddp", marks=pytest.mark.slow),
        pytest.param("calibration", 4, "ddp", marks=pytest.mark.slow),
        pytest.param("grpo", 2, "ddp", marks=pytest.mark.slow),
        pytest.param("grpo", 4, "ddp", marks=pytest.mark.slow),
        pytest.param("grpo", 4, "fsdp2", marks=pytest.mark.slow),
    ],
)
def test_any_number_of_processes_trains_what_one_does(checkpoint, undisturbed, stage, processes, strategy):
    """Two samples at a time on each: four parts to a step on one process, two on two, one on four."""
    assert_same_training(undisturbed(stage), undisturbed(stage, processes, strategy), checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["webdataset", "parquet"])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_shards_train_what_the_dataset_does_bit_by_bit(dataset, words, undisturbed, tmp_path, stage, format):
    """Also from a checkpoint in mid-epoch, and with a loader process on each of two."""
    export(Manifest(dataset), tmp_path / "shards", format, shard_bytes=150_000)
    sharded = [*words(stage), f"--data.root={tmp_path / 'shards'}", "--data.num_workers=1"]
    two = ["--standalone", "--nproc-per-node=2"]
    process = torchrun(sharded, tmp_path / "run", *two)
    wait_for_step(process, tmp_path / "run", 2)
    kill(process)
    finish(torchrun(sharded, tmp_path / "run", *two), tmp_path / "run")
    assert "continuing from" in said(tmp_path / "run")
    assert identical(undisturbed(stage, 2), tmp_path / "run")
    np.testing.assert_equal(curves(tmp_path / "run"), curves(undisturbed(stage, 2)))  # no answer: no score, NaN


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_worker_that_is_killed_is_started_again_and_the_weights_are_the_same_bits(
    words, undisturbed, tmp_path, strategy
):
    """By torchrun, from the last checkpoint; `--fresh` starts over only the first time."""
    root = tmp_path / "run"
    process = torchrun(
        [*words("sft"), f"--trainer.strategy={strategy}", "--fresh"],
        root, "--standalone", "--nproc-per-node=2", "--max-restarts=5",
    )  # fmt: skip
    for rank, step in ((1, 2), (0, 4)):
        wait_for_step(process, root, step)
        os.kill(workers(process)[rank], signal.SIGKILL)
    finish(process, root)
    # A third time, where the two could not connect at once.
    assert said(root).count("continuing from") >= 2
    assert identical(undisturbed("sft", 2, strategy), root)
    assert curves(undisturbed("sft", 2, strategy)) == curves(root)


def agent(words, root, port, machines):
    """torchrun as one of several machines of two processes each; this one holds the rendezvous if it is the first."""
    return torchrun(
        words, root, f"--nnodes={machines}", "--nproc-per-node=2", "--max-restarts=3", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=1", "--rdzv-conf=last_call_timeout=5", "--monitor-interval=0.2",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_machines_go_on_as_one_when_the_other_is_lost(words, checkpoint, undisturbed, tmp_path, strategy):
    """Four processes, then two: the steps and the memory of each process stay what they were."""
    root, port = tmp_path / "run", free_port()
    first = agent([*words("sft"), f"--trainer.strategy={strategy}"], root, port, "1:2")
    # Here both are the machine of the rendezvous, and whoever comes first holds it.
    wait_for_listener(first, port)
    second = agent([*words("sft"), f"--trainer.strategy={strategy}"], root, port, "1:2")
    try:
        wait_for_step(first, root, 3)
        lost = [*descendants(second.pid), second.pid]
        assert len(workers(first)) == len(workers(second)) == 2
        for pid in lost:
            os.kill(pid, signal.SIGKILL)
        finish(first, root)
    finally:
        kill(first)
        kill(second)
    assert "continuing from" in said(root)
    assert_same_training(undisturbed("sft"), root, checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(4, 2), (1, 4)])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_is_continued_on_another_number_of_processes(
    words, checkpoint, undisturbed, tmp_path, before, after, strategy
):
    """In mid-epoch, with steps cut into other parts than before."""
    root, options = tmp_path / "run", [*words("sft"), f"--trainer.strategy={strategy}"]
    process = torchrun(options, root, "--standalone", f"--nproc-per-node={before}")
    wait_for_step(process, root, 2)
    kill(process)
    assert steps_done(root) % 3, "an epoch has three steps"
    finish(torchrun(options, root, "--standalone", f"--nproc-per-node={after}"), root)
    assert_same_training(undisturbed("sft"), root, checkpoint)


@pytest.mark.slow
def test_pieces_of_four_processes_are_exported_by_one(words, undisturbed, tmp_path):
    run = undisturbed("sft", 4, "fsdp2")
    (saved,) = (run / "checkpoints").glob(f"step={STEPS}-*.ckpt")
    assert saved.is_dir()
    shutil.copytree(run, tmp_path / "run")
    export_command(str(tmp_path / "run" / "checkpoints" / saved.name), str(tmp_path / "run2" / "model"))
    assert identical(run, tmp_path / "run2")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles its CPU communication")
def test_zero3_trains_the_same_direction_and_goes_on_after_a_worker_was_killed(
    words, checkpoint, undisturbed, tmp_path
):
    """In bfloat16 with float32 copies, without Lightning's check for CUDA; the steps are accumulated from two parts."""
    pytest.importorskip("deepspeed")
    root = tmp_path / "run"
    zero3 = [
        "--trainer.strategy=tests.training.fitting_processes.ZeroOnCPU", "--trainer.strategy.config=zero3",
        "--trainer.precision=bf16-mixed", "--model.backbone.dtype=bfloat16",
    ]  # fmt: skip
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    process = torchrun([*words("sft"), *zero3], root, *options, DS_ACCELERATOR="cpu")
    wait_for_step(process, root, 3)
    os.kill(workers(process)[1], signal.SIGKILL)
    finish(process, root)
    assert "continuing from" in said(root)
    assert len(curves(root)["train/loss"]) == STEPS
    before = load_file(checkpoint / "model.safetensors")
    ours, theirs = (
        torch.cat([(weights(place)[name].float() - before[name].float()).flatten() for name in sorted(before)])
        for place in (undisturbed("sft"), root)
    )
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9


# --- SLURM -----------------------------------------------------------------------------------------------------------

SRUN = f'''#!{sys.executable}
"""Starts the tasks of a job step on this machine with the variables that srun gives them, and ends as the worst did."""
import os, signal, subprocess, sys

tasks, machines = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
each = tasks // machines
started = []
for number in range(tasks):
    variables = {{
        "SLURM_PROCID": number, "SLURM_LOCALID": number % each, "SLURM_NODEID": number // each, "SLURM_STEP_ID": 0,
        "SLURM_NODELIST": "127.0.0.1",
    }}
    started.append(subprocess.Popen(words, env={{**os.environ, **{{k: str(v) for k, v in variables.items()}}}}))

# A signal of the scheduler reaches every task.
signal.signal(signal.SIGUSR1, lambda number, _: [task.send_signal(number) for task in started])
sys.exit(max(task.wait() for task in started))
'''


@pytest.fixture
def slurm(tmp_path):
    """A folder with stand-ins for srun and scontrol; the latter notes what it was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scontrol = f'#!/bin/sh\necho "$@" >> {tmp_path / "scontrol.log"}\n'
    for name, text in (("srun", SRUN), ("scontrol", scontrol)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def sbatch(folder, words, root, job, **more):
    """Run the shipped job script as sbatch does: with the job's variables, on its first machine."""
    root.mkdir(exist_ok=True)
    variables = {
        "PATH": f"{folder}{os.pathsep}{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": str(job), "SLURM_JOB_NAME": "redaes", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "127.0.0.1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    script = ROOT / "configs" / "slurm" / "fit.sbatch"
    with (root / "output.log").open("ab") as log:
        return subprocess.Popen(
            ["bash", str(script), *words[3:], f"--trainer.default_root_dir={root}"],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=environment(**{**variables, **more}),
        )  # fmt: skip


@pytest.mark.slow
def test_a_slurm_job_near_its_end_is_queued_again_and_ends_with_the_same_bits(words, undisturbed, slurm, tmp_path):
    root = tmp_path / "run"
    process = sbatch(slurm, [*words("sft"), "--fresh"], root, job=4711)
    wait_for_step(process, root, 2)
    (srun,) = (p for p in descendants(process.pid) if "bin/srun" in Path(f"/proc/{p}/cmdline").read_text())
    os.kill(srun, signal.SIGUSR1)
    assert process.wait(200) == 75, said(root)
    assert "stopped on request after step" in said(root)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    assert 2 <= steps_done(root) < STEPS
    finish(sbatch(slurm, [*words("sft"), "--fresh"], root, job=4711, SLURM_RESTART_COUNT="1"), root)
    assert "it goes on from its checkpoints" in said(root)
    assert identical(undisturbed("sft", 2), root)
    assert curves(undisturbed("sft", 2)) == curves(root)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
