"""k-medoids for a whole range of k, each from the one before, on a matrix of distances.

Given distances, gives for each k of a range medoids, labels, the sum of distances, and the mean
silhouette. A medoid is added where it lowers the sum most (BUILD of PAM, Kaufman and Rousseeuw
1990), clusters are re-centred until nothing changes (as the alternating algorithm does), and while
that lowers the sum, another point takes the place of one of the medoids that are missed least (a
swap of PAM). What two values of k share is not computed again: the sums of distances to clusters,
from which centres and silhouettes follow, change only by the rows of points that changed their
cluster. That is what makes it worth having beside a library's k-medoids, which begins anew for
each k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["KMedoids", "sweep"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_REPLACED = 5
"""Medoids, those missed least, for which another point is looked for."""
_SWAPS = 4
"""Swaps for each k; the next k begins with what they came to."""
_LOWER = 1e-6
"""By what share the sum of distances has to fall for another round."""


@dataclass(frozen=True)
class KMedoids:
    """Clusters of points.

    Attributes
    ----------
    medoids
        The point at the middle of each cluster, of shape (k,).
    labels
        The cluster of each point, of shape (points,).
    objective
        Sum of the distances of all points to their medoid.
    silhouette
        Mean silhouette of all points (Rousseeuw 1987); 0 for a point that is alone.
    """

    medoids: Ints
    labels: Ints
    objective: float
    silhouette: float


def sweep(distances: Floats, ks: Sequence[int]) -> Iterator[KMedoids]:
    """The clustering for each of some numbers of clusters.

    Parameters
    ----------
    distances
        Symmetric, with zeros on the diagonal, of shape (points, points).
    ks
        Numbers of clusters, rising, from 1 to the number of points.
    """
    state = _State(distances)
    for k in ks:
        while len(state.medoids) < k:
            state.add()
        state.recentre()
        for _ in range(_SWAPS):
            if not state.swap():
                break
        yield state.clusters()


class _State:
    """Medoids, and what is known of all points with regard to them.

    `nearest` is each point's distance to its medoid. `gains` is by how much the sum of distances
    would fall with the point as a further medoid. `sums` (points, clusters) holds, from
    `recentre` on, each point's sum of distances to the points of each cluster.
    """

    def __init__(self, distances: Floats) -> None:
        self._distances = distances
        self._points = np.arange(len(distances))
        self.medoids = np.array([distances.sum(axis=1).argmin()])
        self._labels = np.zeros(len(distances), np.int64)
        self._nearest = distances[self.medoids[0]].copy()
        self._gains = np.maximum(self._nearest - distances, 0).sum(axis=1)
        self._sums = distances.sum(axis=1)[:, None]

    def add(self) -> None:
        """Add the medoid that lowers the sum of distances most."""
        self._move(np.append(self.medoids, self._best_addition()))

    def recentre(self) -> None:
        """Let points join their nearest medoid, and medoids move to the middle, until all rest."""
        while True:
            self._relabel()
            own = self._sums[self._points, self._labels]
            # The first of each cluster, by the sum of distances to its members.
            order = np.lexsort((own, self._labels))
            clusters, first = np.unique(self._labels[order], return_index=True)
            middles = self.medoids.copy()
            middles[clusters] = order[first]
            closer = own[middles] < own[self.medoids] * (1 - _LOWER)
            if not closer.any():
                return
            before, medoids = self._objective(), self.medoids
            self._move(np.where(closer, middles, medoids))
            if self._objective() >= before * (1 - _LOWER):
                # The sums of distances are rounded, and promised what is not so.
                self._move(medoids)
                return

    def swap(self) -> bool:
        """Put another point in the place of one of the medoids missed least, if the sum falls.

        For each of these it is the swap of PAM: of all points the one that lowers the sum most.
        """
        if len(self.medoids) == 1:
            return False
        nearest, second = np.partition(self._distances[self.medoids], 1, axis=0)[:2]
        # A point whose medoid goes has the second nearest left.
        lost = np.bincount(self._labels, second - nearest, minlength=len(self.medoids))
        best = (-_LOWER * self._objective(), -1, -1)
        for medoid in np.argsort(lost)[:_REPLACED].tolist():
            members = np.flatnonzero(self._labels == medoid)
            gains = self._gains + self._gained(members, nearest[members], second[members])
            gains[self.medoids] = -np.inf
            point = int(gains.argmax())
            best = min(best, (float(lost[medoid] - gains[point]), medoid, point))
        _, medoid, point = best
        if medoid < 0:
            return False
        before, medoids = self._objective(), self.medoids
        swapped = medoids.copy()
        swapped[medoid] = point
        self._move(swapped)
        self.recentre()
        if self._objective() < before * (1 - _LOWER):
            return True
        # The gains are rounded, and promised what is not so.
        self._move(medoids)
        self._relabel()
        return False

    def clusters(self) -> KMedoids:
        """What has been found."""
        return KMedoids(self.medoids, self._labels, self._objective(), self._silhouette())

    def _objective(self) -> float:
        return float(self._nearest.sum(dtype=np.float64))

    def _best_addition(self) -> int:
        gains = self._gains.copy()
        gains[self.medoids] = -np.inf
        return int(gains.argmax())

    def _move(self, medoids: Ints) -> None:
        """Take other medoids; brings `nearest` and `gains` up to date."""
        nearest = self._distances[medoids].min(axis=0)
        changed = np.flatnonzero(nearest != self._nearest)
        self._gains += self._gained(changed, self._nearest[changed], nearest[changed])
        self.medoids, self._nearest = medoids, nearest

    def _gained(self, points: Ints, before: Floats, after: Floats) -> Floats:
        """By how much all gains rise when points have other distances to their medoids."""
        # What max(after - row, 0) - max(before - row, 0) comes to.
        low, high = np.minimum(before, after), np.maximum(before, after)
        rows = self._distances[points]
        np.minimum(rows, high[:, None], out=rows)
        np.maximum(rows, low[:, None], out=rows)
        rising = np.sign(after - before)
        gained: Floats = rising @ high - rising @ rows
        return gained

    def _relabel(self) -> None:
        """Let points join their nearest medoid; brings `sums` up to date."""
        labels = self._distances[self.medoids].argmin(axis=0)
        # Every medoid is in its own cluster, also where two points are at the same place.
        labels[self.medoids] = np.arange(len(self.medoids))
        added = len(self.medoids) - self._sums.shape[1]
        if added:
            self._sums = np.pad(self._sums, ((0, 0), (0, added)))
        changed = np.flatnonzero(labels != self._labels)
        rows = np.arange(len(changed))
        moves = np.zeros((len(changed), len(self.medoids)), np.float32)
        moves[rows, labels[changed]] = 1
        moves[rows, self._labels[changed]] = -1
        self._sums += self._distances[changed].T @ moves
        self._labels = labels

    def _silhouette(self) -> float:
        sizes = np.bincount(self._labels, minlength=len(self.medoids)).astype(np.float32)
        own = self._sums[self._points, self._labels]
        within = own / np.maximum(sizes[self._labels] - 1, 1)
        means = self._sums / sizes
        means[self._points, self._labels] = np.inf
        other = means.min(axis=1)
        larger = np.maximum(within, other)
        known = (sizes[self._labels] > 1) & (larger > 0) & np.isfinite(other)
        values = np.zeros(len(own))
        values[known] = (other[known] - within[known]) / larger[known]
        return float(values.mean())
