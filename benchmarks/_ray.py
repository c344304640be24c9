"""A Ray cluster of several node processes on this machine, for benchmarks of the runner `ray`."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from _engine import ROOT

MEGABYTE = 2**20


@contextmanager
def cluster(nodes: int, cores: int = 1) -> Iterator[Any]:
    """A cluster; `redaes` finds it, as any program does, by RAY_ADDRESS.

    Args:
        nodes: processes of Ray that each believe to be a machine.
        cores: that each of them offers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Nodes hand on their own environment, not the command's.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cores, "object_store_memory": 200 * MEGABYTE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**node, "gcs_server_port": free_port()})
    before = os.environ.get("RAY_ADDRESS")
    try:
        for _ in range(nodes - 1):
            made.add_node(**node)
        made.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = made.address
        yield made
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
        made.shutdown()


def free_port() -> int:
    """A port that nobody listens at."""
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
