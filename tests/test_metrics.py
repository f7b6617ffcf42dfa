"""Accuracies, intervals and drops are those of their published definitions."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from manifests.metrics import (
    bootstrap_counts,
    bootstrap_interval,
    drop_interval,
    evaluate_groups,
    newcombe,
    wilson,
)


def test_wilson_gives_the_interval_of_newcombes_table():
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I.
    low, high = wilson(np.array([81, 15, 0, 1]), np.array([263, 148, 20, 29]))
    assert low == pytest.approx([0.2553, 0.0624, 0.0, 0.0061], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1605, 0.1611, 0.1718], abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_accuracy_and_stays_within_0_and_1(counts):
    correct, photos = counts
    (low,), (high,) = wilson(np.array([correct]), np.array([photos]))
    assert 0 <= low <= correct / photos <= high <= 1


def test_newcombe_gives_the_intervals_of_his_table():
    # Newcombe, "Interval estimation for the difference between independent proportions" (1998),
    # table II, method 10.
    correct = np.array([56, 9, 6, 5, 0, 10]), np.array([48, 3, 2, 0, 0, 0])
    photos = np.array([70, 10, 7, 56, 10, 10]), np.array([80, 10, 7, 29, 20, 10])
    low, high = newcombe(correct, photos)
    assert low == pytest.approx([0.0524, 0.1705, 0.0582, -0.0381, -0.1611, 0.6075], abs=5e-5)
    assert high == pytest.approx([0.3339, 0.8090, 0.8062, 0.1926, 0.2775, 1.0], abs=5e-5)


PROPORTION = st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(PROPORTION, PROPORTION)
def test_newcombe_holds_the_difference_and_turns_round_with_the_proportions(first, second):
    def interval(a, b):
        low, high = newcombe((np.array(a[0]), np.array(b[0])), (np.array(a[1]), np.array(b[1])))
        return float(low), float(high)

    low, high = interval(first, second)
    difference = first[0] / first[1] - second[0] / second[1]
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert interval(second, first) == pytest.approx((-high, -low))


@given(PROPORTION, PROPORTION, st.booleans())
def test_a_drop_of_independent_photos_has_newcombes_interval(first, second, shared):
    correct = [i < k for k, n in (first, second) for i in range(n)]
    common = np.array([True] * first[1] + [False] * second[1])
    observers = np.arange(len(correct))
    if shared:
        # One observer with a photo in each group is still two photos of one person.
        observers[-1] = observers[0]
    low, high = drop_interval(np.array(correct), common, observers)
    counts = zip(first, second, strict=True)
    right, photos = (tuple(map(np.array, pair)) for pair in counts)
    plain = [float(end) for end in newcombe(right, photos)]
    difference = first[0] / first[1] - second[0] / second[1]
    assert low - 1e-9 <= difference <= high + 1e-9
    if shared:
        assert low <= plain[0] + 1e-9
        assert plain[1] - 1e-9 <= high
    else:
        assert [low, high] == pytest.approx(plain)


def test_photos_that_repeat_each_other_count_once_in_the_interval_of_a_drop():
    rng = np.random.default_rng(4)
    correct, common = rng.random(200) < 0.7, rng.random(200) < 0.5
    observers = np.arange(200)
    single = drop_interval(correct, common, observers)
    thrice = drop_interval(*(np.repeat(a, 3) for a in (correct, common, observers)))
    assert thrice == pytest.approx(single, abs=0.005)


@pytest.mark.parametrize("observers", [1, 3])
def test_the_interval_of_a_drop_covers_the_truth_in_19_of_20_worlds(observers):
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(600):
        owner = np.arange(180) // observers
        common = np.isin(owner, rng.permutation(180 // observers)[: 90 // observers])
        # Photos of one person are all right or all wrong in three cases of ten.
        mood, own = rng.random(180)[owner], rng.random(180)
        luck = np.where(rng.random(180)[owner] < 0.3, mood, own)
        correct = luck < np.where(common, 0.85, 0.6)
        low, high = drop_interval(correct, common, owner)
        held += low <= 0.25 <= high
    # Within three standard errors of 95 %.
    assert abs(held / 600 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 600)


def example():
    # Class 0: common 3/4, counter 1/2. Class 1: common 1/1, counter 0/3.
    correct = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 0], dtype=bool)
    classes = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    groups = np.array(["common"] * 4 + ["counter"] * 2 + ["common"] + ["counter"] * 3)
    return correct, classes, groups, np.arange(10), {0: "lion", 1: "otter"}


def test_accuracy_is_the_mean_over_classes_and_plain_accuracy_the_mean_over_photos():
    found = evaluate_groups(*example())
    assert found.groups["common"].accuracy == pytest.approx((3 / 4 + 1) / 2)
    assert found.groups["common"].plain_accuracy == pytest.approx(4 / 5)
    assert found.groups["counter"].accuracy == pytest.approx((1 / 2 + 0) / 2)
    assert found.drop == pytest.approx(0.875 - 0.25)
    assert found.plain_drop == pytest.approx(0.8 - 0.2)
    assert found.classes["otter"] == {"common": 1.0, "counter": 0.0}


def test_a_split_with_one_group_has_no_drop():
    correct, classes, groups, clusters, names = example()
    rows = groups == "counter"
    found = evaluate_groups(correct[rows], classes[rows], groups[rows], clusters[rows], names)
    assert found.drop is None
    assert found.drop_ci_low is None
    assert list(found.groups) == ["counter"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_photos_does_not_matter(seed):
    correct, classes, groups, clusters, names = example()
    order = np.random.default_rng(seed).permutation(len(correct))
    found = evaluate_groups(correct[order], classes[order], groups[order], clusters[order], names)
    expected = evaluate_groups(correct, classes, groups, clusters, names)
    assert found.drop == pytest.approx(expected.drop)
    assert found.classes == expected.classes


def test_intervals_are_wider_when_an_observers_photos_are_drawn_together():
    rng = np.random.default_rng(1)
    observers = np.repeat(np.arange(20), 10)
    correct = np.repeat(rng.random(20) < 0.5, 10).astype(float)
    strata = np.zeros(200, dtype=np.int64)

    def accuracy(weights):
        return (weights * correct).sum(axis=1) / weights.sum(axis=1)

    apart = bootstrap_interval(accuracy, strata, np.arange(200))
    together = bootstrap_interval(accuracy, strata, observers)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    strata, clusters = np.zeros(80, dtype=np.int64), np.arange(80)
    hits = 0
    for trial in range(200):
        correct = (rng.random(80) < 0.7).astype(float)

        def accuracy(weights, correct=correct):
            return (weights * correct).sum(axis=1) / weights.sum(axis=1)

        low, high = bootstrap_interval(accuracy, strata, clusters, draws=300, seed=trial)
        hits += low <= 0.7 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_drawing_kinds_of_photos_gives_the_interval_of_drawing_photos():
    counts = np.array([30, 70, 100])
    value = np.array([0.0, 1.0, 2.0])
    photos = np.repeat(value, counts)

    def by_kind(drawn):
        return drawn @ value / drawn.sum(axis=1)

    def by_photo(weights):
        return weights @ photos / weights.sum(axis=1)

    each, strata = np.arange(len(photos)), np.zeros(len(photos), dtype=np.int64)
    kinds = bootstrap_counts(by_kind, counts, draws=10_000)
    assert kinds == pytest.approx(
        bootstrap_interval(by_photo, strata, each, draws=10_000), abs=0.01
    )


def test_a_statistic_that_is_often_undefined_has_no_interval():
    def among_the_rare(drawn):
        with np.errstate(invalid="ignore"):
            return drawn[:, 0] / (drawn[:, 0] + drawn[:, 1])

    assert bootstrap_counts(among_the_rare, np.array([1, 0, 99])) is None
    assert bootstrap_counts(among_the_rare, np.array([5, 5, 90])) is not None
