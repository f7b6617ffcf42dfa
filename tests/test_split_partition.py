"""The division into validation and test: whole observers, even shares, nothing but the seed."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from pipeline.split.partition import draw_validation

STRATA = st.lists(st.integers(0, 4), min_size=1, max_size=60)
SHARE = st.floats(0.05, 0.95)


@given(STRATA, st.integers(1, 20), SHARE, st.integers(0, 5))
def test_all_photos_of_an_observer_lie_on_one_side(strata, people, share, seed):
    observers = [f"observer {i * 7 % people}" for i in range(len(strata))]
    validation = draw_validation(observers, np.array(strata), share, seed)
    for observer in set(observers):
        mine = {bool(v) for o, v in zip(observers, validation, strict=True) if o == observer}
        assert len(mine) == 1


@given(STRATA, SHARE, st.integers(0, 5))
def test_where_each_photo_has_its_own_observer_every_stratum_keeps_the_share(strata, share, seed):
    observers = [f"photo {i}" for i in range(len(strata))]
    validation = draw_validation(observers, np.array(strata), share, seed)
    for stratum in set(strata):
        inside = validation[np.array(strata) == stratum]
        assert abs(inside.sum() - share * len(inside)) < 1


@given(STRATA, st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_division_does_not_hang_on_the_order_of_the_photos(strata, people, random):
    observers = [f"observer {i * 7 % people}" for i in range(len(strata))]
    validation = draw_validation(observers, np.array(strata), seed=1)
    order = random.sample(range(len(strata)), len(strata))
    shuffled = draw_validation([observers[i] for i in order], np.array(strata)[order], seed=1)
    assert [bool(validation[i]) for i in order] == shuffled.tolist()


def test_another_seed_divides_in_another_way_and_each_photo_is_as_likely_to_choose():
    strata = np.repeat(np.arange(3), 11)
    observers = [f"photo {i}" for i in range(33)]
    drawn = np.array([draw_validation(observers, strata, 0.3, seed) for seed in range(2000)])
    assert len({tuple(row) for row in drawn.tolist()}) > 1900
    # Five standard errors of a share of 0.3.
    assert np.abs(drawn.mean(axis=0) - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_observers_with_many_photos_are_balanced_against_each_other():
    rng = np.random.default_rng(0)
    strata = np.repeat(np.arange(30), 40)
    for seed in range(5):
        observers = [f"observer {i}" for i in rng.integers(0, 150, len(strata))]
        validation = draw_validation(observers, strata, 0.5, seed)
        counts = np.bincount(strata, weights=validation)
        assert counts.min() >= 15
        assert counts.max() <= 25
        assert abs(validation.mean() - 0.5) < 0.01
