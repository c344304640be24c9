"""What the runner `ray` costs beside the local one, and whether it makes the same dataset.

    python benchmarks/ray_overhead.py --json               one JSON line; about ten minutes
    python benchmarks/ray_overhead.py --sources 1000       smaller, for people

The same build, of a world whose answers take 50 ms (benchmarks/_worlds.py) with 64 calls in flight, by the local
runner and over a cluster of two node processes on this machine that is there already, as clusters are. Both are whole
commands, from their start to the finished dataset. `overhead_fraction`: seconds of the one over seconds of the other,
less 1; of several rounds, which take turns, the median. `identical`: every file, by its hash.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _engine import digest, redaes, write_config
from _machine import machine
from _ray import cluster
from _workload import Shape
from _worlds import configuration

ANSWER_S = 0.05
IN_FLIGHT = 64
NODES = 2


def main() -> int:
    """Build in turns; 0 if the numbers hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    identical = True
    with tempfile.TemporaryDirectory() as folder, cluster(NODES):
        place = Path(folder)
        config = configuration(options.sources, latency=ANSWER_S) | {"flow": {"in_flight": IN_FLIGHT}}
        write_config(place, config)
        for _ in range(options.rounds):
            for name, words in (("local", ()), ("ray", ("--runner", "ray"))):
                ran = redaes(place, "data", "build", name, "--config", "data.yaml", *words)
                seconds[name].append(ran.seconds)
            identical = identical and digest(place / "local") == digest(place / "ray")
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() else None
    local, ray = (statistics.median(seconds[name]) for name in ("local", "ray"))
    found = {
        "overhead_fraction": round(ray / local - 1, 4),
        "identical": identical,
        "local_s": [round(value, 1) for value in seconds["local"]],
        "ray_s": [round(value, 1) for value in seconds["ray"]],
        "sources": options.sources,
        "nodes": NODES,
        "machine": machine(Shape(threads=1)),
    }
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0 if identical and found["overhead_fraction"] <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
