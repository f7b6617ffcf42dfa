"""Which photos of a class are asked for: nobody's share is too large, and the newest come first."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.tables import from_rows
from manifests.vocabulary import Taxon, attribution_text, label_space
from pipeline.collect.listing import LISTING, choose_diverse, one_class_each

PEOPLE = st.sampled_from(["ann", "bo", "chi", "dil", "eve", None])
CANDIDATES = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 30).map(str)), PEOPLE), max_size=80
)


@given(CANDIDATES, st.integers(1, 60), st.integers(1, 3), st.sampled_from([0.02, 0.05, 0.2, 1.0]))
def test_no_observer_has_more_than_the_share_and_no_observation_too_many(
    candidates, at_most, per_observation, share
):
    chosen = choose_diverse(candidates, at_most, per_observation, share)
    assert len(chosen) <= at_most
    assert chosen == sorted(set(chosen))
    observers = Counter(candidates[i][1] for i in chosen if candidates[i][1] is not None)
    observations = Counter(candidates[i][0] for i in chosen if candidates[i][0] is not None)
    assert all(count <= max(2, share * len(chosen) + 1e-9) for count in observers.values())
    assert all(count <= per_observation for count in observations.values())


@given(CANDIDATES, st.integers(1, 60))
def test_without_limits_the_first_candidates_are_taken(candidates, at_most):
    chosen = choose_diverse(candidates, at_most, len(candidates) + 1, 1000.0)
    assert chosen == list(range(min(at_most, len(candidates))))


@given(CANDIDATES, st.integers(1, 60), st.integers(1, 3))
def test_choosing_from_what_was_chosen_changes_nothing(candidates, at_most, per_observation):
    chosen = choose_diverse(candidates, at_most, per_observation, 0.1)
    again = choose_diverse([candidates[i] for i in chosen], at_most, per_observation, 0.1)
    assert again == list(range(len(chosen)))


def test_the_share_is_of_the_photos_taken_not_of_those_wanted():
    candidates = [(str(i), "ann") for i in range(30)] + [(str(100 + i), str(i)) for i in range(30)]
    chosen = choose_diverse(candidates, 500, 1, 0.1)
    # 10 % of 500 wanted would be 50 photos; of the 33 taken they are 3.
    assert Counter(candidates[i][1] for i in chosen)["ann"] == 3
    assert len(chosen) == 33


LISTED = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 2), st.sampled_from(["red", "brown"])), max_size=30
)


@given(LISTED, st.sets(st.integers(0, 9)))
def test_every_photo_of_a_listing_is_asked_for_once_or_told_why_not(listed, without_address):
    rows = [
        {
            "photo_id": f"inaturalist:{photo}",
            "class_index": index,
            "class_name": f"class {index}",
            "taxon": taxon,
            "url": None if photo in without_address else f"http://localhost/{photo}.jpg",
            "license": "cc0",
        }
        for photo, index, taxon in listed
    ]
    asked, failed = one_class_each(from_rows(rows, LISTING), "inaturalist")
    classes: dict[int, set[int]] = {}
    for photo, index, _ in listed:
        classes.setdefault(photo, set()).add(index)
    askable = [p for p in classes if len(classes[p]) == 1 and p not in without_address]
    keys = asked.select(["class_index", "photo_id"]).to_pylist()
    assert [tuple(key.values()) for key in keys] == sorted(
        (*classes[photo], f"inaturalist:{photo}") for photo in askable
    )
    told = {row["photo_id"]: row["error"] for row in failed.to_pylist()}
    assert failed.num_rows == len(told)
    assert told == {
        f"inaturalist:{photo}": "the source gives no address"
        if len(indices) == 1
        else "asked for under two classes: "
        + " and ".join(f"class {index}" for index in sorted(indices))
        for photo, indices in classes.items()
        if photo not in askable
    }


def test_animal_classes_know_their_taxa():
    space = label_space("imagenet1k")
    assert space.taxa[0] == (Taxon("Tinca tinca", "species"),)
    assert len(space.taxa[6]) == 5
    assert 51 not in space.taxa
    assert not label_space("backgrounds").taxa


def test_a_label_space_file_may_name_taxa(tmp_path):
    (tmp_path / "space.csv").write_text("name,taxon\nbear,Ursus arctos|Ursus maritimus\nhouse,\n")
    space = label_space("space.csv", tmp_path)
    assert space.taxa == {0: (Taxon("Ursus arctos"), Taxon("Ursus maritimus"))}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("cc0", "Ann, no rights reserved (CC0)"),
        ("cc-by-nc", "© Ann, some rights reserved (CC-BY-NC)"),
        ("all-rights-reserved", "© Ann, all rights reserved"),
        ("pd", "Ann, no known copyright restrictions (public domain)"),
        ("unknown", "© Ann"),
    ],
)
def test_attributions_are_in_the_form_that_open_data_asks_for(code, text):
    assert attribution_text("Ann", code) == text
