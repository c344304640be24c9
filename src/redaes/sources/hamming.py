"""All pairs of 64-bit hashes within a Hamming distance, exactly, without comparing everything with everything.

Multi-index hashing (Norouzi, Punjani, Fleet, 2012, "Fast search in Hamming space with multi-index hashing"): the bits
are cut into four bands of 16. With radii r_b >= -1 such that the sum of (r_b + 1) over the bands exceeds the distance,
two hashes within the distance must be within r_b of each other in some band b: otherwise they differ in at least
r_b + 1 bits of every band, together in more than the distance. So only hashes in the buckets of a band within its
radius need to be compared. Nothing is missed; property tests hold it to brute force.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BANDS = 4
BAND_BITS = 16
MAX_DISTANCE = 16
"""Beyond a quarter of the bits unrelated images are near each other, and the search is no faster than brute force."""

QUERIES_AT_ONCE = 8192
CANDIDATES_AT_ONCE = 4_000_000


def radii(distance: int) -> list[int]:
    """How near two hashes must be in each band, for their distance to be possible; -1: the band need not be asked.

    Example:
        >>> radii(6), radii(3), radii(0)
        ([1, 1, 1, 0], [0, 0, 0, 0], [0, -1, -1, -1])
    """
    share, more = divmod(distance + 1, BANDS)
    return [share - 1 + (band < more) for band in range(BANDS)]


@lru_cache
def _masks(radius: int) -> list[int]:
    """Every difference of at most `radius` bits of a band."""
    return [sum(1 << bit for bit in bits) for n in range(radius + 1) for bits in combinations(range(BAND_BITS), n)]


class HammingIndex:
    """An index of hashes.

    Args:
        hashes: (n,) uint64.
        distance: pairs at most this far apart are found, in [0, 16].

    Raises:
        ValueError: a distance out of range.
    """

    def __init__(self, hashes: "np.ndarray", distance: int) -> None:
        import numpy as np

        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"distance is {distance}; it must be from 0 to {MAX_DISTANCE} bits")
        self.hashes = hashes
        self.distance = distance
        self._bands = []
        for band, radius in enumerate(radii(distance)):
            if radius >= 0:
                keys = _band(hashes, band)
                order = np.argsort(keys, kind="stable").astype(np.uint32)
                starts = np.searchsorted(keys[order], np.arange((1 << BAND_BITS) + 1))
                self._bands.append((band, radius, order, starts))

    def pairs(self, queries: "np.ndarray") -> "Iterator[tuple[np.ndarray, np.ndarray]]":
        """All pairs (query, indexed) within the distance.

        Args:
            queries: (m,) uint64.

        Yields:
            Two arrays of places, into the queries and into the indexed hashes, sorted by the first, then the second;
            from one array to the next the queries ascend, and all pairs of a query are in one.
        """
        import numpy as np

        for begin in range(0, len(queries), QUERIES_AT_ONCE):
            chunk = queries[begin : begin + QUERIES_AT_ONCE]
            found = [pair for band in self._bands for pair in self._in_band(chunk, *band)]
            joined = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
            yield (joined >> np.uint64(32)).astype(np.int64) + begin, (joined & np.uint64(0xFFFFFFFF)).astype(np.int64)

    def _in_band(
        self, queries: "np.ndarray", band: int, radius: int, order: "np.ndarray", starts: "np.ndarray"
    ) -> "Iterator[np.ndarray]":
        """Pairs that are near in one band and near enough in all, as query << 32 | indexed."""
        import numpy as np

        keys = _band(queries, band)
        for mask in _masks(radius):
            low = starts[keys ^ mask]
            counts = starts[(keys ^ mask) + 1] - low
            ends = np.cumsum(counts)
            cuts = np.searchsorted(ends, np.arange(CANDIDATES_AT_ONCE, ends[-1], CANDIDATES_AT_ONCE), "right")
            for part in np.split(np.arange(len(queries)), np.unique(cuts)):
                query = np.repeat(part, counts[part])
                within = np.arange(len(query)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
                indexed = order[low[query] + within]
                near = np.bitwise_count(self.hashes[indexed] ^ queries[query]) <= self.distance
                yield query[near].astype(np.uint64) << np.uint64(32) | indexed[near].astype(np.uint64)


def _band(hashes: "np.ndarray", band: int) -> "np.ndarray":
    """(n,) the 16 bits of one band."""
    import numpy as np

    return (hashes >> np.uint64(BAND_BITS * band)).astype(np.int64) & ((1 << BAND_BITS) - 1)
