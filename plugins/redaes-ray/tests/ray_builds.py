"""What tests of builds over a cluster share: clusters of several node processes, the command, datasets to compare."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parents[2]
# The first entry of sys.path may be a word of pytest's; what children import is what this process could.
PATHS = [str(ROOT), str(TESTS), *sys.path]


@contextmanager
def cluster_of(*nodes: Mapping[str, Any]) -> Iterator[Any]:
    """A cluster of node processes, the first of which is the head; `redaes` finds it by RAY_ADDRESS.

    Args:
        nodes: what each offers, such as `{"num_cpus": 1}`.
    """
    from ray.cluster_utils import Cluster

    before = {name: os.environ.get(name) for name in ("RAY_USAGE_STATS_ENABLED", "PYTHONPATH", "RAY_ADDRESS")}
    # Nodes hand on their own environment, not the command's.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(PATHS)}
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    small = {"object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**small, **nodes[0], "gcs_server_port": port})
    try:
        for node in nodes[1:]:
            made.add_node(**{**small, **node})
        made.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = made.address
        yield made
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        made.shutdown()


def begin(place: Path, output: str, *words: str) -> "subprocess.Popen[str]":
    """Start a build in a folder; what it says goes to `log` there."""
    words = words if "--config" in words else (*words, "--config", "data.yaml")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *PATHS]), "OMP_NUM_THREADS": "1"}
    with (place / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "redaes", "data", "build", output, *words],
            cwd=place, env=environment, stdout=log, stderr=log, text=True,
        )  # fmt: skip


def build(place: Path, output: str, *words: str) -> int:
    """Build in a folder; the command's exit code."""
    return begin(place, output, *words).wait(timeout=400)


def dataset_files(dataset: Path) -> dict[str, str]:
    """A digest of each file."""
    found = sorted(p for p in dataset.rglob("*") if p.is_file())
    return {p.relative_to(dataset).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def wait_until(come: Callable[[], Any], limit: float = 180.0) -> None:
    """Until something has come about."""
    end = time.monotonic() + limit
    while not come():
        assert time.monotonic() < end
        time.sleep(0.05)
