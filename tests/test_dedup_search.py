"""The near-pair search: exact for every distance, and far from comparing all pairs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import CapError
from pipeline.dedup.search import choose_bands, pairs_within, search_bands

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


@given(clustered_hashes(), st.integers(0, 64))
def test_pairs_within_equals_brute_force_in_order(hashes, distance):
    found = pairs_within(hashes, distance)
    rows = zip(found.first.tolist(), found.second.tolist(), found.distance.tolist(), strict=True)
    assert list(rows) == brute_force(hashes, distance)
    assert (found.first.dtype, found.second.dtype) == (np.int64, np.int64)
    assert found.distance.dtype == np.uint8


@given(clustered_hashes(), st.integers(0, 12), st.sampled_from([20_000, 1_000_000]))
def test_bands_chosen_for_many_hashes_miss_no_pair_and_repeat_none(hashes, distance, count):
    unique = np.unique(hashes)
    bands = choose_bands(count, distance)
    assert bands
    hits, _ = search_bands(bands, unique, distance)
    found = sorted(
        (min(left, right), max(left, right), bits)
        for left, right, bits in zip(*(column.tolist() for column in hits), strict=True)
    )
    assert found == brute_force(unique, distance)


@given(st.integers(2, 10**7), st.integers(0, 64))
def test_chosen_bands_obey_the_pigeonhole_principle_within_64_bits(count, distance):
    bands = choose_bands(count, distance)
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
    found = pairs_within(hashes, 6)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert {(index, index + 10_000) for index in planted.tolist()} <= pairs
    assert found.compared < 0.05 * len(hashes) * (len(hashes) - 1) / 2


def test_thousands_of_equal_hashes_are_compared_as_one():
    found = pairs_within(np.full(2_000, 42, dtype=np.uint64), 6)
    assert found.compared == 0
    assert len(found.first) == 2_000 * 1_999 // 2
    assert not found.distance.any()


def test_comparing_all_pairs_at_a_large_distance_holds_one_block_in_memory():
    hashes = np.random.default_rng(0).integers(0, 2**64, 6_000, dtype=np.uint64)
    assert choose_bands(len(hashes), 20) == []
    tracemalloc.start()
    found = pairs_within(hashes, 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.compared == 6_000 * 5_999 // 2
    assert peak < 20_000_000  # all pairs at once would take eight bytes each, 144 MB


@pytest.mark.parametrize("distance", [-1, 65])
def test_a_distance_that_64_bits_cannot_have_is_refused(distance):
    with pytest.raises(CapError, match="0 to 64"):
        pairs_within(np.zeros(2, dtype=np.uint64), distance)
