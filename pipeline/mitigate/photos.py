"""Photos to learn from: with their regions, which of these are spurious, label and group.

Given the tables of a discovery, gives the photos to learn from and those kept apart, and makes
batches of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from annotation.assignment import draw
from manifests.tables import observers
from pipeline.engine import prepared_batches
from pipeline.mitigate.training import Batch
from pipeline.models.boxes import Box
from pipeline.models.scoring import Decode, Decoded, RegionsRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from pipeline.models import Model
    from pipeline.photo_source import PhotoSource

__all__ = ["LabelledPhoto", "batches", "epoch_order", "kept_apart", "labelled"]


@dataclass(frozen=True)
class LabelledPhoto(RegionsRef):
    """A photo to learn from, or to be measured on, with its regions.

    Attributes
    ----------
    spurious
        Whether each region is in a spurious cluster.
    label, class_name
        Its class.
    group
        Number of its group: its class, with or without a spurious region.
    """

    spurious: tuple[bool, ...]
    label: int
    class_name: str
    group: int


def labelled(
    photos: pa.Table, regions: pa.Table, bad: set[tuple[str, int]], source: PhotoSource
) -> list[LabelledPhoto]:
    """The photos whose regions were looked at.

    Parameters
    ----------
    photos
        Rows of `photos` that are stored.
    regions
        Rows of `regions`; those of other photos are left out.
    bad
        The spurious regions, by photo and number.
    source
        Where the photos are read.
    """
    looked = regions.filter(pc.equal(regions["status"], "ok")).drop_columns(["embedding"])
    own: dict[str, list[Mapping[str, Any]]] = {}
    for row in looked.to_pylist():
        own.setdefault(row["photo_id"], []).append(row)
    chosen = [row for row in photos.to_pylist() if row["photo_id"] in own]
    keys = [
        (
            row["class_index"],
            any((row["photo_id"], r["region"]) in bad for r in own[row["photo_id"]]),
        )
        for row in chosen
    ]
    number = {key: n for n, key in enumerate(sorted(set(keys)))}
    return [
        LabelledPhoto(
            photo_id=row["photo_id"],
            file=source.locate(row["path"], row["sha256"]),
            size=(row["width"], row["height"]),
            boxes=tuple(
                Box(*(float(r[side]) for side in Box._fields)) for r in own[row["photo_id"]]
            ),
            spurious=tuple((row["photo_id"], r["region"]) in bad for r in own[row["photo_id"]]),
            label=row["class_index"],
            class_name=row["class_name"],
            group=number[key],
        )
        for row, key in zip(chosen, keys, strict=True)
    ]


def kept_apart(photos: pa.Table, split: pa.Table | None, share: float, seed: int) -> set[str]:
    """Photos to measure on: a split's test photos, or those of some observers.

    Parameters
    ----------
    photos
        Rows of `photos`.
    split
        The table `split`, if there is one.
    share
        Of the observers, where the split has no test photos.
    seed
        Of the draw.
    """
    if split is not None:
        test = split.filter(pc.fill_null(pc.equal(split["partition"], "test"), False))
        if test.num_rows:
            return set(test["photo_id"].to_pylist())
    who = observers(photos).to_pylist()
    ids = photos["photo_id"].to_pylist()
    return {
        photo for photo, name in zip(ids, who, strict=True) if draw(seed, "held out", name) < share
    }


def by_the_same_observers(photos: pa.Table, some: Container[str]) -> set[str]:
    """Some photos, and all others of whoever took them: nothing is learned from these."""
    ids, who = photos["photo_id"].to_pylist(), observers(photos).to_pylist()
    theirs = {name for photo, name in zip(ids, who, strict=True) if photo in some}
    return {photo for photo, name in zip(ids, who, strict=True) if name in theirs}


def epoch_order(
    photos: Sequence[LabelledPhoto], epoch: int, seed: int, *, balanced: bool
) -> list[LabelledPhoto]:
    """The photos of an epoch in random order; or drawn so that every group weighs the same."""
    rng = np.random.default_rng([seed, epoch])
    if not balanced:
        return [photos[i] for i in rng.permutation(len(photos))]
    groups = np.array([photo.group for photo in photos])
    counts = np.bincount(groups)
    weights = 1 / counts[groups] / (counts > 0).sum()
    return [photos[i] for i in rng.choice(len(photos), len(photos), p=weights)]


def _views(
    preprocess: Callable[[Image.Image], torch.Tensor],
    cut: bool,
    photo: LabelledPhoto,
    image: Image.Image,
) -> torch.Tensor:
    """The photo, and, cut out, its regions."""
    parts = [image.crop(box) for box in photo.boxes] if cut else []
    return torch.stack([preprocess(view) for view in (image, *parts)])


def batches(
    model: Model,
    photos: Sequence[LabelledPhoto],
    *,
    batch_size: int,
    regions: str | None,
    workers: int | None,
) -> Iterator[tuple[Batch | None, list[str]]]:
    """Batches of photos in their order, and why some of each could not be read.

    Parameters
    ----------
    model
        The model that learns.
    photos
        The photos.
    batch_size
        Photos of a batch.
    regions
        `crop` or `pool`, as they were looked at; None leaves them out.
    workers
        Processes that decode, as for `prepared_batches`.
    """
    decode: Decode[LabelledPhoto] = Decode(partial(_views, model.preprocess, regions == "crop"))
    device = str(model.description["device"])
    for here, batch in prepared_batches(decode, photos, batch_size, workers, device=device):
        wrong = [
            f"{photo.photo_id}: {error}"
            for photo, error in zip(here, batch.errors, strict=True)
            if error is not None
        ]
        good = [photo for photo, views in zip(here, batch.views, strict=True) if views]
        yield _batch(model, good, batch, regions), wrong


def _batch(
    model: Model, photos: Sequence[LabelledPhoto], batch: Decoded, regions: str | None
) -> Batch | None:
    if batch.images is None:
        return None
    label = torch.tensor([photo.label for photo in photos])
    group = torch.tensor([photo.group for photo in photos])
    if regions is None:
        return Batch(batch.images, label, group)
    counts = torch.tensor([len(photo.boxes) for photo in photos])
    image = torch.repeat_interleave(torch.arange(len(photos)), counts)
    spurious = torch.tensor([bad for photo in photos for bad in photo.spurious])
    if regions == "pool":
        parts = [
            [box.relative_to(model.frame(*photo.size)) for box in photo.boxes] for photo in photos
        ]
        return Batch(batch.images, label, group, parts, image, spurious)
    first = torch.zeros(len(batch.images), dtype=torch.bool)
    first[torch.tensor([0, *[len(photo.boxes) + 1 for photo in photos][:-1]]).cumsum(0)] = True
    return Batch(batch.images[first], label, group, batch.images[~first], image, spurious)
