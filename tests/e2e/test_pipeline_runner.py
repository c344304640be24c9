"""Pipelines as a person runs them: skipped when done, begun anew when changed, continued after an interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

# A slow scorer of a third party: pauses for each image, and writes down how often it was started.
SCORER = """
import time
from pathlib import Path
from redaes.inference import Score

class Slow:
    def __init__(self, model="", batch_size=16, device=None):
        self.pause = float(Path("pause.txt").read_text())
        with open("starts.txt", "a") as log:
            log.write(model + "\\n")

    def score(self, images):
        time.sleep(self.pause * len(images))
        if Path("fail.txt").exists():
            raise RuntimeError("the scorer has failed")
        return [Score(5.0, "Fair.", "") for _ in images]
"""

PIPELINE = """
output: out
model: one
steps:
  - name: first
    command: [score, photos, --model, "${model}", --output, "${output}/first.csv", --scorer, slow.Slow, --batch_size, 1]
    inputs: [photos]
    outputs: ["${output}/first.csv"]
  - name: aside
    command: [score, photos, --model, aside, --output, "${output}/aside.csv", --scorer, slow.Slow]
    inputs: [photos]
    outputs: ["${output}/aside.csv"]
  - name: second
    command: [score, photos, --model, last, --output, "${output}/second.csv", --scorer, slow.Slow]
    inputs: ["${output}/first.csv"]
    outputs: ["${output}/second.csv"]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SCORER)
    (tmp_path / "pause.txt").write_text("0")
    (tmp_path / "p.yaml").write_text(PIPELINE)
    (tmp_path / "photos").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def _command(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "redaes", "run", "p.yaml", *words]


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run(
        _command(words), cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def starts(place: Path) -> list[str]:
    """Models of the scorers started since the last call, in order."""
    log = place / "starts.txt"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def states(place: Path, folder: str = "out") -> dict[str, str]:
    steps = json.loads((place / folder / "run.json").read_text())["steps"]
    return {name: step["status"] for name, step in steps.items()}


def test_every_step_runs_once_and_its_cost_is_written_down(place: Path) -> None:
    result = run(place)
    assert result.returncode == 0, result.stderr
    assert starts(place) == ["one", "aside", "last"]
    for step in json.loads((place / "out" / "run.json").read_text())["steps"].values():
        assert step["status"] == "done"
        assert step["seconds"] > 0
        assert 10 < step["peak_memory_mb"] < 4000
    again = run(place)
    assert again.returncode == 0
    assert starts(place) == []
    assert "3 of 3 steps are done already" in again.stderr


def test_a_changed_step_runs_again_with_those_that_read_its_outputs(place: Path) -> None:
    run(place)
    starts(place)
    assert run(place, "--set", "model=two").returncode == 0
    assert starts(place) == ["two", "last"]


def test_changed_inputs_count_as_a_change(place: Path) -> None:
    run(place)
    starts(place)
    Image.new("RGB", (8, 8), "white").save(place / "photos" / "0.png")
    run(place)
    assert starts(place) == ["one", "aside", "last"]


def test_a_changed_configuration_file_counts_as_a_change(tmp_path: Path) -> None:
    from redaes.pipeline import fingerprints, load_pipeline

    (tmp_path / "a.yaml").write_text("seed: 1\n")
    (tmp_path / "p.yaml").write_text(
        f"output: {tmp_path}/out\nsteps:\n"
        f"  - {{name: a, command: [fit, --config, {tmp_path}/a.yaml]}}\n  - {{name: b, command: [report, x]}}\n"
        f"  - {{name: c, command: [report, y], inputs: []}}\n"
    )
    before = fingerprints(load_pipeline(tmp_path / "p.yaml"))
    (tmp_path / "a.yaml").write_text("seed: 2\n")
    after = fingerprints(load_pipeline(tmp_path / "p.yaml"))
    assert [name for name in before if before[name] != after[name]] == ["a", "b"]


def test_outputs_that_were_deleted_are_made_again(place: Path) -> None:
    run(place)
    starts(place)
    (place / "out" / "second.csv").unlink()
    assert run(place).returncode == 0
    assert starts(place) == ["last"]


def test_from_begins_anew_at_a_step_and_takes_the_earlier_ones_as_they_are(place: Path) -> None:
    early = run(place, "--from", "second")
    assert early.returncode == 2
    assert "step 'first' before it has not finished" in early.stderr
    run(place)
    starts(place)
    assert run(place, "--from", "aside", "--set", "model=other").returncode == 0
    assert starts(place) == ["aside", "last"]
    assert "did you mean 'second'?" in run(place, "--from", "secnd").stderr


def test_a_failure_stops_the_run_and_says_how_to_go_on(place: Path) -> None:
    (place / "fail.txt").touch()
    result = run(place, "--output", "elsewhere")
    assert result.returncode == 1
    assert "step 'first' failed with exit code 1; go on with: redaes run p.yaml --output elsewhere" in result.stderr
    assert states(place, "elsewhere") == {"first": "failed", "aside": "waiting", "second": "waiting"}
    assert starts(place) == ["one"]
    (place / "fail.txt").unlink()
    assert run(place, "--output", "elsewhere").returncode == 0
    assert starts(place) == ["one", "aside", "last"]


def test_an_interrupted_step_ends_cleanly_and_continues_where_it_was(place: Path) -> None:
    (place / "pause.txt").write_text("0.5")
    environment = {**os.environ, "PYTHONPATH": str(place)}
    process = subprocess.Popen(_command(()), cwd=place, env=environment, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: (place / "out" / "first.csv").is_file() and _rows(place) >= 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped in step 'first'; go on with: redaes run p.yaml" in errors
    assert "Traceback" not in errors
    assert states(place)["first"] == "interrupted"
    first = json.loads((place / "out" / "run.json").read_text())["steps"]["first"]["seconds"]
    scored = _rows(place)
    assert 1 <= scored < 4
    (place / "pause.txt").write_text("0")
    again = run(place)
    assert again.returncode == 0, again.stderr
    assert f"already holds {scored} of 4 images" in again.stderr
    assert json.loads((place / "out" / "run.json").read_text())["steps"]["first"]["seconds"] > first


def _rows(place: Path) -> int:
    return max(0, len((place / "out" / "first.csv").read_text().splitlines()) - 1)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.05)


def test_files_that_no_pipeline_has_made_are_left_alone(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "first.csv").write_text("mine")
    result = run(place)
    assert result.returncode == 2
    assert "was not made by this pipeline" in result.stderr
    assert (place / "out" / "first.csv").read_text() == "mine"


def test_the_last_line_is_the_summary_of_the_results(place: Path) -> None:
    run(place)
    (place / "out" / "results.json").write_text('{"summary": {"srcc_grpo": 0.5}, "stages": {}}')
    assert run(place).stdout == '{"srcc_grpo": 0.5}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: out\nsteps: []\n", "steps: "),
        ("output: out\nsteps: [{nam: a, command: [x]}]\n", "unknown key 'steps.0.nam' (did you mean 'name'?"),
        ("output: out\nsteps: [{name: a, command: [x]}, {name: a, command: [y]}]\n", "two steps are called 'a'"),
        ("output: out\nsteps: [{name: a, command: [x], outputs: [/etc/x]}]\n", "which is not inside out"),
        (
            "output: out\nsteps: [{name: a, command: [x], inputs: [gone]}]\n",
            "step 'a' reads gone, which neither exists",
        ),
        ("output: ${nowhere}\nsteps: [{name: a, command: [x]}]\n", "nowhere"),
    ],
)
def test_a_bad_pipeline_is_one_line(place: Path, text: str, message: str) -> None:
    (place / "p.yaml").write_text(text)
    result = run(place)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_the_shipped_pipeline_is_complete_and_goes_where_it_is_told(tmp_path: Path) -> None:
    from redaes.pipeline import fingerprints, load_pipeline
    from redaes.presets import resolve_config

    pipeline = load_pipeline(resolve_config("nano/pipeline.yaml"), [f"output={tmp_path}/run"])
    assert len(fingerprints(pipeline)) == len(pipeline.steps)
    words = [word for step in pipeline.steps for word in step.command]
    assert not any("runs/nano" in word for word in words)
