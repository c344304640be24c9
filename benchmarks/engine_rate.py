"""How near the data engine comes to the rate its limits allow, how fast its ledger is, and whether its memory is flat.

    python benchmarks/engine_rate.py --json                                    everything, about half an hour
    python benchmarks/engine_rate.py --sources 500 --records 100000 --many 5000    smaller, for people

`rate_fraction`: 10,000 sources, answers that take 50 ms, 64 of them in flight. Ideal is calls x 50 ms / 64; measured is
the whole command, from its start to the finished dataset. `ledger_records_per_s`: 64 threads put records, each waits
until its own is on the disk. `status_s`: `redaes data status` of a ledger of 5 million records, the whole command.
`rss_growth_mb`: peak resident memory of a build of 100,000 sources less that of one of 1,000; answers take no time.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _engine import redaes, write_config
from _worlds import configuration

from redaes.engine.ledger import CallRecord, Ledger

ANSWER_S = 0.05
IN_FLIGHT = 64


def rate(place: Path, sources: int) -> dict[str, Any]:
    """The rate of calls of a whole build, as a fraction of the ideal one."""
    config = configuration(sources, latency=ANSWER_S) | {"flow": {"in_flight": IN_FLIGHT}}
    write_config(place, config)
    ran = redaes(place, "data", "build", "out", "--config", "data.yaml")
    calls = made(place)
    ideal = calls * ANSWER_S / IN_FLIGHT
    return {
        "rate_fraction": round(ideal / ran.seconds, 4),
        "calls": calls,
        "calls_per_s": round(calls / ran.seconds, 1),
        "seconds": round(ran.seconds, 2),
    }


def made(place: Path) -> int:
    """Calls in the ledger, as `redaes data status` tells them."""
    told = json.loads(redaes(place, "data", "status", "out.ledger", "--format", "json").output)
    return sum(row["calls"] for row in told["calls"])


def record(number: int) -> CallRecord:
    """A call such as a judge's comparison is."""
    return CallRecord(
        key=f"{number:064x}",
        role="compare",
        plugin=f"judge-{number % 3}",
        version="1",
        model="world",
        prompt="compare/1",
        parameters='{"temperature":0.0}',
        images=("0" * 64, f"{number:064x}"),
        source=f"train-{number // 20:06d}",
        status="ok",
        replies=json.dumps([json.dumps({"difference": 1.5, "reasoning": "The light is softer. " * 10})]),
        result=json.dumps({"judge": "judge", "value": 1.5, "reasoning": "The light is softer. " * 10}),
        input_tokens=1800,
        output_tokens=60,
        images_made=0,
        cost=0.001,
        latency=1.5,
        attempt=1,
        error="",
        at=1.8e9 + number,
    )


def records_per_s(ledger: Ledger, count: int) -> float:
    """Many threads put records and wait for each to be durable."""
    share = count // IN_FLIGHT

    def work(first: int) -> None:
        for number in range(first, first + share):
            ledger.put(record(number))

    threads = [threading.Thread(target=work, args=(k * share,)) for k in range(IN_FLIGHT)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return share * IN_FLIGHT / (time.perf_counter() - began)


def big_ledger(place: Path, durable: int, records: int) -> dict[str, Any]:
    """The speed of writing, and of looking at a ledger that has become large."""
    place.mkdir()
    with Ledger.create_or_open(place / "big.ledger") as ledger:
        speed = records_per_s(ledger, durable)
        for number in range(durable, records):
            # Now and then wait, so that what is on its way does not fill the memory.
            ledger.put(record(number), wait=number % 5000 == 0)
    seconds = min(redaes(place, "data", "status", "big.ledger").seconds for _ in range(3))
    return {"ledger_records_per_s": round(speed), "status_s": round(seconds, 2), "records": records}


def memory(place: Path, few: int, many: int) -> dict[str, Any]:
    """Peak memory of a small and of a large build."""
    peaks = []
    for sources in (few, many):
        config = configuration(sources, editors=1, judges=1, verifiers=1) | {"mode": "eager"}
        write_config(place / str(sources), config)
        peaks.append(redaes(place / str(sources), "data", "build", "out", "--config", "data.yaml").rss_mb)
    return {"rss_growth_mb": round(peaks[1] - peaks[0], 1), "rss_mb": [round(p, 1) for p in peaks], "many": many}


def main() -> int:
    """Run all parts; 0 if the numbers hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=10_000)
    parser.add_argument("--durable", type=int, default=50_000, help="records put one by one")
    parser.add_argument("--records", type=int, default=5_000_000, help="in the ledger whose status is asked")
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--only", choices=("rate", "ledger", "memory"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.only in (None, "rate"):
            found |= rate(Path(folder) / "rate", options.sources)
        if options.only in (None, "ledger"):
            found |= big_ledger(Path(folder) / "ledger", min(options.durable, options.records), options.records)
        if options.only in (None, "memory"):
            found |= memory(Path(folder) / "memory", options.few, options.many)
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    holds = {
        "rate_fraction": found.get("rate_fraction", 1) >= 0.90,
        "ledger_records_per_s": found.get("ledger_records_per_s", 3000) >= 3000,
        "status_s": found.get("status_s", 0) <= 2,
        "rss_growth_mb": found.get("rss_growth_mb", 0) <= 100,
    }
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
