"""Accuracies, intervals and drops are those of their published definitions."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from manifests.metrics import (
    Bootstrap,
    bootstrap_counts,
    class_shares,
    drop_interval,
    evaluate_groups,
    logit_line,
    mcnemar,
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


@pytest.mark.parametrize(("people", "at_least"), [(1, 0.9), (2, 0.8), (5, 0.51)])
def test_photos_of_few_people_tell_little_of_a_drop(people, at_least):
    common = np.arange(40) < 20
    correct = np.arange(40) % 20 < np.where(common, 18, 10)
    # Of a person who took all photos of a group, nothing tells how people differ.
    owner = np.where(common, np.arange(40) % people, np.arange(40))
    low, high = drop_interval(correct, common, owner)
    assert high - low > at_least
    independent = drop_interval(correct, common, np.arange(40))
    assert low < independent[0]
    assert independent[1] < high


@pytest.mark.parametrize("people", [1, 2, 3, 5])
def test_the_interval_of_a_drop_covers_the_truth_where_few_people_took_a_group(people):
    rng = np.random.default_rng(3)
    common = np.arange(50) < 20
    owner = np.where(common, np.arange(50) % people, np.arange(50))
    held = 0
    for _ in range(300):
        mood, own = rng.random(50)[owner], rng.random(50)
        luck = np.where(rng.random(50) < 0.5, mood, own)
        low, high = drop_interval(luck < np.where(common, 0.85, 0.6), common, owner)
        held += low <= 0.25 <= high
    assert held / 300 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)


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


def interval(values, clusters, *, draws=1000, seed=0):
    """Of the mean of one class in one group."""
    one = np.zeros(len(values), dtype=np.int64)
    groups = np.full(len(values), "common")
    found = Bootstrap(one, groups, clusters, draws=draws, seed=seed).balanced(values)["common"]
    return found.ci_low, found.ci_high


def test_intervals_are_wider_when_an_observers_photos_are_drawn_together():
    rng = np.random.default_rng(1)
    observers = np.repeat(np.arange(20), 10)
    correct = np.repeat(rng.random(20) < 0.5, 10)
    apart = interval(correct, np.arange(200))
    together = interval(correct, observers)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        low, high = interval(rng.random(80) < 0.7, np.arange(80), draws=300, seed=trial)
        hits += low <= 0.7 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_drawing_kinds_of_photos_gives_the_interval_of_drawing_photos():
    counts = np.array([30, 70, 100])
    value = np.array([0.0, 1.0, 2.0])
    photos = np.repeat(value, counts)

    def by_kind(drawn):
        return drawn @ value / drawn.sum(axis=1)

    kinds = bootstrap_counts(by_kind, counts, draws=10_000)
    assert kinds == pytest.approx(interval(photos, np.arange(200), draws=10_000), abs=0.01)


def test_a_statistic_that_is_often_undefined_has_no_interval():
    def among_the_rare(drawn):
        with np.errstate(invalid="ignore"):
            return drawn[:, 0] / (drawn[:, 0] + drawn[:, 1])

    assert bootstrap_counts(among_the_rare, np.array([1, 0, 99])) is None
    assert bootstrap_counts(among_the_rare, np.array([5, 5, 90])) is not None


@st.composite
def splits(draw):
    """Classes, groups and observers of some photos, and whether each of two models is right."""
    photos = draw(st.integers(1, 40))

    def column(values):
        return np.array(draw(st.lists(values, min_size=photos, max_size=photos)))

    classes, observers = column(st.integers(0, 3)), column(st.integers(0, 9))
    groups = column(st.sampled_from(["common", "counter"]))
    return classes, groups, observers, column(st.booleans()), column(st.booleans())


@settings(max_examples=50)
@given(splits())
def test_estimates_are_the_means_that_a_loop_over_classes_gives(split):
    classes, groups, observers, correct, _ = split
    bootstrap = Bootstrap(classes, groups, observers, draws=20)
    balanced, plain = bootstrap.balanced(correct), bootstrap.plain(correct)
    by_class = class_shares(correct, classes, groups, observers)
    for group in bootstrap.groups:
        here = groups == group
        each = [correct[here & (classes == c)].mean() for c in sorted(set(classes[here].tolist()))]
        assert balanced[group].value == pytest.approx(np.mean(each))
        assert plain[group].value == pytest.approx(correct[here].mean())
        assert [s[group].value for s in by_class.values() if group in s] == pytest.approx(each)
        assert sum(s[group].photos for s in by_class.values() if group in s) == here.sum()
    for found in (balanced, plain, *by_class.values()):
        assert ("drop" in found) == ({"common", "counter"} <= found.keys())
        if "drop" in found:
            assert found["drop"].value == found["common"].value - found["counter"].value
            assert found["drop"].photos == found["common"].photos + found["counter"].photos


@settings(max_examples=50)
@given(splits(), st.randoms(use_true_random=False))
def test_intervals_do_not_depend_on_the_order_of_the_photos(split, random):
    classes, groups, observers, correct, _ = split
    order = list(range(len(classes)))
    random.shuffle(order)
    photos = np.arange(len(classes))
    expected = Bootstrap(classes, groups, observers, photos=photos, draws=50).balanced(correct)
    shuffled = Bootstrap(
        classes[order], groups[order], observers[order], photos=photos[order], draws=50
    )
    assert shuffled.balanced(correct[order]) == expected


def test_photos_of_one_observer_alone_still_have_an_interval():
    groups = np.array(["common"] * 20 + ["counter"] * 20)
    correct = np.arange(40) % 20 < np.where(groups == "common", 18, 10)
    one = np.zeros(40, dtype=np.int64)
    found = Bootstrap(one, groups, one).balanced(correct)
    each = Bootstrap(one, groups, np.arange(40)).balanced(correct)
    for group in ("common", "counter", "drop"):
        assert found[group] == each[group]
        assert found[group].ci_low < found[group].value < found[group].ci_high


@settings(max_examples=50)
@given(splits())
def test_two_models_differ_by_what_their_photos_differ(split):
    classes, groups, observers, first, second = split
    bootstrap = Bootstrap(classes, groups, observers, draws=50)
    for of in (bootstrap.balanced, bootstrap.plain):
        one, other, apart = of(first), of(second), of(first.astype(float) - second)
        for group, estimate in apart.items():
            assert estimate.value == pytest.approx(one[group].value - other[group].value)
        alike = of(first.astype(float) - first)
        assert all((e.value, e.ci_low, e.ci_high) == (0, 0, 0) for e in alike.values())


@settings(max_examples=50)
@given(splits())
def test_the_drop_is_shared_out_among_the_kinds_of_errors(split):
    classes, groups, observers, correct, near = split
    bootstrap = Bootstrap(classes, groups, observers, draws=20)
    accuracy = bootstrap.balanced(correct)
    kinds = [bootstrap.balanced(~correct & k, -1) for k in (near, ~near)]
    for group, estimate in accuracy.items():
        errors = sum(kind[group].value for kind in kinds)
        expected = estimate.value if group == "drop" else 1 - estimate.value
        assert errors == pytest.approx(expected)
    by_class = class_shares(~correct, classes, groups, observers, -1)
    for class_index, shares in class_shares(correct, classes, groups, observers).items():
        if "drop" in shares:
            lost = by_class[class_index]["drop"]
            assert lost.value == pytest.approx(shares["drop"].value)
            assert (lost.ci_low, lost.ci_high) == pytest.approx(
                (shares["drop"].ci_low, shares["drop"].ci_high)
            )


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_mcnemars_p_value_is_the_binomial_tests(answers):
    from scipy.stats import binomtest

    first, second = np.array(answers).T
    found = mcnemar(first, second)
    apart = found.only_first + found.only_second
    assert apart == (first != second).sum()
    expected = binomtest(found.only_first, apart).pvalue if apart else 1.0
    assert found.p_value == pytest.approx(expected)
    turned = mcnemar(second, first)
    assert (turned.only_first, turned.p_value) == (found.only_second, found.p_value)


def test_mcnemars_test_takes_many_photos():
    first = np.arange(20_000) < 10_000
    assert mcnemar(first, ~first).p_value == 1.0
    assert mcnemar(first, np.zeros(20_000, dtype=bool)).p_value < 1e-300


@given(st.floats(0.2, 3), st.floats(-2, 2), st.integers(2, 20))
def test_a_line_on_the_logit_scale_is_found_again(slope, intercept, models):
    common = np.linspace(0.2, 0.9, models)
    counter = 1 / (1 + np.exp(-(slope * np.log(common / (1 - common)) + intercept)))
    line = logit_line(common, counter)
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept), abs=1e-6)
    assert line.models == models
    assert line.expected(common) == pytest.approx(counter)


def test_models_without_a_logit_are_left_out_of_the_line():
    common, counter = np.array([0.5, 0.8, 1.0, 0.6]), np.array([0.4, 0.7, 0.9, 0.0])
    assert logit_line(common, counter) == logit_line(common[:2], counter[:2])
    assert logit_line(common[2:], counter[2:]) is None
    assert logit_line(np.array([0.5, 0.5]), np.array([0.4, 0.3])) is None
