"""The one scoring loop: photos to scores, decoded by many processes and scored by few.

Given a model and photos, gives a result for each photo in their order, batch by batch: of the whole
photo, or of regions of it. A photo that cannot be read gives a result with the reason; the others
in its batch are not touched by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from manifests.cores import usable_cores
from manifests.errors import CapError, PhotoError, ReleaseError
from manifests.photos import open_upright
from pipeline.engine import LocalEngine, apply
from pipeline.photo_source import PhotoAt, PhotoHere

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.engine import Engine
    from pipeline.models.boxes import Box
    from pipeline.models.preprocessing import Preprocessing
    from pipeline.models.registry import Model
    from pipeline.photo_source import PhotoSource

__all__ = [
    "NOT_A_NUMBER",
    "Decode",
    "Decoded",
    "Photo",
    "PhotoRef",
    "Prepare",
    "RegionsRef",
    "Scored",
    "ScoredRegions",
    "StoredPhotos",
    "decode_whole",
    "score_photos",
    "score_regions",
]


_ROWS_AT_ONCE = 1024


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
    """A photo in a file, in the store, or in a copy of that."""

    photo_id: str
    file: Path | PhotoHere | PhotoAt

    def content(self) -> bytes | Path:
        """The file, or the verified bytes of the store or the copy."""
        return self.file if isinstance(self.file, Path) else self.file.read()


class StoredPhotos(Sequence[PhotoRef]):
    """Photos of a table, made one by one when they are asked for; can be pickled.

    A million are 0.2 GB as rows of Arrow, and several times that as objects.

    Parameters
    ----------
    rows
        Columns photo_id, path and sha256.
    source
        Where the photos are read.
    """

    def __init__(self, rows: pa.Table, source: PhotoSource) -> None:
        self._rows = rows.select(["photo_id", "path", "sha256"])
        self._source = source

    @property
    def rows(self) -> pa.Table:
        """The rows."""
        return self._rows

    def take(self, positions: NDArray[np.int64]) -> StoredPhotos:
        """Those at some positions."""
        return StoredPhotos(self._rows.take(pa.array(positions)), self._source)

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    @overload
    def __getitem__(self, at: int) -> PhotoRef: ...

    @overload
    def __getitem__(self, at: slice) -> StoredPhotos: ...

    def __getitem__(self, at: int | slice) -> PhotoRef | StoredPhotos:
        positions = range(len(self))[at]
        if isinstance(positions, int):
            return next(iter(self[positions : positions + 1]))
        if positions.step != 1:
            return self.take(np.array(positions, np.int64))
        return StoredPhotos(self._rows.slice(positions.start, len(positions)), self._source)

    def __iter__(self) -> Iterator[PhotoRef]:
        for rows in self._rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in rows.to_pylist():
                place = self._source.locate(row["path"], row["sha256"])
                yield PhotoRef(row["photo_id"], place)


@dataclass(frozen=True)
class RegionsRef(PhotoRef):
    """A photo, its upright size (width, height), and at least one region of it."""

    size: tuple[int, int]
    boxes: tuple[Box, ...]


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
"""From a photo and its decoded image to what is scored of it: (views, 3, H, W), all of one kind."""


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


@dataclass(frozen=True)
class Decode(Generic[_Photo]):
    """Decodes the photos of a batch; can be pickled.

    Attributes
    ----------
    prepare
        From a photo and its image to what the model is given of it; can be pickled.
    threads
        Photos read at once; above 1 where they come over a network.
    smallest
        Pixels that their shorter side may be decoded at; None decodes them in full.
    """

    prepare: Prepare[_Photo]
    threads: int = 1
    smallest: int | None = None

    def __call__(self, photos: Sequence[_Photo], threads: int = 1) -> Decoded:
        """The photos decoded by so many threads at least, or the reason why one cannot be."""
        found = apply(self._one, photos, max(threads, self.threads))
        images = [image for image, _ in found if image is not None]
        views = [0 if image is None else len(image) for image, _ in found]
        errors = [error for _, error in found]
        return Decoded(torch.cat(images) if images else None, views, errors)

    def _one(self, photo: _Photo) -> tuple[torch.Tensor | None, str | None]:
        try:
            image = open_upright(photo.content(), smallest=self.smallest)
            return self.prepare(photo, image), None
        except (PhotoError, ReleaseError) as error:
            return None, str(error)


_Vectors = tuple[NDArray[np.float32], NDArray[np.float32] | None]


@dataclass
class _Scoring:
    """A model at work on batches, as few photos at a time as its device wants or takes."""

    model: Model
    most: int | None = None

    @property
    def device(self) -> str:
        """The model's."""
        return str(self.model.description["device"])

    def move(self, device: str) -> None:
        """Take the model to another device."""
        self.model.move(device)
        if device == "cpu":
            torch.set_num_threads(usable_cores())

    def passes(
        self,
        score: Callable[[slice], _Vectors],
        count: int,
        tell: Callable[[str], None],
    ) -> list[_Vectors]:
        """What a model says of `count` things in as many passes as are needed.

        Raises
        ------
        CapError
            If a GPU has no memory for one.
        """
        found: list[_Vectors] = []
        start = 0
        while start < count:
            size = min(count - start, self._at_once(count))
            try:
                found.append(score(slice(start, start + size)))
            except torch.cuda.OutOfMemoryError as error:
                if size == 1:
                    msg = "the GPU has no memory for a single photo; try --device cpu"
                    raise CapError(msg) from error
                self.most = size // 2
            else:
                start += size
                continue
            torch.cuda.empty_cache()
            tell(f"the GPU ran out of memory with {size} at once; going on with {self.most}")
        return found

    def _at_once(self, count: int) -> int:
        most = self.most or count
        return min(most, self.model.at_once) if self.device == "cpu" else most


NOT_A_NUMBER = "the model returned a score that is not a number"
"""Why a photo that could be read has no scores."""


def _whole(preprocess: Preprocessing, photo: Photo, image: Image.Image) -> torch.Tensor:
    del photo
    return preprocess.pixels(image)[None]


class _PhotoScoring(_Scoring):
    """Scores whole photos."""

    def __call__(
        self, photos: Sequence[Photo], batch: Decoded, tell: Callable[[str], None]
    ) -> list[Scored]:
        """A result for each photo."""
        images = batch.images
        found: list[_Vectors] = []
        if images is not None:
            found = self.passes(lambda part: self.model.score(images[part]), len(images), tell)
        scores, embeddings = _joined(found)
        rows = iter(range(len(scores)))
        results = []
        for photo, problem in zip(photos, batch.errors, strict=True):
            error = problem
            row = next(rows) if error is None else 0
            if error is None and not np.isfinite(scores[row]).all():
                error = NOT_A_NUMBER
            if error is not None:
                results.append(Scored(photo.photo_id, None, None, error))
                continue
            embedding = None if embeddings is None else embeddings[row]
            results.append(Scored(photo.photo_id, scores[row], embedding))
        return results


def _joined(found: Sequence[_Vectors]) -> _Vectors:
    """The scores and embeddings of several passes."""
    if not found:
        return np.empty((0, 0), np.float32), None
    vectors = [part for _, part in found if part is not None]
    return np.concatenate([part for part, _ in found]), np.concatenate(vectors) if vectors else None


def decode_whole(model: Model, threads: int = 1) -> Decode[Photo]:
    """What decodes whole photos for a model; `threads` as for `score_photos`."""
    return Decode(partial(_whole, model.preprocess), threads, model.smallest)


def score_photos(
    model: Model,
    photos: Sequence[Photo],
    *,
    batch_size: int,
    engine: Engine | None = None,
    threads: int = 1,
    waits: bool = False,
) -> Iterator[list[Scored]]:
    """Scores of photos, in their order, one list per batch.

    Parameters
    ----------
    model
        A loaded model.
    photos
        Photos, wherever their bytes lie.
    batch_size
        Photos per forward pass; fewer on a CPU, and once a GPU's memory does not take so many.
    engine
        Where it is done; None takes this machine's cores to decode, as `prepared_batches` says.
    threads
        Photos that a process reads at once; above 1 where they come over a network.
    waits
        Whether they come over a network, for another reason than `threads`.

    Raises
    ------
    CapError
        If a decoding process dies, or a GPU has no memory for one photo.
    """
    own = LocalEngine() if engine is None else engine
    decode = decode_whole(model, threads)
    yield from own.map_batches(
        decode, _PhotoScoring(model), photos, batch_size, waits=waits or threads > 1
    )


def _cut_out(preprocess: Preprocessing, photo: RegionsRef, image: Image.Image) -> torch.Tensor:
    return torch.stack([preprocess.pixels(image.crop(box)) for box in photo.boxes])


@dataclass
class _RegionScoring(_Scoring):
    """Scores regions of photos, `batch_size` of them or of the photos at once."""

    pooled: bool = False
    batch_size: int = 1

    def __call__(
        self, photos: Sequence[RegionsRef], batch: Decoded, tell: Callable[[str], None]
    ) -> list[ScoredRegions]:
        """A result for each photo."""
        scores, embeddings = _joined(self._looked(photos, batch, tell))
        if embeddings is None:
            embeddings = np.empty((len(scores), 0), np.float32)
        results, start = [], 0
        for photo, error in zip(photos, batch.errors, strict=True):
            if error is not None:
                results.append(ScoredRegions(photo.photo_id, None, None, error))
                continue
            rows = slice(start, start := start + len(photo.boxes))
            if np.isfinite(scores[rows]).all() and np.isfinite(embeddings[rows]).all():
                results.append(ScoredRegions(photo.photo_id, scores[rows], embeddings[rows]))
            else:
                results.append(ScoredRegions(photo.photo_id, None, None, NOT_A_NUMBER))
        return results

    def _looked(
        self, photos: Sequence[RegionsRef], batch: Decoded, tell: Callable[[str], None]
    ) -> list[_Vectors]:
        images = batch.images
        if images is None:
            return []
        if self.most is None:
            self.most = self.batch_size
        if not self.pooled:
            return self.passes(lambda part: self.model.score(images[part]), len(images), tell)
        good = [photo for photo, views in zip(photos, batch.views, strict=True) if views]
        shares = [
            [box.relative_to(self.model.frame(*photo.size)) for box in photo.boxes]
            for photo in good
        ]
        return self.passes(
            lambda part: self.model.score_regions(images[part], shares[part]), len(images), tell
        )


def score_regions(
    model: Model,
    photos: Sequence[RegionsRef],
    *,
    pooled: bool,
    batch_size: int,
    engine: Engine | None = None,
    threads: int = 1,
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
        Photos or regions per forward pass; fewer as for `score_photos`.
    engine, threads
        As for `score_photos`.

    Raises
    ------
    CapError
        As `score_photos`, or if regions cannot be pooled in this model.
    """
    whole = partial(_whole if pooled else _cut_out, model.preprocess)
    decode: Decode[RegionsRef] = Decode(whole, threads)
    most = 1 if pooled else max((len(photo.boxes) for photo in photos), default=1)
    work = _RegionScoring(model, pooled=pooled, batch_size=batch_size)
    own = LocalEngine() if engine is None else engine
    yield from own.map_batches(decode, work, photos, max(1, batch_size // most), waits=threads > 1)
