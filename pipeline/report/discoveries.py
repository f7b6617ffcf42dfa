"""What `cap discover` found of a run, with a contact sheet for each cluster that was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from annotation.confirming import discovery_digest
from manifests.photos import PhotoStore
from pipeline.report.confirmed import Confirmed, confirmed
from pipeline.report.strips import Shot, shot

__all__ = ["Cluster", "Discoveries", "Frame", "discoveries"]

_SHEETS_AT_MOST = 6
_PHOTOS_IN_SHEET = 12
_CLASSES_SHOWN = 6

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Frame:
    """A region on its thumbnail: distances from left and top, width and height, in percent."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Cluster:
    """A cluster as the page shows it.

    Attributes
    ----------
    row
        Its row of `discoveries`, without its members.
    classes
        The classes whose accuracy differs most with it, as in `row`, the largest gap first.
    sheet
        Photos with the regions of it that they have, those nearest to its medoid first.
    confirmed
        What people say of it; None where nobody was asked.
    """

    row: Row
    classes: tuple[Row, ...]
    sheet: tuple[tuple[Shot, tuple[Frame, ...]], ...]
    confirmed: Confirmed | None


@dataclass(frozen=True)
class Discoveries:
    """What was found.

    Attributes
    ----------
    regions, photos
        How many were looked at.
    kept
        The clusters that cleared the bar, by rank.
    others
        Rows of the others, the largest gap first.
    """

    regions: int
    photos: int
    kept: tuple[Cluster, ...]
    others: tuple[Row, ...]

    @property
    def shots(self) -> tuple[Shot, ...]:
        """Every photo that is shown."""
        return tuple(shot for cluster in self.kept for shot, _ in cluster.sheet)


def discoveries(
    found: pa.Table,
    regions: pa.Table,
    photos: Mapping[str, Row],
    predictions: Mapping[str, Row],
    *,
    answers: Sequence[Row],
    store: PhotoStore | None,
) -> Discoveries:
    """The clusters of a run.

    Parameters
    ----------
    found, regions
        The tables `discoveries` and `regions` of the run.
    photos, predictions
        Rows of `photos` and of the run's predictions, by photo_id.
    answers
        Rows of `confirmations` about the run.
    store
        Where the photos' bytes lie; None shows no photos.
    """
    regions = regions.filter(pc.equal(regions["status"], "ok"))
    boxes = {
        (row["photo_id"], row["region"]): row
        for row in regions.drop_columns(["embedding"]).to_pylist()
    }
    rows = sorted(found.to_pylist(), key=lambda row: (row["rank"] or len(found) + 1, -row["gap"]))
    kept = []
    for row in rows:
        if row["rank"] is None:
            continue
        shown = row["members"] if store is not None and row["rank"] <= _SHEETS_AT_MOST else []
        sheet = tuple(
            (
                shot(photos[photo_id], store, predictions.get(photo_id)),
                _frames([boxes[photo_id, n] for n in numbers], photos[photo_id]),
            )
            for photo_id, numbers in _nearest(shown).items()
            if store is not None and photo_id in photos
        )
        said = confirmed(_about(row, answers), row["class_index"], photos, predictions)
        kept.append(Cluster(_without_members(row), _telling(row["classes"]), sheet, said))
    return Discoveries(
        regions=regions.num_rows,
        photos=len(pc.unique(regions["photo_id"])),
        kept=tuple(kept),
        others=tuple(_without_members(row) for row in rows if row["rank"] is None),
    )


def _about(cluster: Row, answers: Sequence[Row]) -> list[Row]:
    """Answers about a cluster as it is now, not about another that had its number."""
    digest = discovery_digest(cluster)
    return [
        answer
        for answer in answers
        if (answer["cluster"], answer["discovery"]) == (cluster["cluster"], digest)
    ]


def _without_members(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in {"members", "embedding"}}


def _telling(classes: Sequence[Row]) -> tuple[Row, ...]:
    known = [row for row in classes if row["gap"] is not None]
    return tuple(sorted(known, key=lambda row: -abs(row["gap"]))[:_CLASSES_SHOWN])


def _nearest(members: Sequence[Row]) -> dict[str, list[int]]:
    """The first photos of a cluster, and which of their regions are in it."""
    found: dict[str, list[int]] = {}
    for member in members:
        if member["photo_id"] in found or len(found) < _PHOTOS_IN_SHEET:
            found.setdefault(member["photo_id"], []).append(member["region"])
    return found


def _frames(boxes: Sequence[Row], photo: Row) -> tuple[Frame, ...]:
    """Regions on the thumbnail of a photo; none where the photo is not stored any more."""
    if photo["width"] is None:
        return ()
    across, down = 100 / photo["width"], 100 / photo["height"]
    return tuple(
        Frame(
            box["left"] * across,
            box["top"] * down,
            (box["right"] - box["left"]) * across,
            (box["bottom"] - box["top"]) * down,
        )
        for box in boxes
    )
