"""A sweep as a person runs it: stopped, killed and run again, two rows at a time, logged to W&B without a network."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from wandb.proto.wandb_internal_pb2 import Record

from redaes.presets import resolve_config
from redaes.sweeps.results import read

pytestmark = pytest.mark.slow

# Nano made so small that a step is little more than its start.
SMALLER = {
    "data": [
        f"--set={word}"
        for word in ("sources.train=16", "sources.validation=2", "sources.test=4", "groups.train=3", "calibration=8")
    ],
    "initial": ["--tower_steps=4", "--description_steps=4", "--hidden=32", "--layers=1"],
    "sft": ["--trainer.max_steps=6", "--trainer.val_check_interval=6", "--trainer.limit_val_batches=0"],
}
ROWS = {"own": {"reference": "plain", "rows": {"alone": {"sft": ["--data.swap_prob=0"]}, "plain": {}}}}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two rows on a preset of its own."""
    place = tmp_path_factory.mktemp("preset")
    pipeline = yaml.safe_load(resolve_config("nano/pipeline.yaml").read_text())
    for step in pipeline["steps"]:
        step["command"] += SMALLER.get(step["name"], [])
    for row in ROWS["own"]["rows"].values():  # type: ignore[attr-defined]
        row["last"] = "sft"
    parameters = {
        **{"run": {"values": ["alone", "plain"]}, "seed": {"values": [0]}},
        **{"preset": {"value": str(place)}, "rows": {"value": str(place / "rows.yaml")}},
    }
    document = {"name": "own", "method": "grid", "project": "sweeps", "parameters": parameters}
    for name, content in (("pipeline", pipeline), ("rows", ROWS), ("sweep", document)):
        (place / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return place / "sweep.yaml"


def start(sweep: Path, output: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "redaes", "sweep", str(sweep), "--output", str(output), *words]
    log = (output.parent / f"{output.name}.log").open("a")
    return subprocess.Popen(command, stdout=log, stderr=log, text=True, env={**os.environ, **environment})


def begun(output: Path) -> list[str]:
    """The steps that were begun, in order, over all calls."""
    lines = (output.parent / f"{output.name}.log").read_text().splitlines()
    return [line.partition(": redaes ")[0] for line in lines if ": redaes " in line]


def wait_for(happened: Callable[[], Any], what: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


def processes_in(output: Path) -> list[int]:
    """The processes with the sweep's folder among their words."""
    words = {int(p.parent.name): p for p in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for number, file in words.items():
        try:
            if str(output / "steps").encode() in file.read_bytes():
                found.append(number)
        except OSError:
            continue
    return found


def told(output: Path) -> list[dict[str, Any]]:
    """The results without their time and commit."""
    return [{key: value for key, value in row.items() if key not in ("seconds", "commit")} for row in read(output)]


@pytest.fixture(scope="module")
def undisturbed(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sweep") / "whole"
    assert start(sweep, output, "--jobs", "2").wait(timeout=600) == 0
    return output


def test_two_rows_are_trained_at_the_same_time_and_share_what_they_have_in_common(undisturbed: Path) -> None:
    kinds = [name.rpartition("-")[0] for name in begun(undisturbed)]
    assert Counter(kinds) == {"data": 1, "initial": 1, "sft": 2, "evaluate": 2}
    # The second training began before the first was evaluated: they ran side by side.
    assert kinds[:4] == ["data", "initial", "sft", "sft"]
    assert [row["run"] for row in read(undisturbed)] == ["alone", "plain"]
    assert {row["reference"] for row in read(undisturbed)} == {"plain"}


def test_a_sweep_that_is_stopped_twice_and_then_killed_ends_as_one_that_was_not(
    sweep: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cut"
    first = start(sweep, output)
    wait_for(lambda: any(output.glob("steps/sft-*/tensorboard")), "the first training")
    assert stopped(first, signal.SIGINT, output) == 130
    for stop in (signal.SIGTERM, signal.SIGKILL):
        before = len(begun(output))
        again = start(sweep, output)
        wait_for(lambda: len(begun(output)) > before + 1, "the step after the one that was cut off")  # noqa: B023
        assert stopped(again, stop, output) == (130 if stop == signal.SIGTERM else -signal.SIGKILL)

    assert start(sweep, output).wait(timeout=600) == 0  # waits for the step that the killed one has left
    times = Counter(begun(output))
    assert sorted(times) == sorted(begun(undisturbed))
    # Three steps were cut off and went on; nothing that had ended was done again.
    assert sorted(times.values()) == [1] * (len(times) - 3) + [2, 2, 2]
    assert told(output) == told(undisturbed)
    for row in told(output):
        own, other = (load_file(place / row["model"] / "model.safetensors") for place in (output, undisturbed))
        torch.testing.assert_close(own, other, rtol=0, atol=1e-4)
    assert start(sweep, output).wait(timeout=60) == 0
    assert Counter(begun(output)) == times


def stopped(process: "subprocess.Popen[str]", stop: signal.Signals, output: Path) -> int:
    """The exit code; nothing goes on behind a sweep that could tell its steps."""
    process.send_signal(stop)
    code = process.wait(timeout=60)
    assert stop == signal.SIGKILL or not processes_in(output)
    return code


def test_each_row_is_a_run_of_wandb_without_a_network(sweep: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = begun(undisturbed)
    place = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    assert start(sweep, undisturbed, "--wandb", **place).wait(timeout=120) == 0
    assert begun(undisturbed) == before
    runs = {}
    for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        config, logged = logged_in(file)
        runs[config["run"]] = config, logged
    rows = {row["run"]: row for row in read(undisturbed)}
    assert runs.keys() == rows.keys()
    for run, (config, logged) in runs.items():
        facts = ("table", "preset", "quick", "run", "seed", "reference", "stage", "model", "commit")
        assert {key: config[key] for key in facts} == {key: rows[run][key] for key in facts}
        assert all(logged[key] == rows[run][key] for key in ("n", "parse_failure_rate", "seconds"))


def logged_in(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration and the last values in a run's file: LevelDB's log format, with W&B's messages in it."""
    data, at, message = file.read_bytes(), 7, b""
    config: dict[str, Any] = {}
    values: dict[str, Any] = {}
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a message, or the last part
            record = Record.FromString(message)
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            values |= {
                item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
            }
            message = b""
    return config, values
