"""Every statistic of `redaes.evaluation.correlations`, for many weighted samples at once.

Resampling with replacement *is* weighting by integer counts, so each statistic is written once, for weights: a thousand
resamples are one matrix product, and the plain value is the case of unit weights. What does not depend on the weights,
such as ranks and ties, is found once, when a statistic is made for a sample.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from redaes.agreement.kendall import Floats, Ranks, pair_balance

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Weighted: TypeAlias = Callable[[Floats], Floats]
"""weights (B, n), counts of every image in every resample -> (B,)"""
Statistic: TypeAlias = Callable[[Floats, Floats], Weighted]
"""(prediction (n,), truth (n,)) -> the statistic of that sample, for any weights"""

MIN_GROUP_MEMBERS = 3


def weighted_plcc(x: Floats, y: Floats) -> Weighted:
    """Pearson's correlation."""
    with np.errstate(invalid="ignore"):
        a, b = (values - values.mean() if values.size else values for values in (x, y))
        powers = np.stack([a, b, a * a, b * b, a * b], axis=1)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            sums, total = (weights @ powers).T, weights.sum(axis=1)
            square_a, square_b = sums[2] - sums[0] ** 2 / total, sums[3] - sums[1] ** 2 / total
            found = ratio(sums[4] - sums[0] * sums[1] / total, np.sqrt(square_a * square_b))
            # Where nearly all of a sum of squares cancels, deviations are taken from the resample's own mean.
            lost = np.flatnonzero(~((square_a > 1e-6 * sums[2]) & (square_b > 1e-6 * sums[3])))
        found[lost] = _pearson(a, b, weights[lost])
        return np.clip(found, -1.0, 1.0)

    return statistic


def weighted_srcc(x: Floats, y: Floats) -> Weighted:
    """Spearman's correlation; ranks and their sums are exact, so a constant resample is seen as one."""
    if np.isnan(x).any() or np.isnan(y).any():
        return _undefined
    ranks_x, ranks_y = _Ties(x), _Ties(y)

    def statistic(weights: Floats) -> Floats:
        (centred_x, square_x), (centred_y, square_y) = (ties.ranks(weights) for ties in (ranks_x, ranks_y))
        centred_x *= weights
        found = ratio(np.einsum("bn,bn->b", centred_x, centred_y), np.sqrt(square_x * square_y))
        return np.clip(found, -1.0, 1.0)

    return statistic


def weighted_krcc(x: Floats, y: Floats) -> Weighted:
    """Kendall's tau-b: pairs ordered alike less pairs ordered oppositely, over the mean number of untied ones."""
    if np.isnan(x).any() or np.isnan(y).any():
        return _undefined
    ties_x, ties_y = _Ties(x), _Ties(y)
    balance = pair_balance(ties_x.position, ties_y.position)

    def statistic(weights: Floats) -> Floats:
        return ratio(balance(weights), np.sqrt(ties_x.untied_pairs(weights) * ties_y.untied_pairs(weights)))

    return statistic


def weighted_mae(x: Floats, y: Floats) -> Weighted:
    """Mean absolute error."""
    errors = np.abs(x - y)
    return lambda weights: ratio(weights @ errors, weights.sum(axis=1))


def all_pairs_accuracy(x: Floats, y: Floats) -> Weighted:
    """The share of all pairs of different truth that are ordered rightly; a predicted tie is half right."""
    if np.isnan(x).any() or np.isnan(y).any():
        return _undefined
    ties_y = _Ties(y)
    balance = pair_balance(_Ties(x).position, ties_y.position)
    return lambda weights: (1 + ratio(balance(weights), ties_y.untied_pairs(weights))) / 2


def within_srcc_statistic(groups: "ArrayLike") -> Statistic:
    """`srcc_within` as a statistic for `estimate`; resampling must draw whole groups."""
    members = _members(groups)

    def made(x: Floats, y: Floats) -> Weighted:
        values = np.array([_group_srcc(x[m], y[m]) for m in members])
        counted = [m[0] for m, value in zip(members, values, strict=True) if not np.isnan(value)]
        values = values[~np.isnan(values)]
        return lambda weights: ratio(weights[:, counted] @ values, weights[:, counted].sum(axis=1))

    return made


def pairwise_statistic(groups: "ArrayLike") -> Statistic:
    """`pairwise_accuracy` inside groups as a statistic for `estimate`; resampling must draw whole groups."""
    members = _members(groups)
    first = [m[0] for m in members]

    def made(x: Floats, y: Floats) -> Weighted:
        right = np.array([_pairs_right(x[m], y[m]) for m in members]).reshape(-1, 2)
        return lambda weights: ratio(weights[:, first] @ right[:, 0], weights[:, first] @ right[:, 1])

    return made


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(denominator == 0, np.nan, numerator / denominator), dtype=np.float64)


class _Ties:
    """Which images of a sample have the same value.

    Attributes:
        position: (n,) dense ranks from 0.
    """

    def __init__(self, values: Floats) -> None:
        self.distinct, position = np.unique(values, return_inverse=True)
        self.position: Ranks = position
        self._order = np.argsort(position, kind="stable")
        self._starts = np.searchsorted(position[self._order], np.arange(self.distinct.size))

    def counts(self, weights: Floats) -> Floats:
        """(B, distinct values) how often each value occurs."""
        ordered = weights[:, self._order]
        if self.distinct.size == ordered.shape[1]:
            return ordered
        return np.asarray(np.add.reduceat(ordered, self._starts, axis=1))

    def ranks(self, weights: Floats) -> tuple[Floats, Floats]:
        """Average ranks (B, n) less their mean, and the sum (B,) of their squares over the sample."""
        counts, total = self.counts(weights), weights.sum(axis=1)
        middle = np.cumsum(counts, axis=1)
        middle -= counts / 2
        middle -= total[:, None] / 2
        return middle[:, self.position], (total**3 - np.einsum("bn,bn,bn->b", counts, counts, counts)) / 12

    def untied_pairs(self, weights: Floats) -> Floats:
        """(B,) pairs of different value."""
        return np.asarray((weights.sum(axis=1) ** 2 - np.square(self.counts(weights)).sum(axis=1)) / 2)


def _undefined(weights: Floats) -> Floats:
    return np.full(len(weights), np.nan)


def _pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Row by row, in two passes. NaN where a row is constant on its support."""
    (dx, square_x), (dy, square_y) = _centred(x, weights), _centred(y, weights)
    return ratio(np.einsum("bn,bn,bn->b", weights, dx, dy), np.sqrt(square_x * square_y))


def _centred(x: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Deviations (B, n) from each row's mean and the sums (B,) of their squares, exactly 0 for a constant row."""
    dx = x - ratio(weights @ x, weights.sum(axis=1))[:, None]
    square = np.einsum("bn,bn,bn->b", weights, dx, dx)
    drawn = weights > 0
    lowest = np.where(drawn, x, np.inf).min(axis=1, initial=np.inf)
    highest = np.where(drawn, x, -np.inf).max(axis=1, initial=-np.inf)
    return dx, np.where(highest <= lowest, 0.0, square)


def _group_srcc(x: Floats, y: Floats) -> float:
    """SRCC in one group; NaN if the group does not count, 0 for a constant prediction in one that does."""
    if x.size < MIN_GROUP_MEMBERS or np.isnan(x).any() or np.isnan(y).any() or np.ptp(y) == 0:
        return float("nan")
    return 0.0 if np.ptp(x) == 0 else float(weighted_srcc(x, y)(np.ones((1, x.size)))[0])


def _pairs_right(x: Floats, y: Floats) -> tuple[float, float]:
    """(pairs rightly ordered, pairs of different truth) in one group."""
    first, second = np.triu_indices(x.size, k=1)
    truth = np.sign(y[first] - y[second])
    agreement = (truth * np.sign(x[first] - x[second]))[truth != 0]
    return float(((agreement + 1) / 2).sum()), float(agreement.size)


def _members(groups: "ArrayLike") -> list[Ranks]:
    """The images of each group, in order."""
    labels, of_image = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(of_image, kind="stable")
    return np.split(order, np.searchsorted(of_image[order], np.arange(1, labels.size))) if labels.size else []


STATISTICS: dict[str, Statistic] = {
    "srcc": weighted_srcc,
    "plcc": weighted_plcc,
    "krcc": weighted_krcc,
    "mae": weighted_mae,
}
"""The measures over all images at once, ready for `estimate`."""
