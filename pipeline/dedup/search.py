"""All pairs of 64-bit hashes within a Hamming distance, without looking at all pairs.

Given an array of hashes, gives every pair that differs in at most so many bits. The search is
exact: by the pigeonhole principle two near hashes agree, up to a few bits, in at least one of
several bands of bits, so that only hashes that nearly share a band are compared (multi-index
hashing). Equal hashes are searched once, and pairs are compared in blocks of bounded memory.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.errors import CapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["PairSearch", "choose_bands", "pairs_within", "search_bands"]

BITS = 64

_Hashes = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.int64]
_Distances = npt.NDArray[np.uint8]

# Pairs compared at a time: the arrays of one block stay in a core's cache.
_BLOCK = 1 << 17

# What the steps cost, in nanoseconds, measured on one core; only the choice of bands depends on it.
_PER_PAIR = 6.0
_PER_LOOKUP = 33.0
_PER_TABLE_ENTRY = 3.0
_PER_FLIP = 150_000.0
_MOST_BAND_BITS = 24
_MOST_BANDS = 10


@dataclass(frozen=True)
class PairSearch:
    """Pairs of near hashes, sorted by first, then second.

    Attributes
    ----------
    first, second
        Positions of the two hashes, int64 (pairs,); first < second.
    distance
        Hamming distance of each pair in bits, uint8 (pairs,).
    compared
        Number of comparisons made; equal hashes are compared as one.
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


class _Hits(NamedTuple):
    """Positions and distances of near pairs, unordered."""

    left: _Indices
    right: _Indices
    distance: _Distances


def _ball(width: int, radius: int) -> int:
    """Number of `width`-bit words within `radius` bits of one."""
    return sum(math.comb(width, flips) for flips in range(radius + 1))


@functools.lru_cache(maxsize=4096)
def _band_cost(count: int, width: int, radius: int) -> float:
    """Expected nanoseconds to search one band of `count` uniform hashes."""
    flips = _ball(width, radius)
    compared = count * count / 2 * flips / (1 << width)
    lookups = count * flips / 2
    table = 1 << width if radius else 0
    return (
        compared * _PER_PAIR + lookups * _PER_LOOKUP + table * _PER_TABLE_ENTRY + flips * _PER_FLIP
    )


def _widths(count: int, radii: list[int]) -> list[int]:
    """Share the 64 bits among bands, each bit to the band whose cost it lowers most."""
    widths = list(radii)
    for _ in range(BITS - sum(widths)):
        gains = [
            _band_cost(count, width, radius) - _band_cost(count, width + 1, radius)
            if width < _MOST_BAND_BITS
            else 0.0
            for width, radius in zip(widths, radii, strict=True)
        ]
        best = max(range(len(gains)), key=gains.__getitem__)
        if gains[best] <= 0:
            break
        widths[best] += 1
    return widths


def choose_bands(count: int, distance: int) -> list[_Band]:
    """The cheapest bands for `count` hashes; none where comparing all pairs costs less.

    With m bands of radii r_i, a pair that differs by more than r_i in every band i differs by at
    least the sum of (r_i + 1) bits. So radii whose r_i + 1 add up to distance + 1 miss no pair.
    """
    cheapest: list[_Band] = []
    cost = count * count / 2 * _PER_PAIR
    for bands in range(1, min(distance + 1, _MOST_BANDS) + 1):
        radius, wider = divmod(distance + 1 - bands, bands)
        # The most significant bits are the lowest frequencies, in which photos differ least, and
        # get the smallest radius: bands run from the least significant bits upwards.
        radii = [radius + 1] * wider + [radius] * (bands - wider)
        widths = _widths(count, radii)
        total = sum(map(_band_cost, [count] * bands, widths, radii))
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


def _compare(
    hashes: _Hashes, rows: _Indices, starts: _Indices, counts: _Indices, distance: int
) -> Iterator[_Hits]:
    """Compare each of `rows` with its range of `counts` hashes from `starts`, block by block."""
    for block in _blocks(counts):
        size = counts[block]
        right = _spread(starts[block], size)
        bits = np.repeat(hashes[rows[block]], size)
        bits ^= hashes[right]
        distances = np.bitwise_count(bits)
        near = np.flatnonzero(distances <= distance)
        if near.size:
            left = rows[block][np.searchsorted(np.cumsum(size), near, side="right")]
            yield _Hits(left, right[near], distances[near])


def _later_partners(count: int) -> Iterator[tuple[_Indices, _Indices, _Indices]]:
    """Every hash and all later ones."""
    rows = np.arange(count)
    yield rows, rows + 1, count - 1 - rows


def _band_partners(keys: _Indices, band: _Band) -> Iterator[tuple[_Indices, _Indices, _Indices]]:
    """For sorted band keys: rows, where the range of each row's partners starts, and its length.

    Every two rows whose keys differ by the band's radius at most are partners once.
    """
    rows = np.arange(len(keys))
    lasts = np.flatnonzero(np.diff(keys, append=-1))
    later = np.repeat(lasts, np.diff(lasts, prepend=-1)) - rows
    yield rows, rows + 1, later
    if band.radius == 0:
        return
    table = np.zeros((1 << band.width) + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=1 << band.width), out=table[1:])
    for flips in range(1, band.radius + 1):
        for flipped in combinations(range(band.width), flips):
            # Of the two orders of a pair, the one whose first key lacks the highest flipped bit.
            half = np.flatnonzero(keys & (1 << flipped[-1]) == 0)
            partners = keys[half] ^ sum(1 << bit for bit in flipped)
            starts = table[partners]
            yield half, starts, table[partners + 1] - starts


def _search_band(band: _Band, hashes: _Hashes, distance: int) -> tuple[_Hits, int]:
    """Near pairs among those whose bits in `band` agree up to its radius."""
    keys = band.of(hashes)
    order = np.argsort(keys, kind="stable")
    hits, compared = _search(hashes[order], distance, _band_partners(keys[order], band))
    return _Hits(order[hits.left], order[hits.right], hits.distance), compared


def _search(
    hashes: _Hashes, distance: int, partners: Iterable[tuple[_Indices, _Indices, _Indices]]
) -> tuple[_Hits, int]:
    """Compare rows of hashes with ranges of their partners; gives near pairs and comparisons."""
    hits = [_Hits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))]
    compared = 0
    for rows, starts, counts in partners:
        some = np.flatnonzero(counts)
        hits.extend(_compare(hashes, rows[some], starts[some], counts[some], distance))
        compared += int(counts.sum())
    return _Hits(*map(np.concatenate, zip(*hits, strict=True))), compared


def search_bands(bands: list[_Band], hashes: _Hashes, distance: int) -> tuple[_Hits, int]:
    """Near pairs by multi-index hashing, each once."""
    found = []
    compared = 0
    for index, band in enumerate(bands):
        hits, count = _search_band(band, hashes, distance)
        compared += count
        differing = hashes[hits.left] ^ hashes[hits.right]
        new = np.ones(len(differing), dtype=bool)
        for earlier in bands[:index]:
            new &= np.bitwise_count(earlier.of(differing)) > earlier.radius
        found.append([column[new] for column in hits])
    return _Hits(*map(np.concatenate, zip(*found, strict=True))), compared


def _expand(hits: _Hits, inverse: _Indices, sizes: _Indices) -> _Hits:
    """Pairs of unique hashes as pairs of all hashes, with the pairs of equal ones."""
    members = np.argsort(inverse, kind="stable")
    ends = np.cumsum(sizes)
    positions = np.arange(len(members))
    later = np.repeat(ends, sizes) - positions - 1
    equal_left = members[np.repeat(positions, later)]
    equal_right = members[_spread(positions + 1, later)]
    starts = ends - sizes
    products = sizes[hits.left] * sizes[hits.right]
    rows = np.repeat(np.arange(len(products)), products)
    across, down = np.divmod(_spread(np.zeros_like(products), products), sizes[hits.right][rows])
    return _Hits(
        np.concatenate([equal_left, members[starts[hits.left][rows] + across]]),
        np.concatenate([equal_right, members[starts[hits.right][rows] + down]]),
        np.concatenate([np.zeros(len(equal_left), np.uint8), hits.distance[rows]]),
    )


def pairs_within(hashes: _Hashes, distance: int) -> PairSearch:
    """Find all pairs of hashes that differ in `distance` bits or fewer.

    Parameters
    ----------
    hashes
        uint64 (n,), in any order, repetitions allowed.
    distance
        Largest Hamming distance of a pair, 0 to 64 bits.

    Returns
    -------
    PairSearch
        The pairs, and how many comparisons it took to find them.

    Raises
    ------
    CapError
        If `distance` is not within 0 to 64.

    Notes
    -----
    Every pair is in the result, equal hashes included: k equal hashes give k (k - 1) / 2 pairs.
    Give unique hashes where that is too many.

    References
    ----------
    M. Norouzi, A. Punjani, D. J. Fleet, "Fast Search in Hamming Space with Multi-Index Hashing",
    CVPR 2012, section 3 and proposition 2 (the radii). Here each band searches for pairs among all
    hashes at once, and bands may differ in width.
    """
    if not 0 <= distance <= BITS:
        msg = f"a distance of {distance} bits makes no sense for 64-bit hashes; choose 0 to 64"
        raise CapError(msg)
    unique, inverse, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    bands = choose_bands(len(unique), distance)
    if bands:
        hits, compared = search_bands(bands, unique, distance)
    else:
        hits, compared = _search(unique, distance, _later_partners(len(unique)))
    pairs = _expand(hits, inverse, sizes)
    first, second = np.minimum(pairs.left, pairs.right), np.maximum(pairs.left, pairs.right)
    order = np.lexsort((second, first))
    return PairSearch(first[order], second[order], pairs.distance[order], compared)
