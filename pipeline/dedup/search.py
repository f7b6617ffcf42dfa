"""All pairs of 64-bit hashes within a Hamming distance, without looking at all pairs.

Given an array of hashes, gives every pair that differs in at most so many bits; where the pairs
among some of them are known, every pair that has another. The search is exact: by the pigeonhole
principle two near hashes agree, up to a few bits, in at least one of several bands of bits, so that
only hashes that nearly share a band are compared (multi-index hashing). Pairs are compared and
given in blocks of bounded memory.
"""

from __future__ import annotations

import functools
import math
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.errors import CapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["NearPairs", "choose_bands", "near_pairs", "search_bands"]

BITS = 64

_Hashes = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.int64]
_Distances = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]
_Partners = tuple[_Indices, _Indices, _Indices]
"""Rows, where the range of each row's partners starts, and how many these are."""

# Pairs compared at a time: the arrays of one block stay in a core's cache.
_BLOCK = 1 << 17

# What the steps cost, in nanoseconds, measured on one core; only the choice of bands depends on it.
_PER_PAIR = 6.0
_PER_LOOKUP = 33.0
_PER_SORTED = 150.0
_PER_TABLE_ENTRY = 3.0
_PER_FLIP = 150_000.0
_MOST_BAND_BITS = 24
_MOST_BANDS = 10


class NearPairs(NamedTuple):
    """A block of near pairs.

    Attributes
    ----------
    first, second
        Positions of the two hashes, int64 (pairs,), in either order.
    distance
        Hamming distance of each pair in bits, uint8 (pairs,).
    compared
        Number of comparisons made to find them.
    """

    first: _Indices
    second: _Indices
    distance: _Distances
    compared: int


class _Band(NamedTuple):
    """Bits `shift` to `shift + width` of a hash, in which near hashes may differ by `radius`."""

    shift: int
    width: int
    radius: int

    def of(self, hashes: _Hashes) -> _Indices:
        """The band's bits of each hash, as an index."""
        low = np.uint64((1 << self.width) - 1)
        return ((hashes >> np.uint64(self.shift)) & low).astype(np.int64)


def _ball(width: int, radius: int) -> int:
    """Number of `width`-bit words within `radius` bits of one."""
    return sum(math.comb(width, flips) for flips in range(radius + 1))


def _pairs(count: int, new: int) -> float:
    """Number of pairs of `count` hashes of which at least one is among `new` ones."""
    return new * (count - new / 2)


@functools.lru_cache(maxsize=4096)
def _band_cost(count: int, new: int, width: int, radius: int) -> float:
    """Expected nanoseconds to search one band of `count` uniform hashes for pairs with new ones."""
    flips = _ball(width, radius)
    compared = _pairs(count, new) * flips / (1 << width)
    lookups = (new if new < count else count / 2) * flips
    table = 1 << width if radius else 0
    return (
        compared * _PER_PAIR
        + lookups * _PER_LOOKUP
        + count * _PER_SORTED
        + table * _PER_TABLE_ENTRY
        + flips * _PER_FLIP
    )


def _widths(count: int, new: int, radii: list[int]) -> list[int]:
    """Share the 64 bits among bands, each bit to the band whose cost it lowers most."""
    widths = list(radii)
    for _ in range(BITS - sum(widths)):
        gains = [
            _band_cost(count, new, width, radius) - _band_cost(count, new, width + 1, radius)
            if width < _MOST_BAND_BITS
            else 0.0
            for width, radius in zip(widths, radii, strict=True)
        ]
        best = max(range(len(gains)), key=gains.__getitem__)
        if gains[best] <= 0:
            break
        widths[best] += 1
    return widths


def choose_bands(count: int, distance: int, new: int | None = None) -> list[_Band]:
    """The cheapest bands for `count` hashes; none where comparing all pairs costs less.

    Where only pairs with at least one of `new` hashes are wanted, only these count.

    With m bands of radii r_i, a pair that differs by more than r_i in every band i differs by at
    least the sum of (r_i + 1) bits. So radii whose r_i + 1 add up to distance + 1 miss no pair.
    """
    new = count if new is None else new
    cheapest: list[_Band] = []
    cost = _pairs(count, new) * _PER_PAIR
    for bands in range(1, min(distance + 1, _MOST_BANDS) + 1):
        radius, wider = divmod(distance + 1 - bands, bands)
        # The most significant bits are the lowest frequencies, in which photos differ least, and
        # get the smallest radius: bands run from the least significant bits upwards.
        radii = [radius + 1] * wider + [radius] * (bands - wider)
        widths = _widths(count, new, radii)
        total = sum(map(_band_cost, [count] * bands, [new] * bands, widths, radii))
        if total < cost:
            shifts = np.cumsum([0, *widths[:-1]]).tolist()
            cheapest = [_Band(*band) for band in zip(shifts, widths, radii, strict=True)]
            cost = total
    return cheapest


def _spread(starts: _Indices, counts: _Indices) -> _Indices:
    """The ranges starts[i], …, starts[i] + counts[i] - 1, one after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if ends.size else 0) + np.repeat(starts - ends + counts, counts)


def _blocks(counts: _Indices) -> Iterator[slice]:
    """Cut rows into runs of about `_BLOCK` pairs; a row has `counts` of them and is not cut."""
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, done + _BLOCK, side="right")), begin + 1)
        yield slice(begin, end)
        begin = end


def _compare(hashes: _Hashes, distance: int, partners: Iterable[_Partners]) -> Iterator[NearPairs]:
    """Compare rows of hashes with the ranges of their partners, block by block."""
    for every, begins, counts in partners:
        some = np.flatnonzero(counts)
        rows, starts, sizes = every[some], begins[some], counts[some]
        for block in _blocks(sizes):
            size = sizes[block]
            right = _spread(starts[block], size)
            bits = np.repeat(hashes[rows[block]], size)
            bits ^= hashes[right]
            distances = np.bitwise_count(bits)
            near = np.flatnonzero(distances <= distance)
            left = rows[block][np.searchsorted(np.cumsum(size), near, side="right")]
            yield NearPairs(left, right[near], distances[near], len(right))


def _later_partners(new: int, count: int) -> Iterator[_Partners]:
    """Each of the first `new` hashes and all later ones."""
    rows = np.arange(new)
    yield rows, rows + 1, count - 1 - rows


def _band_partners(keys: _Indices, new: _Mask, band: _Band) -> Iterator[_Partners]:
    """For rows sorted by band key, new ones first: the new rows and the ranges of their partners.

    Every two rows of which one is new, and whose keys differ by the band's radius at most, are
    partners once.
    """
    rows = np.flatnonzero(new)
    lasts = np.flatnonzero(np.diff(keys, append=-1))
    yield rows, rows + 1, lasts[np.searchsorted(lasts, rows)] - rows
    if band.radius == 0:
        return
    words = 1 << band.width
    table = np.zeros(words + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=words), out=table[1:])
    only_new = len(rows) == len(keys)
    keys = keys[rows]
    old = table[:-1] + np.bincount(keys, minlength=words)
    # Two new rows meet once: from the one whose key lacks the highest flipped bit. From the other,
    # only old rows are met.
    sides = [(0, table)] if only_new else [(0, table), (1, old)]
    for flips in range(1, band.radius + 1):
        for flipped in combinations(range(band.width), flips):
            highest = (keys >> flipped[-1]) & 1
            for side, begins in sides:
                half = np.flatnonzero(highest == side)
                partners = keys[half] ^ sum(1 << bit for bit in flipped)
                starts = begins[partners]
                yield rows[half], starts, table[partners + 1] - starts


def _search_all(hashes: _Hashes, distance: int, new: _Mask) -> Iterator[NearPairs]:
    """Near pairs with at least one new hash by comparing each new one with all others."""
    order = np.argsort(~new, kind="stable")
    partners = _later_partners(np.count_nonzero(new), len(hashes))
    for found in _compare(hashes[order], distance, partners):
        yield found._replace(first=order[found.first], second=order[found.second])


def search_bands(
    bands: list[_Band], hashes: _Hashes, distance: int, new: _Mask
) -> Iterator[NearPairs]:
    """Near pairs with at least one new hash by multi-index hashing, each once."""
    for index, band in enumerate(bands):
        keys = band.of(hashes)
        order = np.argsort(2 * keys + ~new, kind="stable")
        partners = _band_partners(keys[order], new[order], band)
        for found in _compare(hashes[order], distance, partners):
            first, second = order[found.first], order[found.second]
            differing = hashes[first] ^ hashes[second]
            unseen = np.ones(len(first), dtype=bool)
            for earlier in bands[:index]:
                unseen &= np.bitwise_count(earlier.of(differing)) > earlier.radius
            yield NearPairs(first[unseen], second[unseen], found.distance[unseen], found.compared)


def near_pairs(hashes: _Hashes, distance: int, new: _Mask | None = None) -> Iterator[NearPairs]:
    """Find all pairs of hashes that differ in `distance` bits or fewer, each once.

    Parameters
    ----------
    hashes
        uint64 (n,), in any order. Repeated ones are compared as others are: k equal hashes are
        k (k - 1) / 2 pairs, so give each once where that is too many.
    distance
        Largest Hamming distance of a pair, 0 to 64 bits.
    new
        Truth values (n,): only pairs of which at least one hash is new are searched, so that a few
        new hashes cost in proportion to their number. Without it all are new.

    Returns
    -------
    Iterator
        Blocks of pairs, in no order.

    Raises
    ------
    CapError
        If `distance` is not within 0 to 64.

    References
    ----------
    M. Norouzi, A. Punjani, D. J. Fleet, "Fast Search in Hamming Space with Multi-Index Hashing",
    CVPR 2012, section 3 and proposition 2 (the radii). Here each band searches for the pairs of all
    new hashes at once, and bands may differ in width.
    """
    if not 0 <= distance <= BITS:
        msg = f"a distance of {distance} bits makes no sense for 64-bit hashes; choose 0 to 64"
        raise CapError(msg)
    new = np.ones(len(hashes), dtype=bool) if new is None else new
    bands = choose_bands(len(hashes), distance, np.count_nonzero(new))
    if bands:
        return search_bands(bands, hashes, distance, new)
    return _search_all(hashes, distance, new)
