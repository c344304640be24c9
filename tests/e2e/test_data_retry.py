"""A source with a call that was given up is left out and counted; asked again, it is there as if nothing had been."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks._engine import digest
from benchmarks._worlds import configuration

ROOT = Path(__file__).resolve().parents[2]


def redaes(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "redaes", *words]
    return subprocess.run(
        command, cwd=place, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_what_was_given_up_is_asked_again(tmp_path: Path) -> None:
    config = configuration(40, groups=4)
    stubborn = {"class_path": "tests.e2e.stubborn.Stubborn", "init_args": {"name": "judge-2", "sulk": "sulk"}}
    config["judges"] = [*config["judges"][:2], stubborn]
    (tmp_path / "data.yaml").write_text(json.dumps(config))
    calm = redaes(tmp_path, "data", "build", "calm", "--config", "data.yaml")
    assert calm.returncode == 0, calm.stderr

    (tmp_path / "sulk").touch()
    first = redaes(tmp_path, "data", "build", "out", "--config", "data.yaml")
    assert first.returncode == 1
    left_out = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["incomplete"]
    assert 0 < left_out < 40
    assert f"{left_out} sources are left out" in first.stderr
    assert "`redaes data retry out` asks again" in first.stderr.splitlines()[-1]
    assert "Traceback" not in first.stderr
    told = [line for line in first.stderr.splitlines() if line.startswith("left out: source ")]
    assert len(told) == min(left_out, 5)
    assert all("judge-2" in line for line in told)

    again = redaes(tmp_path, "data", "build", "out", "--config", "data.yaml")
    assert again.returncode == 1, "a finished dataset that is not complete says so again"
    sulking = redaes(tmp_path, "data", "retry", "out")
    assert sulking.returncode == 1
    assert f"out: {left_out} calls that were given up are asked again" in sulking.stderr

    (tmp_path / "sulk").unlink()
    done = redaes(tmp_path, "data", "retry", "out", "--workers", "3")
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == digest(tmp_path / "calm")


def test_status_tells_of_a_ledger_and_nothing_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(json.dumps(configuration(5)))
    assert redaes(tmp_path, "data", "build", "out", "--config", "data.yaml", "--ledger", "book").returncode == 0
    told = json.loads(redaes(tmp_path, "data", "status", "book", "--format", "json").stdout)
    assert [(b["sources"], b["done"]) for b in told["builds"]] == [(5, 5)]
    assert sum(row["calls"] for row in told["calls"] if row["role"] == "score") == 15
    nothing = redaes(tmp_path, "data", "status", "nowhere")
    assert nothing.returncode == 2
    assert nothing.stderr == "error: no dataset at nowhere, finished or begun; make one with `redaes data build`\n"
    lost = redaes(tmp_path, "data", "retry", "nowhere")
    assert lost.returncode == 2
    assert "no ledger of nowhere in nowhere.ledger" in lost.stderr
