"""The one scoring loop: photos to scores, decoded in worker processes.

Given a model and photos, gives a result for each photo in their order, batch by batch. A photo that
cannot be read gives a result with the reason; the others in its batch are not touched by that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from manifests.errors import CapError, PhotoError, ReleaseError
from manifests.photos import open_image

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.models.registry import Model

__all__ = ["Photo", "PhotoRef", "Scored", "score_photos"]

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
class Scored:
    """What a model says of a photo: scores (labels,) and embedding (d,), or why there are none."""

    photo_id: str
    scores: NDArray[np.float32] | None
    embedding: NDArray[np.float32] | None
    error: str | None = None


@dataclass(frozen=True)
class _Batch:
    """Decoded photos: a tensor of the good ones, (good, 3, H, W), and an error or None for each."""

    images: torch.Tensor | None
    errors: list[str | None]

    def pin_memory(self) -> _Batch:
        return _Batch(None if self.images is None else self.images.pin_memory(), self.errors)


class _Photos(Dataset[tuple[torch.Tensor | None, str | None]]):
    def __init__(
        self, photos: Sequence[Photo], preprocess: Callable[[Image.Image], torch.Tensor]
    ) -> None:
        self._photos = photos
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | None, str | None]:
        try:
            return self._preprocess(open_image(self._photos[index].content())), None
        except (PhotoError, ReleaseError) as error:
            return None, str(error)


def _collate(items: list[tuple[torch.Tensor | None, str | None]]) -> _Batch:
    images = [image for image, _ in items if image is not None]
    return _Batch(torch.stack(images) if images else None, [error for _, error in items])


def _batches(
    model: Model, photos: Sequence[Photo], batch_size: int, workers: int
) -> DataLoader[tuple[torch.Tensor | None, str | None]]:
    return DataLoader(
        _Photos(photos, model.preprocess),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=str(model.description["device"]).startswith("cuda"),
        # A forked copy of a process in which torch's threads run may hang.
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=2 if workers else None,
    )


def _results(model: Model, photos: Sequence[Photo], batch: _Batch) -> list[Scored]:
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
            error = "the model returned a score that is not a number"
        if error is not None:
            results.append(Scored(photo.photo_id, None, None, error))
            continue
        embedding = None if embeddings is None else embeddings[row]
        results.append(Scored(photo.photo_id, scores[row], embedding))
    return results


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
    if workers is None:
        cores = len(os.sched_getaffinity(0))
        workers = 0 if len(photos) < _FEW else min(cores, _MOST_WORKERS)
    start = 0
    try:
        for batch in _batches(model, photos, batch_size, workers):
            here = photos[start : start + len(batch.errors)]
            start += len(here)
            yield _results(model, here, batch)
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        msg = (
            "a decoding process died, perhaps because (shared) memory ran out; "
            "run the same command again, with --workers 1 if it happens twice"
        )
        raise CapError(msg) from error
