"""Is one scorer really better than another? Paired differences on the same images, with bootstrap intervals.

In: what scorers said on one split (`redaes.evaluation.scored`). Out: rows as JSON, one for each two scorers and
measure. Both are measured on the same resamples of the images that both could open, so that what makes some images hard
for both does not widen the interval. Failed parses count as the scorer's mean prediction: each is measured on every
image, and one that only answers where it is easy gains nothing by it.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from redaes.data.benchmarks import Benchmark, Item
from redaes.evaluation.benchmarks import groups_of
from redaes.evaluation.correlations import Floats, interval, resample, treat_failures
from redaes.evaluation.measures import resamples_for, statistics_of
from redaes.evaluation.results import write_benchmark, write_result
from redaes.evaluation.scored import Scored, read_scored

LOWER_IS_BETTER = frozenset({"mae_fit"})


def differences(scored: Sequence[Scored], *, resamples: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Every two scorers of a split against each other, in the order given.

    Args:
        scored: of any splits; only those of the same one are compared.
        resamples: of the bootstrap; `measures.resamples_for` says which measures get fewer.
        seed: of the bootstrap.

    Returns:
        One row for each two scorers and measure: `a` and `b` (names), `a_fingerprint`, `b_fingerprint`, `benchmark`,
        `split`, `measure`, `n` (images both could open), and `value`, `low`, `high` of a minus b; null where the
        measure is not defined. Scorers that have no image in common have no rows.
    """
    series = _Series(resamples, seed)
    return [
        row
        for a, b in combinations(scored, 2)
        if a.split == b.split and a.result["fingerprint"] != b.result["fingerprint"]
        for row in series.rows(a, b)
    ]


def keep_compared(folder: str | Path, benchmark: Benchmark, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write a result with what it rests on and how it differs from every other scorer that the folder has on its split.

    Args:
        folder: of the evaluation; it holds the answers that `result` was made of.
        benchmark: whole.
        result: of `redaes.evaluation.benchmarks.result`.

    Returns:
        The result with `differences`: rows as of `differences`, its scorer always `a`.

    Raises:
        UserError: it cannot be written, or a file of another scorer is damaged.
    """
    write_benchmark(folder, benchmark)
    write_result(folder, result)
    mark, split, series = result["fingerprint"], result["split"], _Series()
    scored = [entry for entry in read_scored(folder, [benchmark.name]) if entry.result["split"] == split]
    own = next(entry for entry in scored if entry.result["fingerprint"] == mark)
    others = [entry for entry in scored if entry is not own]
    document = {**result, "differences": [row for other in others for row in series.rows(own, other)]}
    write_result(folder, document)
    return document


class _Series:
    """Bootstraps of single scorers, each made once however many others the scorer is compared with."""

    def __init__(self, resamples: int = 1000, seed: int = 0) -> None:
        self._resamples, self._seed = resamples, seed
        self._made: dict[tuple[str, str, tuple[str, ...]], Floats] = {}

    def rows(self, a: Scored, b: Scored) -> list[dict[str, Any]]:
        """The differences between two scorers of one split."""
        common = [item for item in a.measured.values() if item.id in b.measured]
        if not common:
            return []
        said = {
            "a": a.name,
            "b": b.name,
            "a_fingerprint": a.result["fingerprint"],
            "b_fingerprint": b.result["fingerprint"],
            "benchmark": a.split[0],
            "split": a.split[1],
        }
        return [
            {
                **said,
                "measure": name,
                "n": len(common),
                **interval(self._draws(a, common, name) - self._draws(b, common, name)).as_json(),
            }
            for name in statistics_of(groups_of(common))
        ]

    def _draws(self, scored: Scored, items: Sequence[Item], name: str) -> Floats:
        key = (scored.result["fingerprint"], name, (*scored.split, *(item.id for item in items)))
        if key not in self._made:
            groups = groups_of(items)
            assert scored.benchmark is not None
            predicted, _ = treat_failures(scored.predicted(items), "failures_as_mean")
            truths = np.array([scored.benchmark.normalised(item.mos) for item in items])
            many = resamples_for(name, len(items), self._resamples)
            statistic = statistics_of(groups)[name]
            self._made[key] = resample(statistic, predicted, truths, groups, resamples=many, seed=self._seed)
        return self._made[key]
