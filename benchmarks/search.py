"""Search for near pairs: `cap dedup`'s against imagededup's default and against brute force.

Both are given the same random hashes with planted neighbours and must find what comparing all pairs
finds. imagededup uses as many processes as asked; ours uses one.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
import warnings
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from pipeline.dedup.search import PairSearch, pairs_within

TARGET_RATIO = 100.0
TARGET_SHARE = 0.05

_Hashes = npt.NDArray[np.uint64]


def plant_hashes(count: int, planted: int, distance: int, seed: int) -> _Hashes:
    """Random hashes; the last `planted` differ from the first in up to `distance` + 2 bits."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for index in range(planted):
        bits = rng.choice(64, size=rng.integers(0, distance + 3), replace=False)
        flipped = sum(1 << int(bit) for bit in bits)
        hashes[count - 1 - index] = hashes[index] ^ np.uint64(flipped)
    return hashes


def compare_all(hashes: _Hashes, distance: int) -> set[tuple[int, int, int]]:
    """Near pairs by comparing each hash with all later ones."""
    pairs = set()
    for first in range(len(hashes) - 1):
        distances = np.bitwise_count(hashes[first + 1 :] ^ hashes[first])
        for offset in np.flatnonzero(distances <= distance).tolist():
            pairs.add((first, first + 1 + offset, int(distances[offset])))
    return pairs


def pairs_of_ours(found: PairSearch) -> set[tuple[int, int, int]]:
    """Our result as a set of (first, second, distance)."""
    columns = (found.first.tolist(), found.second.tolist(), found.distance.tolist())
    return set(zip(*columns, strict=True))


def pairs_of_theirs(found: dict[str, list[tuple[str, int]]]) -> set[tuple[int, int, int]]:
    """The result of imagededup, each pair twice, as a set of (first, second, distance)."""
    return {
        (min(int(name), int(other)), max(int(name), int(other)), int(distance))
        for name, others in found.items()
        for other, distance in others
    }


def measure(hashes: _Hashes, distance: int, rounds: int, workers: int) -> dict[str, Any]:
    """Median seconds of both, measured in turns, and whether both equal brute force."""
    from imagededup.methods import PHash

    logging.disable(logging.INFO)
    # It warns of a parameter that nobody passed.
    warnings.simplefilter("ignore", RuntimeWarning)
    encoder = PHash(verbose=False)
    encoding = {str(index): f"{value:016x}" for index, value in enumerate(hashes.tolist())}
    expected = compare_all(hashes, distance)
    ours, theirs, equal = [], [], True
    for _ in range(rounds):
        started = time.perf_counter()
        found = pairs_within(hashes, distance)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        other = encoder.find_duplicates(
            encoding_map=encoding,
            max_distance_threshold=distance,
            scores=True,
            num_dist_workers=workers,
        )
        theirs.append(time.perf_counter() - started)
        equal &= pairs_of_ours(found) == expected == pairs_of_theirs(other)
    seconds = statistics.median(ours), statistics.median(theirs)
    return {
        "hashes": len(hashes),
        "distance": distance,
        "pairs": len(expected),
        "rounds": rounds,
        "cap_seconds": round(seconds[0], 4),
        "imagededup_seconds": round(seconds[1], 2),
        "ratio": round(seconds[1] / seconds[0], 1),
        "ratio_target": TARGET_RATIO,
        "share_of_pairs_compared": found.compared / (len(hashes) * (len(hashes) - 1) / 2),
        "share_target": TARGET_SHARE,
        "equal_to_brute_force": equal,
    }


@click.command()
@click.option("--hashes", default=20_000, show_default=True, help="Number of hashes.")
@click.option("--planted", default=1_000, show_default=True, help="Neighbours among them.")
@click.option("--distance", default=6, show_default=True, help="Largest distance in bits.")
@click.option("--rounds", default=2, show_default=True, help="Turns, of which the median counts.")
@click.option("--workers", default=2, show_default=True, help="Processes for imagededup.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(*, as_json: bool, seed: int, hashes: int, planted: int, **options: int) -> None:
    """Compare the search for near pairs with imagededup's."""
    made = plant_hashes(hashes, planted, options["distance"], seed)
    figures = measure(made, **options)
    if as_json:
        click.echo(json.dumps(figures))
        return
    equal = "equal" if figures["equal_to_brute_force"] else "NOT equal"
    click.echo(
        f"{hashes} hashes, {figures['pairs']} pairs within {options['distance']} bits, "
        f"{equal} to brute force; median of {options['rounds']}: "
        f"cap {figures['cap_seconds']} s, imagededup {figures['imagededup_seconds']} s, "
        f"ratio {figures['ratio']} (target {TARGET_RATIO}); "
        f"{figures['share_of_pairs_compared']:.2%} of all pairs compared "
        f"(target under {TARGET_SHARE:.0%})"
    )


if __name__ == "__main__":
    main()
