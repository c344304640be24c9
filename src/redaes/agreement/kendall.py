"""Concordant less discordant pairs of many weighted samples: Kendall's S, exactly, without looking at every pair.

Both variables are cut into buckets of about 128 images, never through a tie. Two images in different buckets of both
are ordered as their buckets are: cumulative sums over the grid of buckets count all those pairs at once. The pairs that
share a bucket are few, and their signs are the same in every resample: one small matrix product for each bucket. A
sample of n images costs some 128 n multiplications and its preparation as many comparisons, where sorting each of a
thousand resamples anew would take fifty times as long.
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ranks: TypeAlias = NDArray[np.intp]

BUCKET = 128
"""Images in a bucket, unless more of them are tied."""


def pair_balance(x: Ranks, y: Ranks) -> Callable[[Floats], Floats]:
    """Prepare to count pairs ordered alike less pairs ordered oppositely.

    Args:
        x: (n,) dense ranks from 0.
        y: (n,) dense ranks from 0.

    Returns:
        Of (B, n) counts of every image in every resample the (B,) balances; a pair tied in x or y counts 0.
    """
    in_x, in_y = _buckets(x), _buckets(y)
    shape = (int(in_x.max(initial=0)) + 1, int(in_y.max(initial=0)) + 1)
    cells = in_x * shape[1] + in_y
    same_in_x = [(members, _signs(x, y, members)) for members in _shared(in_x, x)]
    same_in_y = [
        (members, _signs(x, y, members) * np.not_equal.outer(in_x[members], in_x[members]))
        for members in _shared(in_y, y)
    ]

    def balance(weights: Floats) -> Floats:
        rows = [np.bincount(cells, row, minlength=shape[0] * shape[1]).astype(np.float64) for row in weights]
        total = _across(np.stack(rows).reshape(-1, *shape))
        single = weights.astype(np.float32)  # exact: no sum of counts comes near 2^24
        for members, signs in (*same_in_x, *same_in_y):
            drawn = single[:, members]
            total += np.einsum("bi,bi->b", drawn @ signs, drawn, dtype=np.float64) / 2
        return total

    return balance


def _buckets(ranks: Ranks) -> Ranks:
    """(n,) the number of each image's bucket, ascending with its rank."""
    of_rank, number, filled = [], 0, 0
    for size in np.bincount(ranks).tolist():
        if filled and filled + size > BUCKET:
            number, filled = number + 1, 0
        of_rank.append(number)
        filled += size
    return np.array(of_rank, dtype=np.intp)[ranks]


def _shared(buckets: Ranks, ranks: Ranks) -> Iterator[Ranks]:
    """The images of every bucket in which not all are tied."""
    order = np.argsort(buckets, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(buckets[order])) + 1):
        if members.size and np.ptp(ranks[members]):
            yield members


def _signs(x: Ranks, y: Ranks, members: Ranks) -> NDArray[np.float32]:
    """(k, k), 1 where two images are ordered alike in both, -1 where oppositely."""
    a, b = (np.sign(np.subtract.outer(ranks[members], ranks[members])) for ranks in (x, y))
    return np.asarray(a * b, dtype=np.float32)


def _across(grid: Floats) -> Floats:
    """The balance (B,) of pairs in different rows and columns of the grid of buckets (B, in x, in y)."""
    below = np.cumsum(grid, axis=1) - grid
    up_to = np.cumsum(below, axis=2)
    return np.asarray(np.einsum("bij,bij->b", grid, 2 * up_to - below - up_to[:, :, -1:]))
