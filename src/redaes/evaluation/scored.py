"""An evaluation read back from disk: every result together with the images it rests on and what was said of them.

In: a folder that `redaes evaluate --predictions` has filled. Out: one `Scored` for each scorer and split, for pages and
comparisons; no scorer and no official list is needed.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from redaes.data.benchmarks import Benchmark, Item
from redaes.evaluation.benchmarks import COUNTED, drawn, predicted_share
from redaes.evaluation.correlations import Floats, plcc
from redaes.evaluation.predictions import Answer, Predictions
from redaes.evaluation.results import read_benchmark, read_results


@dataclass(frozen=True)
class Scored:
    """What one scorer said on one split.

    Attributes:
        result: the document of `redaes.evaluation.benchmarks.result`.
        name: of the scorer; no other scorer of the folder is called so.
        benchmark: with every image that was there; None if it was not kept.
        items: that the result rests on, those that could not be opened included; empty if they are not known.
        answers: by image, of `items` at least.
    """

    result: Mapping[str, Any]
    name: str
    benchmark: Benchmark | None = None
    items: Sequence[Item] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def split(self) -> tuple[str, str]:
        """The benchmark and which part of it: what may be compared."""
        return self.result["benchmark"], self.result["split"]

    @cached_property
    def measured(self) -> dict[str, Item]:
        """The images that could be opened, by id."""
        return {item.id: item for item in self.items if self.answers[item.id].status != "unreadable"}

    def predicted(self, items: Sequence[Item]) -> Floats:
        """(n,) scores as shares of [0, 10], NaN where there is none."""
        return np.array([predicted_share(self.answers[item.id]) for item in items], dtype=np.float64)


def read_scored(folder: str | Path, benchmarks: Collection[str] | None = None) -> list[Scored]:
    """Every result under a folder, scorers of one split side by side.

    Args:
        folder: of the evaluation.
        benchmarks: names of those to read; None reads all.

    Raises:
        UserError: a file there that is none of ours, or damaged; the message names it.
    """
    results = sorted(read_results(folder), key=lambda r: (r["benchmark"], r["split"], r["scorer"], r["fingerprint"]))
    marks: dict[str, list[str]] = {}
    for result in results:
        known = marks.setdefault(result["scorer"], [])
        if result["fingerprint"] not in known:
            known.append(result["fingerprint"])
    kept: dict[tuple[str, str], Benchmark | None] = {}
    scored = []
    for result in results:
        if benchmarks is not None and result["benchmark"] not in benchmarks:
            continue
        split, alike = (result["benchmark"], result["split"]), marks[result["scorer"]]
        number = "" if len(alike) == 1 else f" ({alike.index(result['fingerprint']) + 1})"
        if split not in kept:
            kept[split] = read_benchmark(folder, *split)
        scored.append(_joined(Predictions(folder), result, result["scorer"] + number, kept[split]))
    return scored


def _joined(predictions: Predictions, result: Mapping[str, Any], name: str, benchmark: Benchmark | None) -> Scored:
    """The result with its images, unless answers or list are no longer those that it was made of."""
    if benchmark is None:
        return Scored(result, name)
    answers = predictions.answers(benchmark.name, result["fingerprint"])
    items = drawn(benchmark.items, result["n_drawn"])
    whole = Scored(result, name, benchmark, [item for item in items if item.id in answers], answers)
    return whole if _agrees(whole, benchmark) else Scored(result, name, benchmark)


def _agrees(scored: Scored, benchmark: Benchmark) -> bool:
    counts = Counter(scored.answers[item.id].status for item in scored.items)
    if any(scored.result[name] != counts[status] for name, status in COUNTED.items()):
        return False
    parsed = [item for item in scored.measured.values() if scored.answers[item.id].value is not None]
    found = plcc(scored.predicted(parsed), [benchmark.normalised(item.mos) for item in parsed])
    told = scored.result["measures"]["parsed_only"]["plcc"]["value"]
    return np.isnan(found) if told is None else bool(abs(found - told) < 1e-6)
