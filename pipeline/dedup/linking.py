"""Which hashes hang together through near ones.

Given hashes, gives the group of each: two hashes are in one group if a chain of near hashes leads
from one to the other. Given also the groups of an earlier run, only hashes that are new since then
are compared, and the groups are those of all hashes all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.dedup.search import near_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.dedup.search import NearPairs

__all__ = ["LinkedHashes", "link_hashes"]

_Hashes = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.int64]

# Pairs held at a time: near copies in their thousands have more pairs than fit into memory.
_AT_A_TIME = 1 << 21


@dataclass(frozen=True)
class LinkedHashes:
    """Hashes and their groups.

    Attributes
    ----------
    distance
        Largest Hamming distance of near hashes in bits.
    hashes
        uint64 (n,), rising, each once.
    group
        int64 (n,), 0 and up: equal for hashes that a chain of near ones joins.
    """

    distance: int
    hashes: _Hashes
    group: _Indices

    def groups_of(self, hashes: _Hashes) -> _Indices:
        """The group of each of some hashes, all of which must be among these."""
        return np.asarray(self.group[np.searchsorted(self.hashes, hashes)])

    def among(self, hashes: _Hashes) -> LinkedHashes:
        """The groups wholly among `hashes`, each once: what still holds when others are gone."""
        gone = self.group[~np.isin(self.hashes, hashes, assume_unique=True)]
        # A group that lost a hash may have come apart.
        whole = ~np.isin(self.group, gone)
        return LinkedHashes(self.distance, self.hashes[whole], self.group[whole])


def link_hashes(
    hashes: _Hashes, distance: int, earlier: LinkedHashes | None = None
) -> LinkedHashes:
    """Group hashes that chains of near ones join.

    Parameters
    ----------
    hashes
        uint64, in any order, repetitions allowed.
    distance
        Largest Hamming distance of near hashes, 0 to 64 bits.
    earlier
        What this function gave for other hashes. Groups at the same distance that are still whole
        are not searched again; the result does not depend on it.

    Raises
    ------
    CapError
        If `distance` is not within 0 to 64.
    """
    unique = np.unique(hashes)
    group: _Indices = np.arange(len(unique))
    new = np.ones(len(unique), dtype=bool)
    if earlier is not None and earlier.distance == distance:
        known = earlier.among(unique)
        positions = np.searchsorted(unique, known.hashes)
        new[positions] = False
        _, first, inverse = np.unique(known.group, return_index=True, return_inverse=True)
        group[positions] = positions[first][inverse]
    for pairs in _gather(near_pairs(unique, distance, new)):
        group = _merge(group, *pairs)
    numbers = np.unique(group, return_inverse=True)[1]
    return LinkedHashes(distance, unique, numbers.astype(np.int64))


def _gather(blocks: Iterable[NearPairs]) -> Iterator[tuple[_Indices, _Indices]]:
    """Pairs of several blocks at a time: merging costs as much as there are hashes."""
    first, second, count = [], [], 0
    for block in blocks:
        first.append(block.first)
        second.append(block.second)
        count += len(block.first)
        if count >= _AT_A_TIME:
            yield np.concatenate(first), np.concatenate(second)
            first, second, count = [], [], 0
    if count:
        yield np.concatenate(first), np.concatenate(second)


def _merge(group: _Indices, first: _Indices, second: _Indices) -> _Indices:
    """Groups, below their number, after those of each pair of members have become one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = (group[first], group[second])
    links = coo_array((np.ones(len(first), np.uint8), pairs), shape=(len(group), len(group)))
    return np.asarray(connected_components(links, directed=False)[1][group], dtype=np.int64)
