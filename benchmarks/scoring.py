"""The scoring loop, from JPEG files to scores, against the forward pass alone.

Ours is `score_photos` with its own decoding. The bare loop runs the same model over tensors that
are decoded beforehand, at the best of four batch sizes. The two take turns, so that a change of the
machine's speed hits both; the figure is the ratio of the medians of photos per second. Weights are
random: they cost the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import open_clip
import timm
import torch
from safetensors.torch import save_file

from manifests.photos import open_image
from manifests.vocabulary import LabelSpace, label_space
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.scoring import PhotoRef, score_photos

PHOTOS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "photos"
BATCHES = (8, 16, 32, 64)
FEW = LabelSpace("few", ("ant", "bee", "cat", "dog"), ("",) * 4, ((),) * 4)


def checkpoint(folder: Path, family: str, architecture: str) -> ModelSpec:
    """Random weights in a file, as a SPEC."""
    if family == "open_clip":
        network = open_clip.create_model(architecture)
    else:
        network = timm.create_model(architecture)
    file = folder / f"{architecture}.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    return ModelSpec(family, architecture, str(file))


def bare(model, images: torch.Tensor, batch_size: int) -> float:
    begun = time.perf_counter()
    for batch in images.split(batch_size):
        model.score(batch)
    return len(images) / (time.perf_counter() - begun)


def ours(model, photos: list[PhotoRef], batch_size: int) -> float:
    """Photos per second once the first batch has come: starting workers is not the loop."""
    batches = score_photos(model, photos, batch_size=batch_size)
    done = len(next(batches))
    begun = time.perf_counter()
    for batch in batches:
        done += len(batch)
    return (done - batch_size) / (time.perf_counter() - begun)


def measure(model, count: int, turns: int) -> dict[str, float]:
    files = sorted(PHOTOS.rglob("*.jpg"))[:: max(1, 775 // count)][:count]
    photos = [PhotoRef(file.name, file) for file in files]
    images = torch.stack([model.preprocess(open_image(file)) for file in files])
    best = max(BATCHES, key=lambda size: bare(model, images[: max(BATCHES)], size))
    bare_rates, our_rates = [], []
    for _ in range(turns):
        bare_rates.append(bare(model, images, best))
        our_rates.append(ours(model, photos, best))
    rates = statistics.median(our_rates), statistics.median(bare_rates)
    return {"ours": rates[0], "bare": rates[1], "ratio": rates[0] / rates[1], "batch": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    if not PHOTOS.is_dir():
        parser.exit(1, "the real photos are not at ../shared/data/photos\n")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for family, architecture, count in (
            ("open_clip", "ViT-B-32", 192),
            ("timm", "tf_efficientnet_lite0", 384),
        ):
            spec = checkpoint(Path(folder), family, architecture)
            # The zero-shot head is made once, outside the loop: the animals of one page suffice.
            labels = FEW if family == "open_clip" else label_space("imagenet1k")
            model = load_model(spec, labels, ModelOptions())
            results[architecture] = measure(model, count, arguments.turns)
    if arguments.json:
        print(json.dumps(results))
        return
    for name, found in results.items():
        print(
            f"{name}: {found['ours']:.1f} photos/s from files, {found['bare']:.1f} over tensors "
            f"(batch {found['batch']:.0f}), ratio {found['ratio']:.3f}"
        )


if __name__ == "__main__":
    main()
