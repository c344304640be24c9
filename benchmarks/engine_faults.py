"""Break a fifth of a server's answers in every way they break, and see whether builds end with the right dataset.

    python benchmarks/engine_faults.py --json            every fault, one JSON line
    python benchmarks/engine_faults.py --only 429        some of them, for people

A server on loopback speaks the vendors' protocols (benchmarks/vendors); `redaes data build` asks it through the real
`openai` and `anthropic` SDKs. A build runs undisturbed. Then one runs per fault, each from nothing, against a server
that puts the fault in the place of one answer in five, never more than twice in a row; where calls are given up,
`redaes data retry` asks them again, with the fault still there. Of each fault is told:

    answers          that the server gave, of the sort that the fault can befall
    injected         how many of them were the fault
    survived         build and retries came to their end without a source left out
    dataset_right    the dataset is byte for byte the undisturbed one
    retries          how often `redaes data retry` was needed
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

from _engine import digest, start, write_config  # noqa: E402
from benchmarks.vendors.crew import configuration, environment  # noqa: E402
from benchmarks.vendors.faults import TRANSPORT, WORDS, Faults  # noqa: E402
from benchmarks.vendors.images import PICTURES  # noqa: E402
from benchmarks.vendors.server import running  # noqa: E402
from benchmarks.vendors.state import Vendors  # noqa: E402

FAULTS = (*TRANSPORT, *WORDS, *PICTURES)
SHARE = 0.2
KEY = "key-of-the-fault-matrix"
TIMEOUT_S = 3.0
MOST_RETRIES = 8
PATHS = {"chat": ("/v1/chat/completions", "/v1/messages"), "images": ("/v1/images/edits", "/v1/images/generations")}


def run(place: Path, *words: str) -> int:
    """`redaes ...` to its end; gives the exit code."""
    process = start(place, *words)
    process.communicate(timeout=600)
    return process.returncode


def build(place: Path, config: dict[str, Any], faults: Faults) -> dict[str, Any]:
    """Build a dataset against a server with faults, and ask again what was given up."""
    write_config(place, config)
    vendors = Vendors(key=KEY, faults=faults)
    retries = 0
    with running(vendors) as address:
        os.environ.update(environment(address, KEY))
        code = run(place, "data", "build", "out", "--config", "data.yaml")
        while code == 1 and retries < MOST_RETRIES:
            retries += 1
            code = run(place, "data", "retry", "out")
    befallen = [name for name, kinds in (("chat", WORDS), ("images", PICTURES)) if {*faults.kinds} <= {*kinds}]
    paths = [path for name in befallen or PATHS for path in PATHS[name]]
    return {
        "answers": sum(vendors.requests[path] for path in paths),
        "injected": faults.injected.total(),
        "survived": code == 0,
        "retries": retries,
    }


def matrix(folder: Path, only: list[str], sources: int, seed: int) -> dict[str, Any]:
    """All faults, one after the other; what went wrong is shown on the way."""
    config = configuration(sources, timeout=TIMEOUT_S)
    build(folder / "undisturbed", config, Faults())
    right = digest(folder / "undisturbed" / "out")
    if "pairs.jsonl" not in right:
        raise SystemExit(f"the undisturbed build failed:\n{(folder / 'undisturbed' / 'log').read_text()[-2000:]}")
    told = {}
    for fault in only:
        began = time.perf_counter()
        place = folder / fault
        faults = Faults([fault], SHARE, seed, delay=TIMEOUT_S + 1, retry_after=1.0)
        found = build(place, config, faults)
        found["dataset_right"] = digest(place / "out") == right
        told[fault] = {**found, "seconds": round(time.perf_counter() - began, 1)}
        if not held(told[fault]):
            print(f"{fault}:\n{(place / 'log').read_text()[-2000:]}", file=sys.stderr)
    return told


def held(found: dict[str, Any]) -> bool:
    """Whether there were faults, and a build that they did not harm."""
    return bool(found["injected"] and found["survived"] and found["dataset_right"])


def table(told: dict[str, dict[str, Any]]) -> str:
    """For people."""
    columns = ("answers", "injected", "survived", "dataset_right", "retries", "seconds")
    lines = [f"{'fault':16}" + "".join(f"{name:>14}" for name in columns)]
    return "\n".join(
        [*lines, *(f"{fault:16}" + "".join(f"{found[c]!s:>14}" for c in columns) for fault, found in told.items())]
    )


def main() -> int:
    """Run the matrix; 0 if every fault left the dataset as it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = matrix(Path(folder), options.only, options.sources, options.seed)
    whole = {"share": SHARE, "held": sum(map(held, told.values())), "of": len(told), "faults": told}
    print(json.dumps(whole) if options.json else table(told))
    return 0 if whole["held"] == whole["of"] else 1


if __name__ == "__main__":
    sys.exit(main())
