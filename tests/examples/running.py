"""Examples are run as a person runs them: a script of the repository, in a folder of one's own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words: object, cwd: Path, beside: Path | None = None, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """Run python with some words; modules in `beside` can be imported."""
    paths = filter(None, (str(beside or ""), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout, check=False
    )


def example(name: str, *words: object, cwd: Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """Run `examples/NAME`."""
    return run(ROOT / "examples" / name, *words, cwd=cwd, timeout=timeout)
