"""What a model made of each photo, kept so that no photo is scored twice.

A contrastive model's image embeddings are kept, because the scores over any label space are their
products with its text features; a classifier's logits are kept as they are. Vectors lie in Parquet
files of one batch each, below a folder per network and precision, under the sha256 of the photo.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import CapError
from manifests.tables import first_of_content, replacing, whole
from pipeline.engine import LocalEngine
from pipeline.models.registry import network_digest, published_name
from pipeline.models.scoring import Scored, score_photos

if TYPE_CHECKING:
    from manifests.progress import Progress
    from pipeline.models.registry import Model
    from pipeline.models.scoring import Photo, StoredPhotos

__all__ = ["Batches", "VectorCache", "cached_scores", "score_once", "scores_from"]

_PARTS_AT_MOST = 200


@dataclass(frozen=True)
class _Index:
    """The file and the row that each photo's vector lies in, and the length of vectors."""

    files: list[Path]
    width: int
    sha256: pa.Array
    file: NDArray[np.int64]
    row: NDArray[np.int64]


class VectorCache:
    """The vectors of one network at one precision.

    Parameters
    ----------
    folder
        Cache of all models.
    model
        The model whose vectors these are.
    """

    def __init__(self, folder: Path, model: Model) -> None:
        description = model.description
        name = f"{network_digest(description)[:32]}-{description['precision']}"
        self._folder = folder / name

    def known(self, photos: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Which of these photos, by sha256, have a vector; of shape (photos,)."""
        places = pc.index_in(photos, value_set=self._index.sha256)
        known: NDArray[np.bool_] = pc.is_valid(places).to_numpy(zero_copy_only=False)
        return known

    def add(self, photos: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of some photos, (photos, d)."""
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = pa.table({"sha256": pa.array(photos, pa.string()), "vector": values})
        name = hashlib.sha256("".join(photos).encode()).hexdigest()
        with replacing(self._folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="none", use_dictionary=False)
        self.__dict__.pop("_index", None)

    def read(self, photos: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of photos that all have one, (photos, d)."""
        index = self._index
        places = pc.index_in(pa.array(photos, pa.string()), value_set=index.sha256)
        places = places.to_numpy(zero_copy_only=False)
        found: NDArray[np.float32] | None = None
        for number in np.unique(index.file[places]):
            wanted = np.flatnonzero(index.file[places] == number)
            values = self._read(index.files[number], "vector").flatten().to_numpy()
            vectors = values.reshape(-1, index.width)
            if found is None:
                found = np.empty((len(photos), index.width), np.float32)
            found[wanted] = vectors[index.row[places[wanted]]]
        return np.empty((0, 0), np.float32) if found is None else found

    @cached_property
    def _index(self) -> _Index:
        """Where each photo's vector lies; made anew after something was added."""
        files = sorted(self._folder.glob("*.parquet"))
        names = [self._read(file, "sha256") for file in files]
        counts = [len(part) for part in names]
        width = 0
        if files:
            width = pq.read_schema(files[0]).field("vector").type.list_size
        return _Index(
            files,
            width,
            pa.concat_arrays(names) if names else pa.array([], pa.string()),
            np.repeat(np.arange(len(files)), counts),
            np.concatenate([np.arange(count) for count in counts] or [np.empty(0, np.int64)]),
        )

    def _read(self, file: Path, column: str) -> pa.Array:
        try:
            table = pq.read_table(file, columns=[column], partitioning=None)
        except (pa.ArrowInvalid, OSError) as error:
            msg = f"{file} cannot be read; remove it, and its photos are scored again"
            raise CapError(msg) from error
        return whole(table[column])


def scores_from(model: Model, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores over a model's label space, (photos, labels), of vectors that the cache keeps.

    They do not depend on which photos are asked about together.
    """
    if model.head is None:
        return vectors
    products = vectors.astype(np.float64) @ model.head.T.astype(np.float64)
    return products.astype(np.float32)


def score_once(
    model: Model,
    photos: StoredPhotos,
    batches: Sequence[Sequence[int]],
    cache: VectorCache,
    score: Callable[[Sequence[Photo]], Iterator[list[Scored]]],
) -> Iterator[list[Scored]]:
    """Results for photos, batch by batch; no content whose vector is known is looked at again.

    Parameters
    ----------
    model
        A loaded model.
    photos
        Photos of the store.
    batches
        Which of them are wanted, by their positions, in batches.
    cache
        Where vectors are kept. Those of a classifier are its logits, so that its results have no
        embedding.
    score
        Scores photos, as `score_photos` does; called once.
    """
    is_classifier = model.head is None
    wanted = photos.take(np.concatenate([np.arange(0), *map(np.array, batches)]).astype(np.int64))
    contents = wanted.rows["sha256"]
    first = first_of_content(contents) == np.arange(len(wanted))
    todo = first & ~cache.known(contents)
    results = itertools.chain.from_iterable(score(wanted.take(np.flatnonzero(todo))))
    failed: dict[str, Scored] = {}
    start = 0
    for batch in batches:
        part = wanted[start : start + len(batch)].rows
        names, ids = part["sha256"].to_pylist(), part["photo_id"].to_pylist()
        new = [names[n] for n in np.flatnonzero(todo[start : start + len(batch)])]
        start += len(batch)
        vectors: dict[str, NDArray[np.float32]] = {}
        for name, result in zip(new, itertools.islice(results, len(new)), strict=True):
            vector = result.scores if is_classifier else result.embedding
            if result.scores is None or vector is None:
                failed[name] = result
            else:
                vectors[name] = vector
        if vectors:
            cache.add(list(vectors), np.stack(list(vectors.values())))
        old = [name for name in names if name not in vectors and name not in failed]
        if old:
            vectors |= dict(zip(old, cache.read(old), strict=True))
        scores = dict(zip(vectors, _scores_of(model, list(vectors.values())), strict=True))
        yield [
            replace(failed[name], photo_id=photo_id)
            if name in failed
            else Scored(photo_id, scores[name], None if is_classifier else vectors[name])
            for photo_id, name in zip(ids, names, strict=True)
        ]


def _scores_of(model: Model, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    if not vectors:
        return np.empty((0, 0), np.float32)
    return scores_from(model, np.stack(vectors))


@dataclass(frozen=True)
class Batches:
    """How photos are scored: photos of a batch, processes that decode, and whether they wait."""

    size: int
    workers: int | None
    waits: bool = False


def cached_scores(
    model: Model,
    photos: Sequence[tuple[str, Photo]],
    cache: Path,
    batches: Batches,
    progress: Progress,
) -> NDArray[np.float32]:
    """Scores of photos over the model's label space, (photos, labels); each is scored once ever.

    Parameters
    ----------
    model
        A loaded model.
    photos
        The photos with their sha256.
    cache
        Cache of all models. A killed run goes on with the batches that are there.
    batches
        How the photos without a vector are scored.
    progress
        Told of each batch.

    Raises
    ------
    CapError
        If the model gives no score for a photo; the message names both.
    """
    vectors, name = VectorCache(cache, model), published_name(model.description)
    wanted = [sha256 for sha256, _ in photos]
    by_content = dict(photos)
    distinct = list(by_content)
    todo = [distinct[i] for i in np.flatnonzero(~vectors.known(pa.array(distinct, pa.string())))]
    results = itertools.chain.from_iterable(
        score_photos(
            model,
            [by_content[sha256] for sha256 in todo],
            batch_size=batches.size,
            engine=LocalEngine(batches.workers, tell=progress.note),
            waits=batches.waits,
        )
    )
    is_classifier = model.head is None
    done = len(by_content) - len(todo)
    step = batches.size * max(1, -(-len(todo) // (batches.size * _PARTS_AT_MOST)))
    with progress.task(f"score {name}", len(by_content), done) as advance:
        for start in range(0, len(todo), step):
            part = todo[start : start + step]
            rows = []
            for scored in itertools.islice(results, len(part)):
                row = scored.scores if is_classifier else scored.embedding
                if scored.scores is None or row is None:
                    msg = f"{name} gives no score for photo {scored.photo_id}: {scored.error}"
                    raise CapError(msg)
                rows.append(row)
            vectors.add(part, np.stack(rows))
            advance(len(part))
    found = vectors.read(wanted)
    scores = scores_from(model, found)
    for row in np.flatnonzero(~np.isfinite(scores).all(axis=1))[:1]:
        msg = f"{name} gives photo {photos[row][1].photo_id} a score that is not a number"
        raise CapError(msg)
    return scores
