"""Releases: how fast they are written and read, and in how much memory.

A workspace whose split has the shared photos many times over, under ids of their own, is released
by `cap release`'s own function. The release is then read to RGB arrays by the loader, by `datasets`
and, as the limit, by simplejpeg alone over the same bytes in memory, in turns; with worker
processes once for arrays that are used in them, and once for arrays that are sent to the main
process, which costs both the same. What needs a fresh process, the first image and the largest
memory, is measured in one.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq

from manifests import load_split
from manifests.photos import inspect_photo
from manifests.progress import Progress
from manifests.schema import PAIRS, PHOTOS, SPLIT
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace
from pipeline.parameters import ReleaseParameters
from pipeline.release import release

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos"
CLASSES = {291: "lion", 296: "ice bear"}
BACKGROUNDS = {"common": "grass", "counter": "sky"}
TARGETS = {
    "beside_datasets": 1.5,
    "beside_simplejpeg": 0.9,
    "first_image_seconds": 0.5,
    "release_seconds_beyond_bytes": 60,
    "gigabytes": 1.0,
}


def invent(root: Path, sources: list[Path], count: int) -> Workspace:
    """A workspace with a split of `count` photos, whose bytes are those of `sources` in turn."""
    root.mkdir(parents=True)
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n', "utf-8")
    workspace = Workspace(root)
    stored = []
    for file in sources:
        data = file.read_bytes()
        facts = inspect_photo(data)
        sha256, path = workspace.photos.add(data, facts)
        sizes = {"bytes": len(data), "width": facts.width, "height": facts.height}
        stored.append({"sha256": sha256, "path": path, "format": facts.format, **sizes})
    rows = [
        {
            **facts,
            "photo_id": f"folder:{number:08d}.jpg",
            "source": "folder",
            "url": f"https://photos.example/{number:08d}.jpg",
            "status": "ok",
            "license": "cc-by",
            "creator_id": f"observer-{number // 4}",
            "creator": f"Observer {number // 4}",
            "attribution": f"© Observer {number // 4}, some rights reserved (CC-BY)",
            "class_index": list(CLASSES)[number % 2],
            "class_name": list(CLASSES.values())[number % 2],
            "group": list(BACKGROUNDS)[number // 2 % 2],
            "background": list(BACKGROUNDS.values())[number // 2 % 2],
            "partition": ("test", "validation")[number // 4 % 2],
        }
        for number, facts in enumerate(islice(cycle(stored), count))
    ]
    write_table(workspace.table_path("photos"), from_rows(rows, PHOTOS.schema), PHOTOS)
    write_table(workspace.table_path("split"), from_rows(rows, SPLIT.schema), SPLIT)
    pairs = [
        {
            "run": "run",
            "class_index": index,
            "class_name": name,
            "common_background": BACKGROUNDS["common"],
            "counter_background": BACKGROUNDS["counter"],
            "common_photos": count // 4,
            "counter_photos": count // 4,
            "common_accuracy": 0.9,
            "counter_accuracy": 0.6,
            "drop": 0.3,
            "selected": True,
        }
        for index, name in CLASSES.items()
    ]
    write_table(workspace.table_path("pairs"), from_rows(pairs, PAIRS.schema), PAIRS)
    return workspace


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes by the wall clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_a_process(*arguments: object) -> dict[str, float]:
    """What this script prints in a process of its own for one of its hidden commands."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def copy_bytes(workspace: Workspace, target: Path) -> None:
    """Read every photo of the split and write its bytes: what no release can save itself."""
    with target.open("wb") as file:
        for row in workspace.read("photos").select(["path", "sha256"]).to_pylist():
            file.write(workspace.photos.read(row["path"], row["sha256"]))
        os.fsync(file.fileno())


def first_image(out: Path, turns: int = 7) -> float:
    """Median seconds from `import manifests` to the first image, in fresh processes."""
    script = (
        "import time; begun = time.perf_counter(); import manifests; "
        f"manifests.load_split({str(out)!r})[0]; print(time.perf_counter() - begun)"
    )
    command = [sys.executable, "-c", script]
    return statistics.median(
        float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(turns)
    )


def pixels(batch: list[Any]) -> Any:
    """The pixels of a batch's photos, one after the other, as one tensor."""
    import torch

    arrays = [item[0] if isinstance(item, tuple) else item["image"] for item in batch]
    return torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))


def shapes(batch: list[Any]) -> list[tuple[int, ...]]:
    """The shapes of a batch's photos: what is left where the worker has used the arrays."""
    arrays = [item[0] if isinstance(item, tuple) else item["image"] for item in batch]
    return [array.shape for array in arrays]


def rgb_of(record: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What `datasets` gives, as arrays of RGB."""
    images = [np.array(image.convert("RGB")) for image in record["image"]]
    return {"image": images, "class_index": record["class_index"]}


def exhausted(items: Iterable[Any]) -> Callable[[], None]:
    """Work that goes through all items once."""

    def work() -> None:
        for _ in items:
            pass

    return work


def readers(out: Path, cache: Path) -> dict[str, dict[str, Callable[[], None]]]:
    """For each setting the ways to read the whole release to arrays of RGB."""
    import datasets
    import simplejpeg
    from torch.utils.data import DataLoader

    datasets.disable_progress_bars()
    split = load_split(out)
    theirs = datasets.load_dataset(str(out), cache_dir=str(cache))
    both = datasets.concatenate_datasets([theirs["common"], theirs["counter"]])
    arrays = both.with_transform(rgb_of)
    contents = [
        image["bytes"]
        for file in sorted((out / "data").iterdir())
        for image in pq.read_table(file, columns=["image"]).column("image").to_pylist()
    ]
    order = split.file_order[0].tolist()

    def one_by_one() -> None:
        for index in order:
            split.read_array(index)

    def bare() -> None:
        for content in contents:
            simplejpeg.decode_jpeg(content)

    def theirs_one_by_one() -> None:
        for record in both:
            np.asarray(record["image"].convert("RGB"))

    found = {
        "one by one": {
            "cap": one_by_one,
            "datasets": theirs_one_by_one,
            "simplejpeg": bare,
        }
    }
    for workers, use in ((0, shapes), (2, shapes), (2, pixels)):
        batches = {"batch_size": 32, "num_workers": workers, "collate_fn": use}
        found[f"DataLoader, {workers} workers, {use.__name__}"] = {
            "cap": exhausted(DataLoader(split.torch(arrays=True), sampler=order, **batches)),
            "cap, as a stream": exhausted(DataLoader(split.stream(arrays=True), **batches)),
            "datasets": exhausted(DataLoader(arrays, **batches)),
        }
    return found


def rates(out: Path, count: int, rounds: int, cache: Path) -> dict[str, dict[str, float]]:
    """Median photos per second of each way of reading, in turns."""
    found: dict[str, dict[str, float]] = {}
    for setting, ways in readers(out, cache).items():
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, work in ways.items():
                taken[name].append(seconds(work))
        found[setting] = {name: count / statistics.median(all_) for name, all_ in taken.items()}
    return found


@click.group(invoke_without_command=True)
@click.option("--photos", type=click.Path(path_type=Path, file_okay=False), default=SHARED)
@click.option("--count", default=10_000, show_default=True, help="Photos in the release.")
@click.option("--links", default=1_000_000, show_default=True, help="Photos as links.")
@click.option("--rounds", default=3, show_default=True, help="Turns, of which the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def main(
    context: click.Context, photos: Path, count: int, links: int, rounds: int, *, as_json: bool
) -> None:
    """Compare releasing and loading with what bounds them and with `datasets`."""
    if context.invoked_subcommand is not None:
        return
    if not photos.is_dir():
        msg = f"there is no folder {photos}; name one with JPEGs by --photos"
        raise click.ClickException(msg)
    sources = sorted(photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory(dir=".") as name:
        figures = measure(Path(name), sources, count, links, rounds)
    if as_json:
        click.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        if not isinstance(value, dict):
            click.echo(f"{key.replace('_', ' '):40}{value:10.3f}")
            continue
        for way, rate in value.items():
            click.echo(f"{key + ': ' + way:50}{rate:10.1f} photos/s")
    click.echo(f"bars: {json.dumps(TARGETS)}")


def measure(
    folder: Path, sources: list[Path], count: int, links: int, rounds: int
) -> dict[str, Any]:
    """All figures."""
    workspace = invent(folder / "workspace", sources, count)
    of_bytes = seconds(lambda: copy_bytes(workspace, folder / "copy"))
    (folder / "copy").unlink()
    written = in_a_process("one-release", workspace.root, folder / "out", "embed")
    read = in_a_process("one-reading", folder / "out")
    figures: dict[str, Any] = {
        "photos": count,
        "release_seconds": written["seconds"],
        "bytes_alone_seconds": of_bytes,
        "release_seconds_beyond_bytes": written["seconds"] - of_bytes,
        "release_gigabytes": written["gigabytes"],
        "reading_gigabytes": read["gigabytes"],
        "first_image_seconds": first_image(folder / "out"),
        **rates(folder / "out", count, rounds, folder / "cache"),
    }
    shutil.rmtree(folder / "out")
    shutil.rmtree(folder / "cache")
    workspace = invent(folder / "many", sources[:10], links)
    written = in_a_process("one-release", workspace.root, folder / "links", "link")
    return {
        **figures,
        "links": links,
        "links_seconds": written["seconds"],
        "links_gigabytes": written["gigabytes"],
    }


def peak_gigabytes() -> float:
    """The most memory that this process has held; its `ru_maxrss` would be its parent's too."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


@main.command(hidden=True)
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("out")
@click.argument("images")
def one_release(root: Path, out: str, images: str) -> None:
    """Release a workspace; prints its seconds and the memory that it took."""
    parameters = ReleaseParameters(out, images=images)
    taken = seconds(lambda: release(Workspace(root), parameters, Progress()))
    click.echo(json.dumps({"seconds": taken, "gigabytes": peak_gigabytes()}))


@main.command(hidden=True)
@click.argument("out")
def one_reading(out: str) -> None:
    """Read all photos of a release; prints the memory that it took."""
    split = load_split(out)
    for index in split.file_order[0].tolist():
        split.read_array(index)
    click.echo(json.dumps({"gigabytes": peak_gigabytes()}))


if __name__ == "__main__":
    main()
