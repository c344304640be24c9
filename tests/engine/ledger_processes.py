"""Records for the ledger's tests, and processes that put them: `python ledger_processes.py FOLDER NAME LOCK`."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from redaes.engine.ledger import CallRecord, Ledger

PLAIN = CallRecord(
    key="key",
    role="compare",
    plugin="openai_compatible",
    version="1",
    model="a-model",
    prompt="compare-1",
    parameters='{"temperature": 0}',
    images=("a" * 64, "b" * 64),
    source="coffee-7",
    status="ok",
    replies='["The second is brighter. 2.5"]',
    result='{"value": 2.5}',
    input_tokens=900,
    output_tokens=40,
    images_made=0,
    cost=0.0021,
    latency=0.8,
    attempt=1,
    error="",
    at=1.8e9,
)


def record(key: str, **changes: object) -> CallRecord:
    """A call's record that tells its key."""
    return replace(PLAIN, key=key, source=f"source of {key}", **changes)  # type: ignore[arg-type]


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder on a disk that needs no waiting for, where there is one."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def start(folder: Path, name: str, lock: bool = True) -> "subprocess.Popen[str]":
    """A process that puts records until it is killed; it prints a key when its `put` has returned."""
    words = [sys.executable, __file__, str(folder), name, str(int(lock))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def _put_for_ever(folder: str, name: str, lock: str) -> None:
    ledger = Ledger.create_or_open(folder, lock=lock == "1", name=name)
    numbers = count()

    def work() -> None:
        for number in numbers:
            key = f"{name}-{number}"
            ledger.put(record(key))
            ledger.put_result(name, key, f"result of {key}")
            sys.stdout.write(f"{key}\n")
            sys.stdout.flush()

    for _ in range(8):
        threading.Thread(target=work).start()


if __name__ == "__main__":
    _put_for_ever(*sys.argv[1:])
