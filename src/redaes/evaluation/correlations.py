"""How well predicted scores agree with the truth: correlations, accuracies, and how sure one can be of them.

In: predictions and truths, `(n,)` floats, optionally the group of each image. Out: numbers with 95 % intervals.
METHOD section 4; the within-group measures are what the ranking reward of stage 3 trains (Eq. 6). Choices:

- PLCC is the plain Pearson correlation: no logistic curve is fitted beforehand, the paper mentions none.
- SRCC and KRCC use average ranks on ties (scipy's convention; KRCC is tau-b). Constant input gives NaN.
- Within groups a constant prediction counts as a correlation of 0 and a tied pair as half right [O]: a model that says
  the same of every member has ordered nothing, and leaving such groups out would reward it.
- The bootstrap resamples whole groups where there are groups [O]: members of one group are edits of one source and
  no independent draws. Groups cut from one photograph are still treated as independent.

Every statistic is written once, for weighted samples, because resampling with replacement *is* weighting by integer
counts: a thousand resamples are one matrix product, and the plain value is the case of unit weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats, Floats, Floats], Floats]
"""(prediction (n,), truth (n,), weights (B, n)) -> (B,)"""

FailureTreatment = Literal["parsed_only", "failures_as_mean"]
MIN_GROUP_MEMBERS = 3
_PAIRS_IN_MEMORY = 3000**2
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
    return _value(_weighted_plcc, prediction, truth)


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
    return _value(_weighted_srcc, prediction, truth)


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
    return _value(_weighted_krcc, prediction, truth)


def mae(prediction: "ArrayLike", truth: "ArrayLike") -> float:
    """Mean absolute error, in the inputs' unit; NaN for an empty input or one with NaN.

    Example:
        >>> mae([6.0, 7.0], [5.0, 7.0])
        0.5
    """
    return _value(_weighted_mae, prediction, truth)


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
        >>> pairwise_accuracy([1, 2, 2], [1, 2, 3])
        0.8333333333333334
    """
    labels = groups if groups is not None else [""] * np.size(prediction)
    return _value(pairwise_statistic(labels), prediction, truth)


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
    first = resample(statistic, before, truth, clusters, resamples=resamples, seed=seed)
    second = resample(statistic, after, truth, clusters, resamples=resamples, seed=seed)
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
    x, y = _checked(prediction, truth)
    value = statistic(x, y, np.ones((1, x.size)))
    if np.isnan(value).any():
        return np.full(1 + resamples, np.nan)
    return np.concatenate([value, *(statistic(x, y, w) for w in _resampled(x.size, clusters, resamples, seed))])


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


def within_srcc_statistic(groups: Sequence[str]) -> Statistic:
    """`srcc_within` as a statistic for `estimate`; resampling must draw whole groups."""
    members = _members(groups)

    def statistic(x: Floats, y: Floats, weights: Floats) -> Floats:
        values = np.array([_group_srcc(x[m], y[m]) for m in members])
        counts = ~np.isnan(values)
        group_weights = _group_weights(weights, members)[:, counts]
        return _ratio(group_weights @ values[counts], group_weights.sum(axis=1))

    return statistic


def pairwise_statistic(groups: Sequence[str]) -> Statistic:
    """`pairwise_accuracy` inside groups as a statistic for `estimate`; resampling must draw whole groups."""
    members = _members(groups)

    def statistic(x: Floats, y: Floats, weights: Floats) -> Floats:
        right = np.array([_pairs_right(x[m], y[m]) for m in members]).reshape(-1, 2)
        group_weights = _group_weights(weights, members)
        return _ratio(group_weights @ right[:, 0], group_weights @ right[:, 1])

    return statistic


# --- The statistics, for samples weighted by counts -----------------------------------------------------------------


def _weighted_plcc(x: Floats, y: Floats, weights: Floats) -> Floats:
    return _pearson(np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape), weights)


def _weighted_srcc(x: Floats, y: Floats, weights: Floats) -> Floats:
    if np.isnan(x).any() or np.isnan(y).any():
        return np.full(len(weights), np.nan)
    return _pearson(_ranks(x, weights), _ranks(y, weights), weights)


def _weighted_mae(x: Floats, y: Floats, weights: Floats) -> Floats:
    return _ratio(weights @ np.abs(x - y), weights.sum(axis=1))


def _weighted_krcc(x: Floats, y: Floats, weights: Floats) -> Floats:
    """tau-b = C / sqrt(Tx Ty): sums over pairs of the signs' product and of each one's magnitude."""
    if np.isnan(x).any() or np.isnan(y).any():
        return np.full(len(weights), np.nan)
    if x.size**2 > _PAIRS_IN_MEMORY:
        return np.array([_scipy_krcc(x, y, row) for row in weights])
    sign_x = np.sign(x[:, None] - x[None, :])
    sign_y = np.sign(y[:, None] - y[None, :])

    def total(pairs: Floats) -> Floats:
        return np.asarray(np.einsum("bi,bi->b", weights @ pairs, weights), dtype=np.float64)

    return _ratio(total(sign_x * sign_y), np.sqrt(total(np.abs(sign_x)) * total(np.abs(sign_y))))


def _scipy_krcc(x: Floats, y: Floats, counts: Floats) -> float:
    from scipy.stats import kendalltau

    times = counts.astype(int)
    return float(kendalltau(np.repeat(x, times), np.repeat(y, times)).statistic)


def _pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Row by row: x, y, weights are (B, n). NaN where a row is constant on its support."""
    (dx, square_x), (dy, square_y) = _centred(x, weights), _centred(y, weights)
    return np.clip(_ratio(np.einsum("bn,bn,bn->b", weights, dx, dy), np.sqrt(square_x * square_y)), -1.0, 1.0)


def _centred(x: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Deviations (B, n) from each row's mean and the sums (B,) of their squares, exactly 0 for a constant row."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.einsum("bn,bn->b", weights, x) / weights.sum(axis=1)
    dx = x - mean[:, None]
    square = np.einsum("bn,bn,bn->b", weights, dx, dx)
    small = np.flatnonzero(~(square > 1e-12 * mean**2 * weights.sum(axis=1)))  # rounding, or really as small
    square[small] = np.where(_constant(x[small], weights[small]), 0.0, square[small])
    return dx, square


def _constant(x: Floats, weights: Floats) -> NDArray[np.bool_]:
    drawn = weights > 0
    lowest = np.where(drawn, x, np.inf).min(axis=1, initial=np.inf)
    highest = np.where(drawn, x, -np.inf).max(axis=1, initial=-np.inf)
    return np.asarray(highest <= lowest)


def _ranks(x: Floats, weights: Floats) -> Floats:
    """Average ranks (B, n) that the images have in the samples in which image i occurs weights[b, i] times."""
    distinct, position = np.unique(x, return_inverse=True)
    tied = np.zeros((len(weights), distinct.size))
    order = np.argsort(position, kind="stable")
    if distinct.size:
        starts = np.searchsorted(position[order], np.arange(distinct.size))
        tied = np.add.reduceat(weights[:, order], starts, axis=1)
    below = np.cumsum(tied, axis=1) - tied
    return np.asarray((below + (tied + 1) / 2)[:, position])


def _group_srcc(x: Floats, y: Floats) -> float:
    """SRCC in one group; NaN if the group does not count, 0 for a constant prediction in one that does."""
    if x.size < MIN_GROUP_MEMBERS or np.isnan(x).any() or np.isnan(y).any() or np.ptp(y) == 0:
        return float("nan")
    return 0.0 if np.ptp(x) == 0 else float(_weighted_srcc(x, y, np.ones((1, x.size)))[0])


def _pairs_right(x: Floats, y: Floats) -> tuple[float, float]:
    """(pairs rightly ordered, pairs of different truth) in one group."""
    first, second = np.triu_indices(x.size, k=1)
    truth = np.sign(y[first] - y[second])
    agreement = (truth * np.sign(x[first] - x[second]))[truth != 0]
    return float(((agreement + 1) / 2).sum()), float(agreement.size)


# --- Resampling -----------------------------------------------------------------------------------------------------


def _resampled(n: int, clusters: Sequence[str] | None, resamples: int, seed: int) -> Sequence[Floats]:
    """Counts (b, n) of every image in each resample, in pieces that fit into memory."""
    rng = np.random.default_rng(seed)
    names, of_image = np.unique(np.asarray(clusters if clusters is not None else np.arange(n)), return_inverse=True)
    counts = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=resamples)
    rows = max(1, _CELLS_IN_MEMORY // max(n, 1))
    return [counts[at : at + rows][:, of_image].astype(np.float64) for at in range(0, resamples, rows)]


def _members(groups: Sequence[str]) -> list[NDArray[np.intp]]:
    labels = np.asarray(groups)
    return [np.flatnonzero(labels == name) for name in np.unique(labels)]


def _group_weights(weights: Floats, members: list[NDArray[np.intp]]) -> Floats:
    return weights[:, [m[0] for m in members]]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(denominator == 0, np.nan, numerator / denominator), dtype=np.float64)


def _checked(prediction: "ArrayLike", truth: "ArrayLike") -> tuple[Floats, Floats]:
    x, y = (np.asarray(values, dtype=np.float64).ravel() for values in (prediction, truth))
    if x.size != y.size:
        raise ValueError(f"{x.size} predictions for {y.size} truths; there must be one each")
    return x, y


def _value(statistic: Statistic, prediction: "ArrayLike", truth: "ArrayLike") -> float:
    x, y = _checked(prediction, truth)
    return float(statistic(x, y, np.ones((1, x.size)))[0])


STATISTICS: dict[str, Statistic] = {
    "srcc": _weighted_srcc,
    "plcc": _weighted_plcc,
    "krcc": _weighted_krcc,
    "mae": _weighted_mae,
}
"""The measures over all images at once, ready for `estimate`."""
