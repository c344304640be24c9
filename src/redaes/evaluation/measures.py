"""Every measure of one scorer on one benchmark, each with its interval, and the fits some of them need.

In: predictions and truths `(n,)`, optionally groups. Out: numbers as JSON. Choices [O, not from the paper]:

- MAE is measured after the least-squares line from predictions to truths: scorers have other scales than annotators.
- The logistic PLCC (VQEG 2003) is a measure of its own and never stands for the plain one. Its curve is fitted once, to
  the whole sample, and kept for the resamples; its interval is therefore slightly too narrow.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from redaes.evaluation.correlations import (
    STATISTICS,
    FailureTreatment,
    Floats,
    Weighted,
    all_pairs_accuracy,
    estimate,
    interval,
    pairwise_statistic,
    ratio,
    resample_all,
    treat_failures,
    within_srcc_statistic,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

WITHIN = {"srcc_within": within_srcc_statistic, "pairwise_accuracy": pairwise_statistic}
"""Measures that groups make or change."""


def mae_after_fit(x: Floats, y: Floats) -> Weighted:
    """Mean absolute error in the truth's unit, after the best line from predictions to truths; a statistic.

    Args:
        x: (n,) predictions; constant ones are fitted by the mean of the truths.
        y: (n,) truths.
    """

    def statistic(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        dx, dy = (values - ratio(weights @ values, total)[:, None] for values in (x, y))
        weighted = weights * dx
        square = np.einsum("bn,bn->b", weighted, dx)
        slope = np.where(square > 0, ratio(np.einsum("bn,bn->b", weighted, dy), square), 0.0)
        return ratio(np.einsum("bn,bn->b", weights, np.abs(dy - slope[:, None] * dx)), total)

    return statistic


def fit_logistic(prediction: "ArrayLike", truth: "ArrayLike") -> tuple[Floats | None, str]:
    """Predictions on the truth's scale by VQEG's 4-parameter logistic, from its start values.

    f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), from b1 = max y, b2 = min y, b3 = mean x, b4 = std x / 4.

    Args:
        prediction: (n,) finite predictions.
        truth: (n,) finite truths.

    Returns:
        The (n,) fitted values and an empty reason, or None and the reason why there is no fit.
    """
    from scipy.optimize import OptimizeWarning, curve_fit
    from scipy.special import expit

    x, y = (np.asarray(values, dtype=np.float64) for values in (prediction, truth))
    if x.size < 4:
        return None, f"{x.size} images are too few for 4 parameters"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None, "a prediction or a truth is not finite"
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, "the predictions or the truths are constant"

    def curve(v: Floats, high: float, low: float, centre: float, width: float) -> Floats:
        return np.asarray(low + (high - low) * expit((v - centre) / max(abs(width), 1e-12)))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # about the covariance, which is not used
            found, _ = curve_fit(curve, x, y, p0=[y.max(), y.min(), x.mean(), x.std() / 4], maxfev=10_000)
    except RuntimeError as error:
        return None, f"the fit does not converge: {error}"
    return curve(x, *found), ""


def measure_benchmark(
    prediction: "ArrayLike",
    truth: "ArrayLike",
    groups: Sequence[str] | None = None,
    seed: int = 0,
    *,
    logistic: bool = False,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Every measure with its 95 % interval, under both treatments of failed parses.

    Args:
        prediction: (n,) predicted scores, NaN where an answer could not be parsed.
        truth: (n,) mean opinion scores.
        groups: (n,) the group of each image, drawn as a whole; adds `srcc_within`, and pairs are then inside groups.
        seed: of the bootstrap.
        logistic: add `plcc_logistic`; where its fit fails it is null, with a `reason`.
        resamples: of the bootstrap.

    Returns:
        `n`, `parsed`, `distinct` (different parsed predictions), and under `parsed_only` and `failures_as_mean` one
        `{value, low, high}` per measure, null where it is not defined.

    Raises:
        ValueError: other numbers of predictions, truths and groups.
    """
    x, y = (np.asarray(values, dtype=np.float64).ravel() for values in (prediction, truth))
    if x.size != y.size or (groups is not None and len(groups) != x.size):
        raise ValueError(f"{x.size} predictions, {y.size} truths and {len(groups or ())} groups; give one each")
    parsed = x[~np.isnan(x)]
    result: dict[str, Any] = {"n": x.size, "parsed": parsed.size, "distinct": np.unique(parsed).size}
    labels = None if groups is None else [str(group) for group in groups]
    if parsed.size == x.size:  # nothing failed: the treatments are one, and so is their bootstrap
        same = _measure(x, y, labels, seed, logistic, resamples)
        return {**result, **dict.fromkeys(get_args(FailureTreatment), same)}
    for treatment in get_args(FailureTreatment):
        values, kept = treat_failures(x, treatment)
        remaining = None if labels is None else [g for g, keep in zip(labels, kept, strict=True) if keep]
        result[treatment] = _measure(values[kept], y[kept], remaining, seed, logistic, resamples)
    return result


def measures_of(groups: Sequence[str] | None) -> tuple[str, ...]:
    """The measures of a benchmark; with groups also the order within them."""
    everywhere = ("plcc", "srcc", "krcc", "mae_fit", "pairwise_accuracy")
    return everywhere if groups is None else (*everywhere, "srcc_within")


def bootstrap(
    name: str, x: Floats, y: Floats, groups: Sequence[str] | None, *, resamples: int = 1000, seed: int = 0
) -> Floats:
    """A measure on the sample and on its resamples, as of `correlations.resample`.

    All measures are made of the same resamples at once, and remembered: a scorer costs one bootstrap, however many
    others it is compared with afterwards.

    Args:
        name: one of `measures_of(groups)`.
        x: (n,) predictions, without NaN.
        y: (n,) truths.
        groups: (n,) the group of each image, drawn as a whole; pairs are then inside groups.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    labels = None if groups is None else tuple(groups)
    return _bootstrap(x.tobytes(), y.tobytes(), labels, resamples, seed)[name]


@lru_cache(maxsize=32)
def _bootstrap(x: bytes, y: bytes, groups: tuple[str, ...] | None, resamples: int, seed: int) -> dict[str, Floats]:
    within = {} if groups is None else {name: make(groups) for name, make in WITHIN.items()}
    known = {**STATISTICS, "mae_fit": mae_after_fit, "pairwise_accuracy": all_pairs_accuracy, **within}
    wanted = {name: known[name] for name in measures_of(groups)}
    pair = np.frombuffer(x), np.frombuffer(y)
    return resample_all(wanted, *pair, groups or None, resamples=resamples, seed=seed)


def _measure(
    x: Floats, y: Floats, groups: list[str] | None, seed: int, logistic: bool, resamples: int
) -> dict[str, dict[str, Any]]:
    measured: dict[str, dict[str, Any]] = {
        name: dict(interval(bootstrap(name, x, y, groups, resamples=resamples, seed=seed)).as_json())
        for name in measures_of(groups)
    }
    if logistic:
        fitted, reason = fit_logistic(x, y)
        values = np.full(x.size, np.nan) if fitted is None else fitted
        plain = estimate(STATISTICS["plcc"], values, y, groups or None, resamples=resamples, seed=seed)
        measured["plcc_logistic"] = {**plain.as_json(), **({"reason": reason} if reason else {})}
    return measured
