"""Multi-expert voting (App. A): several scores of one thing in, one consensus score and its audit out.

Three steps: outliers by modified z-scores (Eq. 9-10), a consensus level by the standard deviation (Eq. 11), and the
method that a matrix of level and number of outliers names (Tab. 7). Used for source scores and for differences alike.

From the paper: the matrix, uniform weights, the MAD-based z-score. Not from the paper (its constants were lost):
the thresholds 3.5, 0.5 and 1.0, the population deviation, what happens at MAD = 0, the blend of the conservative
average, c = 6 of the biweight.

Sums are exact (`math.fsum`) and scores are sorted first, so that the order of the experts cannot change the value.
"""

import math
from collections.abc import Sequence
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


@runtime_checkable
class Fusion(Protocol):
    """The contract of the entry-point group `redaes.fusion`."""

    def __call__(self, scores: Sequence[float]) -> Fused:
        """Fuse K >= 1 finite scores."""
        ...


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, exactly rounded and inside [min, max]."""
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else mean(ordered[half - 1 : half + 1])


def weighted_average(values: Sequence[float], weights: Sequence[float]) -> float:
    """Sum of w_k s_k over the sum of w_k."""
    total = math.fsum(w * v for v, w in sorted(zip(values, weights, strict=True)))
    return min(max(total / math.fsum(weights), min(values)), max(values))


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The value at half of the total weight; the lower and the upper one averaged on a tie."""
    ordered = sorted(zip(values, weights, strict=True))
    half = math.fsum(weights) / 2
    for index, (value, _) in enumerate(ordered):
        below = math.fsum(w for _, w in ordered[: index + 1])
        if math.isclose(below, half, rel_tol=1e-12) and index + 1 < len(ordered):
            return mean([value, ordered[index + 1][0]])
        if below > half:
            return value
    return ordered[-1][0]


def mad(values: Sequence[float]) -> float:
    """Median absolute deviation about the median, unscaled (Eq. 9)."""
    centre = median(values)
    return median([abs(v - centre) for v in values])


def biweight_location(values: Sequence[float], c: float = 6.0) -> float:
    """Tukey's biweight location, one step from the median with the raw MAD; the median if the MAD is 0.

    Source: Beers, Flynn & Gebhardt 1990; equal to astropy's `biweight_location`.
    """
    centre, scale = median(values), mad(values)
    if scale == 0:
        return centre
    terms = []
    for value in sorted(values):
        u = (value - centre) / (c * scale)
        terms.append((value - centre, (1 - u * u) ** 2 if abs(u) < 1 else 0.0))
    shift = math.fsum(d * w for d, w in terms) / math.fsum(w for _, w in terms)
    return min(max(centre + shift, min(values)), max(values))


def modified_z_scores(values: Sequence[float]) -> list[float]:
    """0.6745 (s_k - med) / MAD (Eq. 10); by the mean absolute deviation where the MAD is 0; all 0 where both are."""
    centre, scale = median(values), mad(values)
    if scale > 0:
        return [NORMAL_CONSISTENCY * (v - centre) / scale for v in values]
    scale = mean([abs(v - centre) for v in values])
    return [(v - centre) / (MEAN_AD_CONSISTENCY * scale) if scale > 0 else 0.0 for v in values]


def population_std(values: Sequence[float]) -> float:
    """Standard deviation with ddof = 0."""
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / len(values))


def _checked(scores: Sequence[float]) -> list[float]:
    values = [float(s) for s in scores]
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
        weights: one per expert; None is uniform, as in the paper.

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
        if not 0 < high_std <= medium_std:
            raise ValueError(f"high_std {high_std} and medium_std {medium_std} must be positive and in this order")
        if not 0 <= blend <= 1:
            raise ValueError(f"blend is {blend}; a share is in [0, 1]")
        if weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
            raise ValueError(f"weights are {list(weights)}; they are not negative and not all 0")
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
        weights = self.weights or [1.0 / len(values)] * len(values)
        if len(weights) != len(values):
            raise ValueError(f"{len(values)} scores and {len(weights)} weights")
        outliers = tuple(k for k, z in enumerate(modified_z_scores(values)) if abs(z) > self.outlier_threshold)
        level = self.level(values)
        method = STRATEGY[level][min(len(outliers), 2)]
        return Fused(value=self._apply(method, values, weights, outliers), level=level, outliers=outliers, method=method)

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
            return self.blend * average + (1 - self.blend) * middle
        return biweight_location(values, self.biweight_c)


class MeanFusion:
    """The plain mean, for comparison; the audit still names level and outliers of the default protocol."""

    def __call__(self, scores: Sequence[float]) -> Fused:
        """Fuse K >= 1 finite scores."""
        values = _checked(scores)
        audit = ConsensusFusion()(values)
        return audit.model_copy(update={"value": mean(values), "method": "mean"})


class MedianFusion:
    """The plain median, for comparison; the audit still names level and outliers of the default protocol."""

    def __call__(self, scores: Sequence[float]) -> Fused:
        """Fuse K >= 1 finite scores."""
        values = _checked(scores)
        audit = ConsensusFusion()(values)
        return audit.model_copy(update={"value": median(values), "method": "median"})
