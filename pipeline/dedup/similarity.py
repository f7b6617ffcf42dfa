"""Contents whose embeddings are alike: bursts and crops, which perceptual hashes do not find.

Given the embeddings that a model made of photos, gives the pairs whose cosine is large. Up to some
number every pair is compared; of more, each with those in the cells of an index that lie nearest,
and how many pairs that finds is measured. Cosines are computed anew for every pair that is found,
so that they do not depend on how it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Alike", "Embeddings", "alike"]

_Indices = npt.NDArray[np.int64]
_Vectors = npt.NDArray[np.float32]

_EXACT_UP_TO = 50_000
_AT_A_TIME = 1024
_CELLS_SEARCHED = 16
_MEASURED = 500
# More than what float32 products of unit vectors may be off by.
_MARGIN = 1e-4


@dataclass(frozen=True)
class Embeddings:
    """What a model made of contents.

    Attributes
    ----------
    run
        The scoring run that they are from.
    model
        What identifies the model.
    sha256
        Each content once, rising.
    vectors
        float32 (n, d), of unit length.
    """

    run: str
    model: str
    sha256: pa.Array
    vectors: _Vectors

    @property
    def digest(self) -> str:
        """sha256 of what the vectors follow from: the model and the contents."""
        contents = self.sha256.to_pylist()
        return hashlib.sha256("\n".join([self.model, *contents]).encode()).hexdigest()

    def cosines(self, first: _Indices, second: _Indices) -> npt.NDArray[np.float64]:
        """Cosine of each pair of positions."""
        pairs = (self.vectors[first].astype(np.float64), self.vectors[second].astype(np.float64))
        return np.asarray(np.einsum("ij,ij->i", *pairs), dtype=np.float64)


@dataclass(frozen=True)
class Alike:
    """Pairs of contents whose cosine is at least `similarity`.

    Attributes
    ----------
    embeddings
        Of which contents.
    similarity
        Smallest cosine of a pair.
    first, second
        Positions of the pairs, int64 (pairs,); first < second.
    recall
        Share of the pairs that an index finds, by comparing some contents with all, where these
        have any; None where all were compared.
    """

    embeddings: Embeddings
    similarity: float
    first: _Indices
    second: _Indices
    recall: float | None


def alike(embeddings: Embeddings, similarity: float, exact_up_to: int = _EXACT_UP_TO) -> Alike:
    """Find the pairs of contents whose cosine is at least `similarity`, each once."""
    vectors = embeddings.vectors
    count = len(vectors)
    exact = count <= exact_up_to
    index = _flat(vectors) if exact else _cells(vectors)
    # Most pairs are found from both sides.
    found = [np.empty(0, dtype=np.int64)]
    for pairs in _search(index, embeddings, np.arange(count), similarity):
        found.append(pairs.min(axis=0) * count + pairs.max(axis=0))
    first, second = np.divmod(np.unique(np.concatenate(found)), count)
    recall = None if exact else _recall(index, embeddings, similarity)
    return Alike(embeddings, similarity, first, second, recall)


def _flat(vectors: _Vectors) -> Any:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _cells(vectors: _Vectors) -> Any:
    import faiss

    cells = int(2 * np.sqrt(len(vectors)))
    dim = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    drawn = np.random.default_rng(0).permutation(len(vectors))[: 40 * cells]
    index.train(vectors[drawn])
    index.add(vectors)
    index.nprobe = _CELLS_SEARCHED
    return index


def _search(
    index: Any, embeddings: Embeddings, rows: _Indices, similarity: float
) -> Iterator[_Indices]:
    """Pairs (2, pairs) of each of `rows` and what the index finds alike, block by block."""
    for start in range(0, len(rows), _AT_A_TIME):
        block = rows[start : start + _AT_A_TIME]
        ends, _, others = index.range_search(embeddings.vectors[block], similarity - _MARGIN)
        first = np.repeat(block, np.diff(ends).astype(np.int64))
        kept = (embeddings.cosines(first, others) >= similarity) & (first != others)
        yield np.stack([first[kept], others[kept]])


def _recall(index: Any, embeddings: Embeddings, similarity: float) -> float | None:
    """Share of the pairs of some contents, drawn at random, that the index finds from them."""
    vectors = embeddings.vectors
    drawn = np.sort(np.random.default_rng(1).permutation(len(vectors))[:_MEASURED])
    found = sum(pairs.shape[1] for pairs in _search(index, embeddings, drawn, similarity))
    there = 0
    for start in range(0, len(vectors), _AT_A_TIME):
        near = vectors[drawn] @ vectors[start : start + _AT_A_TIME].T >= similarity
        rows = np.flatnonzero((drawn >= start) & (drawn < start + near.shape[1]))
        near[rows, drawn[rows] - start] = False
        there += int(np.count_nonzero(near))
    return min(found / there, 1.0) if there else None
