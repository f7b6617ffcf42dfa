"""Photos hashed per second: `cap dedup` against imagededup and imagehash, on the same cores.

All are given the same files and the same number of processes, in turns, and the time of starting
processes counts. The limit is to decode the JPEGs, at the scale that libjpeg-turbo reads fastest,
and to do nothing with them. The shared photos are few, so each is hashed several times over,
through links.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import imagehash
from PIL import Image

from pipeline.dedup.hashing import phash
from pipeline.engine import map_ordered

if TYPE_CHECKING:
    from collections.abc import Callable

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos"
TARGET = 4.0


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes by the wall clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plain_hash(file: Path) -> object:
    """What most people write."""
    with Image.open(file) as image:
        return imagehash.phash(image)


def only_decode(file: Path) -> None:
    """As little as can be done with a JPEG."""
    with Image.open(file) as image:
        image.draft("L", (1, 1))
        image.load()


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
    found: dict[str, list[float]] = {"cap": [], "imagededup": [], "imagehash": [], "decode": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links = link_photos(photos, folder, copies)

        def each(function: Callable[[Path], object]) -> None:
            assert len(list(map_ordered(function, links, workers=workers))) == len(links)

        works = {
            "cap": partial(each, phash),
            "imagededup": lambda: encoder.encode_images(folder, num_enc_workers=workers),
            "imagehash": partial(each, plain_hash),
            "decode": partial(each, only_decode),
        }
        for _ in range(rounds):
            for who, work in works.items():
                found[who].append(len(links) / seconds(work))
    rates = {name: round(statistics.median(own), 1) for name, own in found.items()}
    return {"photos": len(links), "workers": workers, "rounds": rounds, **rates, "target": TARGET}


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
    click.echo(f"{figures['photos']} photos, {workers} processes, median of {rounds}, photos/s:")
    for name in ("cap", "imagededup", "imagehash", "decode"):
        ratio = figures["cap"] / figures[name]
        click.echo(f"  {name:12}{figures[name]:8.1f}  cap is {ratio:.2f} times that")
    click.echo(f"bar: {TARGET} times imagededup")


if __name__ == "__main__":
    main()
