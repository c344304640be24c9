"""Builds over a cluster of several node processes: the same bytes as the local runner's, whatever dies meanwhile."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("psutil")

from benchmarks._worlds import configuration

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ray_builds import begin, build, cluster_of, dataset_files, wait_until

SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}

POISON = '''
import os
from benchmarks._worlds import Judge


class Fragile(Judge):
    """Its process ends when it sees one picture."""

    def score(self, image):
        if image.tobytes()[:16].hex() == os.environ["POISON"]:
            os._exit(11)
        return super().score(image)
'''


@pytest.fixture
def cluster() -> Iterator[Any]:
    with cluster_of(SMALL, SMALL) as made:
        yield made


def world(place: Path, sources: int, latency: float = 0.02) -> dict[str, Any]:
    values = configuration(sources, groups=sources // 10, latency=latency) | {"flow": {"in_flight": 16}}
    (place / "data.yaml").write_text(json.dumps(values))
    return values


def parts(place: Path) -> int:
    return len(list(place.glob("out.ledger/results/**/*.parquet")))


@pytest.mark.slow
def test_the_loss_of_a_node_and_of_the_driver_leaves_the_bytes_as_they_are(tmp_path: Path, cluster: Any) -> None:
    world(tmp_path, 120)
    assert build(tmp_path, "local") == 0
    lost = cluster.add_node(**SMALL)
    cluster.wait_for_nodes()

    driver = begin(tmp_path, "out", "--runner", "ray")
    wait_until(lambda: parts(tmp_path) >= 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    driver = begin(tmp_path, "out", "--runner", "ray")
    before = parts(tmp_path)
    wait_until(lambda: parts(tmp_path) > before or driver.poll() is not None)
    cluster.remove_node(lost, allow_graceful=False)
    assert driver.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-2000:]
    assert dataset_files(tmp_path / "out") == dataset_files(tmp_path / "local")

    report = subprocess.run(
        [sys.executable, "-m", "redaes", "data", "status", "out.ledger", "--format", "json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(report.stdout)
    assert told["builds"][0]["done"] == 120
    assert sum(row["calls"] for row in told["calls"]) > 120


@pytest.mark.slow
def test_a_source_that_kills_its_worker_is_left_out_and_named(tmp_path: Path, cluster: Any) -> None:
    values = world(tmp_path, 12, latency=0.0)
    (tmp_path / "fragile.py").write_text(POISON)
    assert build(tmp_path, "local") == 0
    from PIL import Image

    sources = [json.loads(line) for line in (tmp_path / "local" / "sources.jsonl").read_text().splitlines()]
    poisoned = sources[5]["source"]
    pixels = Image.open(tmp_path / "local" / poisoned["image"]).convert("RGB").tobytes()
    values["judges"][0]["class_path"] = "fragile.Fragile"
    (tmp_path / "data.yaml").write_text(json.dumps(values))

    marked = POISON.replace('os.environ["POISON"]', repr(pixels[:16].hex()))
    (tmp_path / "fragile.py").write_text(marked)
    assert build(tmp_path, "out", "--runner", "ray") == 1
    kept = [json.loads(line)["source"]["id"] for line in (tmp_path / "out" / "sources.jsonl").read_text().splitlines()]
    assert kept == [row["source"]["id"] for row in sources if row["source"] != poisoned]
