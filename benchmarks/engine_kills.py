"""Kill a build of a dataset many times and see whether it ends with the same bytes, and buys nothing twice.

    python benchmarks/engine_kills.py --kills 100 --json      one JSON line
    python benchmarks/engine_kills.py --kills 10           the same for people

A server on loopback sells the answers of a world (benchmarks/_worlds.py) and counts them. A build runs undisturbed
against it; another is killed with SIGKILL again and again, each time the same command is given again: at random moments
while it starts, while answers are on their way, and while the dataset is put together. After each kill the ledger is
read as it was left: an answer that is committed there must never be bought again. In the end the datasets of both are
compared byte for byte. An answer that was on its way when the kill came was paid for and may be bought again; how many
those are is told as `lost_in_flight`.
"""

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _engine import digest, redaes, start, write_config
from _worlds import answer, configuration

IN_FLIGHT = 8
LATENCY_S = 0.01
BUILD = ("data", "build", "out", "--config", "data.yaml")
OF_KILLS_AT_THE_END = 0.05


class Shop(ThreadingHTTPServer):
    """Sells answers and counts them.

    Attributes:
        sold: how often each question was answered.
        committed: questions whose answer was in the ledger after some kill.
        rebought: answers of those, sold after that.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Counterfoil)
        self.lock = threading.Lock()
        self.sold: Counter[str] = Counter()
        self.committed: set[str] = set()
        self.rebought = 0

    def sell(self, question: str) -> str:
        """The answer, with the question on it, so that it can be found in the ledger."""
        with self.lock:
            self.sold[question] += 1
            self.rebought += question in self.committed
        return json.dumps({**answer(question.partition("@")[0]), "question": question})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Customers are killed all the time."""


class Counterfoil(BaseHTTPRequestHandler):
    """One customer's connection."""

    protocol_version = "HTTP/1.1"
    server: Shop

    def do_POST(self) -> None:
        """Answer one question."""
        question = self.rfile.read(int(self.headers["Content-Length"])).decode()
        time.sleep(LATENCY_S)
        body = self.server.sell(question).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def committed(ledger: Path) -> set[str]:
    """Questions whose answer a ledger holds, as anybody with SQLite can read them."""
    if not (ledger / "ledger.sqlite").is_file():
        return set()
    with closing(sqlite3.connect(f"file:{ledger / 'ledger.sqlite'}?mode=ro", uri=True)) as database:
        try:
            rows = database.execute("SELECT replies FROM calls WHERE status = 'ok'").fetchall()
        except sqlite3.OperationalError:  # killed before there was a table
            return set()
    return {json.loads(reply)["question"] for (replies,) in rows for reply in json.loads(replies)}


def wait_until(process: "subprocess.Popen[str]", come: Any, limit: float = 120.0) -> None:
    """Until something has come about or the process has ended."""
    end = time.monotonic() + limit
    while process.poll() is None and not come() and time.monotonic() < end:
        time.sleep(0.001)


def kill_again_and_again(place: Path, shop: Shop, kills: int, questions: int, rng: random.Random) -> int:
    """Kill one build at moments spread over its whole life.

    Returns:
        Kills made.
    """
    late = max(1, round(OF_KILLS_AT_THE_END * kills))
    progress = sorted(rng.uniform(0, 0.97) * questions for _ in range(kills - late))
    made = 0
    for index in range(kills):
        process = start(place, *BUILD)
        if index < len(progress):
            if len(shop.sold) >= progress[index]:
                wait_until(process, lambda: False, limit=rng.uniform(0, 2))
            wait_until(process, lambda aim=progress[index]: len(shop.sold) >= aim)
            time.sleep(rng.uniform(0, 0.02))
        else:
            wait_until(process, lambda: any(place.glob("out.partial-*")))
            time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        made += process.returncode == -signal.SIGKILL
        with shop.lock:
            shop.committed |= committed(place / "out.ledger")
    return made


def main() -> int:
    """Build twice; 0 if the numbers hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--sources", type=int, help="default 40 a kill, so that a build outlives its kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.sources = options.sources or 40 * options.kills
    shop = Shop()
    threading.Thread(target=shop.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{shop.server_address[1]}"
    config = configuration(options.sources, groups=options.sources // 10, url=url) | {"flow": {"in_flight": IN_FLIGHT}}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
        for place in (undisturbed, killed):
            write_config(place, config)
        redaes(undisturbed, *BUILD)
        questions = len(shop.sold)
        shop.sold.clear()
        kills = kill_again_and_again(killed, shop, options.kills, questions, random.Random(options.seed))
        redaes(killed, *BUILD)
        identical = digest(undisturbed / "out") == digest(killed / "out")
    found = {
        "identical": identical,
        "rebought": shop.rebought,
        "kills": kills,
        "questions": questions,
        "committed_at_kills": len(shop.committed),
        "lost_in_flight": shop.sold.total() - len(shop.sold),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0 if identical and not shop.rebought and kills == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
