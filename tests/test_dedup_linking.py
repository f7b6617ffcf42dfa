"""Groups of hashes: what batches add up to is what one search over all of them finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import CapError
from pipeline.dedup.linking import LinkedHashes, link_hashes

# Hashes along a line of bits, so that chains form, and come apart when a link is taken out.
HASHES = st.lists(
    st.builds(
        lambda ones, extra: ((1 << ones) - 1) ^ (extra << 60), st.integers(0, 40), st.integers(0, 3)
    ),
    max_size=25,
)
DISTANCE = st.integers(0, 8)


def array(hashes: list[int]) -> np.ndarray:
    return np.array(hashes, dtype=np.uint64)


def parts(linked: LinkedHashes) -> set[frozenset[int]]:
    """The groups as sets of hashes."""
    found: dict[int, set[int]] = {}
    for value, group in zip(linked.hashes.tolist(), linked.group.tolist(), strict=True):
        found.setdefault(group, set()).add(value)
    return {frozenset(group) for group in found.values()}


def merged(hashes: list[int], distance: int) -> set[frozenset[int]]:
    """Groups by repeated merging: slow, and plainly what is meant."""
    groups: list[set[int]] = []
    for value in set(hashes):
        near = [g for g in groups if any((value ^ other).bit_count() <= distance for other in g)]
        groups = [group for group in groups if group not in near]
        groups.append({value}.union(*near))
    return {frozenset(group) for group in groups}


@given(HASHES, DISTANCE)
def test_groups_are_those_of_repeated_merging(hashes, distance):
    linked = link_hashes(array(hashes), distance)
    assert parts(linked) == merged(hashes, distance)
    assert linked.hashes.tolist() == sorted(set(hashes))
    assert linked.groups_of(array(hashes)).shape == (len(hashes),)


@given(st.lists(HASHES, max_size=5), DISTANCE)
def test_batches_in_any_order_give_the_groups_of_all_at_once(batches, distance):
    linked = None
    there: list[int] = []
    for batch in batches:
        there += batch
        linked = link_hashes(array(there), distance, linked)
        assert parts(linked) == merged(there, distance)


@given(HASHES, HASHES, DISTANCE, DISTANCE)
def test_groups_do_not_depend_on_what_was_there_before(hashes, before, distance, other):
    # Hashes go as well as come, and the distance may have been another.
    earlier = link_hashes(array(before), other)
    assert parts(link_hashes(array(hashes), distance, earlier)) == merged(hashes, distance)


def test_a_chain_comes_apart_when_its_middle_goes():
    chain = array([0b0, 0b111111, 0b111111111111])
    earlier = link_hashes(chain, 6)
    assert earlier.group.tolist() == [0, 0, 0]
    assert len(set(link_hashes(chain[[0, 2]], 6, earlier).group.tolist())) == 2


def test_an_impossible_distance_is_refused():
    with pytest.raises(CapError, match="0 to 64"):
        link_hashes(array([0]), 65)
