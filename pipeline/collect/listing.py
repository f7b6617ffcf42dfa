"""What the sources on the internet share: which photos to ask for, one row each, before any comes.

A source gives candidates, newest first; `choose_diverse` takes those that keep a class from being
the work of a few people. A listing is the part of the `photos` table that is known before a photo
is fetched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.schema import PHOTOS
from manifests.tables import from_rows
from manifests.vocabulary import LabelSpace, Taxon

__all__ = [
    "BY_CLASS",
    "LISTING",
    "PER_CLASS",
    "ListedClass",
    "choose_diverse",
    "chosen_classes",
    "left_out_text",
    "one_class_each",
    "photos_per_observer",
]

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

BY_CLASS = [("class_index", "ascending"), ("photo_id", "ascending")]
"""The order in which photos are asked for."""

PER_CLASS = 500
"""Photos of a class unless a number is given; the paper took 300 to 800."""

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


def left_out_text(class_name: str, count: int, observer_share: float) -> str:
    """How many photos a class has fewer because no observer may have a larger share, in words."""
    return (
        f"{class_name}: {count} photos left out, so that no observer has more than "
        f"{100 * observer_share:g} % of the class (--observer-share)"
    )


@dataclass(frozen=True)
class ListedClass:
    """A class to collect: its index and name, and the taxa that it stands for."""

    index: int
    name: str
    taxa: tuple[Taxon, ...]


def chosen_classes(labels: LabelSpace, names: Sequence[str]) -> tuple[ListedClass, ...]:
    """The classes to collect: those named, or all that stand for a taxon.

    Raises
    ------
    CapError
        If a class that was named stands for no taxon, or none does.
    """
    indices = sorted({labels.index_of(name) for name in names}) or sorted(labels.taxa)
    without = [labels.names[index] for index in indices if index not in labels.taxa]
    if without:
        msg = (
            f"{without[0]!r} stands for no taxon that iNaturalist could be asked for; leave it out "
            "of --classes, or collect it with --source folder"
        )
        raise CapError(msg)
    if not indices:
        msg = (
            f"no class of {labels.name} names a taxon; add a column `taxon` with scientific names "
            "to the label space"
        )
        raise CapError(msg)
    return tuple(ListedClass(index, labels.names[index], labels.taxa[index]) for index in indices)


def one_class_each(listing: pa.Table, source: str) -> tuple[pa.Table, pa.Table]:
    """The photos of a listing that can be asked for, and failed rows of `photos` for the others.

    A photo cannot be had under two classes, or without an address. One that a class lists twice, by
    two of its taxa, stays once. Sorted by class and photo.
    """
    ids = listing["photo_id"]
    counts = pc.value_counts(ids)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    doubtful = pc.or_(pc.is_in(ids, repeated), pc.is_null(listing["url"]))
    # Only the few rows in doubt are looked at one by one, and the others copied once.
    order = pc.sort_indices(listing, BY_CLASS)
    positions = order.filter(doubtful.take(order))
    by_photo: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    rows = listing.take(positions).to_pylist()
    for position, row in zip(positions.to_pylist(), rows, strict=True):
        by_photo.setdefault(row["photo_id"], []).append((position, row))
    chosen = pc.invert(doubtful).to_numpy()
    failed = []
    for same in by_photo.values():
        position, row = same[0]
        reason = _unaskable([row for _, row in same])
        if reason is None:
            chosen[position] = True
        else:
            failure = {"status": "failed", "error": reason, "transient": False}
            failed.append({**row, "source": source, **failure})
    askable = order.filter(pa.array(chosen).take(order))
    return listing.take(askable), from_rows(failed, PHOTOS.schema)


def _unaskable(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a photo with these rows in a listing cannot be asked for, if it cannot."""
    names = sorted({row["class_name"] for row in rows})
    if len(names) > 1:
        return "asked for under two classes: " + " and ".join(names)
    return None if rows[0]["url"] else "the source gives no address"
