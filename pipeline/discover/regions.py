"""Which regions of each photo are looked at: a grid over what the model sees, or boxes from a file.

Given photos with their sizes, gives the boxes of each, in pixels of the upright photo.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotation.photo_rows import PhotoRows, photo_lookup, read_photo_rows
from manifests.errors import CapError
from pipeline.models.boxes import Box

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Boxes", "boxes_digest", "boxes_from", "grid_boxes", "read_boxes", "seen_boxes"]

_SIDES = ("left", "top", "right", "bottom")

Boxes = dict[str, tuple[Box, ...]]
"""Regions by photo_id."""


def grid_boxes(
    photos: Sequence[Mapping[str, Any]], frame: Callable[[int, int], Box], side: int
) -> Boxes:
    """A grid of `side` rows and columns over the part of each photo that a model sees.

    Parameters
    ----------
    photos
        Rows of `photos`.
    frame
        The part that the model sees of a photo of some width and height.
    side
        2 makes quadrants.
    """
    found = {}
    for photo in photos:
        size = photo["width"], photo["height"]
        tiles = frame(*size).clipped(*size).grid(side)
        # Of a photo that is a line, a model may see less than a pixel.
        if tiles:
            found[photo["photo_id"]] = tuple(tiles)
    return found


def read_boxes(path: Path) -> PhotoRows:
    """The rows of a file of boxes.

    Raises
    ------
    CapError
        If it cannot be read, is empty, or lacks a column.
    """
    return read_photo_rows(path, "boxes", _SIDES)


def boxes_from(file: PhotoRows, photos: pa.Table) -> Boxes:
    """The boxes of a file, cut to their photos, in whole pixels.

    Parameters
    ----------
    file
        Rows with `left`, `top`, `right` and `bottom`, in pixels of the upright photo.
    photos
        The photos that are looked at, rows of `photos`; what the file says of others is left.

    Raises
    ------
    CapError
        If an edge is no number, a box is empty or lies beside its photo (the line is named), or the
        file has boxes of none of the photos.
    """
    lookup = photo_lookup(photos, file.identity)
    sizes = {
        row["photo_id"]: (row["width"], row["height"])
        for row in photos.select(["photo_id", "width", "height"]).to_pylist()
    }
    found: dict[str, list[Box]] = {}
    for line, row in file.rows:
        for photo_id in lookup.get(row[file.identity], []):
            box = _box(row, f"{file.name}, line {line}").clipped(*sizes[photo_id])
            if box.empty:
                width, height = sizes[photo_id]
                msg = (
                    f"{file.name}, line {line}: the box has no pixel of {photo_id}, which is "
                    f"{width} pixels wide and {height} high"
                )
                raise CapError(msg)
            found.setdefault(photo_id, []).append(box)
    if not found:
        msg = f"{file.name} has boxes of none of the scored photos"
        raise CapError(msg)
    return {photo_id: tuple(boxes) for photo_id, boxes in found.items()}


def seen_boxes(
    boxes: Boxes, photos: Sequence[Mapping[str, Any]], frame: Callable[[int, int], Box]
) -> Boxes:
    """Boxes cut to the part of each photo that a model sees, without those of which nothing is.

    Parameters
    ----------
    boxes
        Boxes by photo.
    photos, frame
        As for `grid_boxes`.
    """
    found = {}
    for photo in photos:
        size = photo["width"], photo["height"]
        seen = frame(*size).clipped(*size)
        parts = [
            part for box in boxes.get(photo["photo_id"], ()) for part in box.within(seen).grid(1)
        ]
        if parts:
            found[photo["photo_id"]] = tuple(parts)
    return found


def boxes_digest(boxes: Boxes) -> str:
    """sha256 of which boxes each photo has, in their order."""
    return hashlib.sha256(json.dumps(boxes, sort_keys=True).encode()).hexdigest()


def _box(row: Mapping[str, str], place: str) -> Box:
    try:
        return Box(*(float(round(float(row[side]))) for side in _SIDES))
    except (ValueError, OverflowError) as error:
        named = ", ".join(f"{side} {row[side]!r}" for side in _SIDES)
        msg = f"{place}: the edges of a box are pixels, not {named}"
        raise CapError(msg) from error
