"""Clusters are those of k-medoids, and what is computed along the way is what it says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.discover.clustering import assign, cluster, cosine_distances, k_range
from pipeline.discover.k_medoids import sweep


def regions(count: int, seed: int = 0, *, true: int = 12, noise: float = 0.6, dim: int = 32):
    """Unit vectors around `true` centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(true, dim))
    vectors = centres[rng.integers(0, true, count)] / np.sqrt(dim)
    vectors += noise * rng.normal(size=(count, dim)) / np.sqrt(dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, 60),
    first=st.integers(1, 12),
    more=st.integers(0, 8),
    doubled=st.booleans(),
)
def test_each_k_has_the_objective_and_the_silhouette_of_its_own_labels(
    seed, count, first, more, doubled
):
    import kmedoids

    vectors = regions(count, seed, true=4)
    if doubled:
        vectors[count // 2 :] = vectors[: count - count // 2]
    distances = cosine_distances(vectors)
    ks = range(min(first, count), min(first + more, count) + 1)
    for k, found in zip(ks, sweep(distances, ks), strict=True):
        assert len(set(found.medoids.tolist())) == k
        assert found.labels[found.medoids].tolist() == list(range(k))
        nearest = distances[found.medoids]
        assert found.objective == pytest.approx(nearest.min(axis=0).sum(), abs=1e-4)
        own = nearest[found.labels, np.arange(count)]
        assert own == pytest.approx(nearest.min(axis=0), abs=1e-6)
        if k > 1:
            expected, _ = kmedoids.silhouette(distances, found.labels.astype(np.uint64), n_cpu=1)
            assert found.silhouette == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("noise", [0.3, 0.8, 2.0])
def test_no_k_is_worse_than_a_library_s_alternating_k_medoids(noise):
    import kmedoids

    distances = cosine_distances(regions(500, noise=noise))
    for found in sweep(distances, range(4, 25)):
        k = len(found.medoids)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = kmedoids.alternating(distances, k, random_state=0)
        assert found.objective <= other.loss * 1.002


def test_the_k_of_the_planted_clusters_is_chosen():
    vectors = regions(600, true=9, noise=0.4)
    found = cluster(vectors, range(4, 20))
    assert len(found.medoids) == 9
    assert [tried.k for tried in found.tried] == list(range(4, 20))
    assert found.silhouette == max(tried.silhouette for tried in found.tried)
    assert found.drawn == 600
    cosines = vectors @ vectors[found.medoids].T
    assert np.array_equal(found.cluster, cosines.argmax(axis=1))
    assert found.similarity == pytest.approx(cosines.max(axis=1))


def test_where_only_some_regions_are_compared_the_others_join_the_nearest_medoid():
    vectors = regions(3_000, true=9, noise=0.4)
    whole = cluster(vectors, range(4, 20))
    drawn = cluster(vectors, range(4, 20), exact_up_to=500)
    assert (whole.drawn, drawn.drawn) == (3_000, 500)
    assert len(drawn.medoids) == len(whole.medoids)
    # The same clusters, under other numbers.
    pairs = set(zip(whole.cluster.tolist(), drawn.cluster.tolist(), strict=True))
    assert len(pairs) == len(whole.medoids)
    again = cluster(vectors, range(4, 20), exact_up_to=500)
    assert np.array_equal(again.cluster, drawn.cluster)


def test_regions_that_are_all_the_same_have_no_clusters():
    assert cluster(np.tile(np.eye(1, 8, dtype=np.float32), (20, 1)), range(2, 6)) is None


def test_the_range_of_k_is_published_and_stays_below_the_regions():
    assert list(k_range(10, 4_000)) == list(range(20, 50))
    assert list(k_range(10, 30)) == list(range(20, 30))
    assert not list(k_range(10, 1))
    assert not list(k_range(10, 20))


def test_each_region_is_assigned_to_the_medoid_of_the_largest_cosine():
    vectors = regions(2_500)
    found, similarity = assign(vectors, vectors[:7])
    cosines = vectors @ vectors[:7].T
    assert np.array_equal(found, cosines.argmax(axis=1))
    assert similarity == pytest.approx(cosines.max(axis=1))
