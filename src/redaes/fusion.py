"""Multi-expert voting (App. A): several scores of one thing in, one consensus score and its audit out.

Three steps: outliers by modified z-scores (Eq. 9-10), a consensus level by the standard deviation (Eq. 11), and the
method that a matrix of level and number of outliers names (Tab. 7). Used for source scores and for differences alike.

From the paper: the matrix, uniform weights, the MAD-based z-score. Not from the paper (its constants were lost):
the thresholds 3.5, 0.5 and 1.0, the population deviation, what happens at MAD = 0, the blend of the conservative
average, c = 6 of the biweight, and that a spread below 1e-9 points is rounding and counts as none.

Means and deviations are computed exactly and rounded once, so that neither the order of the experts nor a shift of all
scores can move a decision across a threshold.
With K = 3 the column of multiple outliers cannot be reached: one of the three deviations from the median is 0, so the
MAD is the smaller of the other two, and only the larger can exceed it. It takes K >= 5.
"""

import math
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, Protocol, runtime_checkable

from redaes.records import Fused

Level = Literal["high", "medium", "low"]
Method = Literal[
    "weighted_average",
    "normal_average",
    "weighted_median",
    "median",
    "conservative_average",
    "robust_median",
]

# Tab. 7: rows are consensus levels, columns are no, one and multiple outliers.
STRATEGY: dict[Level, tuple[Method, Method, Method]] = {
    "high": ("weighted_average", "normal_average", "weighted_median"),
    "medium": ("weighted_average", "normal_average", "median"),
    "low": ("conservative_average", "median", "robust_median"),
}

NORMAL_CONSISTENCY = 0.6745  # of the MAD with the standard deviation (Iglewicz & Hoaglin)
MEAN_AD_CONSISTENCY = 1.253314  # of the mean absolute deviation, sqrt(pi / 2)
ROUNDING = 1e-9  # a spread below it, in points of score, is float rounding and not disagreement [ours]


@runtime_checkable
class Fusion(Protocol):
    """The contract of the entry-point group `redaes.fusion`."""

    def __call__(self, scores: Sequence[float]) -> Fused:
        """Fuse K >= 1 finite scores."""
        ...


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, rounded once: independent of the order and inside [min, max].

    Example:
        >>> mean([0.1, 0.1, 0.1])
        0.1
    """
    return float(statistics.mean(values))


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones.

    Example:
        >>> median([7.0, 1.0, 6.0]), median([4.0, 1.0, 2.0, 9.0])
        (6.0, 3.0)
    """
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else mean(ordered[half - 1 : half + 1])


def weighted_average(values: Sequence[float], weights: Sequence[float]) -> float:
    """Sum of w_k s_k over the sum of w_k, rounded once.

    Args:
        values: K >= 1 scores.
        weights: K numbers >= 0, not all 0.

    Example:
        >>> weighted_average([4.0, 8.0], [3, 1])
        5.0
    """
    exact = [(Fraction(v), Fraction(w)) for v, w in zip(values, weights, strict=True)]
    return float(sum(v * w for v, w in exact) / sum(w for _, w in exact))


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The value at half of the total weight; the lower and the upper one averaged on a tie.

    Args:
        values: K >= 1 scores.
        weights: K numbers >= 0, not all 0; a score of weight 0 has no say.

    Example:
        >>> weighted_median([1.0, 5.0, 9.0], [1, 1, 3]), weighted_median([1.0, 5.0, 9.0], [1, 0, 1])
        (9.0, 5.0)
    """
    ordered = sorted((v, w) for v, w in zip(values, weights, strict=True) if w > 0)
    half = math.fsum(w for _, w in ordered) / 2
    for index in range(len(ordered) - 1):
        below = math.fsum(w for _, w in ordered[: index + 1])
        if math.isclose(below, half, rel_tol=1e-12):
            return mean([ordered[index][0], ordered[index + 1][0]])
        if below > half:
            return ordered[index][0]
    return ordered[-1][0]


def mad(values: Sequence[float]) -> float:
    """Median absolute deviation about the median, unscaled (Eq. 9).

    Example:
        >>> mad([6.0, 6.5, 9.0])
        0.5
    """
    centre = median(values)
    return median([abs(v - centre) for v in values])


def _within(value: float, values: Sequence[float]) -> float:
    """The value moved into [min, max] of the values: rounding may put an average an ulp outside."""
    return min(max(value, min(values)), max(values))


def biweight_location(values: Sequence[float], c: float = 6.0) -> float:
    """Tukey's biweight location, one step from the median with the raw MAD; the median if the MAD is 0.

    Args:
        values: K >= 1 scores.
        c: scores beyond c MADs count nothing; > 1, so that at least half of them count.

    Source: Beers, Flynn & Gebhardt 1990; equal to astropy's `biweight_location`.

    Example:
        >>> round(biweight_location([1.0, 1.5, 2.0, 2.5, 9.0]), 3)
        1.785
    """
    centre, scale = median(values), mad(values)
    if scale < ROUNDING:
        return centre
    deviations = [v - centre for v in values]
    weights = [max(0.0, 1 - (d / (c * scale)) ** 2) ** 2 for d in deviations]
    shift = math.fsum(d * w for d, w in zip(deviations, weights, strict=True)) / math.fsum(weights)
    return _within(centre + shift, values)


def modified_z_scores(values: Sequence[float]) -> list[float]:
    """0.6745 (s_k - med) / MAD (Eq. 10); by the mean absolute deviation where the MAD is 0; all 0 where both are.

    Source: Iglewicz & Hoaglin 1993, and for MAD = 0 the mean absolute deviation in its place [ours].

    Example:
        >>> modified_z_scores([5.0, 6.0, 8.0])
        [-0.6745, 0.0, 1.349]
    """
    centre, scale = median(values), mad(values)
    if scale >= ROUNDING:
        return [NORMAL_CONSISTENCY * (v - centre) / scale for v in values]
    scale = mean([abs(v - centre) for v in values])
    return [(v - centre) / (MEAN_AD_CONSISTENCY * scale) if scale >= ROUNDING else 0.0 for v in values]


def population_std(values: Sequence[float]) -> float:
    """Standard deviation with ddof = 0, rounded once.

    Example:
        >>> population_std([4.0, 6.0])
        1.0
    """
    return statistics.pstdev(values)


def _checked(scores: Sequence[float]) -> list[float]:
    values = [float(s) + 0.0 for s in scores]  # + 0.0 turns -0.0 into 0.0, which would else depend on the order
    if not values:
        raise ValueError("no scores to fuse; give one or more")
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"score {index} is {value}; scores to fuse are finite")
    return values


class ConsensusFusion:
    """The paper's adaptive fusion (App. A).

    Args:
        outlier_threshold: a score is an outlier beyond this |z| [ours: 3.5, the cited source's cut].
        high_std: below it the consensus is high, in points of score [ours].
        medium_std: below it the consensus is medium, else low [ours].
        blend: share of the weighted average in the conservative average, in [0, 1] [ours].
        biweight_c: tuning constant of Tukey's biweight, in MADs [ours].
        weights: one per expert, for the weighted average and median; None is uniform, as in the paper.

    Raises:
        ValueError: a setting outside its range.

    Example:
        >>> fused = ConsensusFusion()([6.0, 6.2, 6.1])
        >>> fused.value, fused.level, fused.method
        (6.1, 'high', 'weighted_average')
        >>> ConsensusFusion()([6.0, 6.1, 6.2, 6.1, 9.5]).outliers
        (4,)
    """

    def __init__(
        self,
        outlier_threshold: float = 3.5,
        high_std: float = 0.5,
        medium_std: float = 1.0,
        blend: float = 0.5,
        biweight_c: float = 6.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not outlier_threshold > 0:
            raise ValueError(f"outlier_threshold is {outlier_threshold}; it must be above 0")
        if not 0 < high_std <= medium_std:
            raise ValueError(f"high_std {high_std} and medium_std {medium_std} must be positive and in this order")
        if not 0 <= blend <= 1:
            raise ValueError(f"blend is {blend}; a share is in [0, 1]")
        if not biweight_c > 1:
            raise ValueError(f"biweight_c is {biweight_c}; it must be above 1, or no score may be left")
        if weights is not None and not (all(0 <= w < math.inf for w in weights) and sum(weights) > 0):
            raise ValueError(f"weights are {list(weights)}; they must be finite, not negative and not all 0")
        self.outlier_threshold = outlier_threshold
        self.high_std = high_std
        self.medium_std = medium_std
        self.blend = blend
        self.biweight_c = biweight_c
        self.weights = None if weights is None else list(weights)

    def __call__(self, scores: Sequence[float]) -> Fused:
        """Fuse K >= 1 finite scores.

        Raises:
            ValueError: no scores, one that is not finite, or another number of them than of weights.
        """
        values = _checked(scores)
        weights = self.weights or [1.0] * len(values)
        if len(weights) != len(values):
            raise ValueError(f"{len(values)} scores and {len(weights)} weights")
        outliers = tuple(k for k, z in enumerate(modified_z_scores(values)) if abs(z) > self.outlier_threshold)
        level = self.level(values)
        method = STRATEGY[level][min(len(outliers), 2)]
        value = self._apply(method, values, weights, outliers)
        return Fused(value=value, level=level, outliers=outliers, method=method)

    def level(self, values: Sequence[float]) -> Level:
        """The consensus level of all scores, outliers included (Eq. 11)."""
        deviation = population_std(values)
        if deviation < self.high_std:
            return "high"
        return "medium" if deviation < self.medium_std else "low"

    def _apply(self, method: Method, values: list[float], weights: list[float], outliers: tuple[int, ...]) -> float:
        if method == "weighted_average":
            return weighted_average(values, weights)
        if method == "normal_average":
            return mean([v for k, v in enumerate(values) if k not in outliers])
        if method == "weighted_median":
            return weighted_median(values, weights)
        if method == "median":
            return median(values)
        if method == "conservative_average":
            average, middle = weighted_average(values, weights), median(values)
            return _within(self.blend * average + (1 - self.blend) * middle, values)
        return biweight_location(values, self.biweight_c)


class MeanFusion:
    """The plain mean, for comparison; the audit still names level and outliers of the default protocol.

    Example:
        >>> MeanFusion()([6.0, 6.0, 9.0]).value
        7.0
    """

    def __call__(self, scores: Sequence[float]) -> Fused:
        """Fuse K >= 1 finite scores."""
        values = _checked(scores)
        audit = ConsensusFusion()(values)
        return audit.model_copy(update={"value": mean(values), "method": "mean"})


class MedianFusion:
    """The plain median, for comparison; the audit still names level and outliers of the default protocol.

    Example:
        >>> MedianFusion()([6.0, 6.0, 9.0]).value
        6.0
    """

    def __call__(self, scores: Sequence[float]) -> Fused:
        """Fuse K >= 1 finite scores."""
        values = _checked(scores)
        audit = ConsensusFusion()(values)
        return audit.model_copy(update={"value": median(values), "method": "median"})
