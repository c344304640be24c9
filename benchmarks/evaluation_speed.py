"""How fast the evaluation is: its runner, one pass against a generation, batches against single images, the bootstrap.

    python benchmarks/evaluation_speed.py --json
    python benchmarks/evaluation_speed.py --only bootstrap --json

Everything runs on the nano model that comes with the package, or needs no model. Medians of alternating runs:

    overhead_fraction   `redaes evaluate` on so many JPEG files, seconds outside the scorer as a share of the seconds in
                        it; without what the same command takes when every answer is there (opening the model, reading
                        the table, the measures with their intervals: `again_s`). The larger of that of nano and of a
                        scorer that takes a fixed time an image. `overhead_beside_bare_scorer`: the same seconds beyond
                        those of `Scorer.score` on the files alone, as a share of those
    expectation_ratio   images a second of `logit_expectation` over those of generation by `redaes.Scorer`, each at the
                        best of its batch sizes; the same opened images, all of the preparation in both. Beside it the
                        ratio at each batch size, and that over transformers' `generate` (`hf_vlm`)
    batching_ratio      seconds of transformers' `generate` on one photograph after another over those of
                        `redaes.Scorer` with its defaults; files of the same pixels, and the texts must be equal
    bootstrap_s         PLCC, SRCC and KRCC of 20,000 pairs with intervals of 1,000 resamples, together

JSON is one line on stdout; all else goes to stderr.
"""

import argparse
import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from _evaluation import write_nano, write_photographs
from _machine import child, machine
from _workload import Shape
from grpo_step import rounded

SCRIPT = "_evaluation.py"
PARTS = ("overhead", "expectation", "batching", "bootstrap")


def overhead(shape: Shape, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The runner around nano, and around a scorer of a known time an image."""
    write_photographs(folder, options.images, (640, 480), "jpg")
    found: dict[str, Any] = {"overhead_images": options.images}
    fractions = {}
    for scorer in ("nano", f"{options.pace}ms"):
        run = child(SCRIPT, "runner", shape, folder, scorer=scorer)
        outside = run["first_s"] - run["scorer_s"] - run["again_s"]
        fractions[scorer] = outside / run["scorer_s"]
        found[f"overhead_{scorer}"] = {"fraction": fractions[scorer], **run}
        if "alone_s" in run:
            beyond = run["first_s"] - run["again_s"] - run["alone_s"]
            found["overhead_beside_bare_scorer"] = beyond / run["alone_s"]
    return {"overhead_fraction": max(fractions.values()), **found}


def expectation(shape: Shape, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One pass against a generation."""
    write_photographs(folder, options.photographs)
    run = child(SCRIPT, "expectation", shape, folder, passes=options.repeats, batch_sizes=options.batch_sizes)
    rate = {
        name: {size: statistics.median(run[name][size]) for size in run[name]}
        for name in ("expectation", "redaes", "generate")
    }
    best = {name: max(rates.values()) for name, rates in rate.items()}
    return {
        "expectation_ratio": best["expectation"] / best["redaes"],
        "expectation_ratio_of_batch": {
            size: paired_ratio(run["expectation"][size], run["redaes"][size]) for size in rate["expectation"]
        },
        "expectation_ratio_generate": best["expectation"] / best["generate"],
        "expectation_images_s": rate,
        "expectation_peak_gb": run["peak_gb"],
    }


def paired_ratio(rates: list[float], others: list[float]) -> float:
    """The median ratio of runs that followed each other."""
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))


def batching(shape: Shape, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Batches prepared ahead against one photograph after another.

    Raises:
        SystemExit: the two sides say something else of a photograph.
    """
    write_photographs(folder, options.photographs)
    runs = []
    for repeat in range(options.repeats):
        for side in ("ours", "plain"):
            run = child(SCRIPT, f"batching/{side}", shape, folder, passes=1)
            runs.append((side, run))
            print(f"batching, run {repeat + 1}, {side}: {run['steps_s'][0]:.2f} s", file=sys.stderr)
    texts = {side: run["texts"] for side, run in runs}
    if texts["ours"] != texts["plain"]:
        differing = sum(a != b for a, b in zip(texts["ours"], texts["plain"], strict=True))
        raise SystemExit(f"the two sides differ on {differing} of {options.photographs} photographs")
    times = [(side, run["steps_s"][0]) for side, run in runs]
    ratios = [later / sooner if side == "ours" else sooner / later for (side, sooner), (_, later) in pairwise(times)]
    return {
        "batching_ratio": statistics.median(ratios),
        "batching_ratio_min_max": [min(ratios), max(ratios)],
        "batching_distinct_texts": len(set(texts["ours"])),
        "batching_s": {side: [seconds for name, seconds in times if name == side] for side in texts},
        "batching_cpu_s": {side: statistics.median(r["cpu_s"] for name, r in runs if name == side) for side in texts},
        "batching_peak_gb": {
            side: statistics.median(r["peak_gb"] for name, r in runs if name == side) for side in texts
        },
    }


def bootstrap(shape: Shape, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Intervals of the three correlations."""
    run = child(
        SCRIPT, "bootstrap", shape, folder, passes=options.repeats, pairs=options.pairs, resamples=options.resamples
    )
    total = sum(run[name] for name in ("plcc", "srcc", "krcc"))
    return {"bootstrap_s": total, "bootstrap": {"pairs": options.pairs, "resamples": options.resamples, **run}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--images", type=int, default=5000, help="that the runner evaluates")
    parser.add_argument("--pace", type=float, default=10.0, help="milliseconds an image of the scorer of known time")
    parser.add_argument("--photographs", type=int, default=128, help="that are scored in the other comparisons")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    shape, found = Shape(threads=options.threads), {}
    for part in PARTS if options.only is None else (options.only,):
        with tempfile.TemporaryDirectory() as temporary:
            write_nano(Path(temporary))
            found |= globals()[part](shape, Path(temporary), options)
    found = rounded({**found, "machine": machine(shape)})
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
