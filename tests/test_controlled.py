"""Planted shortcuts: the generator, what counts as a setting, and the methods' common interface."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlled.animals import Animals
from controlled.digits import Digits
from controlled.discovery import BASELINES, Evidence, precision_at, random_order, ravl
from controlled.mitigation import Suspects
from controlled.models import embedded, pretrained
from controlled.planted import QUADRANTS, SIDE, TILE, compose, cramers_v, tied
from controlled.settings import (
    STRENGTHS,
    VALID_GAP,
    Choices,
    Effort,
    Setting,
    run,
    settings,
    try_choices,
    tuning_settings,
)
from controlled.tables import discovery_table, invalid_table, mean, mitigation_table
from hypothesis import given
from hypothesis import strategies as st
from open_clip import SimpleTokenizer
from threadpoolctl import threadpool_limits

from pipeline.discover.findings import Regions

SMALL = Effort(learn=200, held_back=100, measure=200, epochs=1, rates=(1e-3,))
GRIDS = {name: grid[:1] for name, (_, grid) in BASELINES.items()}
FIRST = Choices({name: grid[0] for name, (_, grid) in BASELINES.items()}, 0.8)
CHOICES = dict.fromkeys(("digits", "animals"), FIRST)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """More threads than free cores wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[Digits, Animals])
def world(request):
    return request.param()


@given(
    st.integers(0, 9),
    st.sampled_from(STRENGTHS),
    st.integers(40, 120),
    st.integers(0, 2**32 - 1),
)
def test_a_tie_is_the_strongest_that_does_not_go_beyond_what_is_asked_for(to, strength, each, seed):
    label = np.repeat(np.arange(10), each)
    has = tied(np.random.default_rng(seed), label, to, strength)
    counts = np.bincount(label, has).astype(int)
    moved = each - counts[to]
    assert cramers_v(label, has) <= strength
    assert np.delete(counts, to).tolist() == [moved] * 9
    if moved > 0:
        before = (label == to) ^ (np.tile(np.arange(each), 10) < moved - 1)
        assert cramers_v(label, before) > strength


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=12, max_size=80))
def test_cramers_v_is_its_definition(pairs):
    label = np.array([0, 1, 2, 3, *(own for own, _ in pairs)])
    has = np.array([True, False, True, False, *(own for _, own in pairs)])
    table = np.array([[np.sum((label == y) & (has == h)) for h in (0, 1)] for y in range(4)])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi_squared = ((table - expected) ** 2 / expected).sum()
    assert cramers_v(label, has) == pytest.approx(np.sqrt(chi_squared / table.sum()))


def test_quadrants_lie_where_the_regions_are():
    tiles = [np.full((TILE, TILE, 3), shade, np.uint8) for shade in (1, 2, 3, 4)]
    image = compose(tiles)
    assert image.shape == (SIDE, SIDE, 3)
    for box, shade in zip(QUADRANTS, (1, 2, 3, 4), strict=True):
        rows = slice(int(box.top * SIDE), int(box.bottom * SIDE))
        columns = slice(int(box.left * SIDE), int(box.right * SIDE))
        assert (image[rows, columns] == shade).all()


def _quadrants(planted):
    parts = planted.pixels.reshape(len(planted), 2, TILE, 2, TILE, 3)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(len(planted), 4, TILE, TILE, 3)


def _drawn(world, part, seed=0, count=60):
    rng = np.random.default_rng(seed)
    label = np.arange(count) % len(world.classes)
    return world.draw(rng, label, rng.random(count) < 1 / 2, world.features[0], part)


def test_the_feature_lies_beside_what_an_image_is_of_and_in_no_other_image(world):
    planted = _drawn(world, "learn")
    images = np.arange(len(planted))
    assert (planted.shows.any(axis=1) == planted.has).all()
    assert not planted.shows[images, planted.core].any()


def test_a_rectangle_is_in_the_quadrant_that_is_said_to_show_it():
    planted = _drawn(Digits(), "learn")
    red = (_quadrants(planted) == (255, 0, 0)).all(axis=-1).any(axis=(2, 3))
    assert (red == planted.shows).all()


def test_what_is_measured_on_is_not_what_was_learned_from(world):
    learned, measured = (
        {tile.tobytes() for tile in _quadrants(own)[np.arange(len(own)), own.core]}
        for own in (_drawn(world, "learn", count=200), _drawn(world, "measure", count=200))
    )
    assert not learned & measured


def test_settings_are_fixed_and_none_is_both_tuned_on_and_measured_on():
    measured, tuned = settings(60), tuning_settings()
    assert measured == settings(60)
    assert measured[:10] == settings(10)
    assert {own.world for own in measured} == {"digits", "animals"}
    assert len({(own.world, own.number) for own in measured}) == 60

    def tie(own):
        return own.world, own.label, own.feature, own.strength

    assert len(tuned) == 10
    assert not {tie(own) for own in measured} & {tie(own) for own in tuned}


def _evidence(seed=0, images=400):
    """Images of four regions; in half of those of class 1, a feature makes the model wrong."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, images)
    has = rng.random(images) < 1 / 2
    kind = np.stack([label, *(rng.integers(4, 7, (3, images)))], axis=1)
    kind[has, 1] = 3
    middles = rng.normal(size=(7, 16))
    embeddings = middles[kind.ravel()] + 0.2 * rng.normal(size=(4 * images, 16))
    predicted = np.where(has & (label != 0), 0, label)
    regions = Regions(
        embeddings=embeddings.astype(np.float32),
        image=np.repeat(np.arange(images), 4),
        probability=(0.3 + 0.6 * (kind == 3)).ravel().astype(np.float32),
        label=label,
        correct=(predicted == label) & ((label != 0) | has | (rng.random(images) < 0.5)),
        labels=3,
    )
    return Evidence(regions, predicted, seed), (kind == 3).ravel()


@pytest.mark.parametrize("method", ["RaVL", *BASELINES])
def test_each_method_finds_a_feature_that_makes_nearly_all_errors(method):
    evidence, shows = _evidence()
    if method == "RaVL":
        order, _ = ravl(evidence)
        assert precision_at(order, shows) == 1
        return
    find, grid = BASELINES[method]
    found = [precision_at(find(evidence, **choice), shows) for choice in grid]
    assert max(found) == 1


@pytest.mark.parametrize("method", list(BASELINES))
def test_a_ranking_has_no_region_twice(method):
    evidence, _ = _evidence()
    find, grid = BASELINES[method]
    for choice in grid:
        order = find(evidence, **choice)
        assert len(np.unique(order)) == len(order) >= 10


def test_any_order_is_as_good_as_the_share_of_the_feature():
    evidence, shows = _evidence()
    found = [
        precision_at(random_order(Evidence(evidence.regions, evidence.predicted, seed)), shows)
        for seed in range(300)
    ]
    assert np.mean(found) == pytest.approx(shows.mean(), abs=0.03)


def test_what_a_ranking_does_not_name_counts_as_false():
    true = np.array([True, True, False])
    assert precision_at(np.array([0, 1]), true) == 0.2
    assert precision_at(np.empty(0, np.int64), true) == 0


def test_groups_are_labels_with_and_without_a_suspect():
    planted = _drawn(Digits(), "learn", count=4)
    spurious = np.zeros((4, 4), bool)
    spurious[2, 3] = True
    groups = Suspects(spurious).groups(planted)
    assert groups.tolist() == [0, 2, 5, 6]


def _setting(name):
    return next(own for own in settings(60) if own.world == name and own.strength == 0.99)


def test_a_model_tells_planted_backgrounds_apart_by_a_single_quadrant():
    world = Animals()
    model = pretrained(world, 0)
    planted = world.draw(
        np.random.default_rng(0), np.arange(300) % 6, np.ones(300, bool), "rock", "measure"
    )
    _, parts = embedded(model, planted.pixels, regions=True)
    tokens = SimpleTokenizer(context_length=16)([f"a photo of {own}" for own in world.features])
    with torch.no_grad():
        head = model.encode_text(tokens, normalize=True).numpy()
    said = (parts[planted.shows] @ head.T).argmax(axis=1)
    assert (said == world.features.index("rock")).mean() > 0.9


def test_the_same_setting_gives_the_same_again():
    first, again = (try_choices(_setting("digits"), GRIDS, SMALL) for _ in range(2))
    assert first == again
    assert set(first["precision"]) == set(BASELINES)


@pytest.mark.parametrize("name", ["digits", "animals"])
def test_a_setting_runs_to_its_end(name):
    row = run(_setting(name), CHOICES, SMALL)
    assert row["valid"] == (row["gap"] >= VALID_GAP)
    if row["valid"]:
        assert set(row["precision"]) == {"RaVL", "Random", *BASELINES}
        assert all(0 <= own <= 1 for own in row["precision"].values())
        for told in row["accuracy"].values():
            for part in ("image", "region"):
                assert 0 <= told[part]["worst"] <= told[part]["overall"] <= 1
    else:
        assert "precision" not in row


def _row(valid, precision=0.0, worst=0.0, strength=0.9):
    told = {"image": {"overall": 0.5, "worst": 0.2}, "region": {"overall": 0.6, "worst": 0.3}}
    better = {**told, "image": {"overall": 0.5, "worst": 0.2 + worst}}
    row = {"world": "digits", "label": "nine", "feature": "red", "strength": strength, "number": 7}
    if not valid:
        return {**row, "gap": 0.01, "valid": False}
    return {
        **row,
        "gap": 0.5,
        "valid": True,
        "precision": {"RaVL": precision},
        "accuracy": {"finetune": told, "region-aware": better},
    }


def test_tables_tell_means_over_valid_settings_and_list_the_others():
    rows = [_row(True, 1.0, 0.2), _row(True, 0.5, 0.1, strength=0.7), _row(False)]
    assert "| RaVL | 0.75 (0.50 to 1.00) | 1.00 | 0.75 (0.50 to 1.00) |" in discovery_table(rows)
    line = mitigation_table(rows).splitlines()[-1]
    assert line.startswith("| region-aware | 50.0 |")
    assert line.endswith("| 0.0 | 15.0 (10.0 to 20.0) | 0.0 | 0.0 |")
    assert invalid_table(rows).splitlines()[-1] == "| digits | nine | red | 0.9 | 7 | 0.01 |"


def test_tables_say_when_no_setting_is_valid():
    rows = [_row(False)]
    assert discovery_table(rows) == "No setting is valid."
    assert mitigation_table(rows) == "No model leans on what was planted."


def test_an_interval_of_a_mean_holds_it_and_one_value_has_none():
    low, high = (float(end) for end in mean([0.1, 0.4, 0.7]).split("(")[1].strip(")").split(" to "))
    assert low < 0.4 < high
    assert mean([0.25]) == "0.25"
    assert mean([]) == "-"


def test_a_setting_names_what_its_world_has():
    for own in settings(60):
        assert isinstance(own, Setting)
        kind = {"digits": Digits, "animals": Animals}[own.world]
        assert own.label in kind.classes
        assert own.feature in kind.features
