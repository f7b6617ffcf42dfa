"""Which photos the page shows, and their thumbnails.

Photos of a group are taken in the order of their digests, which is as good as chance and the same
each time, never by what they look like. Their number is bounded, so that the page stays small.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifests.errors import PhotoError
from manifests.photos import PhotoStore, open_image
from manifests.vocabulary import licenses, sharing_licenses

__all__ = ["PHOTOS_AT_MOST", "Shot", "Strip", "plan_strips", "shot", "strip"]

PHOTOS_AT_MOST = 180
"""Photos on a page, besides examples of copies."""

_FEWEST = 3
"""Photos that a group should have at least; where there are many classes, some go without."""

_SIZE = (240, 160)
_TRIES = (((240, 160), 70), ((240, 160), 45), ((160, 107), 45), ((96, 64), 45))
"""Sizes and JPEG qualities, until a thumbnail is small enough; all photos but noise are at once."""

_BYTES_AT_MOST = 10_000
_LINKS = ("https://", "http://")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Shot:
    """A photo as the page shows it.

    Attributes
    ----------
    image
        The thumbnail as a `data:` address; None where the photo is not stored or cannot be read,
        and `problem` says why.
    correct, said
        Whether the model was right, and what it said; None where it was not asked.
    credit, license_name
        Whose photo it is and under what licence; `url` leads to the original where there is one.
    shareable
        Whether its licence lets others pass it on.
    """

    photo_id: str
    image: str | None
    problem: str | None
    width: int
    height: int
    correct: bool | None
    said: str | None
    credit: str
    license_name: str
    url: str | None
    shareable: bool


@dataclass(frozen=True)
class Strip:
    """The photos of a group that are shown, and how many are not."""

    shots: tuple[Shot, ...]
    hidden: int


def plan_strips(classes: int, per_group: int) -> tuple[int, int]:
    """How many classes have photos on the page, and how many each of their two groups.

    >>> plan_strips(classes=13, per_group=6)
    (13, 6)
    >>> plan_strips(classes=45, per_group=6)
    (30, 3)
    """
    if not classes or not per_group:
        return 0, 0
    fewest = min(_FEWEST, per_group)
    shown = max(fewest, min(per_group, PHOTOS_AT_MOST // (2 * classes)))
    return min(classes, PHOTOS_AT_MOST // (2 * shown)), shown


def _thumbnail(data: bytes) -> tuple[str, tuple[int, int]]:
    """A small JPEG without the photo's EXIF data, as a `data:` address, and its size in pixels."""
    image = open_image(data, draft=("RGB", _SIZE))
    # Pillow would write the photo's comment into the thumbnail.
    image.info.clear()
    small = b""
    for size, quality in _TRIES:
        image.thumbnail(size)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        small = buffer.getvalue()
        if len(small) <= _BYTES_AT_MOST:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}", image.size


def _picture(photo: Row, store: PhotoStore) -> tuple[str | None, tuple[int, int], str | None]:
    """The thumbnail of a photo and its size, or why there is none."""
    if photo["path"] is None:
        # What was stored once may be gone since, while other tables still tell of it.
        return None, (0, 0), photo["error"] or "the photo is not stored"
    try:
        return *_thumbnail(store.read(photo["path"], photo["sha256"])), None
    except PhotoError as error:
        return None, (0, 0), str(error)


def _credit(photo: Row) -> str:
    return photo["attribution"] or photo["creator"] or "photographer unknown"


def shot(photo: Row, store: PhotoStore, said: Row | None = None) -> Shot:
    """A photo as the page shows it.

    Parameters
    ----------
    photo
        Row of `photos`.
    store
        Where its bytes lie.
    said
        The model's row on it.
    """
    image, size, problem = _picture(photo, store)
    known = licenses().get(photo["license"])
    url = photo["url"]
    return Shot(
        photo_id=photo["photo_id"],
        image=image,
        problem=problem,
        width=size[0],
        height=size[1],
        correct=None if said is None else said["correct"],
        said=None if said is None else said["predicted_name"],
        credit=_credit(photo),
        license_name=photo["license"] if known is None else known.name,
        # Any other scheme, such as javascript:, might do something.
        url=url if url is not None and url.startswith(_LINKS) else None,
        shareable=photo["license"] in sharing_licenses(),
    )


def strip(
    photo_ids: Sequence[str],
    at_most: int,
    photos: Mapping[str, Row],
    predictions: Mapping[str, Row],
    store: PhotoStore,
) -> Strip:
    """The photos of a group that are shown."""
    ordered = sorted(
        (photos[i] for i in photo_ids if i in photos),
        key=lambda row: (row["sha256"] or "", row["photo_id"]),
    )
    shots = tuple(shot(row, store, predictions.get(row["photo_id"])) for row in ordered[:at_most])
    return Strip(shots, len(photo_ids) - len(shots))
