"""An evaluation on disk, as `redaes evaluate` leaves it, made without a scorer: photographs, opinions, answers."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from tests.evaluation.a_finished_run import HOSTILE

from redaes.data.benchmarks import Benchmark, Item
from redaes.evaluation.benchmarks import result
from redaes.evaluation.comparison import keep_compared
from redaes.evaluation.predictions import Answer, Predictions

EVIL = HOSTILE + " </script><img src=http://evil.example/x onerror=alert(1)> {{ 7 * 7 }} שלום " + "x" * 300


def a_benchmark(folder: Path, n: int = 40, name: str = "ava", grouped: bool = False) -> Benchmark:
    """Crops of one photograph; the more of it they show, the better people like them."""
    whole = Image.fromarray(data.astronaut())
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for k in range(n):
        side = 100 + 400 * k // n
        path = folder / f"{k:03d}.jpg"
        whole.crop((0, 0, side, side)).resize((90, 60)).save(path)
        mos = 2.0 + 6.0 * k / n + 0.5 * (k % 3)
        items.append(Item(f"{k:03d}", path, mos, group=f"g{k // 5}" if grouped else ""))
    return Benchmark(name, "test", (1.0, 10.0), items, n + 2, {"image file missing": ["a", "b"]}, ["a subset"])


def some_answers(
    benchmark: Benchmark,
    fingerprint: str,
    noise: float,
    unparsed: Sequence[str] = (),
    unreadable: Sequence[str] = (),
    failed: Sequence[str] = (),
    words: str = "Light is soft.",
    seed: int = 0,
) -> list[Answer]:
    """What a scorer says that sees what people see, and more or less noise."""
    rng = np.random.default_rng(seed)
    status = (
        dict.fromkeys(unparsed, "unparsed") | dict.fromkeys(unreadable, "unreadable") | dict.fromkeys(failed, "failed")
    )
    answers = []
    for item in benchmark.items:
        value = float(np.clip(item.mos / 2 + 2 + noise * rng.normal(), 0, 10).round(2))
        said = status.get(item.id, "ok")
        answers.append(
            Answer(
                benchmark.name,
                item.id,
                fingerprint,
                value if said == "ok" else None,
                None,
                words if said == "ok" else "",
                f"<answer>{words}" if said in ("ok", "unparsed") else "",
                said,  # type: ignore[arg-type]
                "" if said == "ok" else f"why {item.id} has no score",
                0.1,
                1,
                time.time(),
            )
        )
    return answers


def evaluated(folder: Path, benchmark: Benchmark, answers: Sequence[Answer], name: str) -> dict:
    """Keep answers and what they amount to; returns the result."""
    predictions, mark = Predictions(folder), answers[0].fingerprint
    predictions.append(answers)
    kept = predictions.answers(benchmark.name, mark)
    return keep_compared(folder, benchmark, result(benchmark, benchmark.items, kept, scorer=name, fingerprint=mark))
