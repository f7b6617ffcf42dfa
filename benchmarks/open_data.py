"""List photos from Open Data: seconds and peak memory for 45 classes among ten million photos.

The tables are made: as many columns, as long lines and as uneven observers and taxa as the
published ones. Making them is not timed; the listing runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import duckdb
import numpy as np
import pyarrow as pa

from manifests.progress import Progress
from manifests.vocabulary import LabelSpace, label_space
from pipeline.collect.open_data import list_open_data
from pipeline.parameters import CollectParameters

TARGET_SECONDS = 60.0
TARGET_GB = 2.0

_RANKS = {
    "kingdom": 2,
    "phylum": 30,
    "class": 120,
    "order": 600,
    "family": 3_000,
    "genus": 12_000,
    "species": 34_248,
}
"""50,000 taxa."""

_OBSERVERS = 100_000


def classes_to_list(labels: LabelSpace, count: int) -> list[int]:
    """Classes all over the label space whose taxa have a rank of the made tree."""
    fitting = [
        index
        for index, taxa in labels.taxa.items()
        if all(taxon.rank in _RANKS and taxon.rank != "kingdom" for taxon in taxa)
    ]
    return fitting[:: len(fitting) // count][:count]


def make_taxa(labels: LabelSpace, class_indices: list[int], rng: np.random.Generator) -> pa.Table:
    """A tree in which the classes' taxa are among the animals, those of a rank first."""
    wanted: dict[str, list[str]] = {rank: [] for rank in _RANKS}
    for index in class_indices:
        for taxon in labels.taxa[index]:
            if taxon.rank is not None and taxon.name not in wanted[taxon.rank]:
                wanted[taxon.rank].append(taxon.name)
    rows: list[tuple[int, str, str, str]] = []
    above: list[tuple[int, str]] = []
    for rank, count in _RANKS.items():
        level = []
        for number in range(count):
            taxon_id = len(rows) + 1
            # The first of a rank is below the first of the next: an animal.
            within = number < max(1, len(wanted[rank]))
            parent = above[0 if within else int(rng.integers(len(above)))] if above else (48460, "")
            ancestry = f"{parent[1]}/{parent[0]}".lstrip("/")
            names = wanted[rank]
            name = names[number] if number < len(names) else f"{rank.capitalize()} {number}"
            rows.append((taxon_id, ancestry, rank, name))
            level.append((taxon_id, ancestry))
        above = level
    columns = list(zip(*rows, strict=True))
    return pa.table(dict(zip(("taxon_id", "ancestry", "rank", "name"), columns, strict=True)))


def make_tables(folder: Path, taxa: pa.Table, photos: int, seed: int) -> None:
    """Write the four tables as the published ones are written."""
    observations = photos * 6 // 10
    species = taxa.num_rows - _RANKS["species"]
    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(folder)}) as made:
        made.execute("SET enable_progress_bar = false")
        made.execute("SELECT setseed(?)", [seed / 2**31]).fetchall()
        made.register("tree", taxa)
        made.execute(
            """
            CREATE TABLE taxa AS
            SELECT taxon_id, ancestry, 10.0 AS rank_level, rank, name, true AS active FROM tree
            """
        )
        made.execute(
            """
            CREATE TABLE observers AS
            SELECT i AS observer_id, 'login' || i AS login,
                if(i % 2 = 0, 'None', 'Person ' || i) AS name
            FROM range(1, ? + 1) AS numbers (i)
            """,
            [_OBSERVERS],
        )
        # Powers of a uniform number: few observers and few species have most observations.
        made.execute(
            """
            CREATE TABLE observations AS
            SELECT
                uuid() AS observation_uuid,
                1 + floor($observers * power(random(), 3))::INTEGER AS observer_id,
                round(random() * 180 - 90, 10) AS latitude,
                round(random() * 360 - 180, 10) AS longitude,
                floor(random() * 100)::INTEGER AS positional_accuracy,
                1 + $first + floor($species * power(random(), 3))::INTEGER AS taxon_id,
                ['research', 'research', 'needs_id', 'casual'][1 + floor(random() * 4)::INTEGER]
                    AS quality_grade,
                DATE '2026-01-01' - floor(random() * 4000)::INTEGER AS observed_on,
                random() AS anomaly_score,
                i
            FROM range($observations) AS numbers (i)
            """,
            {
                "observers": _OBSERVERS,
                "first": species,
                "species": _RANKS["species"],
                "observations": observations,
            },
        )
        # One photo, then three, then one: ten of six observations.
        made.execute(
            """
            CREATE VIEW photos AS
            SELECT uuid() AS photo_uuid, i * 30 + position AS photo_id, observation_uuid,
                observer_id, 'jpg' AS extension,
                ['CC-BY-NC', 'CC-BY-NC', 'CC-BY-NC', 'CC-BY', 'CC0', 'CC-BY-NC-ND']
                    [1 + floor(random() * 6)::INTEGER] AS license,
                2048 AS width, 1536 AS height, position
            FROM (SELECT *, unnest(range(if(i % 3 = 1, 3, 1))) AS position FROM observations)
            """
        )
        for name, columns in (
            ("taxa", "*"),
            ("observers", "*"),
            ("observations", "* EXCLUDE i"),
            ("photos", "*"),
        ):
            made.execute(
                f"""
                COPY (SELECT {columns} FROM {name}) TO '{folder / name}.csv'
                (FORMAT csv, DELIMITER '\t', HEADER, QUOTE '', ESCAPE '')
                """
            )
    with ThreadPoolExecutor() as pool:
        list(pool.map(pack, sorted(folder.glob("*.csv"))))


def pack(path: Path) -> None:
    """Replace a file by its gzip."""
    with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed, 2**22)
    path.unlink()


class _Stopwatch(Progress):
    """Keeps how long each table took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        started = time.perf_counter()
        with super().task(label, total, done) as advance:
            yield advance
        self.seconds[label] = round(time.perf_counter() - started, 2)


def list_alone(folder: str, class_indices: list[int], scratch: str) -> dict[str, Any]:
    """List the photos of the classes; for a process of its own."""
    labels = label_space("imagenet1k")
    stopwatch = _Stopwatch()
    started = time.perf_counter()
    listing = list_open_data(
        folder, labels, class_indices, CollectParameters(), Path(scratch), stopwatch
    )
    seconds = time.perf_counter() - started
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return {
        "classes": len(class_indices),
        "unresolved": len(listing.unresolved),
        "listed": listing.photos.num_rows,
        "seconds": round(seconds, 2),
        "seconds_target": TARGET_SECONDS,
        "peak_gb": round(int(peak[1]) * 1024 / 1e9, 2) if peak else None,
        "peak_gb_target": TARGET_GB,
        "steps": {
            **stopwatch.seconds,
            "choosing": round(seconds - sum(stopwatch.seconds.values()), 2),
        },
    }


@click.command()
@click.option("--photos", default=10_000_000, show_default=True, help="Rows of the photos table.")
@click.option("--classes", default=45, show_default=True, help="Classes to list.")
@click.option("--rounds", default=2, show_default=True, help="Runs, of which each is printed.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(*, photos: int, classes: int, rounds: int, seed: int, as_json: bool) -> None:
    """Time the listing of photos from Open Data."""
    labels = label_space("imagenet1k")
    class_indices = classes_to_list(labels, classes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tables"
        folder.mkdir()
        taxa = make_taxa(labels, class_indices, np.random.default_rng(seed))
        make_tables(folder, taxa, photos, seed)
        gigabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e9
        for _ in range(rounds):
            # A new process for each, so that its peak is its own.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                figures = alone.submit(
                    list_alone, str(folder), class_indices, str(Path(temporary) / "scratch")
                ).result()
            figures |= {"photos": photos, "tables_gb": round(gigabytes, 2)}
            figures |= {"load": os.getloadavg()[0], "cores": os.cpu_count()}
            if as_json:
                click.echo(json.dumps(figures))
                continue
            steps = ", ".join(f"{name} {seconds} s" for name, seconds in figures["steps"].items())
            click.echo(
                f"{photos} photos ({figures['tables_gb']} GB packed), {classes} classes, "
                f"{figures['listed']} photos listed: {figures['seconds']} s "
                f"(target under {TARGET_SECONDS:.0f}), {figures['peak_gb']} GB at most "
                f"(target under {TARGET_GB:.0f}), on {figures['cores']} cores "
                f"with a load of {figures['load']:.1f}; {steps}"
            )


if __name__ == "__main__":
    main()
