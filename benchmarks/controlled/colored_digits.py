"""MultiColoredMNIST: does naming the background beside the object make a model lean on it less?

Scikit-learn's digits of k classes, each image in one of k colours. The digit that is shown is the
label's with probability p_inv, the colour the label's with p_spu; otherwise it is drawn evenly from
the other classes'. Two tests have the same p_inv and other colours: in `rand` each colour is as
likely as any other; in `rev` labels 0 and 1 have their own colour in one image of ten and each
other's in nine, and other labels' colours are as in `rand`. Test digits are never learned from.

With perfect captions, one-hot in object and background, the paper's contrastive model is a tower
with a head for the object and one for the background, and the supervised model is the same tower
with the object's head alone. `captions` contrasts for real: images with the embeddings of
(object, background) captions, by CLIP's loss; a prompt names an object alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .figures import BLACK, BLUE, GREEN, GREY, ORANGE, Estimate, estimate, over_seeds, save

__all__ = [
    "CLASSES",
    "METHODS",
    "STRENGTHS",
    "Coloured",
    "by_rate",
    "chosen_rates",
    "differences",
    "digits",
    "draw",
    "draw_colours",
    "draw_shown",
    "fit",
    "ideal_accuracy",
    "plot",
    "run",
    "table",
]

Ints = NDArray[np.int64]

CLASSES = (2, 3, 5, 6, 8, 10)
STRENGTHS = ((0.75, 0.75), (0.75, 0.9), (0.9, 0.75), (0.9, 0.9))
"""Pairs of p_inv and p_spu."""
METHODS = ("contrastive", "supervised", "captions")
LEARNING_RATES = (2e-3, 1e-2, 5e-2)

QUOTED = {
    (2, 0.9, 0.75): {"contrastive": (87.42, 81.87), "supervised": (86.44, 80.22)},
    (2, 0.9, 0.9): {"contrastive": (71.56, 50.08), "supervised": (71.62, 50.13)},
    (10, 0.75, 0.9): {"contrastive": (48.03, 5.53), "supervised": (46.83, 5.72)},
}
"""Percent right in `rand` and `rev`, of (k, p_inv, p_spu), in Wang et al. (v1), appendix D.4."""

COLOURS = np.array(
    [
        (230, 25, 25),
        (20, 200, 40),
        (40, 70, 255),
        (255, 225, 25),
        (240, 50, 230),
        (70, 240, 240),
        (245, 130, 48),
        (255, 255, 255),
        (128, 80, 20),
        (120, 120, 140),
    ],
    np.float32,
)

_SIDE = 8
_PARTS = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}
"""Fifths of each class's digits."""
_BATCH, _HIDDEN, _FEATURES = 64, 64, 32


class Coloured(NamedTuple):
    """Images (n, 3, 8, 8) in [0, 1] with label, the digit that is shown, and colour."""

    pixels: torch.Tensor
    label: torch.Tensor
    shown: torch.Tensor
    colour: torch.Tensor


@cache
def digits() -> tuple[torch.Tensor, Ints, Ints]:
    """All digits (n, 8, 8) in [0, 1], their classes, and their places within the class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    place = np.zeros(len(found.images), np.int64)
    for number in range(10):
        own = np.flatnonzero(found.target == number)
        place[own] = np.arange(len(own))
    return torch.from_numpy(found.images / 16).float(), found.target.astype(np.int64), place


def _another(of: Ints, k: int, rng: np.random.Generator) -> Ints:
    """Evenly one of the other k - 1 classes."""
    return (of + rng.integers(1, k, len(of))) % k


def draw_shown(label: Ints, k: int, p_inv: float, rng: np.random.Generator) -> Ints:
    """The digits that images of these labels show."""
    return np.where(rng.random(len(label)) < p_inv, label, _another(label, k, rng))


def draw_colours(
    label: Ints, k: int, p_spu: float, test: str | None, rng: np.random.Generator
) -> Ints:
    """Colours of images of these labels: tied with p_spu, or as in the test `rand` or `rev`."""
    if test is None:
        return np.where(rng.random(len(label)) < p_spu, label, _another(label, k, rng))
    even = rng.integers(0, k, len(label))
    if test == "rand":
        return even
    reversed_ = np.where(rng.random(len(label)) < 0.1, label, 1 - label)
    return np.where(label < 2, reversed_, even)


def draw(
    k: int,
    strengths: tuple[float, float],
    count: int,
    part: str,
    rng: np.random.Generator,
    test: str | None = None,
) -> Coloured:
    """Images of digits of one part, coloured as in training, or as in a test."""
    label = rng.integers(0, k, count)
    shown = draw_shown(label, k, strengths[0], rng)
    colour = draw_colours(label, k, strengths[1], test, rng)
    shapes, of, place = digits()
    mine = np.isin(place % 5, _PARTS[part])
    chosen = np.zeros(count, np.int64)
    for number in range(k):
        showing = np.flatnonzero(shown == number)
        chosen[showing] = rng.choice(np.flatnonzero(mine & (of == number)), len(showing))
    tint = torch.from_numpy(COLOURS[colour] / 255)
    return Coloured(
        shapes[chosen][:, None] * tint[:, :, None, None],
        *(torch.from_numpy(values) for values in (label, shown, colour)),
    )


def ideal_accuracy(k: int, p_inv: float, p_spu: float, test: str | None) -> tuple[float, float]:
    """Accuracy of a reader who sees digit and colour and believes that colours are as in training.

    Ties are broken evenly. No bound for a model, but where learning the training images perfectly
    leads.

    Returns
    -------
    tuple
        Over all labels, and over labels 0 and 1.
    """

    def one_of(right: float) -> NDArray[np.float64]:
        return np.where(np.eye(k, dtype=bool), right, (1 - right) / (k - 1))

    digit, tied = one_of(p_inv), one_of(p_spu)
    colours = tied if test is None else np.full((k, k), 1 / k)
    if test == "rev":
        colours[:2] = 0
        colours[:2, :2] = [[0.1, 0.9], [0.9, 0.1]]
    believed = digit[:, :, None] * tied[:, None, :]
    wins = np.isclose(believed, believed.max(axis=0), rtol=1e-9)
    right = (digit[:, :, None] * colours[:, None, :] * wins / wins.sum(axis=0)).sum(axis=(1, 2))
    return float(right.mean()), float(right[:2].mean())


class Towers(nn.Module):
    """Networks of several seeds, learned side by side; none knows of the others.

    A tower of two layers, and on it weights of objects and of backgrounds: heads, or, in the
    method `captions`, the parts that a caption's embedding is the sum of.
    """

    def __init__(self, k: int, method: str, seeds: Sequence[int]) -> None:
        super().__init__()
        self.method = method
        shapes = {"first": (3 * _SIDE**2, _HIDDEN), "second": (_HIDDEN, _FEATURES)}
        shapes |= {"objects": (_FEATURES, k), "backgrounds": (_FEATURES, k)}
        self.weights = nn.ParameterDict()
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        for name, (given, wide) in shapes.items():
            own = [torch.rand(given, wide, generator=source) for source in sources]
            self.weights[name] = nn.Parameter((2 * torch.stack(own) - 1) / given**0.5)
            self.weights[f"{name}_bias"] = nn.Parameter(torch.zeros(len(seeds), 1, wide))
        self.scale = nn.Parameter(torch.full((len(seeds), 1, 1), float(np.log(1 / 0.07))))

    def _layer(self, name: str, given: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.weights[f"{name}_bias"], given, self.weights[name])

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self._layer("first", pixels.flatten(2)).relu()
        return self._layer("second", hidden).relu()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores (seeds, n, k) of the objects, for images (seeds, n, 3, 8, 8)."""
        features = self._features(pixels)
        if self.method == "captions":
            image = nn.functional.normalize(features, dim=2)
            return image @ nn.functional.normalize(self.weights["objects"], dim=1)
        return self._layer("objects", features)

    def loss(self, images: Coloured) -> torch.Tensor:
        """The sum of the networks' losses, each its mean over its batch."""
        features = self._features(images.pixels)
        if self.method == "captions":
            return self._contrast(features, images)
        loss = _cross_entropy(self._layer("objects", features), images.label)
        if self.method == "contrastive":
            backgrounds = self._layer("backgrounds", features)
            loss = loss + _cross_entropy(backgrounds, images.colour)
        return loss

    def _contrast(self, features: torch.Tensor, images: Coloured) -> torch.Tensor:
        captions = sum(
            self.weights[name].mT.gather(1, of[:, :, None].expand(-1, -1, _FEATURES))
            for name, of in (("objects", images.label), ("backgrounds", images.colour))
        )
        image, text = (nn.functional.normalize(one, dim=2) for one in (features, captions))
        similarity = self.scale.exp() * image @ text.mT
        own = torch.arange(similarity.shape[1]).expand(similarity.shape[:2])
        return (_cross_entropy(similarity, own) + _cross_entropy(similarity.mT, own)) / 2


def _cross_entropy(scores: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, 1), of.flatten()) * len(scores)


def fit(
    images: Coloured, k: int, method: str, learning_rate: float, seeds: Sequence[int]
) -> Towers:
    """Train a network for each seed; methods start with the same weights and see the same batches.

    Parameters
    ----------
    images
        What is learned from, of shapes (seeds, n, ...).
    k
        Number of classes.
    method
        One of `METHODS`.
    learning_rate
        Of Adam at its highest; it falls to 0 along a cosine.
    seeds
        Of the first weights and the order.
    """
    towers = Towers(k, method, seeds)
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    # More classes take longer to learn; all methods take as long.
    steps = 300 + 50 * k
    optimiser = torch.optim.Adam(towers.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    count = images.label.shape[1]
    each = torch.arange(len(seeds))[:, None]
    for _ in range(steps):
        batch = torch.stack([torch.randint(count, (_BATCH,), generator=one) for one in orders])
        loss = towers.loss(Coloured(*(part[each, batch] for part in images)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return towers


def _each(seeds: Sequence[int], draws: Callable[[np.random.Generator], Coloured]) -> Coloured:
    """What `draws` makes for every seed, in one."""
    found = [draws(np.random.default_rng(seed)) for seed in seeds]
    return Coloured(*(torch.stack(parts) for parts in zip(*found, strict=True)))


@torch.no_grad()
def _right(towers: Towers, images: Coloured) -> torch.Tensor:
    """Which images (seeds, n) get their label."""
    return towers(images.pixels).argmax(dim=2) == images.label


def measure(
    k: int,
    strengths: tuple[float, float],
    seeds: Sequence[int],
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    images: int = 4_000,
) -> list[dict[str, Any]]:
    """Accuracies of all methods at all learning rates, which learn from the same images.

    `validation` is that on validation digits, `id` that on test digits, coloured as in training.
    """
    learned = _each(seeds, lambda rng: draw(k, strengths, images, "train", rng))
    tests = {
        name: _each(seeds, lambda rng, at=at: draw(k, strengths, images, at[0], rng, at[1]))
        for name, at in {
            "validation": ("validation", None),
            "id": ("test", None),
            "rand": ("test", "rand"),
            "rev": ("test", "rev"),
        }.items()
    }
    rows = []
    for method, rate in product(METHODS, learning_rates):
        towers = fit(learned, k, method, rate, seeds)
        right = {name: _right(towers, test) for name, test in tests.items()}
        for at, seed in enumerate(seeds):
            row = {"p_inv": strengths[0], "p_spu": strengths[1], "k": k, "method": method}
            row |= {"learning_rate": rate, "seed": seed}
            for name, test in tests.items():
                row[name] = float(right[name][at].float().mean())
                row[f"{name}_01"] = float(right[name][at][test.label[at] < 2].float().mean())
            rows.append(row)
    return rows


def run(
    seeds: Iterable[int] = range(5),
    *,
    classes: Sequence[int] = CLASSES,
    strengths: Sequence[tuple[float, float]] = STRENGTHS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    images: int = 4_000,
) -> list[dict[str, Any]]:
    """Accuracies: one row for each k, pair of strengths, method, learning rate and seed."""
    seeds = list(seeds)
    return [
        row
        for pair, k in product(strengths, classes)
        for row in measure(k, pair, seeds, learning_rates=learning_rates, images=images)
    ]


_CELL = ("p_inv", "p_spu", "k", "method")


def chosen_rates(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """The learning rate of best validation accuracy, for each (p_inv, p_spu, k, method)."""
    best: dict[tuple[Any, ...], tuple[float, float]] = {}
    for (*cell, rate), found in over_seeds(rows, (*_CELL, "learning_rate"), "validation").items():
        best[tuple(cell)] = max(best.get(tuple(cell), (0.0, 0.0)), (found.mean, float(rate)))
    return {cell: rate for cell, (_, rate) in best.items()}


def _chosen(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rates = chosen_rates(rows)
    return [row for row in rows if row["learning_rate"] == rates[tuple(row[key] for key in _CELL)]]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: accuracies in percent of all methods, each with its chosen learning rate."""
    rates = chosen_rates(rows)
    mine = _chosen(rows)
    found = {name: over_seeds(mine, _CELL, name) for name in ("id", "rand", "rev", "rev_01")}
    lines = [
        "| p_inv | p_spu | k | method | learning rate | in-distribution | Rand | Rev |"
        " Rev, labels 0 and 1 | ideal reader: Rand, Rev, Rev 0 and 1 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, rate in rates.items():
        p_inv, p_spu, k, method = cell
        cells = " | ".join(own[cell].percent() for own in found.values())
        (rand, _), (rev, rev_01) = (ideal_accuracy(k, p_inv, p_spu, t) for t in ("rand", "rev"))
        ideal = ", ".join(f"{100 * value:.0f}" for value in (rand, rev, rev_01))
        lines.append(f"| {p_inv:g} | {p_spu:g} | {k} | {method} | {rate:g} | {cells} | {ideal} |")
    return "\n".join(lines)


def _apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Contrastive minus supervised, for each (p_inv, p_spu, k) and seed.

    Each with its own learning rate; `same` is `rand` with that of the supervised for both.
    """
    by_run = {
        (*(row[key] for key in _CELL), row["learning_rate"], row["seed"]): row for row in rows
    }
    rates = chosen_rates(rows)
    found = []
    for cell, seed in product(dict.fromkeys(key[:3] for key in rates), _seeds(rows)):
        own, theirs = (rates[(*cell, method)] for method in ("contrastive", "supervised"))
        supervised = by_run[(*cell, "supervised", theirs, seed)]
        contrastive, same = (by_run[(*cell, "contrastive", rate, seed)] for rate in (own, theirs))
        row = dict(zip(_CELL[:3], cell, strict=True)) | {"seed": seed}
        row |= {name: contrastive[name] - supervised[name] for name in ("rand", "rev", "rev_01")}
        found.append(row | {"same": same["rand"] - supervised["rand"]})
    return found


def _seeds(rows: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({row["seed"] for row in rows})


def differences(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: contrastive minus supervised, in points, paired by seed; the paper's beside it."""
    apart = _apart(rows)
    names = ("rand", "rev", "rev_01", "same")
    found = {name: over_seeds(apart, _CELL[:3], name) for name in names}
    lines = [
        "| p_inv | p_spu | k | Rand | Rev | Rev, labels 0 and 1 | Rand, same learning rate |"
        " paper: Rand | paper: Rev |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in found["rand"]:
        p_inv, p_spu, k = cell
        quoted = QUOTED.get((k, p_inv, p_spu), {"contrastive": (), "supervised": ()})
        paper = [
            f"{one - other:+.2f}"
            for one, other in zip(quoted["contrastive"], quoted["supervised"], strict=True)
        ]
        cells = [found[name][cell].percent() for name in names] + (paper or ["", ""])
        lines.append(f"| {p_inv:g} | {p_spu:g} | {k} | {' | '.join(cells)} |")
    means = (_over_cells(apart, name).percent() for name in names)
    lines.append(f"| mean | | | {' | '.join(means)} | | |")
    return "\n".join(lines)


def _over_cells(rows: Sequence[dict[str, Any]], name: str) -> Estimate:
    """The mean over all (p_inv, p_spu, k)."""
    return estimate(
        [
            float(np.mean([row[name] for row in rows if row["seed"] == seed]))
            for seed in _seeds(rows)
        ]
    )


def by_rate(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: accuracies in percent by learning rate, means over all p_inv, p_spu and k."""
    names = ("validation", "id", "rand", "rev", "rev_01")
    lines = [
        "| method | learning rate | validation | in-distribution | Rand | Rev |"
        " Rev, labels 0 and 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, rate in dict.fromkeys((row["method"], row["learning_rate"]) for row in rows):
        own = [row for row in rows if (row["method"], row["learning_rate"]) == (method, rate)]
        cells = " | ".join(_over_cells(own, name).percent() for name in names)
        lines.append(f"| {method} | {rate:g} | {cells} |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], file: Path) -> Path:
    """Accuracy by k: over all labels in `rand`, over labels 0 and 1 in `rev`."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(STRENGTHS), figsize=(10.5, 5.4), sharex=True, sharey=True)
    looks = {
        "contrastive": (BLUE, "o", "contrastive (two heads)"),
        "supervised": (ORANGE, "s", "supervised (one head)"),
        "captions": (GREEN, "^", "contrast with captions"),
    }
    for line, name in zip(panels, ("rand", "rev_01"), strict=True):
        found = over_seeds(_chosen(rows), ("p_inv", "p_spu", "method", "k"), name)
        for axes, pair in zip(line, STRENGTHS, strict=True):
            ks = sorted({key[3] for key in found if key[:2] == pair})
            for shift, (method, (colour, marker, words)) in enumerate(looks.items(), -1):
                mean, half = np.array([found[(*pair, method, k)] for k in ks]).T
                axes.errorbar(
                    np.array(ks) + 0.15 * shift,
                    mean,
                    yerr=None if np.isnan(half).any() else half,
                    color=colour,
                    marker=marker,
                    markersize=4,
                    linewidth=1.2,
                    elinewidth=1,
                    label=words,
                )
            test, over = name.removesuffix("_01"), int(name.endswith("_01"))
            ideal = [ideal_accuracy(k, *pair, test)[over] for k in ks]
            axes.plot(ks, ideal, color=BLACK, linestyle=":", label="ideal reader")
            axes.axhline(pair[0], color=GREY, linewidth=0.8, label="the digit alone")
    for axes, (p_inv, p_spu) in zip(panels[0], STRENGTHS, strict=True):
        axes.set_title(f"$p_{{inv}}$ = {p_inv:g}, $p_{{spu}}$ = {p_spu:g}", fontsize=10)
    panels[0, 0].set_ylabel("accuracy, Rand")
    panels[1, 0].set_ylabel("accuracy, Rev\n(labels 0 and 1)")
    for axes in panels[1]:
        axes.set_xlabel("classes, k")
        axes.set_xticks(CLASSES)
    panels[0, 0].set_ylim(0, 1)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, loc="upper center", frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    return save(figure, file)
