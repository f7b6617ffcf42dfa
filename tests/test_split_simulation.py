"""What the controlled rule promises holds in worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from worlds import clustered_world, independent_world

from pipeline.split.controlled import Rule, choose_controlled
from pipeline.split.groups import group_accuracies
from pipeline.split.paper import choose_pairs
from pipeline.split.partition import divide

REPLICATES, CLASSES = 60, 12
RULE = Rule(min_photos=10, draws=300)


def choose(world, seed: int) -> list[dict]:
    return choose_controlled(divide(world.photos, 0.5, seed), "run", RULE, workers=1)


@pytest.fixture(scope="module")
def half_null():
    """Worlds in which half of the classes do not depend on the background, and their pairs."""
    worlds = [
        independent_world(np.random.default_rng(seed), CLASSES, 0.5) for seed in range(REPLICATES)
    ]
    return [(world, choose(world, seed)) for seed, world in enumerate(worlds)]


def test_of_the_classes_selected_one_in_twenty_is_false_at_most(half_null):
    shares = []
    for world, pairs in half_null:
        selected = [pair["class_index"] for pair in pairs if pair["selected"]]
        false = sum(index in world.null for index in selected)
        shares.append(false / max(1, len(selected)))
    error = np.std(shares, ddof=1) / np.sqrt(REPLICATES)
    assert np.mean(shares) - 2.5 * error <= 0.05
    assert sum(pair["selected"] for _, pairs in half_null for pair in pairs) > 3 * REPLICATES


def test_where_nothing_depends_on_the_background_nothing_is_selected():
    found = 0
    paper = 0
    for seed in range(REPLICATES):
        world = independent_world(np.random.default_rng(1000 + seed), CLASSES, 1.0)
        found += any(pair["selected"] for pair in choose(world, seed))
        groups = group_accuracies(world.photos, "run")
        paper += sum(pair["selected"] for pair in choose_pairs(groups, 20, 0.05))
    assert stats.binomtest(found, REPLICATES, 0.05, "greater").pvalue > 0.01
    # The paper's rule finds a drop in most of these classes.
    assert paper > 0.6 * REPLICATES * CLASSES


def test_the_honest_drop_is_right_on_average_and_the_drop_that_chose_is_too_large(half_null):
    honest, naive, covered = [], [], []
    for world, pairs in half_null:
        for pair in pairs:
            if pair["selected"] and pair["drop_honest"] is not None:
                common, counter = (
                    world.accuracy[pair["class_index"], pair[f"{group}_background"]]
                    for group in ("common", "counter")
                )
                honest.append(pair["drop_honest"] - (common - counter))
                naive.append(pair["drop"] - (common - counter))
                covered.append(pair["drop_ci_low"] <= common - counter <= pair["drop_ci_high"])
    error = np.std(honest, ddof=1) / np.sqrt(len(honest))
    assert abs(np.mean(honest)) < 3 * error
    assert np.mean(naive) > 5 * error
    assert abs(np.mean(covered) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / len(covered))


def test_with_photos_of_the_same_people_the_level_holds():
    worlds = [clustered_world(np.random.default_rng(seed), 5) for seed in range(40)]
    p_values = [p["p_value"] for seed, world in enumerate(worlds) for p in choose(world, seed)]
    rejected = sum(p <= 0.05 for p in p_values)
    assert stats.binomtest(rejected, len(p_values), 0.05, "greater").pvalue > 0.01
