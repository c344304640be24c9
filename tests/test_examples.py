"""The examples run as they stand, and show what they say they show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def ran(name: str, *words: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_diffusion_model_learns_to_make_what_scores_higher() -> None:
    pytest.importorskip("diffusers")
    shown = ran("diffusion_reward.py", "--steps", "16")
    curve = [float(value) for value in re.findall(r"reward +([\d.]+)", shown)]
    assert len(curve) == 16
    assert sum(curve[-4:]) / 4 > sum(curve[:4]) / 4 + 1
    assert "768 images scored" in shown
