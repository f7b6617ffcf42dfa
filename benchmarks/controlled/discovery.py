"""Methods that find what a model leans on, written to one interface: regions in, a ranking out.

All are given the same embeddings of regions, the labels of the images and what the model said of
them, and give regions back, most telling first. The baselines are written from their papers'
descriptions; what each leaves open is chosen by precision on settings that nothing is measured on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from pipeline.discover.findings import Bar, Findings, Regions, Search, find

__all__ = ["BASELINES", "Evidence", "precision_at", "random_order", "ravl"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SEARCH = Search(resamples=1, draws=1)
"""Intervals and p-values do not change what is found."""


@dataclass(frozen=True)
class Evidence:
    """What a method may look at.

    Attributes
    ----------
    regions
        Embeddings, labels, and whether the model was right.
    predicted
        What it said of each image, of shape (images,).
    seed
        Of what a method draws.
    """

    regions: Regions
    predicted: Ints
    seed: int

    @property
    def label(self) -> Ints:
        """Label of each region's image."""
        return self.regions.label[self.regions.image]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether the model was wrong about each region's image."""
        return ~self.regions.correct[self.regions.image]


def precision_at(order: Ints, true: NDArray[np.bool_], first: int = 10) -> float:
    """The share of true ones among the first; what is missing counts as false."""
    return float(true[order[:first]].sum() / first)


def ravl(evidence: Evidence) -> tuple[Ints, Findings | None]:
    """`cap discover`: the regions of the first cluster, nearest to its medoid first."""
    found = find(evidence.regions, Bar(), _SEARCH)
    if found is None or not (found.ranks == 1).any():
        return np.empty(0, np.int64), found
    members = np.flatnonzero(found.clustering.cluster == np.argmax(found.ranks == 1))
    return members[np.argsort(-found.clustering.similarity[members], kind="stable")], found


def random_order(evidence: Evidence) -> Ints:
    """Any order."""
    return np.random.default_rng(evidence.seed).permutation(len(evidence.regions.image))


def george(evidence: Evidence, most_clusters: int) -> Ints:
    """Clusters within each class; the one with the most errors beside its class (Sohoni et al.).

    NeurIPS 2020: features of each class are clustered with more clusters than are expected, as
    many as the silhouette likes best.
    """
    worst, order = -np.inf, np.empty(0, np.int64)
    for label in range(evidence.regions.labels):
        rows = np.flatnonzero(evidence.label == label)
        vectors, wrong = evidence.regions.embeddings[rows], evidence.wrong[rows]
        tried = [
            KMeans(k, n_init=2, random_state=evidence.seed).fit(vectors)
            for k in range(2, most_clusters + 1)
        ]
        best = max(tried, key=lambda model: _silhouette(vectors, model.labels_, evidence.seed))
        for number in range(best.n_clusters):
            inside = best.labels_ == number
            excess = wrong[inside].mean() - wrong.mean()
            if excess > worst:
                worst = excess
                away = np.linalg.norm(vectors[inside] - best.cluster_centers_[number], axis=1)
                order = rows[inside][np.argsort(away, kind="stable")]
    return order


def _silhouette(vectors: NDArray[np.float32], labels: Ints, seed: int) -> float:
    size = min(len(vectors), 400)
    return float(silhouette_score(vectors, labels, sample_size=size, random_state=seed))


def domino(evidence: Evidence, components: int, weight: float) -> Ints:
    """A mixture over embeddings, labels and predictions; the slice with the most errors.

    Eyuboglu et al., ICLR 2022, section 5: p(slice) N(z) Cat(y)^weight Cat(prediction)^weight with
    diagonal covariances, by expectation and maximisation, begun from the confusion matrix.
    """
    regions = evidence.regions
    label, said = evidence.label, evidence.predicted[regions.image]
    size = min(32, *regions.embeddings.shape)
    reduced = PCA(size, random_state=evidence.seed).fit_transform(regions.embeddings)
    labels = np.eye(regions.labels)
    log_joint = _mixture(
        reduced.astype(np.float64), (labels[label], labels[said]), components, weight, evidence.seed
    )
    shares = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    errors = (shares * evidence.wrong[:, None]).sum(axis=0) / shares.sum(axis=0).clip(min=1e-9)
    errors[shares.sum(axis=0) < _SMALLEST_SLICE] = -np.inf
    worst = int(errors.argmax())
    # Many regions belong to a slice entirely; of these, the most likely first.
    return np.lexsort((-log_joint[:, worst], -shares[:, worst].round(3)))


_SMALLEST_SLICE = 10
_ROUNDS = 30


def _mixture(
    z: Floats, categories: tuple[Floats, ...], components: int, weight: float, seed: int
) -> Floats:
    """Log p(slice, region), of shape (regions, components)."""
    rng = np.random.default_rng(seed)
    label, said = categories
    # Slices begin as the cells of the confusion matrix, largest first, with some noise.
    cell = label.argmax(axis=1) * label.shape[1] + said.argmax(axis=1)
    common = np.argsort(-np.bincount(cell, minlength=label.shape[1] ** 2), kind="stable")
    shares = rng.random((len(z), components))
    for number, own in enumerate(common[:components]):
        shares[cell == own, number] += components
    shares /= shares.sum(axis=1, keepdims=True)
    log_joint = np.empty_like(shares)
    for _ in range(_ROUNDS):
        mass = shares.sum(axis=0) + 1e-6
        middle = shares.T @ z / mass[:, None]
        spread = shares.T @ z**2 / mass[:, None] - middle**2 + 1e-4
        away = (z**2) @ (1 / spread).T - 2 * z @ (middle / spread).T
        away += (middle**2 / spread).sum(axis=1)
        log_joint = np.log(mass / mass.sum()) - (away + np.log(2 * np.pi * spread).sum(axis=1)) / 2
        for each in categories:
            chance = (shares.T @ each + 1e-3) / (mass[:, None] + 1e-3 * each.shape[1])
            log_joint += weight * each @ np.log(chance).T
        shares = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    return log_joint


def distilling(evidence: Evidence, penalty: float, pooled: bool) -> Ints:
    """The direction in which a class's images become wrong (Jain et al., ICLR 2023).

    A linear support vector machine for each class tells the regions of right images from those of
    wrong ones. Either the class where it does so best counts, or all regions by how far they lie on
    the wrong side for their class (`pooled`).
    """
    best, order = -np.inf, np.empty(0, np.int64)
    rows_of, sides = [], []
    for label in range(evidence.regions.labels):
        rows = np.flatnonzero(evidence.label == label)
        vectors, wrong = evidence.regions.embeddings[rows], evidence.wrong[rows]
        if min(wrong.sum(), (~wrong).sum()) < _SMALLEST_SIDE:
            continue
        machine = make_pipeline(
            StandardScaler(), LinearSVC(C=penalty, class_weight="balanced", dual=False)
        )
        side = machine.fit(vectors, wrong).decision_function(vectors)
        rows_of.append(rows)
        sides.append(side / side.std())
        if not pooled:
            score = cross_val_score(
                machine, vectors, wrong, cv=_FOLDS, scoring="balanced_accuracy"
            ).mean()
            if score > best:
                best, order = score, rows[np.argsort(-side, kind="stable")]
    if pooled and rows_of:
        return np.concatenate(rows_of)[np.argsort(-np.concatenate(sides), kind="stable")]
    return order


_FOLDS = 2
_SMALLEST_SIDE = 8
"""Regions of right or of wrong images that a class needs."""


BASELINES: dict[str, tuple[Callable[..., Ints], list[dict[str, float]]]] = {
    "George": (george, [{"most_clusters": k} for k in (4, 8, 12)]),
    "Domino": (
        domino,
        [{"components": k, "weight": w} for k in (10, 25, 50) for w in (1.0, 10.0, 30.0)],
    ),
    "Distilling Failures": (
        distilling,
        [{"penalty": c, "pooled": p} for c in (0.01, 0.1, 1.0) for p in (False, True)],
    ),
}
"""Each baseline, and what is tried for it."""
