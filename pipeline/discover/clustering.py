"""Clusters of region embeddings: k-medoids by cosine distance, with k by the silhouette.

Given unit vectors, gives the clustering of that k, among those tried, whose mean silhouette is the
largest, as RaVL does. Up to `exact_up_to` regions it is found on the whole matrix of distances. Of
more regions, so many are drawn; medoids found among these then stand for all regions (CLARA,
Kaufman and Rousseeuw 1990).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.discover.k_medoids import sweep

__all__ = ["Clustering", "Tried", "assign", "cluster", "cosine_distances", "k_range"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Tried:
    """What a number of clusters came to: the sum of distances to medoids, and the silhouette."""

    k: int
    objective: float
    silhouette: float


@dataclass(frozen=True)
class Clustering:
    """Regions in clusters.

    Attributes
    ----------
    medoids
        The region at the middle of each cluster, of shape (clusters,).
    cluster
        The cluster of each region, of shape (regions,).
    similarity
        Cosine of each region to its medoid, of shape (regions,).
    silhouette
        Mean silhouette of the regions that the medoids were found among.
    tried
        Every k, in order.
    drawn
        How many regions the medoids were found among.
    """

    medoids: Ints
    cluster: Ints
    similarity: Floats
    silhouette: float
    tried: tuple[Tried, ...]
    drawn: int


def k_range(labels: int, regions: int) -> range:
    """The numbers of clusters that RaVL tries: from 2 |Y| to below 5 |Y|, but fewer than regions.

    So in the authors' code; their paper, by a later re-implementation of it, includes 5 |Y|.
    """
    return range(2 * labels, min(5 * labels, regions))


def cosine_distances(embeddings: Floats) -> Floats:
    """1 - cosine, clipped to [0, 1] as RaVL does, of shape (regions, regions)."""
    distances: Floats = np.clip(1 - embeddings @ embeddings.T, 0, 1)
    np.fill_diagonal(distances, 0)
    return distances


def cluster(
    embeddings: Floats, ks: Sequence[int], *, exact_up_to: int = 10_000, seed: int = 0
) -> Clustering | None:
    """Cluster regions.

    Parameters
    ----------
    embeddings
        Of unit length, of shape (regions, d).
    ks
        Numbers of clusters to try, rising.
    exact_up_to
        Largest number of regions whose distances are all computed, which takes 4 bytes for each
        two of them.
    seed
        Of the regions that are drawn.

    Returns
    -------
    Clustering or None
        None where no number of clusters has a silhouette above 0.
    """
    regions = len(embeddings)
    drawn: Ints = np.arange(regions)
    if regions > exact_up_to:
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(regions, exact_up_to, replace=False))
    distances = cosine_distances(embeddings[drawn])
    tried, best, best_silhouette = [], None, 0.0
    for found in sweep(distances, ks):
        tried.append(Tried(len(found.medoids), found.objective, found.silhouette))
        if found.silhouette > best_silhouette:
            best, best_silhouette = found.medoids, found.silhouette
    if best is None:
        return None
    chosen = drawn[best]
    clusters, similarity = assign(embeddings, embeddings[chosen])
    # Of medoids at the same place, the first has all regions.
    used, clusters = np.unique(clusters, return_inverse=True)
    chosen = chosen[used]
    return Clustering(chosen, clusters, similarity, best_silhouette, tuple(tried), len(drawn))


def assign(embeddings: Floats, medoids: Floats) -> tuple[Ints, Floats]:
    """The nearest medoid of each region, and the cosine to it.

    Parameters
    ----------
    embeddings, medoids
        Of unit length, of shapes (regions, d) and (clusters, d).

    Returns
    -------
    tuple
        Each of shape (regions,).
    """
    nearest = np.empty(len(embeddings), np.int64)
    similarity = np.empty(len(embeddings), np.float32)
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        cosines = embeddings[rows] @ medoids.T
        nearest[rows] = cosines.argmax(axis=1)
        similarity[rows] = cosines.max(axis=1)
    return nearest, similarity
