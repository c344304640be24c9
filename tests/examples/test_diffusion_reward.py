"""A toy diffusion model is trained by the score of what it makes, and the curve is printed."""

import re
from pathlib import Path
from statistics import fmean

import pytest
from tests.examples.running import example


def rewards(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"^step +\d+  reward +([\d.]+) ±", printed, re.MULTILINE)]


def test_it_prints_a_reward_for_every_step(tmp_path: Path) -> None:
    done = example("diffusion_reward.py", "--steps", 2, "--batch", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(rewards(done.stdout)) == 2
    assert re.search(r"^8 images scored, \d of them without", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_what_it_makes_scores_higher_in_the_end(tmp_path: Path) -> None:
    curve = rewards(example("diffusion_reward.py", cwd=tmp_path).stdout)
    assert len(curve) == 30
    assert fmean(curve[-5:]) > fmean(curve[:5]) + 1
