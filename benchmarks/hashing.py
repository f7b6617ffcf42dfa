"""Photos hashed per second: `cap dedup` against imagededup, on the same photos and cores.

Both are given the same files and the same number of processes, in turns, and the time of starting
processes counts. The shared photos are few, so each is hashed several times over, through links.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.dedup.hashing import phash
from pipeline.engine import map_ordered

if TYPE_CHECKING:
    from collections.abc import Callable

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos"
TARGET = 2.0


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes by the wall clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def link_photos(source: Path, folder: Path, copies: int) -> list[Path]:
    """Links to every JPEG below `source`, `copies` times."""
    links = []
    for index, photo in enumerate(sorted(source.rglob("*.jpg"))):
        for copy in range(copies):
            link = folder / f"{index}-{copy}.jpg"
            link.symlink_to(photo)
            links.append(link)
    return links


def measure(photos: Path, copies: int, rounds: int, workers: int) -> dict[str, float]:
    """Median photos per second of both, measured in turns."""
    from imagededup.methods import PHash

    logging.disable(logging.INFO)
    encoder = PHash(verbose=False)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links = link_photos(photos, folder, copies)

        def hash_ours() -> None:
            assert len(list(map_ordered(phash, links, workers=workers))) == len(links)

        def hash_theirs() -> None:
            assert len(encoder.encode_images(folder, num_enc_workers=workers)) == len(links)

        for _ in range(rounds):
            ours.append(len(links) / seconds(hash_ours))
            theirs.append(len(links) / seconds(hash_theirs))
    rates = statistics.median(ours), statistics.median(theirs)
    return {
        "photos": len(links),
        "workers": workers,
        "rounds": rounds,
        "cap_photos_per_second": round(rates[0], 1),
        "imagededup_photos_per_second": round(rates[1], 1),
        "ratio": round(rates[0] / rates[1], 2),
        "target": TARGET,
    }


@click.command()
@click.option("--photos", type=click.Path(path_type=Path, file_okay=False), default=PHOTOS)
@click.option("--copies", default=20, show_default=True, help="Times that each photo is hashed.")
@click.option("--rounds", default=3, show_default=True, help="Turns, of which the median counts.")
@click.option("--workers", default=2, show_default=True, help="Processes for each side.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(photos: Path, copies: int, rounds: int, workers: int, *, as_json: bool) -> None:
    """Compare the rate of hashing with imagededup's."""
    if not photos.is_dir():
        msg = f"there is no folder {photos}; name one with JPEGs by --photos"
        raise click.ClickException(msg)
    figures = measure(photos, copies, rounds, workers)
    if as_json:
        click.echo(json.dumps(figures))
        return
    click.echo(
        f"{figures['photos']} photos, {workers} processes, median of {rounds}: "
        f"cap {figures['cap_photos_per_second']} photos/s, "
        f"imagededup {figures['imagededup_photos_per_second']} photos/s, "
        f"ratio {figures['ratio']} (target {TARGET})"
    )


if __name__ == "__main__":
    main()
