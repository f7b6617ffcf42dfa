"""What a model leans on: clusters of regions, measured, filtered and ranked.

The whole of RaVL's discovery (Varma et al., NeurIPS 2024, section 3.1) on arrays: embeddings of
regions are clustered, each cluster gets its gap and its influence, those that clear the bar are
ranked by their gap. Unlike the authors' code, it keeps all of them, says why the others are left
out, and takes nothing found for an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from manifests.errors import CapError
from pipeline.discover.clustering import Clustering, cluster, k_range
from pipeline.discover.statistics import (
    Clustered,
    Gaps,
    gap_intervals,
    gap_p_values,
    influence,
    performance_gaps,
)

__all__ = ["Bar", "Findings", "Regions", "Search", "find"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """Regions of images, and what a model makes of both.

    Attributes
    ----------
    embeddings
        Of shape (regions, d); only their direction counts.
    image
        Image of each region, of shape (regions,), counted from 0.
    probability
        That the region shows what the model calls its image, of shape (regions,).
    label
        Label of each image, of shape (images,), counted from 0.
    correct
        Whether the model named it, of shape (images,).
    labels
        How many labels there are.
    """

    embeddings: NDArray[np.float32]
    image: Ints
    probability: NDArray[np.float32]
    label: Ints
    correct: NDArray[np.bool_]
    labels: int

    @property
    def decisive(self) -> Ints:
        """The region of each image with the highest probability; -1 where it has less than two."""
        order = np.lexsort((-self.probability, self.image))
        images, first, counts = np.unique(self.image[order], return_index=True, return_counts=True)
        found: Ints = np.full(len(self.label), -1)
        several = counts > 1
        found[images[several]] = order[first[several]]
        return found


@dataclass(frozen=True)
class Bar:
    """What a cluster has to clear.

    Attributes
    ----------
    influence
        Smallest share of the errors that it decides (0.25 in the authors' code).
    two_sided
        Whether it has to help one label and hurt another, as in the authors' code.
    """

    influence: float = 0.25
    two_sided: bool = True


@dataclass(frozen=True)
class Search:
    """How clusters are looked for and measured.

    Attributes
    ----------
    clusters
        Numbers of clusters to try, rising; None takes RaVL's range.
    exact_up_to
        Largest number of regions that are all clustered; of more, so many are drawn.
    resamples, draws
        Bootstrap resamples behind intervals, permutations behind p-values.
    seed
        Of all that is drawn.
    """

    clusters: Sequence[int] | None = None
    exact_up_to: int = 10_000
    resamples: int = 1_000
    draws: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class Findings:
    """Clusters and what was measured of each; arrays are of shape (clusters,).

    Attributes
    ----------
    clustering
        The clusters.
    gaps
        Accuracy with and without each.
    influence
        H_c; -inf where there is no error that it could have decided.
    intervals
        95 % intervals of G_c, of shape (clusters, 2).
    p_values, q_values
        Of no dependence, and corrected for the number of clusters.
    ranks
        1 is the largest gap of those that clear the bar; 0 for the others.
    reasons
        Why a cluster does not; None for those that do.
    """

    clustering: Clustering
    gaps: Gaps
    influence: Floats
    intervals: Floats
    p_values: Floats
    q_values: Floats
    ranks: Ints
    reasons: tuple[str | None, ...]


def find(regions: Regions, bar: Bar, search: Search) -> Findings | None:
    """The clusters of regions and what a model owes to them; None where nothing clusters.

    Raises
    ------
    CapError
        If an embedding has no direction.
    """
    count = len(regions.image)
    ks = k_range(regions.labels, count) if search.clusters is None else search.clusters
    ks = [k for k in ks if k < min(count, search.exact_up_to)]
    clustering = cluster(
        _unit(regions.embeddings), ks, exact_up_to=search.exact_up_to, seed=search.seed
    )
    if clustering is None:
        return None
    found = Clustered(
        image=regions.image,
        cluster=clustering.cluster,
        label=regions.label,
        correct=regions.correct,
        decisive=regions.decisive,
        clusters=len(clustering.medoids),
        labels=regions.labels,
    )
    gaps = performance_gaps(found)
    shares = influence(found, gaps)
    p_values = gap_p_values(found, draws=search.draws, seed=search.seed)
    reasons = tuple(
        _reason(share, two_sided=two_sided, bar=bar)
        for share, two_sided in zip(shares.tolist(), gaps.two_sided.tolist(), strict=True)
    )
    kept = np.array([reason is None for reason in reasons])
    order = np.argsort(-gaps.total, kind="stable")
    ranks = np.zeros(len(kept), np.int64)
    ranks[order[kept[order]]] = np.arange(kept.sum()) + 1
    return Findings(
        clustering=clustering,
        gaps=gaps,
        influence=shares,
        intervals=gap_intervals(found, resamples=search.resamples, seed=search.seed),
        p_values=p_values,
        q_values=stats.false_discovery_control(p_values, method="bh"),
        ranks=ranks,
        reasons=reasons,
    )


def _unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings of unit length, whatever length they have."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        msg = "a region's embedding is zero or not a number, so that it has no direction"
        raise CapError(msg)
    scaled: NDArray[np.float32] = (embeddings / lengths).astype(np.float32, copy=False)
    return scaled


def _reason(share: float, *, two_sided: bool, bar: Bar) -> str | None:
    """Why a cluster does not clear the bar; None if it does."""
    if np.isneginf(share):
        return "no error is there that it could have decided"
    if share < bar.influence:
        return f"it decides {share:.0%} of the errors where it hurts, less than {bar.influence:.0%}"
    if bar.two_sided and not two_sided:
        return "it helps no class"
    return None
