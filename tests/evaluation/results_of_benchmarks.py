"""Results of benchmarks as `redaes evaluate` writes them, of scores that follow the truth as closely as asked."""

import random
from pathlib import Path
from typing import Any

from redaes.data.benchmarks import Benchmark, Item
from redaes.data.benchmarks.lists import KNOWN_MISSING
from redaes.evaluation.benchmarks import result
from redaes.evaluation.predictions import Answer

OFFICIAL = {
    "ava": ("generic_test", 20_000),
    "tad66k": ("merge/test", 14_079),
    "flickr_aes": ("list.txt", 4_737),
    "para": ("PARA-GiaaTest", 3_000),
    "aadb": ("TestNew", 1_000),
}


def made_result(
    name: str,
    scorer: str,
    *,
    fingerprint: str = "",
    noise: float = 1.0,
    n: int = 30,
    unparsed: int = 0,
    listed: int | None = None,
    constant: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """One scorer on one benchmark, of which `n` images were drawn."""
    rng = random.Random(f"{name} {seed}")
    split, images = OFFICIAL[name]
    items = [Item(str(k), Path(f"{k}.jpg"), rng.uniform(1, 9)) for k in range(n)]
    answers = {}
    for place, item in enumerate(items):
        value = None if place < unparsed else 5.0 if constant else min(10, max(0, item.mos + rng.gauss(0, noise)))
        status = "unparsed" if value is None else "ok"
        answers[item.id] = Answer(name, item.id, fingerprint, value, None, "", "", status, "", 0.0, 1, 0.0)
    left_out = {KNOWN_MISSING: ["11714"] * 70} if name == "ava" and listed is None else {}
    benchmark = Benchmark(name, split, (0, 10), items, images if listed is None else listed, left_out)
    return result(benchmark, items, answers, scorer=scorer, fingerprint=fingerprint or scorer)
