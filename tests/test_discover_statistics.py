"""Gaps, influence and the order of clusters are as published, and their inference holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.discover.statistics import (
    Clustered,
    gap_intervals,
    gap_p_values,
    influence,
    performance_gaps,
)


def drawn(seed: int, images: int = 60, clusters: int = 7, labels: int = 4, most: int = 4):
    """Images with up to `most` regions each, in clusters and with errors at random."""
    rng = np.random.default_rng(seed)
    regions = rng.integers(1, most + 1, images)
    image = np.repeat(np.arange(images), regions)
    first = np.concatenate([[0], np.cumsum(regions)[:-1]])
    decisive = first + rng.integers(0, regions)
    return Clustered(
        image,
        rng.integers(0, clusters, len(image)),
        rng.integers(0, labels, images),
        rng.random(images) < 0.6,
        np.where(regions > 1, decisive, -1),
        clusters,
        labels,
    )


def literal(found: Clustered) -> dict[int, tuple[dict[int, float], float, float]]:
    """By cluster: G_c^y of each label, G_c and H_c, by loops after the definitions."""
    told = {}
    for c in range(found.clusters):
        having = {i for i, k in zip(found.image, found.cluster, strict=True) if k == c}
        gaps, shares = {}, []
        for y in range(found.labels):
            of_label = [i for i in range(len(found.label)) if found.label[i] == y]
            inside = [i for i in of_label if i in having]
            outside = [i for i in of_label if i not in having]
            if not inside or not outside:
                continue
            p_in = sum(found.correct[i] for i in inside) / len(inside)
            p_out = sum(found.correct[i] for i in outside) / len(outside)
            weight = 2 * min(len(inside), len(outside)) / (len(inside) + len(outside))
            gaps[y] = weight * (p_in - p_out)
            errors = [i for i in inside if not found.correct[i] and found.decisive[i] >= 0]
            if gaps[y] < 0 and errors:
                decided = [found.cluster[found.decisive[i]] == c for i in errors]
                shares.append(sum(decided) / len(decided))
        told[c] = gaps, sum(abs(gap) for gap in gaps.values()), max(shares, default=-math.inf)
    return told


@settings(max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 80),
    clusters=st.integers(1, 9),
    labels=st.integers(1, 5),
)
def test_gaps_and_influence_are_the_published_definition(seed, images, clusters, labels):
    found = drawn(seed, images, clusters, labels)
    gaps = performance_gaps(found)
    scores = influence(found, gaps)
    for c, (by_label, total, score) in literal(found).items():
        for y in range(labels):
            assert gaps.weighted[c, y] == pytest.approx(
                by_label.get(y, math.nan), abs=1e-12, nan_ok=True
            )
        assert gaps.total[c] == pytest.approx(total, abs=1e-12)
        assert scores[c] == score
        assert gaps.two_sided[c] == (
            any(gap > 0 for gap in by_label.values()) and any(gap < 0 for gap in by_label.values())
        )


def test_the_tied_label_is_the_one_that_a_cluster_helps_most_unweighted():
    # Of label 0, one image of four has cluster 0; of label 1, two of four.
    found = Clustered(
        image=np.arange(8),
        cluster=np.array([0, 1, 1, 1, 0, 0, 1, 1]),
        label=np.array([0, 0, 0, 0, 1, 1, 1, 1]),
        correct=np.array([1, 0, 0, 0, 1, 1, 1, 0], bool),
        decisive=np.full(8, -1),
        clusters=2,
        labels=2,
    )
    gaps = performance_gaps(found)
    assert gaps.images_in.tolist() == [[1, 2], [3, 2]]
    assert gaps.weighted[0].tolist() == [0.5, 0.5]
    assert gaps.tied_label.tolist() == [0, 1]
    assert influence(found, gaps).tolist() == [-np.inf, -np.inf]


def test_a_cluster_that_all_images_of_a_label_have_cannot_be_compared():
    found = Clustered(
        image=np.arange(3),
        cluster=np.zeros(3, np.int64),
        label=np.zeros(3, np.int64),
        correct=np.array([True, False, True]),
        decisive=np.full(3, -1),
        clusters=1,
        labels=1,
    )
    gaps = performance_gaps(found)
    assert np.isnan(gaps.weighted).all()
    assert gaps.total.tolist() == [0]
    assert gaps.tied_label.tolist() == [-1]
    assert not gaps.two_sided.any()
    assert gap_p_values(found, draws=10).tolist() == [1.0]
    assert gap_intervals(found, resamples=10).tolist() == [[0.0, 0.0]]


def test_p_values_are_valid_where_clusters_mean_nothing():
    values = np.concatenate([gap_p_values(drawn(seed), draws=199, seed=seed) for seed in range(60)])
    for level in (0.01, 0.05, 0.2, 0.5):
        share = (values <= level).mean()
        assert share <= level + 4 * math.sqrt(level * (1 - level) / len(values))
    assert (values <= 0.5).mean() > 0.4


def test_a_cluster_that_decides_errors_has_a_small_p_and_an_interval_above_the_others():
    found = drawn(3, images=400)
    marked = np.isin(np.arange(400), found.image[found.cluster == 0])
    spoiled = Clustered(
        found.image,
        found.cluster,
        found.label,
        np.where(marked, found.label == 0, found.correct),
        found.decisive,
        found.clusters,
        found.labels,
    )
    p_values = gap_p_values(spoiled, draws=999)
    assert p_values[0] == 0.001
    intervals = gap_intervals(spoiled)
    assert intervals[0, 0] > intervals[1:, 1].max()
    total = performance_gaps(spoiled).total
    assert (intervals[:, 0] <= intervals[:, 1]).all()
    assert intervals[0, 0] < total[0] < intervals[0, 1]


def test_the_same_seed_gives_the_same_whatever_is_held_at_once(monkeypatch):
    found = drawn(1)
    whole = gap_p_values(found, draws=50, seed=2)
    assert np.array_equal(gap_p_values(found, draws=50, seed=2), whole)
    monkeypatch.setattr("pipeline.discover.statistics._AT_ONCE", 60 * 7)
    assert np.abs(gap_p_values(found, draws=50, seed=2) - whole).max() < 0.3
