"""Kill workers of a build on a Ray cluster and see whether it ends with the same bytes, and what it buys twice.

    python benchmarks/ray_kills.py --kills 20 --json      one JSON line
    python benchmarks/ray_kills.py --kills 5              the same for people

A server on loopback sells the answers of a world and counts them (benchmarks/engine_kills.py). A build by the local
runner, undisturbed, says what the dataset is. Another runs over a cluster of two node processes while its workers, the
processes that work on sources, are killed with SIGKILL at random moments spread over its life; the command itself is
started once. `rebought_fraction`: answers sold twice, those that were on their way when a kill came among them, over
questions. `rebought_committed`: those of them that were in a parquet file of the ledger when a kill came.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _engine import digest, redaes, start, write_config
from _machine import machine
from _ray import cluster
from _workload import Shape
from _worlds import configuration
from engine_kills import Shop, wait_until

IN_FLIGHT = 16
NODES = 2
BUILD = ("data", "build", "out", "--config", "data.yaml")


def committed(ledger: Path) -> set[str]:
    """Questions whose answer a ledger holds, as anybody with pyarrow can read them."""
    from pyarrow import parquet

    found = set()
    for path in ledger.glob("calls/**/*.parquet"):
        try:
            rows = parquet.ParquetFile(path).read(columns=["status", "replies"]).to_pylist()
        except FileNotFoundError:  # merged with others meanwhile
            continue
        found |= {json.loads(reply)["question"] for row in rows if row["status"] == "ok" for reply in _replies(row)}
    return found


def _replies(row: dict[str, str]) -> list[str]:
    replies: list[str] = json.loads(row["replies"])
    return replies


def workers() -> list[psutil.Process]:
    """The processes that work on sources."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith("ray::") and "SourceWorker" in words[0]:
            found.append(process)
    return found


def kill_workers(process: "subprocess.Popen[str]", place: Path, shop: Shop, moments: list[float]) -> int:
    """Kill a random worker whenever so many questions have been answered.

    Returns:
        Kills made.
    """
    rng, made = random.Random(len(moments)), 0
    for moment in moments:
        wait_until(process, lambda moment=moment: len(shop.sold) >= moment, limit=600)
        wait_until(process, workers, limit=120)
        victims = workers()
        if process.poll() is not None or not victims:
            break
        with shop.lock:
            shop.committed |= committed(place / "out.ledger")
        rng.choice(victims).send_signal(signal.SIGKILL)
        made += 1
        time.sleep(rng.uniform(0, 0.5))
    return made


def main() -> int:
    """Build twice; 0 if the numbers hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sources", type=int, help="default 100 a kill, so that a build outlives its kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sources = options.sources or 100 * options.kills
    shop = Shop()
    threading.Thread(target=shop.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{shop.server_address[1]}"
    config = configuration(sources, groups=sources // 10, url=url) | {"flow": {"in_flight": IN_FLIGHT}}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, cluster(NODES):
        undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
        for place in (undisturbed, killed):
            write_config(place, config)
        redaes(undisturbed, *BUILD)
        questions = len(shop.sold)
        shop.sold.clear()
        rng = random.Random(options.seed)
        moments = sorted(rng.uniform(0.01, 0.97) * questions for _ in range(options.kills))
        process = start(killed, *BUILD, "--runner", "ray")
        kills = kill_workers(process, killed, shop, moments)
        process.communicate()
        if process.returncode:
            raise SystemExit(f"the build failed:\n{(killed / 'log').read_text()[-2000:]}")
        identical = digest(undisturbed / "out") == digest(killed / "out")
    found = {
        "identical": identical,
        "rebought_fraction": round((shop.sold.total() - len(shop.sold)) / questions, 5),
        "rebought_committed": shop.rebought,
        "kills": kills,
        "questions": questions,
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(Shape(threads=1)),
    }
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0 if identical and found["rebought_fraction"] <= 0.01 and kills == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
