"""The selection test: exact where it can be checked, uniform under the null, with power besides."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from pipeline.split.inference import Compared, largest_differences, permutation_test


def compared(correct, group, observer=None) -> Compared:
    observer = np.arange(len(group)) if observer is None else np.asarray(observer)
    return Compared(np.asarray(correct, dtype=bool), np.asarray(group), observer)


def brute_statistic(correct, group) -> float:
    pooled = np.mean(correct)
    if pooled in {0, 1}:
        return 0.0
    counts = Counter(group)
    right = Counter(g for c, g in zip(correct, group, strict=True) if c)
    return max(
        abs(right[i] / counts[i] - right[j] / counts[j])
        / np.sqrt(pooled * (1 - pooled) * (1 / counts[i] + 1 / counts[j]))
        for i, j in combinations(sorted(counts), 2)
    )


COUNTS = st.lists(
    st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=2,
    max_size=6,
)


@given(COUNTS)
def test_the_statistic_is_the_largest_standardised_difference(counts):
    right, sizes = np.array(counts).T
    correct = [i < k for k, n in counts for i in range(n)]
    group = [g for g, (_, n) in enumerate(counts) for _ in range(n)]
    found = largest_differences(right[None, :], sizes)[0]
    assert found == pytest.approx(brute_statistic(correct, group))


@pytest.mark.parametrize("right", [(9, 4), (10, 2), (7, 7)])
def test_two_groups_without_observers_give_the_hypergeometric_p_value(right):
    sizes = (12, 15)
    correct = [i < k for k, n in zip(right, sizes, strict=True) for i in range(n)]
    group = [g for g, n in enumerate(sizes) for _ in range(n)]
    total = sum(right)
    law = stats.hypergeom(sum(sizes), total, sizes[0])

    def difference(k):
        return abs(k / sizes[0] - (total - k) / sizes[1])

    exact = sum(
        law.pmf(k)
        for k in range(max(0, total - sizes[1]), min(total, sizes[0]) + 1)
        if difference(k) >= difference(right[0]) - 1e-12
    )
    result = permutation_test(compared(correct, group), 20_000)
    assert result.p_value == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 20_000))


def all_swaps(group, observer):
    """Every assignment of groups that swaps equal observers' and shuffles each one's photos."""
    rows = {o: [i for i, other in enumerate(observer) if other == o] for o in sorted(set(observer))}
    by_size = {}
    for o, members in rows.items():
        by_size.setdefault(len(members), []).append(o)
    assignments = [dict(enumerate(group))]
    for size, people in by_size.items():
        vectors = [tuple(group[i] for i in rows[o]) for o in people]
        new = []
        for base in assignments:
            for order in permutations(vectors):
                shuffles = [dict(base)]
                for person, vector in zip(people, order, strict=True):
                    shuffles = [
                        {**s, **dict(zip(rows[person], arrangement, strict=True))}
                        for s in shuffles
                        for arrangement in permutations(vector)
                    ]
                new += shuffles
        assignments = new
        assert size
    return [[a[i] for i in range(len(group))] for a in assignments]


@pytest.mark.parametrize(
    ("correct", "group", "observer"),
    [
        ("11100100", "00010111", "aabbccde"),
        ("1101100", "0012012", "aaabbbc"),
        ("110010", "001122", "aabbcd"),
    ],
)
def test_with_observers_the_p_value_is_that_of_every_swap_and_shuffle(correct, group, observer):
    right = [c == "1" for c in correct]
    groups = [int(g) for g in group]
    seen = brute_statistic(right, groups)
    drawn = [brute_statistic(right, g) for g in all_swaps(groups, observer)]
    exact = np.mean(np.array(drawn) >= seen - 1e-9)
    codes = np.unique(list(observer), return_inverse=True)[1]
    result = permutation_test(compared(right, groups, codes), 20_000)
    assert result.p_value == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 20_000))


def test_all_right_or_all_wrong_gives_one_without_a_draw():
    for answer in (True, False):
        result = permutation_test(compared([answer] * 10, [0, 1] * 5), 100)
        assert (result.p_value, result.draws, result.statistic) == (1.0, 0, 0.0)


def test_near_its_floor_ten_times_as_many_permutations_are_drawn():
    strong = permutation_test(compared([True] * 30 + [False] * 30, [0] * 30 + [1] * 30), 1000)
    assert (strong.draws, strong.p_value) == (10_000, 1 / 10_001)
    weak = permutation_test(compared([True, False] * 30, [0] * 30 + [1] * 30), 1000)
    assert weak.draws == 1000


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_the_same_seed_gives_the_same_result(seed):
    rng = np.random.default_rng(3)
    photos = compared(rng.random(80) < 0.7, rng.integers(0, 4, 80), rng.integers(0, 50, 80))
    assert permutation_test(photos, 200, (seed,)) == permutation_test(photos, 200, (seed,))


def null_class(rng, sizes, observers: bool):
    """A class where correctness hangs on the observer, if at all, and never on the background.

    Each observer has a favourite background, so that photos of one person share both.
    """
    if not observers:
        group = np.repeat(np.arange(len(sizes)), sizes)
        return compared(rng.random(len(group)) < 0.7, group)
    correct, group, owner = [], [], []
    for person in range(sum(sizes) // 3):
        photos = int(rng.choice([1, 2, 3, 8]))
        skill, place = rng.beta(0.7, 0.3), rng.integers(len(sizes))
        group += rng.choice([place] * 4 + list(range(len(sizes))), photos).tolist()
        correct += (rng.random(photos) < skill).tolist()
        owner += [person] * photos
    return compared(correct, group, owner)


def p_values(classes: int, observers: bool, use_observers: bool = True):
    rng = np.random.default_rng(11)
    reported, randomised = [], []
    for number in range(classes):
        photos = null_class(rng, (20, 35, 60, 28), observers)
        if not use_observers:
            photos = compared(photos.correct, photos.group)
        result = permutation_test(photos, 200, (number,))
        reported.append(result.p_value)
        # Among equal statistics the photos as they are have a random rank.
        rank = result.greater + rng.random() * (1 + result.equal)
        randomised.append(rank / (1 + result.draws))
    return np.array(reported), np.array(randomised)


@pytest.mark.parametrize("observers", [False, True])
def test_p_values_are_uniform_under_the_null_and_never_too_small(observers):
    reported, randomised = p_values(1500, observers)
    assert stats.kstest(randomised, "uniform").pvalue > 0.01
    for level in (0.01, 0.05, 0.1, 0.5):
        assert stats.binomtest((reported <= level).sum(), 1500, level, "greater").pvalue > 0.01


def test_without_regard_to_observers_the_test_finds_what_is_not_there():
    reported, _ = p_values(300, observers=True, use_observers=False)
    assert (reported <= 0.05).mean() > 0.1


def test_a_drop_of_twenty_points_between_200_photos_each_is_found():
    rng = np.random.default_rng(5)
    sizes = np.array([200, 200, 20, 50, 80, 120])
    accuracy = np.array([0.8, 0.6, 0.7, 0.7, 0.7, 0.7])
    group = np.repeat(np.arange(6), sizes)
    found = [
        permutation_test(compared(rng.random(len(group)) < accuracy[group], group), 400, (i,))
        for i in range(100)
    ]
    # 90 % are wanted; 82 of 100 would be less likely than 1 in 100 then.
    assert sum(result.p_value <= 0.05 for result in found) >= 82
