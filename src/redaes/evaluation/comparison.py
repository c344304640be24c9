"""Is one scorer really better than another? Paired differences on the same images, with bootstrap intervals.

In: what scorers said on one split (`redaes.evaluation.scored`). Out: rows as JSON, one for each two scorers and
measure. Both are measured on the same resamples of the images that both could open, so that what makes some images hard
for both does not widen the interval. Failed parses count as the scorer's mean prediction: each is measured on every
image, and one that only answers where it is easy gains nothing by it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from redaes.data.benchmarks import Benchmark
from redaes.evaluation.benchmarks import groups_of
from redaes.evaluation.correlations import interval, treat_failures
from redaes.evaluation.measures import bootstrap, measures_of
from redaes.evaluation.results import write_benchmark, write_result
from redaes.evaluation.scored import Scored, read_scored

LOWER_IS_BETTER = frozenset({"mae_fit"})


def differences(scored: Sequence[Scored], *, resamples: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Every two scorers of a split against each other, in the order given.

    Args:
        scored: of any splits; only those of the same one are compared.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        One row for each two scorers and measure: `a` and `b` (names), `a_fingerprint`, `b_fingerprint`, `benchmark`,
        `split`, `measure`, `n` (images both could open), and `value`, `low`, `high` of a minus b; null where the
        measure is not defined. Scorers that have no image in common have no rows.
    """
    return [row for a, b in combinations(scored, 2) if a.split == b.split for row in _between(a, b, resamples, seed)]


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
    scored = [each for each in read_scored(folder, [benchmark.name]) if each.result["split"] == benchmark.split]
    own = next(each for each in scored if each.result["fingerprint"] == result["fingerprint"])
    others = [each for each in scored if each is not own]
    document = {**result, "differences": [row for other in others for row in _between(own, other)]}
    write_result(folder, document)
    return document


def _between(a: Scored, b: Scored, resamples: int = 1000, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The differences between two scorers of one split, on the images that both could open."""
    common = [item for item in a.measured.values() if item.id in b.measured]
    if not common or a.benchmark is None:
        return
    groups = groups_of(common)
    truths = np.array([a.benchmark.normalised(item.mos) for item in common])
    first, second = (treat_failures(each.predicted(common), "failures_as_mean")[0] for each in (a, b))
    said = {
        "a": a.name,
        "b": b.name,
        "a_fingerprint": a.result["fingerprint"],
        "b_fingerprint": b.result["fingerprint"],
        "benchmark": a.split[0],
        "split": a.split[1],
    }
    for name in measures_of(groups):
        draws = [bootstrap(name, values, truths, groups, resamples=resamples, seed=seed) for values in (first, second)]
        yield {**said, "measure": name, "n": len(common), **interval(draws[0] - draws[1]).as_json()}
