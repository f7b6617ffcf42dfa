"""Search for near pairs: `cap dedup`'s against imagededup's default and against brute force.

Both are given the same random hashes with planted neighbours and must find what comparing all pairs
finds. imagededup uses as many processes as asked; ours uses one.

With `--scale N` the search alone is measured instead, on N hashes and on a quarter and a sixteenth
of them, each in a process of its own, and what it costs to add a few: for uniform hashes, and for
those of photos of which each bit is flipped with some probability (0.2 leaves few near pairs, 0.1
tens of millions among a million).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from pipeline.dedup.hashing import phash
from pipeline.dedup.linking import link_hashes
from pipeline.dedup.search import NearPairs, near_pairs

TARGET_RATIO = 100.0
TARGET_SHARE = 0.05
TARGET_SECONDS = 60.0
TARGET_GB = 2.0
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos"
FLIPPED = (None, 0.2, 0.1)

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


def pairs_of_ours(found: list[NearPairs]) -> set[tuple[int, int, int]]:
    """Our result as a set of (first, second, distance)."""
    return {
        (min(pair), max(pair), bits)
        for block in found
        for *pair, bits in zip(*(column.tolist() for column in block[:3]), strict=True)
    }


def pairs_of_theirs(found: dict[str, list[tuple[str, int]]]) -> set[tuple[int, int, int]]:
    """The result of imagededup, each pair twice, as a set of (first, second, distance)."""
    return {
        (min(int(name), int(other)), max(int(name), int(other)), int(distance))
        for name, others in found.items()
        for other, distance in others
    }


def compared(found: list[NearPairs]) -> int:
    """How many comparisons a search made."""
    return sum(block.compared for block in found)


def scatter(centres: _Hashes, count: int, flipped: float | None) -> _Hashes:
    """Distinct hashes: of photos, each bit flipped with a probability, or uniform ones."""
    rng = np.random.default_rng(0)
    if flipped is None:
        return np.unique(rng.integers(0, 2**64, count, dtype=np.uint64))
    hashes = centres[rng.integers(0, len(centres), count)]
    for bit in range(64):
        hashes ^= (rng.random(count) < flipped).astype(np.uint64) << np.uint64(bit)
    return np.unique(hashes)


def peak_gb() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def grow(
    centres: _Hashes, count: int, flipped: float | None, distance: int, shares: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Seconds and memory of linking all hashes, and of adding shares of them to the others."""
    hashes = scatter(centres, count, flipped)
    facts = {"hashes": len(hashes), "bits_flipped": flipped, "distance": distance}
    started = time.perf_counter()
    every = link_hashes(hashes, distance)
    seconds = time.perf_counter() - started
    groups = int(every.group.max()) + 1
    rows = [{**facts, "added": None, "groups": groups, "seconds": round(seconds, 2)}]
    rows[0]["peak_gb"] = round(peak_gb(), 2)
    rng = np.random.default_rng(1)
    for share in shares:
        standing = link_hashes(hashes[rng.random(len(hashes)) >= share], distance)
        started = time.perf_counter()
        after = link_hashes(hashes, distance, standing)
        added = time.perf_counter() - started
        row = {**facts, "added": share, "seconds": round(added, 2)}
        row["of_all_at_once"] = round(added / seconds, 3)
        # Groups are numbered by their first hash in both.
        row["equal"] = bool(np.array_equal(after.group, every.group))
        rows.append(row)
    return rows


def measure_scale(photos: Path, most: int, distance: int) -> dict[str, Any]:
    """Growth over 1, 4 and 16 times as many hashes, and the cost of adding 1 % and 10 %."""
    centres = [phash(photo) for photo in sorted(photos.rglob("*.jpg"))]
    rows = []
    for flipped in FLIPPED:
        for count in (most // 16, most // 4, most):
            # Each in a process of its own, whose memory is only this.
            context = multiprocessing.get_context("spawn")
            shares = (0.01, 0.1) if count == most else ()
            with ProcessPoolExecutor(1, context) as pool:
                task = (np.array(centres, np.uint64), count, flipped, distance, shares)
                rows += pool.submit(grow, *task).result()
    return {
        "rows": rows,
        "seconds_target": TARGET_SECONDS,
        "gb_target": TARGET_GB,
        "load": round(os.getloadavg()[0], 1),
    }


def tell_scale(figures: dict[str, Any]) -> None:
    """Print the growth of the search, a line for each measurement."""
    for row in figures["rows"]:
        flipped = row["bits_flipped"]
        kind = "uniform" if flipped is None else f"of photos, {flipped:.0%} of the bits flipped"
        if row["added"] is None:
            what = f"{row['groups']} groups, at most {row['peak_gb']} GB"
        else:
            equal = "equal to" if row["equal"] else "NOT equal to"
            what = (
                f"adding {row['added']:.0%}, {row['of_all_at_once']} of the time of all at once, "
                f"{equal} it"
            )
        click.echo(f"{row['hashes']} hashes, {kind}: {row['seconds']} s, {what}")
    click.echo(
        f"targets for a million: {TARGET_SECONDS:.0f} s and {TARGET_GB} GB; load {figures['load']}"
    )


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
        found = list(near_pairs(hashes, distance))
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
        "share_of_pairs_compared": compared(found) / (len(hashes) * (len(hashes) - 1) / 2),
        "share_target": TARGET_SHARE,
        "equal_to_brute_force": equal,
    }


@click.command()
@click.option("--hashes", default=20_000, show_default=True, help="Number of hashes.")
@click.option("--planted", default=1_000, show_default=True, help="Neighbours among them.")
@click.option("--distance", default=6, show_default=True, help="Largest distance in bits.")
@click.option("--rounds", default=2, show_default=True, help="Turns, of which the median counts.")
@click.option("--workers", default=2, show_default=True, help="Processes for imagededup.")
@click.option("--scale", metavar="N", type=int, help="Measure growth up to N hashes instead.")
@click.option("--photos", type=click.Path(path_type=Path, file_okay=False), default=PHOTOS)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    scale: int | None,
    photos: Path,
    *,
    as_json: bool,
    seed: int,
    hashes: int,
    planted: int,
    **options: int,
) -> None:
    """Compare the search for near pairs with imagededup's, or measure how it grows."""
    if scale is not None:
        if not photos.is_dir():
            msg = f"there is no folder {photos}; name one with JPEGs by --photos"
            raise click.ClickException(msg)
        growth = measure_scale(photos, scale, options["distance"])
        if as_json:
            click.echo(json.dumps(growth))
        else:
            tell_scale(growth)
        return
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
