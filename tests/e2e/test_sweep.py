"""A sweep as a person runs it: stopped, killed and run again, two rows at a time, logged to W&B without a network."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def told(output: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The results without their time and commit, and the models' weights."""
    rows = [{key: value for key, value in row.items() if key not in ("seconds", "commit")} for row in read(output)]
    return rows, {row["run"]: (output / row["model"] / "model.safetensors").read_bytes() for row in rows}


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


def test_a_sweep_stopped_by_hand_and_then_killed_ends_as_one_that_was_not(
    sweep: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cut"

    def training() -> bool:
        return any((output / "steps").glob("sft-*/metrics.csv")) or begun(output)[-1].startswith("sft")

    first = start(sweep, output)
    wait_for(lambda: begun(output) and training(), "the first training")
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130
    wait_for(lambda: not processes_in(output), "the end of the steps", 5)
    before = len(begun(output))

    second = start(sweep, output)
    wait_for(lambda: len(begun(output)) > before + 1, "the step after the one that was stopped")
    second.send_signal(signal.SIGKILL)
    second.wait(timeout=10)

    assert start(sweep, output).wait(timeout=600) == 0
    times = Counter(begun(output))
    assert sorted(times) == sorted(begun(undisturbed))
    # One step was cut off by hand, one killed; nothing that had ended was done again.
    assert sorted(times.values()) == [1] * (len(times) - 2) + [2, 2]
    assert told(output) == told(undisturbed)
    assert start(sweep, output).wait(timeout=60) == 0
    assert Counter(begun(output)) == times


def test_each_row_is_a_run_of_wandb_without_a_network(sweep: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = begun(undisturbed)
    place = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    assert start(sweep, undisturbed, "--wandb", **place).wait(timeout=120) == 0
    assert begun(undisturbed) == before
    runs = {}
    for file in tmp_path.glob("wandb/offline-run-*/files/config.yaml"):
        config = {key: entry["value"] for key, entry in yaml.safe_load(file.read_text()).items() if key != "_wandb"}
        runs[config["run"]] = config, (file.parent / "wandb-summary.json").read_text()
    assert sorted(runs) == ["alone", "plain"]
    for row in read(undisturbed):
        config, summary = runs[row["run"]]
        assert {key: config[key] for key in ("table", "seed", "stage", "model", "commit")} == {
            key: row[key] for key in ("table", "seed", "stage", "model", "commit")
        }
        assert f'"n":{row["n"]}' in summary.replace(" ", "")
