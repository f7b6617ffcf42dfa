"""Who is asked about which photo: fair, the same each time, and needy classes first."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from annotation.assignment import (
    EVERYONE,
    TWICE,
    Candidate,
    Plan,
    assign,
    draw,
    in_order,
    planned,
    still_needed,
)


def candidate(number: int, class_index: int, suggested: str | None = None) -> Candidate:
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return Candidate(f"p{number}", sha256, f"photos/{number}.jpg", class_index, "x", suggested)


CANDIDATES = st.lists(st.integers(0, 4), max_size=60).map(
    lambda classes: [candidate(number, index) for number, index in enumerate(classes)]
)
NEEDED = st.dictionaries(st.integers(0, 4), st.integers(0, 40))
PEOPLE = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True).map(tuple)


@st.composite
def plans(draw_):
    people = draw_(PEOPLE)
    overlap = draw_(st.integers(1, len(people)))
    share = draw_(st.floats(0, 1)) if len(people) > 1 else 0.0
    return Plan(people, overlap, share, seed=draw_(st.integers(0, 9)))


@given(CANDIDATES, NEEDED, st.integers(0, 9))
def test_the_order_holds_every_photo_once_and_the_neediest_class_is_next(photos, needed, seed):
    ordered = in_order(photos, needed, Plan(seed=seed))
    assert Counter(ordered) == Counter(photos)
    left = {index: needed.get(index, 0) for index in range(5)}
    waiting = Counter(photo.class_index for photo in photos)
    for photo in ordered:
        most = max(left[index] for index in waiting if waiting[index])
        assert left[photo.class_index] == most
        left[photo.class_index] -= 1
        waiting[photo.class_index] -= 1


@given(CANDIDATES, NEEDED, st.randoms())
def test_the_order_does_not_depend_on_the_order_of_the_table(photos, needed, random):
    shuffled = list(photos)
    random.shuffle(shuffled)
    assert in_order(shuffled, needed, Plan(seed=3)) == in_order(photos, needed, Plan(seed=3))


@given(CANDIDATES, plans())
def test_each_photo_goes_to_as_many_people_as_planned_and_loads_are_even(photos, plan):
    given_ = assign(photos, {}, plan)
    people = Counter(photo.sha256 for batch in given_.values() for photo in batch)
    assert people == Counter({photo.sha256: plan.people(photo.sha256) for photo in photos})
    assert set(given_) <= set(plan.annotators)
    for batch in given_.values():
        assert len({photo.sha256 for photo in batch}) == len(batch)
    loads = [len(given_.get(name, ())) for name in plan.annotators]
    assert max(loads) - min(loads) <= 1


@given(CANDIDATES, plans(), plans())
def test_assigning_again_gives_nothing_more_whoever_asks(photos, plan, other):
    asked = {
        batch: {photo.asked for photo in batch_photos}
        for batch, batch_photos in assign(photos, {}, plan).items()
    }
    assert not assign(photos, asked, plan)
    # With more people wanted, the missing ones are asked, and nobody twice.
    for name, batch in assign(photos, asked, other).items():
        assert not {photo.asked for photo in batch} & asked.get(name, set())


@given(CANDIDATES, st.floats(0, 1), st.integers(0, 9))
def test_without_annotators_a_share_is_set_apart_for_two(photos, share, seed):
    plan = Plan(share=share, seed=seed)
    given_ = assign(photos, {}, plan)
    assert set(given_) <= {EVERYONE, TWICE}
    twice = {photo.sha256 for photo in given_.get(TWICE, ())}
    assert twice == {p.sha256 for p in photos if draw(seed, "share", p.sha256) < share}
    assert sum(map(len, given_.values())) == len(photos)


def test_a_draw_is_uniform_and_differs_between_purposes():
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(4000)]
    share = [draw(0, "share", each) for each in digests]
    suggest = [draw(0, "suggest", each) for each in digests]
    assert abs(sum(value < 0.1 for value in share) / 4000 - 0.1) < 0.02
    both = sum(a < 0.5 and b < 0.5 for a, b in zip(share, suggest, strict=True))
    assert abs(both / 4000 - 0.25) < 0.03


def test_a_class_needs_photos_until_two_backgrounds_have_enough():
    have = [(0, "grass")] * 25 + [(0, "sky")] * 5 + [(0, "rock")] * 2 + [(1, "grass")] * 3
    assert still_needed(have, {0, 1, 2}, 20) == {0: 15, 1: 37, 2: 40}


def test_a_plan_lowers_with_every_photo_tagged_since():
    rows = [
        {"class_index": 0, "background": "sky", "have": 10, "need": 30, "priority": 1},
        {"class_index": 0, "background": "grass", "have": 50, "need": 0, "priority": 1},
        {"class_index": 1, "background": "sky", "have": 0, "need": 5, "priority": 2},
    ]
    have = [(0, "sky")] * 25 + [(0, "grass")] * 50 + [(1, "sky")] * 9
    assert planned(rows, have) == {(0, "sky"): 15, (1, "sky"): 0}


def test_by_suggestion_the_backgrounds_that_a_plan_wants_most_of_come_first():
    photos = [candidate(n, 0, ("grass", "rock", "sky", None)[n % 4]) for n in range(12)]
    wanted = {(0, "sky"): 9, (0, "rock"): 2}
    ordered = in_order(photos, {}, Plan(order="suggestion"), wanted)
    assert [photo.suggested for photo in ordered][:6] == ["sky"] * 3 + ["rock"] * 3
    by_chance = in_order(photos, {}, Plan(), wanted)
    assert by_chance == in_order(photos, {}, Plan())


def test_photos_of_a_class_can_come_by_suggested_background():
    photos = [candidate(n, 0, ("sky", "grass", None)[n % 3]) for n in range(9)]
    ordered = in_order(photos, {}, Plan(order="suggestion"))
    assert [photo.suggested for photo in ordered] == [None] * 3 + ["grass"] * 3 + ["sky"] * 3


def test_a_withheld_suggestion_has_the_place_that_it_would_have_had_if_shown():
    shown = [
        Candidate(f"{n}", f"{n:064d}", "", 0, "lion", name, name)
        for n, name in enumerate(["sky", "grass", "rock"] * 4)
    ]
    withheld = [replace(photo, suggested=None) for photo in shown[::2]] + shown[1::2]
    plan = Plan(order="suggestion")
    wanted = {(0, "rock"): 4, (0, "sky"): 2}
    ordered = [photo.photo_id for photo in in_order(withheld, {}, plan, wanted)]
    assert ordered == [photo.photo_id for photo in in_order(shown, {}, plan, wanted)]
