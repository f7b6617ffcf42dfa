"""Divide photos into `validation`, which may choose pairs, and `test`, which may not.

An observer's photos stay together, whatever they show, because photos of one person resemble each
other. Within that, each class on each background is divided in the same proportion. The division
looks at classes, backgrounds and observers, never at what a model said.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.tables import observers

__all__ = ["divide", "draw_validation"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def divide(tagged: pa.Table, share: float, seed: int) -> pa.Table:
    """The tagged photos with a column `partition`, divided by class and background.

    Parameters
    ----------
    tagged
        As `tagged_photos` gives them.
    share
        Share of the photos for validation, 0 to 1.
    seed
        Seed of the division.
    """
    index = tagged["class_index"].cast(pa.string())
    places = pc.binary_join_element_wise(index, tagged["background"], "/").combine_chunks()
    strata = places.dictionary_encode().indices.to_numpy().astype(np.int64)
    validation = draw_validation(observers(tagged).to_pylist(), strata, share, seed)
    partition = pa.array(np.where(validation, "validation", "test"), pa.string())
    return tagged.append_column("partition", partition)


def draw_validation(
    people: Sequence[str], strata: Ints, share: float = 0.5, seed: int = 0
) -> Bools:
    """Which photos are for validation; the others are for test.

    Observers with several photos come first, those with most before all others: each goes to the
    side that leaves its strata nearest to the share. Observers with one photo then fill every
    stratum up. What is left to chance follows from a hash of seed and observer.

    Parameters
    ----------
    people
        Observer of each photo, of length `photos`; a photo whose observer is unknown is its own.
    strata
        Integer label of each photo's class and background, of shape (photos,).
    share
        Share of each stratum for validation, 0 to 1.
    seed
        Seed of the hash.

    Returns
    -------
    ndarray
        Of shape (photos,). A stratum whose observers have one photo each is divided to within one
        photo of the share.
    """
    names, unit, photos_of = np.unique(
        np.asarray(people, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    chance, rounding = _hashed(names.tolist(), seed)
    _, stratum = np.unique(strata, return_inverse=True)
    validation = np.zeros(len(unit), dtype=np.bool_)
    several = photos_of > 1
    validation[several[unit]] = _whole_observers(unit, stratum, chance, several, share)
    _fill_up(validation, stratum, (chance[unit], rounding[unit]), ~several[unit], share)
    return validation


def _hashed(names: Sequence[str], seed: int) -> tuple[Floats, Floats]:
    """Two numbers in [0, 1) for each name, that depend on nothing else but the seed."""
    digests = b"".join(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names)
    first, second = np.frombuffer(digests, dtype=">u4").reshape(-1, 2).T / 2**32
    return first, second


def _whole_observers(
    unit: Ints, stratum: Ints, chance: Floats, several: Bools, share: float
) -> Bools:
    """For the photos of observers with several photos, whether they are for validation."""
    rows = np.flatnonzero(several[unit])
    held: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for owner, place in zip(unit[rows].tolist(), stratum[rows].tolist(), strict=True):
        held[owner][place] += 1
    # How many photos more than its share each stratum has in validation so far.
    surplus: defaultdict[int, float] = defaultdict(float)
    chosen: dict[int, bool] = {}
    for owner in sorted(held, key=lambda o: (-sum(held[o].values()), chance[o], o)):
        photos = held[owner]
        # Sum of squared surpluses if validation takes them, less that if test does, halved.
        cost = sum(
            count * (surplus[place] + count * (0.5 - share)) for place, count in photos.items()
        )
        taken = chance[owner] < share if abs(cost) < 1e-9 else cost < 0  # noqa: PLR2004 - rounding
        chosen[owner] = taken
        for place, count in photos.items():
            surplus[place] += count * ((1 if taken else 0) - share)
    return np.array([chosen[owner] for owner in unit[rows].tolist()], dtype=np.bool_)


def _fill_up(
    validation: Bools, stratum: Ints, hashed: tuple[Floats, Floats], single: Bools, share: float
) -> None:
    """Give validation the photos of single-photo observers that its share of each stratum lacks."""
    chance, rounding = hashed
    total = np.bincount(stratum)
    rows = np.flatnonzero(single)
    order = rows[np.lexsort((chance[rows], stratum[rows]))]
    at_hand = np.bincount(stratum[rows], minlength=len(total))
    first = np.cumsum(at_hand) - at_hand
    rank = np.arange(len(order)) - first[stratum[order]]
    # A part of a photo is rounded by chance, lest many small strata all lean to one side.
    upwards = np.zeros(len(total))
    upwards[at_hand > 0] = rounding[order[first[at_hand > 0]]]
    wanted = np.floor(total * share + upwards)
    already = np.bincount(stratum, weights=validation, minlength=len(total))
    validation[order] = rank < (wanted - already)[stratum[order]]
