"""What a model made of each photo, kept so that no photo is scored twice.

A contrastive model's image embeddings are kept, because the scores over any label space are their
products with its text features; a classifier's logits are kept as they are. Vectors lie in Parquet
files of one batch each, below a folder per network and precision, under the sha256 of the photo.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import CapError
from manifests.tables import replacing
from pipeline.models.registry import network_digest, published_name
from pipeline.models.scoring import score_photos

if TYPE_CHECKING:
    from manifests.progress import Progress
    from pipeline.models.registry import Model
    from pipeline.models.scoring import Photo

__all__ = ["Batches", "VectorCache", "cached_scores"]

_PARTS_AT_MOST = 200


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

    def missing(self, photos: Sequence[str]) -> list[str]:
        """Which of these photos, by sha256, have no vector yet; each once, in their order."""
        known = {sha256 for file in self._files() for sha256 in self._read(file, ["sha256"])[0]}
        return [sha256 for sha256 in dict.fromkeys(photos) if sha256 not in known]

    def add(self, photos: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of some photos, (photos, d)."""
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = pa.table({"sha256": pa.array(photos, pa.string()), "vector": values})
        name = hashlib.sha256("".join(photos).encode()).hexdigest()
        with replacing(self._folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="none", use_dictionary=False)

    def read(self, photos: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of photos that all have one, (photos, d)."""
        wanted: dict[str, list[int]] = {}
        for row, sha256 in enumerate(photos):
            wanted.setdefault(sha256, []).append(row)
        found: NDArray[np.float32] | None = None
        for file in self._files():
            names, vectors = self._read(file, ["sha256", "vector"])
            if found is None:
                found = np.empty((len(photos), vectors.shape[1]), np.float32)
            for name, vector in zip(names, vectors, strict=True):
                found[wanted.get(name, [])] = vector
        return np.empty((0, 0), np.float32) if found is None else found

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def _read(self, file: Path, columns: list[str]) -> tuple[list[str], NDArray[np.float32]]:
        try:
            table = pq.read_table(file, columns=columns, partitioning=None)
        except (pa.ArrowInvalid, OSError) as error:
            msg = f"{file} cannot be read; remove it, and its photos are scored again"
            raise CapError(msg) from error
        names = table["sha256"].to_pylist()
        if "vector" not in columns:
            return names, np.empty((len(names), 0), np.float32)
        values = table["vector"].combine_chunks().flatten().to_numpy()
        return names, values.reshape(len(names), -1)


@dataclass(frozen=True)
class Batches:
    """How photos are scored: photos per forward pass, and processes that decode."""

    size: int
    workers: int | None


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
    todo = vectors.missing(wanted)
    results = itertools.chain.from_iterable(
        score_photos(
            model,
            [by_content[sha256] for sha256 in todo],
            batch_size=batches.size,
            workers=batches.workers,
        )
    )
    done = len(by_content) - len(todo)
    step = batches.size * max(1, -(-len(todo) // (batches.size * _PARTS_AT_MOST)))
    with progress.task(f"score {name}", len(by_content), done) as advance:
        for start in range(0, len(todo), step):
            part = todo[start : start + step]
            rows = []
            for scored in itertools.islice(results, len(part)):
                row = scored.scores if model.head is None else scored.embedding
                if scored.scores is None or row is None:
                    msg = f"{name} gives no score for photo {scored.photo_id}: {scored.error}"
                    raise CapError(msg)
                rows.append(row)
            vectors.add(part, np.stack(rows))
            advance(len(part))
    found = vectors.read(wanted)
    scores = found if model.head is None else found @ model.head.T
    for row in np.flatnonzero(~np.isfinite(scores).all(axis=1))[:1]:
        msg = f"{name} gives photo {photos[row][1].photo_id} a score that is not a number"
        raise CapError(msg)
    return scores
