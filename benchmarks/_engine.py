"""The command line as the benchmarks of the data engine use it, and what they compare."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("sources.jsonl", "pairs.jsonl", "groups.jsonl", "calibration.jsonl")
"""What lazy and eager have in common, beside the images."""


class Ran(NamedTuple):
    """A finished command: seconds on the wall, peak resident memory in MB, and what it printed."""

    seconds: float
    rss_mb: float
    output: str


def start(place: Path, *words: str) -> "subprocess.Popen[str]":
    """Begin `redaes ...` in a folder; what it writes goes to `log` there."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    with (place / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "redaes", *words],
            cwd=place,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def redaes(place: Path, *words: str) -> Ran:
    """Run `redaes ...` in a folder to its end.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    process = start(place, *words)
    assert process.stdout is not None
    output = process.stdout.read()
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"redaes {' '.join(words)} failed:\n{(place / 'log').read_text()[-2000:]}")
    return Ran(time.perf_counter() - began, used.ru_maxrss / 1024, output)


def write_config(place: Path, values: dict[str, Any], name: str = "data.yaml") -> None:
    """A configuration file; JSON is YAML."""
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(json.dumps(values))


def digest(dataset: Path) -> dict[str, str]:
    """A hash of every file of a dataset."""
    files = sorted(p for p in dataset.rglob("*") if p.is_file())
    return {p.relative_to(dataset).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def kept(files: dict[str, str]) -> dict[str, str]:
    """What must not depend on lazy or eager."""
    return {name: value for name, value in files.items() if name in KEPT or name.startswith("images/")}


def calls(dataset: Path) -> dict[str, int]:
    """Calls that a dataset's manifest counts, by role."""
    counted = json.loads((dataset / "manifest.json").read_text())["statistics"]["calls"]
    return {role: count["made"] for role, count in counted.items()}
