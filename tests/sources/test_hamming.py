"""The near-duplicate search finds exactly what comparing everything with everything finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.sources.hamming import MAX_DISTANCE, HammingIndex, radii


def brute_force(queries: np.ndarray, indexed: np.ndarray, distance: int) -> set[tuple[int, int]]:
    near = np.bitwise_count(queries[:, None] ^ indexed[None, :]) <= distance
    return set(zip(*(axis.tolist() for axis in np.nonzero(near)), strict=True))


def found(queries: np.ndarray, indexed: np.ndarray, distance: int) -> list[tuple[int, int]]:
    chunks = HammingIndex(indexed, distance).pairs(queries)
    return [pair for q, i in chunks for pair in zip(q.tolist(), i.tolist(), strict=True)]


def flipped(base: int, bits: list[int]) -> int:
    for bit in bits:
        base ^= 1 << bit
    return base


# Hashes around a few centres, so that distances on both sides of every threshold occur, in every spread over the bands.
CENTRES = st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF, 0xAAAA5555AAAA5555])
HASHES = st.lists(
    st.builds(flipped, CENTRES, st.lists(st.integers(0, 63), max_size=20, unique=True)), min_size=1, max_size=40
).map(lambda values: np.array(values, np.uint64))


@settings(max_examples=60, deadline=None)
@given(HASHES, HASHES, st.integers(0, MAX_DISTANCE))
def test_the_index_finds_all_pairs_that_brute_force_finds_and_no_other(queries, indexed, distance):
    pairs = found(queries, indexed, distance)
    assert set(pairs) == brute_force(queries, indexed, distance)
    assert pairs == sorted(set(pairs))


def test_many_random_and_planted_hashes_agree_with_brute_force():
    rng = np.random.default_rng(0)
    indexed = rng.integers(0, 2**64, 2000, dtype=np.uint64)
    masks = np.array([sum(1 << int(b) for b in rng.choice(64, n % 10, replace=False)) for n in range(9000)], np.uint64)
    queries = indexed[rng.integers(0, 2000, 9000)] ^ masks
    pairs = found(queries, indexed, 7)
    assert set(pairs) == brute_force(queries, indexed, 7)
    assert len({query for query, _ in pairs}) == 7200  # of 0 to 9 flipped bits, those with at most 7


def test_a_crowded_bucket_is_cut_into_pieces_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr("redaes.sources.hamming.CANDIDATES_AT_ONCE", 100)
    indexed = np.arange(70, dtype=np.uint64)  # all in one bucket of three bands
    assert set(found(indexed, indexed, 2)) == brute_force(indexed, indexed, 2)


@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_the_radii_leave_no_room_for_a_pair_to_slip_through(distance):
    assert sum(radius + 1 for radius in radii(distance)) == distance + 1


@pytest.mark.parametrize("distance", [-1, 17])
def test_a_distance_out_of_range_is_refused(distance):
    with pytest.raises(ValueError, match="from 0 to 16"):
        HammingIndex(np.zeros(1, np.uint64), distance)


def test_nothing_is_near_an_empty_index():
    assert found(np.zeros(3, np.uint64), np.empty(0, np.uint64), 6) == []
