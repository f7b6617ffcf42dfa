"""What the controlled rule promises, by simulation, with the paper's rule beside it.

Prints one JSON object. Errors are standard errors over replicates.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import click
import numpy as np
import pyarrow as pa
from scipy import stats
from worlds import World, clustered_world, independent_world

from manifests.metrics import Bootstrap, drop_interval
from pipeline.split.controlled import Rule, choose_controlled
from pipeline.split.groups import group_accuracies
from pipeline.split.inference import Compared, permutation_test
from pipeline.split.paper import choose_pairs
from pipeline.split.partition import divide

MIN_PHOTOS = 10
"""Validation photos of a background; the worlds have 20 to 120 in all."""

DRAWS = 1000
"""Permutations; of what the stage draws by default a tenth."""


@dataclass
class Found:
    """What the rules selected in one world."""

    selected: int = 0
    false: int = 0
    paper_false: int = 0
    nulls: int = 0
    honest_errors: list[float] = field(default_factory=list)
    naive_errors: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)

    @property
    def false_share(self) -> float:
        """False discovery proportion; 0 where nothing is selected."""
        return self.false / max(1, self.selected)


def _pairs(world: World, seed: int, *, observers: bool = True) -> list[dict[str, Any]]:
    photos = divide(world.photos, 0.5, seed)
    if not observers:
        unknown = pa.nulls(photos.num_rows, pa.string())
        place = photos.column_names.index("creator_id")
        photos = photos.set_column(place, "creator_id", unknown)
    rule = Rule(min_photos=MIN_PHOTOS, draws=DRAWS, seed=seed)
    return choose_controlled(photos, "run", rule, workers=1)


def simulate(seed: int, classes: int, null_share: float) -> Found:
    """One world of independent photos: selections, errors of the drops, coverage."""
    world = independent_world(np.random.default_rng([seed, 1]), classes, null_share)
    found = Found(nulls=len(world.null))
    for pair in _pairs(world, seed):
        if not pair["selected"]:
            continue
        found.selected += 1
        found.false += pair["class_index"] in world.null
        _compare_drops(found, world, pair)
    paper = choose_pairs(group_accuracies(world.photos, "run"), 2 * MIN_PHOTOS, 0.05)
    found.paper_false = sum(p["selected"] and p["class_index"] in world.null for p in paper)
    return found


def _compare_drops(found: Found, world: World, pair: dict[str, Any]) -> None:
    if pair["drop_honest"] is None:
        return
    common, counter = (
        world.accuracy[pair["class_index"], pair[f"{group}_background"]]
        for group in ("common", "counter")
    )
    true = common - counter
    found.honest_errors.append(pair["drop_honest"] - true)
    found.naive_errors.append(pair["drop"] - true)
    found.covered.append(pair["drop_ci_low"] <= true <= pair["drop_ci_high"])


def simulate_clusters(seed: int, classes: int, drop: float) -> dict[str, Any]:
    """One world of clustered photos: p-values with and without regard to observers, coverage."""
    world = clustered_world(np.random.default_rng([seed, 2]), classes, drop)
    found = Found()
    with_observers = _pairs(world, seed)
    for pair in with_observers:
        if pair.get("drop_honest") is not None:
            _compare_drops(found, world, pair)
    without = _pairs(world, seed, observers=False)
    return {
        "with": [pair["p_value"] for pair in with_observers],
        "without": [pair["p_value"] for pair in without],
        "honest_errors": found.honest_errors,
        "covered": found.covered,
    }


def power(seed: int, photos: int) -> bool:
    """Whether a drop of 20 points between two of six backgrounds has p <= 0.05."""
    rng = np.random.default_rng([seed, 3])
    sizes = np.array([photos, photos, *rng.integers(20, 120, 4, endpoint=True)])
    group = np.repeat(np.arange(6), sizes)
    accuracy = np.array([0.8, 0.6, 0.7, 0.7, 0.7, 0.7])[group]
    compared = Compared(rng.random(len(group)) < accuracy, group, np.arange(len(group)))
    return permutation_test(compared, DRAWS, (seed,)).p_value <= 0.05


def uniformity(seed: int) -> tuple[float, float]:
    """Of one null class the reported p-value, and that with a random rank among ties."""
    rng = np.random.default_rng([seed, 4])
    group = np.repeat(np.arange(4), rng.integers(20, 60, 4))
    correct = rng.random(len(group)) < rng.uniform(0.2, 0.95)
    result = permutation_test(Compared(correct, group, np.arange(len(group))), DRAWS, (seed,))
    rank = result.greater + rng.random() * (1 + result.equal)
    return result.p_value, rank / (1 + result.draws)


def small_groups(seed: int) -> tuple[bool, bool]:
    """Whether the interval, and a percentile bootstrap over observers, cover a drop of 7 points.

    Some 20 photos on each side by 16 observers, and an accuracy of 0.97: often all are right.
    """
    drop = 0.07
    rng = np.random.default_rng([seed, 5])
    world = clustered_world(rng, 1, drop, observers=16, backgrounds=2, accuracy=0.9)
    correct = world.photos["correct"].to_numpy()
    common = np.array(world.photos["background"].to_pylist()) == "ground"
    owner = np.unique(world.photos["creator_id"].to_pylist(), return_inverse=True)[1]

    # An observer's photos on the two sides are drawn apart, so that no side is ever empty.
    groups = np.where(common, "common", "counter")
    resampled = Bootstrap(np.zeros(len(correct), int), groups, owner, draws=500)
    theirs = resampled.balanced(correct)["drop"]
    ours = drop_interval(correct, common, owner)
    return tuple(bool(low <= drop <= high) for low, high in (ours, (theirs.ci_low, theirs.ci_high)))


def mean_and_error(values: Any) -> dict[str, float]:
    """Mean and its standard error."""
    values = np.asarray(values, dtype=np.float64)
    return {
        "mean": round(float(values.mean()), 5),
        "error": round(float(values.std(ddof=1) / np.sqrt(len(values))), 5),
    }


def summary(pool: ProcessPoolExecutor, replicates: int, classes: int) -> dict[str, Any]:
    """All figures."""

    def over(function: Any, count: int, *arguments: Any) -> list[Any]:
        wrapped = partial(function, **dict(arguments))
        return list(pool.map(wrapped, range(count), chunksize=4))

    half = over(simulate, replicates, ("classes", classes), ("null_share", 0.5))
    null = over(simulate, replicates, ("classes", classes), ("null_share", 1.0))
    clustered = over(simulate_clusters, replicates, ("classes", 20), ("drop", 0.0))
    dropping = over(simulate_clusters, replicates, ("classes", 20), ("drop", 0.3))
    reported, randomised = np.array(over(uniformity, 100 * replicates)).T
    small = over(small_groups, 5 * replicates)
    errors = {
        name: mean_and_error([100 * e for found in half for e in getattr(found, name)])
        for name in ("honest_errors", "naive_errors")
    }
    with_observers = np.array([p for found in clustered for p in found["with"]])
    without = np.array([p for found in clustered for p in found["without"]])
    return {
        "replicates": replicates,
        "classes": classes,
        "half_null": {
            "false_discovery_proportion": mean_and_error([f.false_share for f in half]),
            "selected_of_not_null": float(
                np.mean([(f.selected - f.false) / (classes - f.nulls) for f in half])
            ),
            "paper_selects_of_null": float(np.mean([f.paper_false / f.nulls for f in half])),
            "honest_error_points": errors["honest_errors"],
            "naive_error_points": errors["naive_errors"],
            "coverage": mean_and_error([c for f in half for c in f.covered]),
        },
        "all_null": {
            "replicates_with_a_selection": mean_and_error([f.selected > 0 for f in null]),
            "paper_selects_of_null": float(np.mean([f.paper_false / f.nulls for f in null])),
        },
        "power": {
            str(photos): mean_and_error(over(power, 5 * replicates, ("photos", photos)))
            for photos in (100, 200)
        },
        "uniform": {
            "kolmogorov_smirnov_p": float(stats.kstest(randomised, "uniform").pvalue),
            **{f"reported_at_most_{a}": mean_and_error(reported <= a) for a in (0.01, 0.05, 0.1)},
        },
        "observers": {
            "p_at_most_0.05": mean_and_error(with_observers <= 0.05),
            "p_at_most_0.05_without_regard": mean_and_error(without <= 0.05),
            "honest_error_points": mean_and_error(
                [100 * e for f in dropping for e in f["honest_errors"]]
            ),
            "coverage": mean_and_error([c for f in dropping for c in f["covered"]]),
            "coverage_of_small_groups": mean_and_error([ours for ours, _ in small]),
            "coverage_of_a_percentile_bootstrap": mean_and_error([theirs for _, theirs in small]),
        },
    }


@click.command(help=__doc__)
@click.option("--replicates", default=200, show_default=True)
@click.option("--classes", default=200, show_default=True)
def main(replicates: int, classes: int) -> None:
    started = time.perf_counter()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = summary(pool, replicates, classes)
    click.echo(json.dumps(found | {"seconds": round(time.perf_counter() - started)}, indent=2))


if __name__ == "__main__":
    main()
