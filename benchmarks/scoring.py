"""Scoring, from JPEG files to scores: against the forward pass alone, CLIP_benchmark and Ray.

Ours is `score_photos` with its own decoding. The bare loop runs the same model over tensors that
are decoded beforehand, at the best of several batch sizes, a little after each batch of ours, so
that both have the machine at the same speed. The peer is the procedure of CLIP_benchmark
1.6 for zero-shot classification (a loader of four workers over files, mixed precision, a product
with the classes' features), with the same model and classes; its mixed precision is tried on few
photos once, because CPUs without bf16 take ten times as long by it. All take turns, so that a
change of the machine's speed hits each, and ratios are medians of the turns' own. Weights are
random: they cost the same.

With `--at-once` the forward pass alone is timed instead, by how many photos it is given at once.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import open_clip
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from manifests.photos import open_image
from manifests.vocabulary import LabelSpace, label_space
from pipeline.engine import LocalEngine
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.scoring import PhotoRef, score_photos

PHOTOS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "photos"
BATCHES = (4, 8, 16, 32, 64)
AT_ONCE = (
    ("open_clip", "ViT-B-32"),
    ("open_clip", "RN50"),
    ("timm", "tf_efficientnet_lite0"),
    ("timm", "resnet50"),
)
BATCH = 64
MIXED_PHOTOS = 128
FEW = LabelSpace("few", ("ant", "bee", "cat", "dog"), ("",) * 4, ((),) * 4)
RATIOS = (
    ("cap", "forward"),
    ("cap", "clip_benchmark"),
    ("cap", "clip_benchmark_float32"),
    ("ray_further", "local_further"),
    ("ray", "local"),
)
BARS = {"forward": 0.97, "clip_benchmark": 1.2, "local": 0.75}


def checkpoint(folder: Path, family: str, architecture: str) -> ModelSpec:
    """Random weights in a file, as a SPEC."""
    if family == "open_clip":
        network = open_clip.create_model(architecture)
    else:
        network = timm.create_model(architecture)
    file = folder / f"{architecture}.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    return ModelSpec(family, architecture, str(file))


def some_photos(count: int, folder: Path = PHOTOS) -> list[PhotoRef]:
    """So many of the photos in a folder, of all kinds; they come again where there are no more.

    Raises
    ------
    click.ClickException
        If there are none.
    """
    files = sorted(folder.rglob("*.jpg"))
    if not files:
        msg = f"there are no JPEGs in {folder}"
        raise click.ClickException(msg)
    step = max(1, len(files) // count)
    chosen = [files[i * step % len(files)] for i in range(count)]
    return [PhotoRef(f"{i}", file) for i, file in enumerate(chosen)]


def bare(model: Any, images: torch.Tensor, batch_size: int) -> float:
    """Photos per second of the forward pass alone."""
    begun = time.perf_counter()
    for batch in images.split(batch_size):
        model.score(batch)
    return len(images) / (time.perf_counter() - begun)


def rates(batches: Callable[[], Iterator[Sequence[Any]]]) -> tuple[float, float]:
    """Photos per second from end to end, and once the first batch has come.

    The second is that of the loop alone only where batches come one by one, as they do locally.
    """
    begun = time.perf_counter()
    count = 0
    for number, batch in enumerate(batches()):
        if number == 0:
            first, of_first = time.perf_counter(), len(batch)
        count += len(batch)
    ended = time.perf_counter()
    return count / (ended - begun), (count - of_first) / (ended - first)


class _Files(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, photos: Sequence[PhotoRef], transform: Any) -> None:
        self._photos, self._transform = photos, transform

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self._photos[index].file, "rb") as handle:
            image = Image.open(handle).convert("RGB")
        return self._transform(image), 0


def clip_benchmark(model: Any, photos: Sequence[PhotoRef], *, amp: bool) -> Iterator[torch.Tensor]:
    """What CLIP_benchmark does for zero-shot classification, batch by batch."""
    config = PreprocessCfg(**model.network.visual.preprocess_cfg)
    transform = image_transform_v2(config, is_train=False)
    loader = DataLoader(_Files(photos, transform), batch_size=BATCH, shuffle=False, num_workers=4)
    classifier = torch.from_numpy(model.head.T)
    device = str(model.description["device"])
    with torch.no_grad():
        for images, _ in loader:
            with torch.autocast(torch.device(device).type, enabled=amp):
                features = model.network.encode_image(images.to(device))
                features = torch.nn.functional.normalize(features, dim=-1)
                logits = 100.0 * features @ classifier.to(device)
            yield logits.float().cpu()


def beside_bare(
    model: Any, photos: Sequence[PhotoRef], images: torch.Tensor, best: int
) -> dict[str, float]:
    """Photos per second from files, and of the forward pass alone, which takes turns with it."""
    ours, alone, passed = 0.0, 0.0, 0
    images = images[: max(best, BATCH // 4)]
    with LocalEngine() as engine:
        begun = time.perf_counter()
        for _ in score_photos(model, photos, batch_size=BATCH, engine=engine):
            ours += time.perf_counter() - begun
            alone += len(images) / bare(model, images, best)
            passed += len(images)
            begun = time.perf_counter()
    return {"cap": len(photos) / ours, "forward": passed / alone}


def measure(model: Any, count: int, turns: int) -> dict[str, float]:
    """Medians of all, and the best batch size."""
    photos = some_photos(count)
    images = torch.stack([model.preprocess(open_image(photo.file)) for photo in photos[:BATCH]])
    best = max(BATCHES, key=lambda size: bare(model, images, size))
    taken: list[dict[str, float]] = []
    for turn in range(turns):
        own = beside_bare(model, photos, images, best)
        if model.head is not None:
            own["clip_benchmark_float32"], _ = rates(
                lambda: clip_benchmark(model, photos, amp=False)
            )
        if model.head is not None and turn == 0:
            own["clip_benchmark"], _ = rates(
                lambda: clip_benchmark(model, photos[:MIXED_PHOTOS], amp=True)
            )
        taken.append(own)
    return {"photos": count, "batch": best, **medians(taken)}


def medians(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each rate over the turns, and of each ratio of two."""
    found = {
        name: statistics.median(own[name] for own in turns if name in own) for name in turns[0]
    }
    for one, other in RATIOS:
        both = [own[one] / own[other] for own in turns if one in own and other in own]
        if both:
            found[f"{one} / {other}"] = statistics.median(both)
    return found


def measure_at_once(folder: Path, turns: int) -> dict[str, dict[str, float]]:
    """Photos per second by how many pass at once, and how many `cap score` would take."""
    found = {}
    for family, architecture in AT_ONCE:
        labels = FEW if family == "open_clip" else label_space("imagenet1k")
        spec = checkpoint(folder, family, architecture)
        model = load_model(spec, labels, ModelOptions(device="cpu"))
        photos = some_photos(BATCH)
        images = torch.stack([model.preprocess(open_image(photo.file)) for photo in photos])
        sizes = sorted({*BATCHES, model.at_once})
        taken = [{size: bare(model, images, size) for size in sizes} for _ in range(turns)]
        found[architecture] = {
            f"{size} at once": statistics.median(own[size] for own in taken) for size in sizes
        }
        found[architecture]["taken"] = model.at_once
    return found


def measure_ray(model: Any, count: int, turns: int) -> dict[str, float]:
    """Both engines on this machine: so many photos with the engine's start, and as many more."""
    from pipeline.ray_engine import RayEngine

    def seconds(kind: type[LocalEngine | RayEngine], photos: Sequence[PhotoRef]) -> float:
        begun = time.perf_counter()
        with kind() as engine:
            for _ in score_photos(model, photos, batch_size=BATCH, engine=engine):
                pass
        return time.perf_counter() - begun

    taken: list[dict[str, float]] = []
    for _ in range(turns):
        own = {}
        for name, kind in (("local", LocalEngine), ("ray", RayEngine)):
            once, twice = (seconds(kind, some_photos(n * count)) for n in (1, 2))
            own[name] = count / once
            own[f"{name}_further"] = count / (twice - once)
        taken.append(own)
    return {"photos": count, **medians(taken)}


@click.command(help=__doc__)
@click.option("--turns", default=3, show_default=True, help="Turns, of which the median counts.")
@click.option("--photos", "count", default=640, show_default=True, help="Photos of a turn.")
@click.option("--ray", is_flag=True, help="Compare the engines instead.")
@click.option("--at-once", is_flag=True, help="Compare how many photos pass at once instead.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(turns: int, count: int, *, ray: bool, at_once: bool, as_json: bool) -> None:
    """Measure."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        spec = checkpoint(Path(folder), "open_clip", "ViT-B-32")
        # The zero-shot head is made once, outside the loop: the animals of one page suffice.
        model = load_model(spec, FEW, ModelOptions(device="cpu"))
        if at_once:
            results = measure_at_once(Path(folder), turns)
        elif ray:
            results["ViT-B-32"] = measure_ray(model, count, turns)
        else:
            results["ViT-B-32"] = measure(model, count, turns)
            spec = checkpoint(Path(folder), "timm", "tf_efficientnet_lite0")
            model = load_model(spec, label_space("imagenet1k"), ModelOptions(device="cpu"))
            results["tf_efficientnet_lite0"] = measure(model, count, turns)
    if as_json:
        click.echo(json.dumps(results))
        return
    for name, found in results.items():
        click.echo(f"{name}, load {os.getloadavg()[0]:.1f}, bars {BARS}")
        for what, value in found.items():
            click.echo(f"  {what:32}{value:8.3f}")


if __name__ == "__main__":
    main()
