"""Which photographs are the same as others: by their file, or by a perceptual hash within a Hamming distance."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from redaes.sources import Photograph
from redaes.sources.facts import Facts
from redaes.sources.hamming import HammingIndex
from redaes.sources.listing import Photographs

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Hashed:
    """Photographs with their hashes, some fifty bytes each beside the names.

    Attributes:
        photographs: n of them.
        shas: (n,) 32 bytes each, the sha256 of the file; empty where it is not known.
        phashes: (n,) uint64.
    """

    photographs: Photographs
    shas: "np.ndarray"
    phashes: "np.ndarray"

    @classmethod
    def of(cls, items: Iterable[tuple[Photograph, Facts]]) -> Self:
        """Of readable photographs and what is known of them."""
        import numpy as np

        shas, phashes = bytearray(), array("Q")

        def noted() -> Iterator[Photograph]:
            for photograph, facts in items:
                shas.extend(bytes.fromhex(facts.sha256) or bytes(32))
                phashes.append(int(facts.phash, 16))
                yield photograph

        photographs = Photographs(noted())
        # numpy reads trailing zero bytes as padding: 32 of them are an empty text, and equality is not affected.
        return cls(photographs, np.frombuffer(shas, "S32"), np.array(phashes, np.uint64))


def on_list(hashed: Hashed, listed: Hashed, distance: int) -> dict[int, int]:
    """Photographs that are the same as one on a list.

    Args:
        hashed: the photographs.
        listed: those on the list.
        distance: of perceptual hashes, at most.

    Returns:
        Positions of such photographs, each with the position on the list of one that it is the same as.
    """
    import numpy as np

    unique, inverse = np.unique(hashed.phashes, return_inverse=True)
    listed_unique, listed_first = np.unique(listed.phashes, return_index=True)
    match = np.full(len(unique), -1)
    for queries, places in HammingIndex(listed_unique, distance).pairs(unique):
        match[queries[::-1]] = listed_first[places[::-1]]  # backwards, so that the first of several stays
    near = match[inverse]
    known = np.flatnonzero(listed.shas != b"")
    order = known[np.argsort(listed.shas[known], kind="stable")]
    places = np.minimum(np.searchsorted(listed.shas[order], hashed.shas), max(len(order) - 1, 0))
    if len(order):
        near = np.where(listed.shas[order][places] == hashed.shas, order[places], near)
    return {int(position): int(near[position]) for position in np.flatnonzero(near >= 0)}


def first_of_duplicates(hashed: Hashed, distance: int | None) -> "np.ndarray":
    """For every photograph the one to keep in its place: itself, or an earlier one that is kept.

    A photograph is dropped if it is within the distance of one before it that is kept; so no two that are kept are
    within the distance, and nothing is dropped for the sake of one that is dropped itself.

    Args:
        hashed: n photographs.
        distance: of perceptual hashes, at most; None: only equal files count.

    Returns:
        (n,) positions.
    """
    import numpy as np

    values = hashed.shas if distance is None else hashed.phashes
    unique, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    kept = first.copy()  # position that stands for each distinct value
    if distance is not None:
        order = np.argsort(first)  # distinct values by where they first stand
        earlier = np.arange(len(unique))
        for later, before in HammingIndex(unique[order], distance).pairs(unique[order]):
            towards = before < later
            for value, other in zip(later[towards].tolist(), before[towards].tolist(), strict=True):
                if earlier[value] == value and earlier[other] == other:
                    earlier[value] = other
        kept[order] = first[order][earlier]
    positions: np.ndarray = kept[inverse]
    return positions
