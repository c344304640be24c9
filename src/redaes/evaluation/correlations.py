"""How well predicted scores agree with the truth: correlations, accuracies, and how sure one can be of them.

In: predictions and truths, `(n,)` floats, optionally the group of each image. Out: numbers with 95 % intervals.
METHOD section 4; the within-group measures are what the ranking reward of stage 3 trains (Eq. 6). Choices:

- PLCC is the plain Pearson correlation: no logistic curve is fitted beforehand, the paper mentions none.
- SRCC and KRCC use average ranks on ties (scipy's convention; KRCC is tau-b). Constant input gives NaN.
- Within groups a constant prediction counts as a correlation of 0 and a tied pair as half right [O]: a model that says
  the same of every member has ordered nothing, and leaving such groups out would reward it.
- The bootstrap resamples whole groups where there are groups [O]: members of one group are edits of one source and
  no independent draws. Groups cut from one photograph are still treated as independent.

The computations are in `redaes.agreement.weighting`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from redaes.agreement.kendall import Floats
from redaes.agreement.weighting import (
    STATISTICS,
    Statistic,
    Weighted,
    all_pairs_accuracy,
    pairwise_statistic,
    ratio,
    within_srcc_statistic,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "STATISTICS",
    "Estimate",
    "FailureTreatment",
    "Floats",
    "Statistic",
    "Weighted",
    "all_pairs_accuracy",
    "estimate",
    "estimate_difference",
    "interval",
    "krcc",
    "mae",
    "pairwise_accuracy",
    "pairwise_statistic",
    "plcc",
    "ratio",
    "resample",
    "srcc",
    "srcc_within",
    "treat_failures",
    "within_srcc_statistic",
]

FailureTreatment = Literal["parsed_only", "failures_as_mean"]
_CELLS_IN_MEMORY = 400_000  # of one piece of resamples: a few of them fit into a core's cache


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % bootstrap interval; NaN where it is not defined.

    Attributes:
        value: the statistic on the whole sample.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile over the resamples.
    """

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """The three numbers, NaN as null (JSON has no NaN)."""
        return {key: None if np.isnan(number) else number for key, number in asdict(self).items()}


def plcc(prediction: "ArrayLike", truth: "ArrayLike") -> float:
    """Pearson's linear correlation coefficient.

    Args:
        prediction: (n,) predicted scores; any scale.
        truth: (n,) true scores; any scale.

    Returns:
        A value in [-1, 1]; NaN for fewer than two images, a constant input, or an input with NaN.

    Example:
        >>> round(plcc([1, 2, 3], [2, 4, 9]), 3)
        0.971
    """
    return _value(STATISTICS["plcc"], prediction, truth)


def srcc(prediction: "ArrayLike", truth: "ArrayLike") -> float:
    """Spearman's rank correlation coefficient, average ranks on ties.

    Args:
        prediction: (n,) predicted scores.
        truth: (n,) true scores.

    Returns:
        A value in [-1, 1]; NaN as for `plcc`.

    Example:
        >>> srcc([1, 2, 30], [2, 4, 9])
        1.0
    """
    return _value(STATISTICS["srcc"], prediction, truth)


def krcc(prediction: "ArrayLike", truth: "ArrayLike") -> float:
    """Kendall's rank correlation coefficient, tau-b.

    Args:
        prediction: (n,) predicted scores.
        truth: (n,) true scores.

    Returns:
        A value in [-1, 1]; NaN as for `plcc`.

    Example:
        >>> round(krcc([1, 3, 2], [1, 2, 3]), 3)
        0.333
    """
    return _value(STATISTICS["krcc"], prediction, truth)


def mae(prediction: "ArrayLike", truth: "ArrayLike") -> float:
    """Mean absolute error, in the inputs' unit; NaN for an empty input or one with NaN.

    Example:
        >>> mae([6.0, 7.0], [5.0, 7.0])
        0.5
    """
    return _value(STATISTICS["mae"], prediction, truth)


def srcc_within(prediction: "ArrayLike", truth: "ArrayLike", groups: Sequence[str]) -> float:
    """Mean over groups of the SRCC inside each group: is the order *within* a comparison set right?

    Counted are groups with at least three members and a truth that is not constant. A constant prediction in such a
    group counts as 0.

    Args:
        prediction: (n,) predicted scores.
        truth: (n,) true scores or differences; only their order inside a group matters.
        groups: (n,) the group of each image.

    Returns:
        A value in [-1, 1]; NaN without a group that counts.

    Example:
        >>> srcc_within([1, 2, 3, 5, 5, 5], [1, 2, 3, 1, 2, 3], ["a"] * 3 + ["b"] * 3)
        0.5
    """
    return _value(within_srcc_statistic(groups), prediction, truth)


def pairwise_accuracy(prediction: "ArrayLike", truth: "ArrayLike", groups: Sequence[str] | None = None) -> float:
    """The share of pairs of different truth that the prediction orders rightly; a predicted tie is half right.

    Args:
        prediction: (n,) predicted scores.
        truth: (n,) true scores.
        groups: (n,) the group of each image: only pairs inside a group are then compared. None compares all pairs.

    Returns:
        A value in [0, 1], 0.5 by chance; NaN without a pair of different truth.

    Example:
        >>> round(pairwise_accuracy([1, 2, 2], [1, 2, 3]), 4)
        0.8333
    """
    statistic = all_pairs_accuracy if groups is None else pairwise_statistic(groups)
    return _value(statistic, prediction, truth)


def treat_failures(prediction: "ArrayLike", treatment: FailureTreatment) -> tuple[Floats, NDArray[np.bool_]]:
    """Resolve failed parses (NaN) in one of the two ways that are always reported side by side (METHOD 4).

    Args:
        prediction: (n,) predicted scores, NaN where the output could not be parsed.
        treatment: `parsed_only` leaves failures out; `failures_as_mean` gives them the mean of the parsed predictions.

    Returns:
        The (n,) predictions, and the (n,) mask of images to keep.

    Example:
        >>> treat_failures([4.0, float("nan"), 6.0], "failures_as_mean")[0].tolist()
        [4.0, 5.0, 6.0]
    """
    values = np.asarray(prediction, dtype=np.float64)
    parsed = ~np.isnan(values)
    if treatment == "parsed_only" or not parsed.any():
        return values, parsed
    return np.where(parsed, values, values[parsed].mean()), np.ones_like(parsed)


def estimate(
    statistic: Statistic,
    prediction: "ArrayLike",
    truth: "ArrayLike",
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A statistic with its 95 % percentile bootstrap interval.

    Args:
        statistic: one of `STATISTICS`, or what `within_srcc_statistic` and `pairwise_statistic` return.
        prediction: (n,) predicted scores.
        truth: (n,) true scores.
        clusters: (n,) what is drawn as a whole (the group of each image); None draws single images.
        resamples: number of bootstrap resamples. Those on which the statistic is not defined are left out; if they
            are the majority the interval is NaN.
        seed: of the resampling; equal seeds give equal intervals.

    Example:
        >>> e = estimate(STATISTICS["srcc"], range(30), range(30))
        >>> (e.value, e.low, e.high)
        (1.0, 1.0, 1.0)
    """
    return interval(resample(statistic, prediction, truth, clusters, resamples=resamples, seed=seed))


def estimate_difference(
    statistic: Statistic,
    before: "ArrayLike",
    after: "ArrayLike",
    truth: "ArrayLike",
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`statistic(after) - statistic(before)` on the same images, with its 95 % paired bootstrap interval.

    Both are measured on the same resamples: what makes some images hard for both does not widen the interval.

    Args:
        statistic: as for `estimate`.
        before: (n,) scores predicted by one model.
        after: (n,) scores predicted by another.
        truth: (n,) true scores.
        clusters: as for `estimate`.
        resamples: as for `estimate`.
        seed: as for `estimate`.

    Example:
        >>> estimate_difference(STATISTICS["mae"], [1, 2, 3], [2, 3, 4], [2, 3, 4])
        Estimate(value=-1.0, low=-1.0, high=-1.0)
    """
    first, second = (
        resample(statistic, each, truth, clusters, resamples=resamples, seed=seed) for each in (before, after)
    )
    return interval(second - first)


def resample(
    statistic: Statistic,
    prediction: "ArrayLike",
    truth: "ArrayLike",
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """A statistic on the sample, and then on each bootstrap resample of it; arguments as for `estimate`.

    Equal seeds draw equal resamples of equally many images, so that the results of two models can be subtracted.

    Returns:
        (1 + resamples,); all NaN if the statistic is not defined on the sample.
    """
    return resample_all({"": statistic}, prediction, truth, clusters, resamples=resamples, seed=seed)[""]


def resample_all(
    statistics: Mapping[str, Statistic],
    prediction: "ArrayLike",
    truth: "ArrayLike",
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Several statistics on the same resamples, which are drawn once; see `resample`."""
    x, y = _checked(prediction, truth)
    draws = {name: statistic(x, y) for name, statistic in statistics.items()}
    values = {name: [draw(np.ones((1, x.size)))] for name, draw in draws.items()}
    defined = [name for name, (value,) in values.items() if not np.isnan(value).any()]
    for weights in _resampled(x.size, clusters, resamples, seed) if defined else ():
        for name in defined:
            values[name].append(draws[name](weights))
    undefined = np.full(1 + resamples, np.nan)
    return {name: np.concatenate(found) if name in defined else undefined for name, found in values.items()}


def interval(values: Floats) -> Estimate:
    """The estimate that `resample` amounts to, of one model or of the difference between two.

    Args:
        values: (1 + resamples,) on the sample and on its resamples.
    """
    value, draws = float(values[0]), values[1:]
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or 2 * defined.size <= draws.size:
        return Estimate(value, np.nan, np.nan)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _resampled(n: int, clusters: Sequence[str] | None, resamples: int, seed: int) -> Iterator[Floats]:
    """Counts (b, n) of every image in each resample, in pieces that fit into memory."""
    rng = np.random.default_rng(seed)
    names, of_image = np.unique(np.asarray(clusters if clusters is not None else np.arange(n)), return_inverse=True)
    rows = max(1, _CELLS_IN_MEMORY // max(n, 1))
    for at in range(0, resamples, rows):
        count = min(rows, resamples - at)
        drawn = rng.integers(names.size, size=(count, names.size)) + names.size * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * names.size).reshape(count, names.size)
        yield counts[:, of_image].astype(np.float64)


def _checked(prediction: "ArrayLike", truth: "ArrayLike") -> tuple[Floats, Floats]:
    x, y = (np.asarray(values, dtype=np.float64).ravel() for values in (prediction, truth))
    if x.size != y.size:
        raise ValueError(f"{x.size} predictions for {y.size} truths; there must be one each")
    return x, y


def _value(statistic: Statistic, prediction: "ArrayLike", truth: "ArrayLike") -> float:
    x, y = _checked(prediction, truth)
    return float(statistic(x, y)(np.ones((1, x.size)))[0])
