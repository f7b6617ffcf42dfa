"""Clustering of regions for `cap discover`: beside the authors' package, and at scale.

Side by side on 4,000 regions and 10 classes, k from 20 to 49: our sweep, and for each k
scikit-learn-extra's alternating k-medoids with scikit-learn's silhouette, as RaVL's authors have
it, in an environment of its own (numpy below 2). Then `find` whole on many regions in a process of
its own, and how far the findings from a sample agree with those from all regions. Prints one JSON
object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import platformdirs
from numpy.typing import NDArray
from search import peak_gb

from pipeline.discover.clustering import cosine_distances
from pipeline.discover.findings import Bar, Regions, Search, find
from pipeline.discover.k_medoids import sweep

CLASSES = 10
KS = range(2 * CLASSES, 5 * CLASSES)
TARGETS = {"times": 5.0, "objective": 1.0, "seconds": 300.0, "gigabytes": 4.0}

KINDS = {
    "12 tight groups": {"groups": 12, "noise": 0.3},
    "12 groups": {"groups": 12, "noise": 0.6},
    "40 groups": {"groups": 40, "noise": 0.6},
    "100 groups": {"groups": 100, "noise": 0.6},
    "12 groups that overlap": {"groups": 12, "noise": 1.0},
    "12 groups, mostly noise": {"groups": 12, "noise": 2.0},
}
"""Invented regions: unit vectors around the middles of groups."""

PEER = """
import json, sys, time
import numpy as np
from sklearn.metrics import silhouette_score
from sklearn_extra.cluster import KMedoids

distances = np.load(sys.argv[1])
found, started = {}, time.perf_counter()
for k in range(20, 50):
    model = KMedoids(n_clusters=k, metric="precomputed", init="k-medoids++", random_state=0)
    model.fit(distances)
    silhouette = silhouette_score(distances, model.labels_, metric="precomputed")
    found[k] = [float(model.inertia_), float(silhouette)]
print(json.dumps({"seconds": time.perf_counter() - started, "found": found}))
"""


def invented(
    count: int, seed: int, *, groups: int, noise: float, dim: int = 32
) -> NDArray[np.float32]:
    """Unit vectors, (count, dim)."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(groups, dim)).astype(np.float32)
    vectors = middles[rng.integers(0, groups, count)]
    vectors += noise * rng.normal(size=vectors.shape).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def peer_python() -> Path:
    """The interpreter of an environment with scikit-learn-extra."""
    folder = platformdirs.user_cache_path("cap") / "scikit-learn-extra"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = ["numpy<2", "scikit-learn<1.6", "scikit-learn-extra==0.3.0"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def side_by_side(python: Path, kind: dict, seed: int, turns: int) -> dict[str, float]:
    """Seconds of both, medians of some turns, and the largest ratio of the objectives."""
    distances = cosine_distances(invented(4_000, seed, **kind))
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "distances.npy", distances)
        (Path(folder) / "peer.py").write_text(PEER)
        for _ in range(turns):
            started = time.perf_counter()
            found = {len(one.medoids): one for one in sweep(distances, KS)}
            ours.append(time.perf_counter() - started)
            done = subprocess.run(
                [python, "peer.py", "distances.npy"],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
            )
            told = json.loads(done.stdout)
            theirs.append(told["seconds"])
    peer = {int(k): value for k, value in told["found"].items()}
    ratios = [found[k].objective / peer[k][0] for k in KS]
    return {
        "seconds": float(np.median(ours)),
        "peer seconds": float(np.median(theirs)),
        "times": float(np.median(theirs) / np.median(ours)),
        "objective, largest ratio": max(ratios),
        "objective, mean ratio": float(np.mean(ratios)),
        "silhouette": max(one.silhouette for one in found.values()),
        "peer silhouette": max(value[1] for value in peer.values()),
    }


def shortcut(images: int, seed: int, dim: int) -> Regions:
    """Images of four regions, of which one in three has a feature that the model takes for 0."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, images)
    has = rng.random(images) < 1 / 3
    kind = np.stack(
        [
            label,
            CLASSES + rng.integers(0, 8, images),
            CLASSES + rng.integers(0, 8, images),
            np.where(has, CLASSES + 8, CLASSES + rng.integers(0, 8, images)),
        ],
        axis=1,
    )
    middles = rng.normal(size=(CLASSES + 9, dim)).astype(np.float32)
    embeddings = middles[kind.ravel()]
    embeddings += 0.7 * rng.normal(size=embeddings.shape).astype(np.float32)
    wrong = rng.random(images) < np.where(has, 0.6, 0.2)
    correct = np.where(label == 0, has | ~wrong, ~wrong)
    chance = np.where(kind == CLASSES + 8, 0.8, 0.3) + 0.2 * rng.random(kind.shape)
    return Regions(
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        image=np.repeat(np.arange(images), 4),
        probability=chance.ravel().astype(np.float32),
        label=label,
        correct=correct,
        labels=CLASSES,
    )


def agreement(images: int, seed: int, exact_up_to: int) -> dict[str, float]:
    """The findings from a sample beside those from all regions."""
    regions = shortcut(images, seed, 64)
    every = find(regions, Bar(), Search(exact_up_to=4 * images, draws=100, resamples=100))
    drawn = find(regions, Bar(), Search(exact_up_to=exact_up_to, draws=100, resamples=100))
    if every is None or drawn is None:
        msg = "the invented regions cluster"
        raise AssertionError(msg)
    first = [found.clustering.cluster == np.argmax(found.ranks == 1) for found in (every, drawn)]
    both = (first[0] & first[1]).sum() / (first[0] | first[1]).sum()
    cost = [(1 - found.clustering.similarity).sum() for found in (every, drawn)]
    return {
        "regions": 4 * images,
        "drawn": exact_up_to,
        "objective, ratio": float(cost[1] / cost[0]),
        "first cluster, overlap": float(both),
        "first gap": float(every.gaps.total[np.argmax(every.ranks == 1)]),
        "first gap, drawn": float(drawn.gaps.total[np.argmax(drawn.ranks == 1)]),
        "kept": int((every.ranks > 0).sum()),
        "kept, drawn": int((drawn.ranks > 0).sum()),
    }


def at_scale(images: int) -> dict[str, float]:
    """Seconds and peak memory of `find` with its default settings, in this process."""
    regions = shortcut(images, 0, 512)
    started = time.perf_counter()
    found = find(regions, Bar(), Search())
    seconds = time.perf_counter() - started
    peak = peak_gb()
    if found is None:
        msg = "the invented regions cluster"
        raise AssertionError(msg)
    return {
        "regions": 4 * images,
        "seconds": seconds,
        "gigabytes": peak,
        "clusters": len(found.clustering.medoids),
        "kept": int((found.ranks > 0).sum()),
    }


@click.command(help=__doc__)
@click.option("--turns", default=3, show_default=True, help="of the comparison, per kind of data")
@click.option("--images", default=50_000, show_default=True, help="at scale, with four regions")
@click.option("--only-scale", is_flag=True, help="only the part at scale, in this process")
def main(turns: int, images: int, only_scale: bool) -> None:
    """Print the figures and the bars."""
    if only_scale:
        print(json.dumps(at_scale(images)))
        return
    python = peer_python()
    figures = {
        "beside scikit-learn-extra": {
            f"{name}, seed {seed}": side_by_side(python, kind, seed, turns)
            for name, kind in KINDS.items()
            for seed in (0, 1)
        },
        "a sample beside all": [
            agreement(4_000, seed, drawn) for seed in (0, 1, 2) for drawn in (2_500, 5_000, 10_000)
        ],
    }
    done = subprocess.run(
        [sys.executable, __file__, "--only-scale", "--images", str(images)],
        check=True,
        capture_output=True,
        text=True,
    )
    figures["at scale"] = json.loads(done.stdout)
    print(json.dumps({**figures, "bars": TARGETS}, indent=2))


if __name__ == "__main__":
    main()
