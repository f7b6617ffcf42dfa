"""The near-pair search: exact for every distance, and far from comparing all pairs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import CapError
from pipeline.dedup.search import NearPairs, choose_bands, near_pairs, search_bands

WORDS = st.integers(0, 2**64 - 1)
# Bit flips gather around few centres, so that many distances, and equal hashes, occur.
FLIPS = st.lists(st.integers(0, 63), max_size=14).map(lambda bits: sum({1 << bit for bit in bits}))


@st.composite
def clustered_hashes(draw) -> np.ndarray:
    centres = draw(st.lists(WORDS, min_size=1, max_size=3))
    members = draw(st.lists(st.tuples(st.sampled_from(centres), FLIPS), max_size=40))
    return np.array([centre ^ flips for centre, flips in members], dtype=np.uint64)


def brute_force(hashes: np.ndarray, distance: int) -> list[tuple[int, int, int]]:
    return [
        (first, second, (int(hashes[first]) ^ int(hashes[second])).bit_count())
        for first in range(len(hashes))
        for second in range(first + 1, len(hashes))
        if (int(hashes[first]) ^ int(hashes[second])).bit_count() <= distance
    ]


def pairs_of(blocks: Iterable[NearPairs]) -> list[tuple[int, int, int]]:
    """What a search found, the earlier position first, sorted."""
    return sorted(
        (min(first, second), max(first, second), bits)
        for block in blocks
        for first, second, bits in zip(*(column.tolist() for column in block[:3]), strict=True)
    )


def with_new(pairs: list[tuple[int, int, int]], new: np.ndarray) -> list[tuple[int, int, int]]:
    return [pair for pair in pairs if new[pair[0]] or new[pair[1]]]


def compared(blocks: Iterable[NearPairs]) -> int:
    return sum(block.compared for block in blocks)


@given(clustered_hashes(), st.integers(0, 64))
def test_the_near_pairs_are_those_of_brute_force(hashes, distance):
    assert pairs_of(near_pairs(hashes, distance)) == brute_force(hashes, distance)


@given(clustered_hashes(), st.integers(0, 64), st.randoms(use_true_random=False))
def test_pairs_without_a_new_hash_are_left_out_and_no_others(hashes, distance, random):
    new = np.array([random.random() < 0.5 for _ in hashes], dtype=bool)
    found = pairs_of(near_pairs(hashes, distance, new))
    assert found == with_new(brute_force(hashes, distance), new)


@given(
    clustered_hashes(),
    st.integers(0, 12),
    st.sampled_from([(20_000, 20_000), (10**6, 10**6), (10**6, 10**3), (10**7, 10**5)]),
    st.randoms(use_true_random=False),
)
def test_bands_chosen_for_many_hashes_miss_no_pair_and_repeat_none(
    hashes, distance, counts, random
):
    unique = np.unique(hashes)
    bands = choose_bands(counts[0], distance, counts[1])
    assert bands
    some = counts[1] < counts[0]
    new = np.array([random.random() < 0.5 or not some for _ in unique], dtype=bool)
    found = pairs_of(search_bands(bands, unique, distance, new))
    assert found == with_new(brute_force(unique, distance), new)


@given(st.integers(2, 10**7), st.integers(0, 64), st.floats(0, 1))
def test_chosen_bands_obey_the_pigeonhole_principle_within_64_bits(count, distance, share):
    bands = choose_bands(count, distance, int(share * count))
    if bands:
        assert sum(band.radius + 1 for band in bands) == distance + 1
        assert [band.shift for band in bands[1:]] == [
            band.shift + band.width for band in bands[:-1]
        ]
        assert bands[-1].shift + bands[-1].width <= 64


def test_planted_neighbours_of_20000_hashes_are_found_comparing_under_5_percent_of_pairs():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    planted = np.arange(500)
    hashes[planted + 10_000] = hashes[planted]
    for _ in range(6):
        bits = rng.integers(0, 64, len(planted)).astype(np.uint64)
        hashes[planted + 10_000] ^= np.uint64(1) << bits
    found = list(near_pairs(hashes, 6))
    pairs = {pair[:2] for pair in pairs_of(found)}
    assert {(index, index + 10_000) for index in planted.tolist()} <= pairs
    assert compared(found) < 0.05 * len(hashes) * (len(hashes) - 1) / 2


def test_a_batch_of_one_percent_takes_under_a_tenth_of_the_comparisons():
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    new = np.arange(len(hashes)) >= 99_000
    # Its share of all pairs is 2 %; other bands suit all pairs better.
    assert 0 < compared(near_pairs(hashes, 6, new)) < 0.1 * compared(near_pairs(hashes, 6))
    assert compared(near_pairs(hashes, 6, np.zeros_like(new))) == 0


def test_comparing_all_pairs_at_a_large_distance_holds_one_block_in_memory():
    hashes = np.random.default_rng(0).integers(0, 2**64, 6_000, dtype=np.uint64)
    assert choose_bands(len(hashes), 20) == []
    tracemalloc.start()
    count = compared(near_pairs(hashes, 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 6_000 * 5_999 // 2
    assert peak < 20_000_000  # all pairs at once would take eight bytes each, 144 MB


@pytest.mark.parametrize("distance", [-1, 65])
def test_a_distance_that_64_bits_cannot_have_is_refused(distance):
    with pytest.raises(CapError, match="0 to 64"):
        near_pairs(np.zeros(2, dtype=np.uint64), distance)
