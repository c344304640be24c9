"""Where people's mean score of an image lies, by several answers about it: intervals that hold what they promise.

A model's answers may agree with one another and be wrong, so their spread alone promises nothing. Split conformal
prediction on signed errors (Linusson et al. 2014), normalised by the spread (Papadopoulos et al. 2008): on images with
a known truth y, of which a model's answers have the mean m and the deviation s, the errors

    e = (y - m) / (s + mean of all s)

are ordered, and the interval of another image is m + (s + mean of all s) * [e_low, e_high], between the
floor(a/2 (n+1))th and the ceil((1-a/2)(n+1))th of the n errors. It covers the truth of an exchangeable image with a
probability of at least 1 - a, whatever the model, and takes away a model's bias with it. The images of a benchmark are
cut into two folds by a hash of their names, and each is judged by the errors of the other fold (Lei et al. 2018, 5.1);
groups stay whole, and between them the promise is less exact.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from redaes.data.benchmarks import Benchmark, Item
from redaes.errors import UserError
from redaes.evaluation.predictions import Answer
from redaes.evaluation.results import file_name
from redaes.registry import optional

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Floats = NDArray[np.float64]

LEVEL = 0.95
METHOD = "split conformal, signed errors, normalised by the deviation over samples, two folds"


def conformal_intervals(
    mean: "ArrayLike", std: "ArrayLike", truth: "ArrayLike", names: Sequence[str], level: float = LEVEL
) -> tuple[Floats, Floats]:
    """The interval of every image, by the errors on the images of the other fold.

    Args:
        mean: (n,) of the answers about an image, in [0, 10].
        std: (n,) their standard deviation, at least 0, in the same points; it may be 0 everywhere.
        truth: (n,) people's mean score on [0, 10].
        names: (n,) of images, or of the groups that they belong to.
        level: the probability with which an interval is to hold the truth, in (0, 1).

    Returns:
        Lower and upper ends, each (n,), within [0, 10]. With too few images for the level an end is the scale's own.

    Raises:
        ValueError: other numbers of values, or a level that cannot be.

    Example:
        >>> low, high = conformal_intervals([5.0] * 4, [1.0] * 4, [4, 5, 6, 7], ["a", "b", "c", "d"], level=0.5)
        >>> bool((low <= high).all())
        True
    """
    m, s, y = (np.asarray(values, dtype=np.float64).ravel() for values in (mean, std, truth))
    if not m.size == s.size == y.size == len(names) or not 0 < level < 1:
        raise ValueError(f"{m.size} means, {s.size} deviations, {y.size} truths, {len(names)} names; level {level}")
    low, high = np.zeros_like(m), np.full_like(m, 10.0)
    scale = s + max(s.sum() / max(s.size, 1), 1e-3)  # deviations of 0 everywhere give intervals of one width
    fold = np.array([hashlib.sha256(name.encode()).digest()[0] % 2 for name in names], dtype=bool)
    for side in (fold, ~fold):
        errors = np.sort((y[side] - m[side]) / scale[side])
        below, above = _ends(errors, level)
        low[~side] = m[~side] + scale[~side] * below
        high[~side] = m[~side] + scale[~side] * above
    return low.clip(0, 10), high.clip(0, 10)


def _ends(errors: Floats, level: float) -> tuple[float, float]:
    """The two errors that bound an interval; infinite where there are too few of them for the level."""
    n, tail = errors.size, (1 - level) / 2
    below, above = math.floor(tail * (n + 1)), math.ceil((1 - tail) * (n + 1))
    return (errors[below - 1] if below >= 1 else -math.inf), (errors[above - 1] if above <= n else math.inf)


def image_intervals(
    benchmark: Benchmark, items: Sequence[Item], answers: Mapping[str, Answer]
) -> list[dict[str, str | float]]:
    """For every scored image the mean and deviation over its samples and the interval of people's score.

    Args:
        benchmark: for its native range.
        items: with their truths.
        answers: by image id.

    Returns:
        `id`, `mean`, `std`, `low`, `high` and `truth` of each, in points of [0, 10]; nothing where the scorer gave no
        deviations. An image of which one sample alone could be read has the mean deviation of the others.
    """
    scored = [(item, answers[item.id]) for item in items if item.id in answers and answers[item.id].value is not None]
    means = np.array([answer.value for _, answer in scored], dtype=np.float64)
    stds = np.array([np.nan if answer.std is None else answer.std for _, answer in scored], dtype=np.float64)
    if np.isnan(stds).all():
        return []
    stds[np.isnan(stds)] = np.nanmean(stds)
    truths = [10 * benchmark.normalised(item.mos) for item, _ in scored]
    low, high = conformal_intervals(means, stds, truths, [item.group or item.id for item, _ in scored])
    columns = (means.tolist(), stds.tolist(), low.tolist(), high.tolist(), truths)
    names = ("id", "mean", "std", "low", "high", "truth")
    return [dict(zip(names, row, strict=True)) for row in zip([item.id for item, _ in scored], *columns, strict=True)]


def write_intervals(folder: str | Path, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep the intervals of images as a parquet table under `FOLDER/intervals/`; nothing where there are none.

    Args:
        folder: of the evaluation.
        result: of the same scorer on the same benchmark; it names the file.
        rows: of `image_intervals`.

    Raises:
        UserError: it cannot be written.
    """
    if not rows:
        return
    pa, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    path = Path(folder) / "intervals" / f"{file_name(result)}.parquet"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a table says of intervals: how often they hold the truth, and how wide they are on average, in points.

    Args:
        rows: of `image_intervals`.
    """
    if not rows:
        return None
    mean_std, low, high, truth = (np.array([row[name] for row in rows]) for name in ("std", "low", "high", "truth"))
    inside = (low - 1e-9 <= truth) & (truth <= high + 1e-9)  # ties would else be lost to rounding
    return {
        "level": LEVEL,
        "method": METHOD,
        "n": len(rows),
        "mean_std": float(mean_std.mean()),
        "coverage": float(inside.mean()),
        "width": float((high - low).mean()),
    }
