"""Scoring on a GPU, from JPEG files on disk: against the forward pass, and against decoding alone.

The forward pass runs over tensors that lie in the GPU's memory, at the best of several batch sizes;
decoding runs with the same worker processes and nothing after it. Whichever of the two is slower
limits scoring, and is named. With `--device cpu` the script shows that it works, and no more.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from scoring import FEW, PHOTOS, checkpoint, rates, some_photos

from manifests.photos import open_image
from pipeline.engine import LocalEngine, prepared_batches
from pipeline.models import ModelOptions, load_model
from pipeline.models.scoring import PhotoRef, decode_whole, score_photos

BATCHES = (64, 128, 256, 512)


def _photos_of(batches: Callable[[], Iterator[tuple[Any, Any]]]) -> Iterator[Any]:
    return (photos for photos, _ in batches())


def forward(model: Any, images: torch.Tensor, seconds: float) -> float:
    """Photos per second of the model on tensors that lie where it computes."""
    model.score(images)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        # The scores come back to this process, so that the pass has ended.
        model.score(images)
        count += len(images)
    return count / (time.perf_counter() - begun)


def measure(
    architecture: str, device: str, photos: list[PhotoRef], workers: int | None, turns: int
) -> dict[str, Any]:
    """All three rates of an architecture."""
    with tempfile.TemporaryDirectory() as folder:
        spec = checkpoint(Path(folder), "open_clip", architecture)
        model = load_model(spec, FEW, ModelOptions(device=device))
    image = model.preprocess(open_image(photos[0].file)).to(device)
    sizes = BATCHES if device.startswith("cuda") else (16,)
    resident = {
        size: forward(model, image.expand(size, -1, -1, -1).contiguous(), 3.0) for size in sizes
    }
    best = max(resident, key=lambda size: resident[size])
    found: dict[str, list[float]] = {"cap": [], "decode": []}
    for _ in range(turns):
        with LocalEngine(workers) as engine:
            scored = partial(score_photos, model, photos, batch_size=best, engine=engine)
            found["cap"].append(rates(scored)[1])
        decoded = partial(
            prepared_batches, decode_whole(model), photos, best, workers, device=device
        )
        found["decode"].append(rates(partial(_photos_of, decoded))[1])
    medians = {name: statistics.median(values) for name, values in found.items()}
    limits = {"forward": resident[best], "decode": medians["decode"]}
    return {
        "precision": model.description["precision"],
        "batch": best,
        "forward": resident[best],
        **medians,
        "limit": min(limits, key=lambda name: limits[name]),
        "of_forward": medians["cap"] / resident[best],
        "of_limit": medians["cap"] / min(limits.values()),
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else None,
    }


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True)
@click.option("--photos", "count", default=20_000, show_default=True, help="Photos of a turn.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=PHOTOS,
    help="Where JPEGs are.",
)
@click.option("--workers", type=int, help="Processes that decode [default: as `cap score`].")
@click.option("--turns", default=2, show_default=True)
@click.option("--architectures", default="ViT-B-32,ViT-L-14", show_default=True)
def main(
    device: str, count: int, folder: Path, workers: int | None, turns: int, architectures: str
) -> None:
    """Measure, and print a line of JSON for each architecture."""
    card = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    photos = some_photos(count, folder)
    for architecture in architectures.split(","):
        found = measure(architecture, device, photos, workers, turns)
        about = {"card": card, "cores": len(os.sched_getaffinity(0)), "workers": workers}
        click.echo(json.dumps({"architecture": architecture, **about, "photos": count, **found}))


if __name__ == "__main__":
    main()
