"""What the sources on the internet share: which photos to ask for, one row each, before any comes.

A source gives candidates, newest first; `choose_diverse` takes those that keep a class from being
the work of a few people. A listing is the part of the `photos` table that is known before a photo
is fetched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pyarrow as pa

from manifests.schema import PHOTOS

__all__ = ["LISTING", "choose_diverse", "photos_per_observer"]

LISTING: pa.Schema = pa.schema(
    [
        PHOTOS.schema.field(name)
        for name in (
            "photo_id",
            "class_index",
            "class_name",
            "observation_id",
            "taxon",
            "taxon_id",
            "taxon_rank",
            "url",
            "license",
            "attribution",
            "creator",
            "creator_id",
            "observed_at",
            "uploaded_at",
        )
    ]
)
"""Columns of `photos` that a source knows of a photo before it is fetched."""

_ALWAYS_ALLOWED = 2
"""Photos that one observer may have of a class, however small the class is."""

Candidate = tuple[str | None, str | None]
"""Observation and observer of a photo; None where the source does not tell."""


def photos_per_observer(observer_share: float, photos: int) -> int:
    """How many of a class's `photos` may be of one observer, if each has at most the share."""
    return max(_ALWAYS_ALLOWED, int(Fraction(str(observer_share)) * photos))


def choose_diverse(
    candidates: Sequence[Candidate],
    at_most: int,
    photos_per_observation: int,
    observer_share: float,
) -> list[int]:
    """Which candidates to take for one class, so that no observer has too large a share of it.

    Parameters
    ----------
    candidates
        Observation and observer of each photo, in order of preference.
    at_most
        Photos wanted.
    photos_per_observation
        Photos taken of one observation.
    observer_share
        Largest fraction of the photos taken that are of one observer, 0..1; two are allowed in any
        case. Photos of unknown observers count for nobody.

    Returns
    -------
    list of int
        Positions in `candidates`, rising.

    Notes
    -----
    The share is one of the photos taken, not of those wanted: where a class yields fewer, fewer are
    allowed to each observer, until share and photos fit each other.
    """
    allowed = photos_per_observer(observer_share, at_most)
    while True:
        chosen = _take(candidates, at_most, photos_per_observation, allowed)
        fitting = photos_per_observer(observer_share, len(chosen))
        if fitting >= allowed:
            return chosen
        allowed = fitting


def _take(
    candidates: Sequence[Candidate], at_most: int, per_observation: int, per_observer: int
) -> list[int]:
    observations: Counter[str | None] = Counter()
    observers: Counter[str | None] = Counter()
    chosen: list[int] = []
    for position, (observation, observer) in enumerate(candidates):
        if len(chosen) == at_most:
            break
        if observation is not None and observations[observation] >= per_observation:
            continue
        if observer is not None and observers[observer] >= per_observer:
            continue
        observations[observation] += 1
        observers[observer] += 1
        chosen.append(position)
    return chosen
