"""Between tables and arrays: rows of `regions` as `Regions`, and findings as `discoveries`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.schema import DISCOVERIES
from manifests.tables import from_rows, whole
from pipeline.discover.findings import Findings, Regions

__all__ = ["LookedAt", "discovery_rows", "looked_at"]


@dataclass(frozen=True)
class LookedAt:
    """Regions as arrays, and what their numbers mean.

    Attributes
    ----------
    regions
        The regions, their images and labels.
    photo_ids, numbers
        Photo of each region, and its number within the photo.
    classes
        Index and name of the class that each label is.
    """

    regions: Regions
    photo_ids: tuple[str, ...]
    numbers: tuple[int, ...]
    classes: tuple[tuple[int, str], ...]


def looked_at(table: pa.Table, photos: pa.Table) -> LookedAt:
    """The regions that a model has looked at.

    Photos that failed are left out altogether. Photos without any region stay, as photos that no
    cluster is in.

    Parameters
    ----------
    table
        Rows of `regions`.
    photos
        Rows of `photos` with `correct`, by photo_id.

    Raises
    ------
    CapError
        If every photo failed.
    """
    failed = table.filter(pc.equal(table["status"], "failed"))["photo_id"]
    photos = photos.filter(pc.invert(pc.is_in(photos["photo_id"], failed.combine_chunks())))
    table = table.filter(pc.equal(table["status"], "ok"))
    if not table.num_rows:
        msg = "no photo could be read again; `cap status --failures` says why"
        raise CapError(msg)
    embeddings = whole(table["embedding"]).flatten().to_numpy().astype(np.float32)
    indices, label = np.unique(photos["class_index"].to_numpy(), return_inverse=True)
    name_of = dict(
        zip(photos["class_index"].to_pylist(), photos["class_name"].to_pylist(), strict=True)
    )
    image = pc.index_in(table["photo_id"], whole(photos["photo_id"]))
    regions = Regions(
        embeddings=embeddings.reshape(table.num_rows, -1),
        image=image.to_numpy().astype(np.int64),
        probability=table["probability"].to_numpy(),
        label=label.astype(np.int64),
        correct=photos["correct"].to_numpy(),
        labels=len(indices),
    )
    classes = tuple((index, name_of[index]) for index in indices.tolist())
    ids, numbers = table["photo_id"].to_pylist(), table["region"].to_pylist()
    return LookedAt(regions, tuple(ids), tuple(numbers), classes)


def discovery_rows(found: Findings | None, looked: LookedAt) -> pa.Table:
    """A row of `discoveries` for each cluster; none where nothing clusters."""
    if found is None:
        return from_rows([], DISCOVERIES.schema)
    clusters = range(len(found.clustering.medoids))
    return from_rows([_row(found, looked, number) for number in clusters], DISCOVERIES.schema)


def _row(found: Findings, looked: LookedAt, number: int) -> dict[str, Any]:
    members = _members(found, looked, number)
    tied = int(found.gaps.tied_label[number])
    index, name = looked.classes[tied] if tied >= 0 else (None, None)
    low, high = found.intervals[number].tolist()
    medoid = found.clustering.medoids[number]
    return {
        "cluster": number,
        "rank": int(found.ranks[number]) or None,
        "reason": found.reasons[number],
        "class_index": index,
        "class_name": name,
        "difference": float(found.gaps.differences[number, tied]) if tied >= 0 else None,
        "gap": float(found.gaps.total[number]),
        "gap_ci_low": low,
        "gap_ci_high": high,
        "influence": _number(found.influence[number]),
        "p_value": float(found.p_values[number]),
        "q_value": float(found.q_values[number]),
        "regions": len(members),
        "photos": int(found.gaps.images_in[number].sum()),
        "embedding": looked.regions.embeddings[medoid].tolist(),
        "classes": _classes(found, looked, number),
        "members": members,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _members(found: Findings, looked: LookedAt, number: int) -> list[dict[str, Any]]:
    """The regions of a cluster, the medoid first, then by similarity."""
    own = np.flatnonzero(found.clustering.cluster == number)
    similarity = found.clustering.similarity[own]
    first = own == found.clustering.medoids[number]
    order = own[np.lexsort((own, -similarity, ~first))].tolist()
    return [
        {
            "photo_id": looked.photo_ids[row],
            "region": looked.numbers[row],
            "similarity": float(found.clustering.similarity[row]),
        }
        for row in order
    ]


def _classes(found: Findings, looked: LookedAt, number: int) -> list[dict[str, Any]]:
    gaps = found.gaps
    return [
        {
            "class_index": index,
            "class_name": name,
            "photos_in": int(gaps.images_in[number, label]),
            "photos_out": int(gaps.images_out[number, label]),
            "accuracy_in": _number(gaps.accuracy_in[number, label]),
            "accuracy_out": _number(gaps.accuracy_out[number, label]),
            "gap": _number(gaps.weighted[number, label]),
        }
        for label, (index, name) in enumerate(looked.classes)
    ]
