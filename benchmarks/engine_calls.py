"""How many calls a lazy build makes of those an eager one makes, for the same dataset.

    python benchmarks/engine_calls.py --json          one JSON line
    python benchmarks/engine_calls.py --sources 300   smaller, for people

Both build the same world (benchmarks/_worlds.py) with the paper's rates: five editors of which an edit passes with
63.7 %, two verifiers, three judges of which two agree with 67.8 %. Counted are the calls to edit, verify and compare;
scores and instructions are the same in both. A second world has groups too; there is no number to reach for those.

The first verifier gives a failed edit so little that the second cannot save it in about half of the cases; that share
is this world's, not the paper's. `calls_ratio_both_verifiers` counts as if both had always been asked.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _engine import calls, digest, kept, redaes, write_config
from _worlds import configuration


def compare(place: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Build eagerly and lazily, each with a ledger of its own."""
    write_config(place, config)
    for mode in ("eager", "lazy"):
        redaes(place, "data", "build", mode, "--config", "data.yaml", "--mode", mode)
    eager, lazy = calls(place / "eager"), calls(place / "lazy")
    both = sum(lazy.values()) - lazy["verify"] + 2 * lazy["edit"]
    return {
        "eager": eager,
        "lazy": lazy,
        "calls_ratio": round(sum(lazy.values()) / sum(eager.values()), 4),
        "calls_ratio_both_verifiers": round(both / sum(eager.values()), 4),
        "compare_ratio": round(lazy["compare"] / eager["compare"], 4),
        "identical": kept(digest(place / "eager")) == kept(digest(place / "lazy")),
    }


def main() -> int:
    """Run both worlds; 0 if the numbers hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder) / "pairs", configuration(options.sources, local=True))
        few = options.sources // 5
        groups = compare(Path(folder) / "groups", configuration(few, groups=few, local=True))
    found |= {"sources": options.sources, "groups": groups}
    found["identical"] = found["identical"] and groups["identical"]
    if options.json:
        print(json.dumps(found))
    else:
        print(f"edit, verify and compare calls: {found['lazy']} of {found['eager']}")
        print(f"calls_ratio {found['calls_ratio']} (<= 0.70), compare_ratio {found['compare_ratio']} (<= 0.40)")
        print(f"the same dataset: {found['identical']}")
    return 0 if found["identical"] and found["calls_ratio"] <= 0.70 and found["compare_ratio"] <= 0.40 else 1


if __name__ == "__main__":
    sys.exit(main())
