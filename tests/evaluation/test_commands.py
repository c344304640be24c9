"""`redaes evaluate` and `redaes report` through the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

THIRD_PARTY = """
import numpy as np
from redaes.inference import Score

class Contrast:
    def __init__(self, model="", batch_size=16, device=None):
        self.batch_size = batch_size

    def score(self, images):
        assert len(images) <= self.batch_size
        return [Score(min(10.0, float(np.asarray(image).std()) / 12), "Contrast.", "") for image in images]
"""


def redaes(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    (cwd / "third_party.py").write_text(THIRD_PARTY)
    command = [sys.executable, "-m", "redaes", *map(str, arguments)]
    path = os.pathsep.join(filter(None, (str(cwd), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def test_an_evaluation_becomes_a_report(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(finished_run / "data", run / "data")
    output = run / "evaluation" / "grpo.json"
    arguments = ["evaluate", "--data", run / "data", "--scorer", "third_party.Contrast", "--batch_size", "5"]
    result = redaes(*arguments, "--split", "test", "--output", output, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "order within groups (SRCC): 0.9" in result.stderr
    assert "scored 48/48 images" in result.stderr
    document = json.loads(output.read_text())
    assert (document["split"], document["metrics"]["n"], len(document["predictions"])) == ("test", 48, 48)
    assert set(document["predictions"][0]) == {
        "image", "group", "photograph", "g", "truth", "score", "reasoning", "text"
    }  # fmt: skip

    some = redaes(*arguments, "--images", "10", "--output", tmp_path / "some.json", cwd=tmp_path)
    assert some.returncode == 0, some.stderr
    assert json.loads((tmp_path / "some.json").read_text())["metrics"]["n"] == 12

    result = redaes("report", run, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads((run / "results.json").read_text())["summary"]
    assert summary["srcc_within_grpo"] > 0.9
    assert summary["srcc_within_calibrated"] is None
    assert (run / "report.html").stat().st_size > 50_000
    assert "3 · after GRPO" in (run / "results.md").read_text()


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("no dataset at", ["evaluate", "--data", "missing"]),
        ("no groups in the split 'validation'", ["evaluate", "--data", "data", "--split", "validation"]),
        ("must be at least 1", ["evaluate", "--data", "data", "--images", "0"]),
        ("no run folder", ["report", "missing"]),
        ("holds nothing of a run", ["report", "empty"]),
    ],
)
def test_bad_input_is_one_line(finished_run: Path, tmp_path: Path, words: str, arguments: list[str]) -> None:
    (tmp_path / "data").symlink_to(finished_run / "data")
    (tmp_path / "empty").mkdir()
    result = redaes(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
