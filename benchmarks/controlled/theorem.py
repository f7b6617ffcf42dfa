"""The paper's theorem: when a linear CLIP reads the attribute for the label.

A label y = ±1 is drawn evenly; the attribute a is y with probability p_spu, else -y. Features
z = (z_inv, z_spu) have z_inv ~ N(mu_inv y, sigma_inv²) and z_spu ~ N(mu_spu a, sigma_spu²). An
image is D_I z + noise and its text D_T z + noise, where D_I and D_T have orthonormal columns and
the noise of a modality of dimension d is N(0, noise² / d) in each coordinate, independent of the
other's.

Linear encoders W_I and W_T minimise the linearised contrastive loss of n pairs,

    1 / (2n(n - 1)) sum_i sum_{j != i} (s_ij - s_ii) + (s_ji - s_ii)  +  rho / 2 |W_I' W_T|²

with s_ij = <W_I x_i, W_T t_j> (Xue et al., ICLR 2024). The sum is -<S, W_I' W_T>, S the unbiased
cross-covariance of images and texts, so the minimum has W_I' W_T = S / rho, cut to the encoders'
rank (Eckart and Young). The prompt of class y is the text of (mu_inv y, 0): it says nothing of the
attribute. An image gets the class whose prompt is the more similar.

Then, with all pairs there are, S is D_I C D_T' with C = Cov(z), and the class is the sign of
w'D_I'x, w = C (mu_inv, 0)'. `population_error` is the chance that this sign is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .figures import BLACK, BLUE, GREY, RED, over_seeds, save

__all__ = [
    "Encoders",
    "Pairs",
    "World",
    "cross_covariance",
    "crossing",
    "draw",
    "fit",
    "linearised_loss",
    "plot",
    "population_error",
    "quoted_bound",
    "quoted_threshold",
    "run",
    "table",
    "thresholds",
    "zero_shot_error",
]

Floats = NDArray[np.float64]

P_SPU = (0.75, 0.9, 0.99)
MU_SPU = tuple(np.linspace(0.0, 4.0, 17).tolist())
SIGMA_INV = (1.0, 2.0)
TOLD = (1.0, 2.0, 3.0, 4.0)
"""The values of mu_spu that the table shows."""
RHO = 1.0
"""It scales the encoders, and decides nothing."""


@dataclass(frozen=True)
class World:
    """The parameters of the data."""

    p_spu: float
    mu_spu: float
    sigma_inv: float = 1.0
    sigma_spu: float = 1.0
    mu_inv: float = 1.0
    noise: float = 1.0
    image_dim: int = 50
    text_dim: int = 40


class Pairs(NamedTuple):
    """Images (n, image_dim) and texts (n, text_dim), with the labels and attributes behind them."""

    images: Floats
    texts: Floats
    labels: Floats
    attributes: Floats


class Encoders(NamedTuple):
    """Matrices (rank, image_dim) and (rank, text_dim)."""

    image: Floats
    text: Floats


def modality_maps(world: World, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """D_I (image_dim, 2) and D_T (text_dim, 2), with orthonormal columns drawn at random."""
    image, text = (
        np.linalg.qr(rng.normal(size=(dim, 2)))[0] for dim in (world.image_dim, world.text_dim)
    )
    return image, text


def draw(world: World, maps: tuple[Floats, Floats], count: int, rng: np.random.Generator) -> Pairs:
    """Pairs of images and texts of the same features."""
    labels = rng.choice([-1.0, 1.0], count)
    attributes = labels * np.where(rng.random(count) < world.p_spu, 1.0, -1.0)
    features = np.stack(
        [
            rng.normal(world.mu_inv * labels, world.sigma_inv),
            rng.normal(world.mu_spu * attributes, world.sigma_spu),
        ],
        axis=1,
    )
    images, texts = (
        features @ way.T + rng.normal(0, world.noise / np.sqrt(len(way)), (count, len(way)))
        for way in maps
    )
    return Pairs(images, texts, labels, attributes)


def cross_covariance(images: Floats, texts: Floats) -> Floats:
    """The unbiased cross-covariance S, of shape (image_dim, text_dim)."""
    centred: Floats = (images - images.mean(axis=0)).T @ (texts - texts.mean(axis=0))
    return centred / (len(images) - 1)


def linearised_loss(encoders: Encoders, images: Floats, texts: Floats) -> float:
    """The loss of the module's docstring, term by term."""
    similarity = (images @ encoders.image.T) @ (texts @ encoders.text.T).T
    count = len(images)
    # Summed over j != i: the terms with j = i are zero.
    contrast = 2 * similarity.sum() - 2 * count * np.trace(similarity)
    product = encoders.image.T @ encoders.text
    return float(contrast / (2 * count * (count - 1)) + RHO / 2 * (product**2).sum())


def fit(images: Floats, texts: Floats, rank: int = 2) -> Encoders:
    """The encoders of least loss, from the singular vectors of the cross-covariance."""
    left, values, right = np.linalg.svd(cross_covariance(images, texts) / RHO, full_matrices=False)
    root = np.sqrt(values[:rank, None])
    return Encoders(root * left[:, :rank].T, root * right[:rank])


def zero_shot_error(
    encoders: Encoders, pairs: Pairs, world: World, text_map: Floats
) -> tuple[float, float]:
    """Shares of images that get the wrong class: where a = y, and where a != y."""
    prompt = text_map @ np.array([world.mu_inv, 0.0])
    # The other class's prompt is its negative, so the sign tells which is the more similar.
    score = (pairs.images @ encoders.image.T) @ (encoders.text @ prompt)
    wrong = score * pairs.labels <= 0
    same = pairs.attributes == pairs.labels
    return float(wrong[same].mean()), float(wrong[~same].mean())


def population_error(world: World) -> tuple[float, float]:
    """Zero-shot error of the encoders fitted to infinitely many pairs, where a = y and a != y.

    Derived here, from the model in the module's docstring: with q = 2 p_spu - 1 the weights are
    w = (mu_inv (mu_inv² + sigma_inv²), q mu_inv² mu_spu); the score of an image with y = 1 has the
    mean w_inv mu_inv ± w_spu mu_spu and, as the image's noise adds its share to both features, the
    variance w_inv² (sigma_inv² + noise² / d) + w_spu² (sigma_spu² + noise² / d).
    """
    tie = 2 * world.p_spu - 1
    weight_inv = world.mu_inv * (world.mu_inv**2 + world.sigma_inv**2)
    weight_spu = tie * world.mu_inv**2 * world.mu_spu
    noise = world.noise**2 / world.image_dim
    spread = np.sqrt(
        weight_inv**2 * (world.sigma_inv**2 + noise) + weight_spu**2 * (world.sigma_spu**2 + noise)
    )
    same, other = (
        float(
            stats.norm.sf((weight_inv * world.mu_inv + side * weight_spu * world.mu_spu) / spread)
        )
        for side in (1, -1)
    )
    return same, other


def crossing(world: World) -> float:
    """The mu_spu at which half of the images with a != y are wrong; derived here.

    sqrt((mu_inv² + sigma_inv²) / (2 p_spu - 1)). With mu_inv = 1 and p_spu = 1 it is at most
    `quoted_threshold`: the two are the geometric and the arithmetic mean of 1 and 1 + sigma_inv².
    """
    return float(np.sqrt((world.mu_inv**2 + world.sigma_inv**2) / (2 * world.p_spu - 1)))


def quoted_threshold(sigma_inv: float) -> float:
    """(sigma_inv² + 2) / 2: from it on, the paper says, CLIP misaligns as p_spu goes to 1."""
    return (sigma_inv**2 + 2) / 2


def quoted_bound(world: World) -> float:
    """The paper's lower bound of the error where a != y, for mu_inv = 1 and up to o(1).

    1 - Phi(kappa), kappa = (sigma_inv² + 2 - 2 p_spu mu_spu) / sqrt((1 + sigma_inv²)² sigma_inv² +
    (2 p_spu - 1)² sigma_spu²). Quoted from notes on the paper's first version, whose proof and
    prompts we have not seen; nothing else here rests on it. At mu_spu = 1 and without noise it is
    `population_error`.
    """
    spread = np.sqrt(
        (1 + world.sigma_inv**2) ** 2 * world.sigma_inv**2
        + (2 * world.p_spu - 1) ** 2 * world.sigma_spu**2
    )
    kappa = (world.sigma_inv**2 + 2 - 2 * world.p_spu * world.mu_spu) / spread
    return float(stats.norm.sf(kappa))


def measure(world: World, seed: int, pairs: int, images: int) -> dict[str, Any]:
    """One simulation: encoders fitted to `pairs`, errors on `images` for each of a = y, a != y."""
    rng = np.random.default_rng(seed)
    maps = modality_maps(world, rng)
    learned = draw(world, maps, pairs, rng)
    encoders = fit(learned.images, learned.texts)
    even = replace(world, p_spu=0.5)
    same, other = zero_shot_error(encoders, draw(even, maps, 2 * images, rng), world, maps[1])
    return {
        "p_spu": world.p_spu,
        "mu_spu": world.mu_spu,
        "sigma_inv": world.sigma_inv,
        "seed": seed,
        "same": same,
        "other": other,
    }


def run(
    seeds: Iterable[int] = range(10),
    *,
    mu_spu: Sequence[float] = MU_SPU,
    pairs: int = 2_000,
    images: int = 2_000,
) -> list[dict[str, Any]]:
    """Simulated errors over the grid: one row for each p_spu, mu_spu, sigma_inv and seed."""
    return [
        measure(World(p_spu=p, mu_spu=mu, sigma_inv=sigma), seed, pairs, images)
        for sigma in SIGMA_INV
        for p in P_SPU
        for mu in mu_spu
        for seed in seeds
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: simulated and derived errors, in percent, and the paper's bound."""
    keys = ("sigma_inv", "p_spu", "mu_spu")
    same, other = (over_seeds(rows, keys, name) for name in ("same", "other"))
    lines = [
        "| sigma_inv | p_spu | mu_spu | a = y: simulated | derived | a ≠ y: simulated | derived |"
        " paper, at least |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, found in same.items():
        sigma, p, mu = key
        if mu not in TOLD:
            continue
        world = World(p_spu=p, mu_spu=mu, sigma_inv=sigma)
        cells = " | ".join(
            f"{measured.percent()} | {100 * derived:.1f}"
            for measured, derived in zip((found, other[key]), population_error(world), strict=True)
        )
        bound = 100 * quoted_bound(world)
        lines.append(f"| {sigma:g} | {p:g} | {mu:g} | {cells} | {bound:.1f} |")
    return "\n".join(lines)


def thresholds() -> str:
    """Markdown: from which mu_spu on most images with a != y are wrong."""
    lines = ["| sigma_inv | paper |" + "".join(f" derived, p_spu = {p:g} |" for p in (*P_SPU, 1.0))]
    lines.append("|---" * (3 + len(P_SPU)) + "|")
    for sigma in SIGMA_INV:
        derived = (crossing(World(p, 0.0, sigma)) for p in (*P_SPU, 1.0))
        cells = " | ".join(f"{at:.2f}" for at in (quoted_threshold(sigma), *derived))
        lines.append(f"| {sigma:g} | {cells} |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], file: Path) -> Path:
    """Errors against mu_spu, a row of panels for each sigma_inv and a column for each p_spu."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(SIGMA_INV), len(P_SPU), figsize=(8.8, 5.2), sharex=True, sharey=True
    )
    simulated = {
        name: over_seeds(rows, ("sigma_inv", "p_spu", "mu_spu"), name) for name in ("same", "other")
    }
    for line, sigma in zip(panels, SIGMA_INV, strict=True):
        for axes, p in zip(line, P_SPU, strict=True):
            _panel(axes, simulated, sigma, p)
            axes.set_title(f"$\\sigma_{{inv}}$ = {sigma:g}, $p_{{spu}}$ = {p:g}", fontsize=10)
    for axes in panels[:, 0]:
        axes.set_ylabel("zero-shot error")
    for axes in panels[-1]:
        axes.set_xlabel("strength of the attribute, $\\mu_{spu}$")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="upper center", frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    return save(figure, file)


def _panel(axes: Any, simulated: dict[str, dict[Any, Any]], sigma: float, p: float) -> None:
    for name, colour, words in (("same", BLUE, "a = y"), ("other", RED, "a ≠ y")):
        found = {key[2]: value for key, value in simulated[name].items() if key[:2] == (sigma, p)}
        mu = np.array(list(found))
        mean, half = np.array(list(found.values())).T
        axes.fill_between(mu, mean - half, mean + half, color=colour, alpha=0.25, linewidth=0)
        axes.plot(mu, mean, "o", color=colour, markersize=3.5, label=f"{words}, simulated")
        fine = np.linspace(mu.min(), mu.max(), 200)
        side = 0 if name == "same" else 1
        derived = [population_error(World(p, at, sigma))[side] for at in fine]
        axes.plot(fine, derived, color=colour, linewidth=1.2, label=f"{words}, derived")
    axes.axvline(
        quoted_threshold(sigma), color=BLACK, linestyle="--", linewidth=1, label="paper's threshold"
    )
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1, label="chance")
    axes.set_ylim(-0.02, 1.02)
