"""Builds over real SDKs against a server that breaks a fifth of its answers end with the undisturbed dataset."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "engine_faults.py"


@pytest.mark.slow
def test_broken_answers_change_no_byte_of_the_dataset() -> None:
    only = ["429", "refusal", "corrupt_image"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--only", *only],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    faults = json.loads(done.stdout)["faults"]
    assert list(faults) == only
    for found in faults.values():
        assert found["injected"] > 0
        assert found["survived"]
        assert found["dataset_right"]
