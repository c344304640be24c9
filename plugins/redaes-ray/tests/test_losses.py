"""The whole cluster dies in the middle of a build: the command says so and ends, and the same command goes on.

A server on loopback sells the answers and counts them (benchmarks/engine_kills.py).
"""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

from benchmarks._worlds import configuration  # noqa: E402
from benchmarks.engine_kills import Shop  # noqa: E402
from benchmarks.ray_kills import committed  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ray_builds import begin, build, cluster_of, dataset_files, wait_until  # noqa: E402

IN_FLIGHT = 16
SOURCES_AT_ONCE = 4 * IN_FLIGHT
"""Each has one question on its way at most: it is asked, or its answer is being written down."""
ENDS_WITHIN_S = 180.0
"""Far above what Ray takes to notice; far below for ever."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def processes(cluster: Any) -> list[Any]:
    """All of a cluster's processes: of its nodes, and the workers that those have started."""
    started = [
        info.process.pid for node in cluster.list_all_nodes() for infos in node.all_processes.values() for info in infos
    ]
    found = [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)]
    return list({process.pid: process for one in found for process in (one, *one.children(recursive=True))}.values())


def kill(cluster: Any) -> int:
    """Kill them all at once; how many there were."""
    victims = processes(cluster)
    for victim in victims:
        victim.suspend()  # nobody sees another die
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, timeout=30)
    return len(victims)


@pytest.mark.slow
def test_after_the_loss_of_the_whole_cluster_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, shop: Shop
) -> None:
    sources = 200
    url = f"http://127.0.0.1:{shop.server_address[1]}"
    values = configuration(sources, groups=sources // 10, url=url) | {"flow": {"in_flight": IN_FLIGHT}}
    (tmp_path / "data.yaml").write_text(json.dumps(values))
    assert build(tmp_path, "local") == 0
    questions = len(shop.sold)
    shop.sold.clear()

    with cluster_of({"num_cpus": 2}, {"num_cpus": 2}) as cluster:
        driver = begin(tmp_path, "out", "--runner", "ray")
        wait_until(lambda: len(shop.sold) > questions // 3 or driver.poll() is not None)
        assert driver.poll() is None, (tmp_path / "log").read_text()[-2000:]
        before = len((tmp_path / "log").read_text())
        assert kill(cluster) > 6
        assert driver.wait(timeout=ENDS_WITHIN_S) not in (0, None)
    with shop.lock:
        shop.committed = committed(tmp_path / "out.ledger")
    assert shop.committed
    told = (tmp_path / "log").read_text()[before:]
    assert "Traceback" not in told, told
    assert "run the same command again to go on" in told, told
    assert len(shop.sold) < questions

    with cluster_of({"num_cpus": 2}, {"num_cpus": 2}):
        assert build(tmp_path, "out", "--runner", "ray") == 0, (tmp_path / "log").read_text()[-2000:]
    assert dataset_files(tmp_path / "out") == dataset_files(tmp_path / "local")
    assert len(shop.sold) == questions
    again = shop.sold.total() - questions
    print(f"{again} of {questions} answers were bought again, {len(shop.committed)} were in the ledger")
    assert shop.rebought == 0
    assert again <= SOURCES_AT_ONCE
