"""What is evaluated: photos with their class and group, wherever their bytes lie.

A release gives an `EvaluationSet`; another layout of such photos would give one too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests import load_split
from manifests.errors import ReleaseError
from manifests.tables import table_digest

if TYPE_CHECKING:
    from manifests.vocabulary import LabelSpace

__all__ = ["EvaluationSet", "SetPhoto", "open_release"]


@dataclass(frozen=True)
class SetPhoto:
    """A photo to score, with a function that reads its bytes; both can be pickled."""

    photo_id: str
    read: Callable[[], bytes]

    def content(self) -> bytes:
        """Its bytes."""
        return self.read()


@dataclass(frozen=True)
class EvaluationSet:
    """Photos in two groups.

    Attributes
    ----------
    name
        What people call it.
    place
        The folder, as it was given.
    rows
        Columns of `split`, one row per photo.
    photos
        How to read each photo, in the order of `rows`.
    label_space
        The classes that `class_index` refers to; None where they are not known.
    confusing
        The labels most like each class, where they are known.
    chosen_by
        The run that chose the pairs, with its model's description where that is known.
    digest
        sha256 of the rows, which hold the photos' own.
    """

    name: str
    place: str
    rows: pa.Table
    photos: tuple[SetPhoto, ...]
    label_space: LabelSpace | None
    confusing: pa.Table | None
    chosen_by: Mapping[str, Any] | None
    digest: str
    over_network: bool = False

    @property
    def partitions(self) -> tuple[str, ...]:
        """The partitions that its photos are in, if any."""
        return tuple(sorted(pc.unique(self.rows["partition"]).drop_null().to_pylist()))


def open_release(place: str) -> EvaluationSet:
    """The photos of a release.

    Raises
    ------
    ReleaseError
        If the folder is no release, or has no photos.
    """
    split = load_split(place)
    if not len(split):
        msg = f"the release {place} has no photos"
        raise ReleaseError(msg)
    # In the order of the files, so that each row group is read once.
    order, _ = split.file_order
    rows = split.table.take(order)
    photos = zip(rows["photo_id"].to_pylist(), order.tolist(), strict=True)
    return EvaluationSet(
        name=str(split.release["name"]),
        place=place,
        rows=rows,
        photos=tuple(SetPhoto(name, partial(split.read_bytes, row)) for name, row in photos),
        label_space=split.label_space,
        confusing=split.confusing,
        chosen_by=split.release.get("chosen_by"),
        digest=table_digest(split.table),
        over_network="://" in place or bool(split.linked.any()),
    )
