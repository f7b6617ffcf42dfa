"""The one scoring loop: photos to scores, decoded in worker processes.

Given a model and photos, gives a result for each photo in their order, batch by batch: of the whole
photo, or of regions of it. A photo that cannot be read gives a result with the reason; the others
in its batch are not touched by that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from manifests.errors import CapError, PhotoError, ReleaseError
from manifests.photos import open_image

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.models.boxes import Box
    from pipeline.models.registry import Model

__all__ = [
    "Decoded",
    "Photo",
    "PhotoRef",
    "Prepare",
    "RegionsRef",
    "Scored",
    "ScoredRegions",
    "decoded",
    "score_photos",
    "score_regions",
]

_FEW = 128
"""So few photos are decoded in this process: starting workers would take longer."""

_MOST_WORKERS = 8


class Photo(Protocol):
    """A photo to score; can be pickled."""

    @property
    def photo_id(self) -> str:
        """Its id."""
        ...

    def content(self) -> bytes | Path:
        """Its bytes, or the file that holds them."""
        ...


@dataclass(frozen=True)
class PhotoRef:
    """A photo in a file."""

    photo_id: str
    file: Path

    def content(self) -> Path:
        """The file."""
        return self.file


@dataclass(frozen=True)
class RegionsRef:
    """A photo in a file, its upright size (width, height), and at least one region of it."""

    photo_id: str
    file: Path
    size: tuple[int, int]
    boxes: tuple[Box, ...]

    def content(self) -> Path:
        """The file."""
        return self.file


@dataclass(frozen=True)
class Scored:
    """What a model says of a photo: scores (labels,) and embedding (d,), or why there are none."""

    photo_id: str
    scores: NDArray[np.float32] | None
    embedding: NDArray[np.float32] | None
    error: str | None = None


@dataclass(frozen=True)
class ScoredRegions:
    """What a model says of the regions of a photo, or why it says nothing.

    Attributes
    ----------
    scores
        Of shape (regions, labels).
    embeddings
        Of unit length, of shape (regions, d).
    """

    photo_id: str
    scores: NDArray[np.float32] | None
    embeddings: NDArray[np.float32] | None
    error: str | None = None


_Photo = TypeVar("_Photo", bound=Photo)
Prepare = Callable[[_Photo, "Image.Image"], torch.Tensor]
"""From a photo and its decoded image to what the model is given of it: (views, 3, H, W)."""

_Item = tuple[torch.Tensor | None, str | None]


@dataclass(frozen=True)
class Decoded:
    """Decoded photos of a batch.

    Attributes
    ----------
    images
        Views of the photos that could be read, of shape (views, 3, H, W); None where none could.
    views
        How many views each photo has; those that could not be read have none.
    errors
        Why each photo could not be read, or None.
    """

    images: torch.Tensor | None
    views: list[int]
    errors: list[str | None]

    def pin_memory(self) -> Decoded:
        """The same in memory that a GPU can copy from while it works; torch calls it."""
        pinned = None if self.images is None else self.images.pin_memory()
        return Decoded(pinned, self.views, self.errors)


class _Photos(Dataset[_Item], Generic[_Photo]):
    def __init__(self, photos: Sequence[_Photo], prepare: Prepare[_Photo]) -> None:
        self._photos = photos
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> _Item:
        photo = self._photos[index]
        try:
            return self._prepare(photo, open_image(photo.content())), None
        except (PhotoError, ReleaseError) as error:
            return None, str(error)


def _collate(items: list[_Item]) -> Decoded:
    images = [image for image, _ in items if image is not None]
    views = [0 if image is None else len(image) for image, _ in items]
    return Decoded(torch.cat(images) if images else None, views, [error for _, error in items])


def decoded(
    model: Model,
    photos: Sequence[_Photo],
    prepare: Prepare[_Photo],
    batch_size: int,
    workers: int | None,
) -> Iterator[tuple[Sequence[_Photo], Decoded]]:
    """Photos with their decoded images, in their order, batch by batch.

    Parameters
    ----------
    model
        The model that they are for.
    photos
        Photos, wherever their bytes lie.
    prepare
        From a photo and its image to what the model is given of it, of shape (views, 3, H, W); can
        be pickled.
    batch_size
        Photos per batch.
    workers
        As for `score_photos`.

    Raises
    ------
    CapError
        If a decoding process dies.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0))
        workers = 0 if len(photos) < _FEW else min(cores, _MOST_WORKERS)
    loader = DataLoader(
        _Photos(photos, prepare),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=str(model.description["device"]).startswith("cuda"),
        # A forked copy of a process in which torch's threads run may hang.
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=2 if workers else None,
    )
    start = 0
    try:
        for batch in loader:
            here = photos[start : start + len(batch.errors)]
            start += len(here)
            yield here, batch
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        msg = (
            "a decoding process died, perhaps because (shared) memory ran out; "
            "run the same command again, with --workers 1 if it happens twice"
        )
        raise CapError(msg) from error


_NOT_A_NUMBER = "the model returned a score that is not a number"


def _whole(
    preprocess: Callable[[Image.Image], torch.Tensor], photo: Photo, image: Image.Image
) -> torch.Tensor:
    del photo
    return preprocess(image)[None]


def score_photos(
    model: Model, photos: Sequence[Photo], *, batch_size: int, workers: int | None = None
) -> Iterator[list[Scored]]:
    """Scores of photos, in their order, one list per batch.

    Parameters
    ----------
    model
        A loaded model.
    photos
        Photos, wherever their bytes lie.
    batch_size
        Photos per forward pass.
    workers
        Processes that decode; 0 decodes in this one, None takes one per core up to 8, and none for
        a few photos.

    Raises
    ------
    CapError
        If a decoding process dies.
    """
    prepare = partial(_whole, model.preprocess)
    for here, batch in decoded(model, photos, prepare, batch_size, workers):
        yield _results(model, here, batch)


def _results(model: Model, photos: Sequence[Photo], batch: Decoded) -> list[Scored]:
    scores: NDArray[np.float32] = np.empty((0, 0), np.float32)
    embeddings: NDArray[np.float32] | None = None
    if batch.images is not None:
        scores, embeddings = model.score(batch.images)
    rows = iter(range(len(scores)))
    results = []
    for photo, problem in zip(photos, batch.errors, strict=True):
        error = problem
        row = next(rows) if error is None else 0
        if error is None and not np.isfinite(scores[row]).all():
            error = _NOT_A_NUMBER
        if error is not None:
            results.append(Scored(photo.photo_id, None, None, error))
            continue
        embedding = None if embeddings is None else embeddings[row]
        results.append(Scored(photo.photo_id, scores[row], embedding))
    return results


def _cut_out(
    preprocess: Callable[[Image.Image], torch.Tensor], photo: RegionsRef, image: Image.Image
) -> torch.Tensor:
    return torch.stack([preprocess(image.crop(box)) for box in photo.boxes])


def score_regions(
    model: Model,
    photos: Sequence[RegionsRef],
    *,
    pooled: bool,
    batch_size: int,
    workers: int | None = None,
) -> Iterator[list[ScoredRegions]]:
    """Scores and embeddings of regions, in the order of their photos, one list per batch.

    Parameters
    ----------
    model
        A loaded model.
    photos
        Photos with their regions.
    pooled
        Whether regions are pooled over the feature map of the whole photo, which takes one pass for
        each photo, or cut out and encoded as photos of their own.
    batch_size
        Photos or regions per forward pass.
    workers
        As for `score_photos`.

    Raises
    ------
    CapError
        If a decoding process dies, or regions cannot be pooled in this model.
    """
    prepare: Prepare[RegionsRef] = partial(_whole if pooled else _cut_out, model.preprocess)
    most = 1 if pooled else max((len(photo.boxes) for photo in photos), default=1)
    per_batch = max(1, batch_size // most)
    for here, batch in decoded(model, photos, prepare, per_batch, workers):
        yield _region_results(model, here, batch, pooled=pooled, batch_size=batch_size)


def _region_results(
    model: Model, photos: Sequence[RegionsRef], batch: Decoded, *, pooled: bool, batch_size: int
) -> list[ScoredRegions]:
    good = [photo for photo, views in zip(photos, batch.views, strict=True) if views]
    found: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]] = []
    if batch.images is not None and pooled:
        shares = [
            [box.relative_to(model.frame(*photo.size)) for box in photo.boxes] for photo in good
        ]
        found = [model.score_regions(batch.images, shares)]
    elif batch.images is not None:
        found = [model.score(images) for images in batch.images.split(batch_size)]
    scores = np.concatenate([part for part, _ in found]) if found else np.empty((0, 0), np.float32)
    vectors = [part for _, part in found if part is not None]
    embeddings = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)
    results, start = [], 0
    for photo, error in zip(photos, batch.errors, strict=True):
        if error is not None:
            results.append(ScoredRegions(photo.photo_id, None, None, error))
            continue
        rows = slice(start, start := start + len(photo.boxes))
        if np.isfinite(scores[rows]).all() and np.isfinite(embeddings[rows]).all():
            results.append(ScoredRegions(photo.photo_id, scores[rows], embeddings[rows]))
        else:
            results.append(ScoredRegions(photo.photo_id, None, None, _NOT_A_NUMBER))
    return results
