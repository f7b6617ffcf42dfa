"""Which clusters of regions a model leans on: gaps in accuracy, influence on errors, intervals, p.

Given images with labels and predictions, and the cluster of each of their regions, gives for each
cluster what RaVL measures (Varma et al., NeurIPS 2024, section 3.1, and the authors' code): how
accuracy differs between images with and without it, and how often it decides an error. Beside
these, an interval from resampled images, and a permutation p-value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["Clustered", "Gaps", "gap_intervals", "gap_p_values", "influence", "performance_gaps"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_AT_ONCE = 4_000_000
"""Weights of images that are held at once while images are resampled."""
_TIE = 1e-9


@dataclass(frozen=True)
class Clustered:
    """Images as a model sees them, and the clusters that their regions are in.

    Attributes
    ----------
    image
        Image of each region, of shape (regions,), counted from 0.
    cluster
        Cluster of each region, of shape (regions,), counted from 0.
    label
        Label of each image, of shape (images,), counted from 0.
    correct
        Whether the model named it, of shape (images,).
    decisive
        The region of each image whose probability of the predicted label is the highest, of shape
        (images,); -1 for images with a single region, which tell nothing about regions.
    clusters, labels
        How many there are.
    """

    image: Ints
    cluster: Ints
    label: Ints
    correct: NDArray[np.bool_]
    decisive: Ints
    clusters: int
    labels: int

    @cached_property
    def presence(self) -> tuple[Ints, Ints]:
        """Images and the clusters that at least one of their regions is in, as pairs."""
        pairs = np.unique(self.image * self.clusters + self.cluster)
        return pairs // self.clusters, pairs % self.clusters

    @cached_property
    def _counting(self) -> csr_array:
        """Counts images by cluster and label: of shape (clusters * labels, images)."""
        image, cluster = self.presence
        rows = cluster * self.labels + self.label[image]
        shape = (self.clusters * self.labels, len(self.label))
        return csr_array((np.ones(len(image)), (rows, image)), shape=shape)

    @cached_property
    def _labelling(self) -> csr_array:
        """Counts images by label: of shape (labels, images)."""
        images = np.arange(len(self.label))
        shape = (self.labels, len(images))
        return csr_array((np.ones(len(images)), (self.label, images)), shape=shape)

    def by_cluster(self, weights: Floats) -> Floats:
        """Weight of the images with a cluster, by label.

        Parameters
        ----------
        weights
            Of shape (images, draws).

        Returns
        -------
        ndarray
            Of shape (clusters, labels, draws).
        """
        counted: Floats = self._counting @ weights
        return counted.reshape(self.clusters, self.labels, -1)

    def by_label(self, weights: Floats) -> Floats:
        """Weight of all images by label, of shape (labels, draws)."""
        counted: Floats = self._labelling @ weights
        return counted


@dataclass(frozen=True)
class Gaps:
    """Accuracy of images with and without each cluster, by label; each of shape (clusters, labels).

    Attributes
    ----------
    images_in, images_out
        Images with and without the cluster.
    accuracy_in, accuracy_out
        Accuracy on them; NaN where there are none.
    weighted
        G_c^y: their difference, times 2 min(n_in, n_out) / (n_in + n_out); NaN where one is empty.
    """

    images_in: Ints
    images_out: Ints
    accuracy_in: Floats
    accuracy_out: Floats
    weighted: Floats

    @property
    def total(self) -> Floats:
        """G_c, the sum of |G_c^y| over labels, of shape (clusters,)."""
        total: Floats = np.nansum(np.abs(self.weighted), axis=1)
        return total

    @property
    def differences(self) -> Floats:
        """Accuracy with the cluster minus accuracy without it, of shape (clusters, labels)."""
        difference: Floats = self.accuracy_in - self.accuracy_out
        return difference

    @property
    def tied_label(self) -> Ints:
        """The label that the cluster helps most, unweighted; -1 where no label can be compared."""
        known = np.nan_to_num(self.differences, nan=-np.inf)
        return np.where(np.isfinite(known).any(axis=1), known.argmax(axis=1), -1)

    @property
    def two_sided(self) -> NDArray[np.bool_]:
        """Whether a cluster helps a label and hurts another, of shape (clusters,)."""
        helps, hurts = (self.weighted > 0).any(axis=1), (self.weighted < 0).any(axis=1)
        return np.logical_and(helps, hurts)


def performance_gaps(found: Clustered) -> Gaps:
    """The performance gap of each cluster and label (section 3.1)."""
    ones = np.ones((len(found.label), 1))
    right = found.correct[:, None].astype(np.float64)
    n_in, hits_in = (found.by_cluster(weights)[..., 0] for weights in (ones, right))
    n_all, hits_all = (found.by_label(weights)[:, 0] for weights in (ones, right))
    n_out, hits_out = n_all - n_in, hits_all - hits_in
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy_in, accuracy_out = hits_in / n_in, hits_out / n_out
    return Gaps(
        n_in.astype(np.int64),
        n_out.astype(np.int64),
        accuracy_in,
        accuracy_out,
        _weighted(n_in, hits_in, n_out, hits_out, nothing=np.nan),
    )


def _weighted(
    n_in: Floats, hits_in: Floats, n_out: Floats, hits_out: Floats, *, nothing: float
) -> Floats:
    """G_c^y; `nothing` where one of the two groups is empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = 2 * np.minimum(n_in, n_out) / (n_in + n_out)
        gap = weight * (hits_in / n_in - hits_out / n_out)
    return np.where((n_in > 0) & (n_out > 0), gap, nothing)


def influence(found: Clustered, gaps: Gaps) -> Floats:
    """H_c: how often a cluster holds the region that decides an error (section 3.1).

    Over the wrong images of a label that the cluster hurts, the share whose decisive region is in
    it; the largest share of all such labels. Images with a single region do not count.

    Returns
    -------
    ndarray
        Of shape (clusters,); -inf where there is no such image.
    """
    image, cluster = found.presence
    wrong = ~found.correct[image] & (found.decisive[image] >= 0)
    image, cluster = image[wrong], cluster[wrong]
    key = cluster * found.labels + found.label[image]
    cells = found.clusters * found.labels
    decides = found.cluster[found.decisive[image]] == cluster
    errors = np.bincount(key, minlength=cells).reshape(found.clusters, found.labels)
    decided = np.bincount(key, weights=decides, minlength=cells).reshape(errors.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = decided / errors
    shares: Floats = np.where((errors > 0) & (gaps.weighted < 0), share, -np.inf)
    largest: Floats = shares.max(axis=1, initial=-np.inf)
    return largest


def gap_intervals(
    found: Clustered, *, resamples: int = 1_000, seed: int = 0, level: float = 0.95
) -> Floats:
    """Percentile intervals of G_c, from images resampled within their label.

    Returns
    -------
    ndarray
        Lower and upper ends, of shape (clusters, 2).
    """
    rng = np.random.default_rng(seed)
    right = found.correct[:, None].astype(np.float64)
    totals = []
    for draws in _lots(found, resamples):
        weights = np.empty((len(found.label), draws))
        for rows in _rows_by_label(found):
            weights[rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), draws).T
        n_in, hits_in = found.by_cluster(weights), found.by_cluster(weights * right)
        n_all, hits_all = found.by_label(weights), found.by_label(weights * right)
        totals.append(_totals(n_in, hits_in, n_all, hits_all))
    tail = (1 - level) / 2
    ends: Floats = np.quantile(np.concatenate(totals, axis=1), [tail, 1 - tail], axis=1).T
    return ends


def gap_p_values(found: Clustered, *, draws: int = 10_000, seed: int = 0) -> Floats:
    """p-values of G_c under the null that being correct has nothing to do with the cluster.

    Correctness is permuted among the images of a label, so that labels may differ in difficulty.
    G_c is never below 0, and larger for clusters that many images have, so it is compared with
    its own permutations. The p-value is (1 + permutations at least as large) / (1 + draws).

    Returns
    -------
    ndarray
        Of shape (clusters,).
    """
    rng = np.random.default_rng(seed)
    ones = np.ones((len(found.label), 1))
    right = found.correct.astype(np.float64)
    n_in, n_all = found.by_cluster(ones), found.by_label(ones)
    hits_all = found.by_label(right[:, None])
    observed = _totals(n_in, found.by_cluster(right[:, None]), n_all, hits_all)
    as_large = np.zeros(found.clusters, np.int64)
    for drawn in _lots(found, draws):
        permuted = np.empty((len(right), drawn))
        for rows in _rows_by_label(found):
            permuted[rows] = rng.permuted(np.tile(right[rows], (drawn, 1)), axis=1).T
        totals = _totals(n_in, found.by_cluster(permuted), n_all, hits_all)
        as_large += (totals >= observed * (1 - _TIE)).sum(axis=1)
    return (1 + as_large) / (1 + draws)


def _totals(n_in: Floats, hits_in: Floats, n_all: Floats, hits_all: Floats) -> Floats:
    """G_c of several draws, of shape (clusters, draws)."""
    gaps = _weighted(n_in, hits_in, n_all - n_in, hits_all - hits_in, nothing=0.0)
    total: Floats = np.abs(gaps).sum(axis=1)
    return total


def _lots(found: Clustered, draws: int) -> Iterator[int]:
    """Draws that are held at once."""
    size = max(found.clusters * found.labels, len(found.label), 1)
    at_once = max(1, _AT_ONCE // size)
    for start in range(0, draws, at_once):
        yield min(at_once, draws - start)


def _rows_by_label(found: Clustered) -> list[Ints]:
    order = np.argsort(found.label, kind="stable")
    ends = np.cumsum(np.bincount(found.label, minlength=found.labels))
    return [rows for rows in np.split(order, ends[:-1]) if len(rows)]
