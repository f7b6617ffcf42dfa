"""Settings: what is planted where, how strongly it is tied, and what each method makes of it.

Which settings there are, their seeds, and when a setting counts are fixed before any method runs. A
setting is valid if the plainly fine-tuned model has learned the tie: it names images of the tied
label more often with the feature than without it, by `VALID_GAP` at least.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from pipeline.discover.clustering import assign
from pipeline.discover.findings import Findings, Regions

from .animals import Animals
from .digits import Digits
from .discovery import BASELINES, Evidence, precision_at, random_order, ravl
from .mitigation import METHODS, WEIGHTS, Suspects, Tuning, accuracy, fine_tuned, wise_ft
from .models import embedded, pretrained, text_head
from .planted import QUADRANTS, Planted, World, tied

__all__ = [
    "STRENGTHS",
    "TUNING",
    "VALID_GAP",
    "Choices",
    "Effort",
    "Setting",
    "run",
    "settings",
    "try_choices",
    "tuning_settings",
]

VALID_GAP = 0.10
STRENGTHS = (0.7, 0.8, 0.9, 0.95, 0.99)
"""Of the tie, as Cramér's V; those of RaVL's authors."""

MODELS = 2
"""Models of each world to begin with, taken in turns."""
TUNING = 5
"""Settings of each world that baselines are tuned on; none of them is measured on."""

_TEMPERATURE = 0.07

_WORLDS: dict[str, type[World]] = {"digits": Digits, "animals": Animals}


@dataclass(frozen=True)
class Setting:
    """What is planted.

    Attributes
    ----------
    world
        Kind of images.
    label, feature
        The tied label's name, and the feature.
    strength
        Cramér's V between labels and the feature.
    number
        Decides the images, and the model to begin with.
    """

    world: str
    label: str
    feature: str
    strength: float
    number: int


@dataclass(frozen=True)
class Effort:
    """How much goes into a setting.

    Attributes
    ----------
    learn, held_back
        Images to learn from, and to choose a learning rate by; with the tie.
    measure
        Images to look for shortcuts in, and as many to measure on; without it.
    epochs
        Of every fine-tuning.
    rates
        Learning rates to choose from.
    """

    learn: int = 2_000
    held_back: int = 200
    measure: int = 1_000
    epochs: int = 8
    rates: tuple[float, ...] = (1.5e-3, 3e-3)


def _ties(world: str) -> list[tuple[str, str, float]]:
    """Label, feature and strength of all ties of a world, in an order drawn once."""
    kind = _WORLDS[world]
    ties = list(itertools.product(kind.classes, kind.features, STRENGTHS))
    order = np.random.default_rng([list(_WORLDS).index(world), 2024]).permutation(len(ties))
    return [ties[i] for i in order]


def tuning_settings() -> list[Setting]:
    """The first ties of each world, which methods are tuned on and none is measured on."""
    return [
        Setting(world, *tie, number)
        for world in _WORLDS
        for number, tie in enumerate(_ties(world)[:TUNING])
    ]


def _endless(world: str) -> Iterator[Setting]:
    for i, tie in enumerate(itertools.cycle(_ties(world)[TUNING:])):
        yield Setting(world, *tie, TUNING + i)


def settings(count: int) -> list[Setting]:
    """The first of the other ties, the worlds in turns; they come again where there are no more."""
    turns = itertools.chain.from_iterable(zip(*map(_endless, _WORLDS), strict=True))
    return list(itertools.islice(turns, count))


@cache
def _begun(world: str, seed: int) -> tuple[World, Any, torch.Tensor]:
    """A world, a model that has seen its captions, and the features of its classes."""
    made = _WORLDS[world]()
    model = pretrained(made, seed)
    return made, model, text_head(model, made)


@dataclass(frozen=True)
class _Learned:
    """A setting's images, and the plainly fine-tuned model."""

    start: Any
    head: torch.Tensor
    tuning: Tuning
    look: Planted
    measure: Planted
    model: Any
    gap: float
    evidence: Evidence


def _learn(setting: Setting, effort: Effort) -> _Learned:
    world, start, head = _begun(setting.world, setting.number % MODELS)
    rng = np.random.default_rng([list(_WORLDS).index(setting.world), setting.number])
    to = world.classes.index(setting.label)

    def images(count: int, part: str, *, tie: bool) -> Planted:
        label = np.arange(count) % len(world.classes)
        has = tied(rng, label, to, setting.strength) if tie else rng.random(count) < 1 / 2
        return world.draw(rng, label, has, setting.feature, part)

    sizes = (effort.learn, effort.held_back)
    learn, held_back = (images(count, "learn", tie=True) for count in sizes)
    look, measure = (images(effort.measure, "measure", tie=False) for _ in range(2))
    tuning = Tuning(learn, held_back, effort.epochs, effort.rates, setting.number)
    model = fine_tuned(start, head, tuning, "finetune")
    evidence = _evidence(model, head, look, setting.number)
    own = look.label == to
    right = evidence.regions.correct
    gap = right[own & look.has].mean() - right[own & ~look.has].mean()
    return _Learned(start, head, tuning, look, measure, model, float(gap), evidence)


def _evidence(model: Any, head: torch.Tensor, look: Planted, seed: int) -> Evidence:
    whole, parts = embedded(model, look.pixels, regions=True)
    predicted = (whole @ head.numpy().T).argmax(axis=1)
    image = np.repeat(np.arange(len(look)), len(QUADRANTS))
    embeddings = parts.reshape(len(image), -1)
    chance = softmax(embeddings @ head.numpy().T / _TEMPERATURE, axis=1)
    regions = Regions(
        embeddings=embeddings,
        image=image,
        probability=chance[np.arange(len(image)), predicted[image]].astype(np.float32),
        label=look.label,
        correct=predicted == look.label,
        labels=len(head),
    )
    return Evidence(regions, predicted, seed)


Row = dict[str, Any]


@dataclass(frozen=True)
class Choices:
    """What the methods were tuned to.

    Attributes
    ----------
    baselines
        Arguments of each baseline of discovery.
    weight
        λ of the region-aware losses.
    """

    baselines: Mapping[str, dict[str, float]]
    weight: float


def try_choices(
    setting: Setting, grids: Mapping[str, list[dict[str, float]]], effort: Effort
) -> Row:
    """Precision at 10 of baselines, and the worst group's accuracy, with each of some choices.

    Returns
    -------
    dict
        The setting, its `gap`, `precision` by baseline and choice, and `worst` by λ.
    """
    learned = _learn(setting, effort)
    shows = learned.look.shows.ravel()
    found = {
        name: [precision_at(BASELINES[name][0](learned.evidence, **one), shows) for one in own]
        for name, own in grids.items()
    }
    row = {**asdict(setting), "gap": learned.gap, "precision": found, "worst": None}
    order, findings = ravl(learned.evidence)
    if learned.gap >= VALID_GAP and len(order):
        suspects = _suspects(learned, findings)
        row["worst"] = [_worst(learned, suspects, weight) for weight in WEIGHTS]
    return row


def _worst(learned: _Learned, suspects: Suspects, weight: float) -> float:
    model = fine_tuned(
        learned.start, learned.head, learned.tuning, "region-aware", suspects, weight=weight
    )
    image, _ = accuracy(model, learned.head, learned.measure)
    return image.worst


def run(setting: Setting, choices: Mapping[str, Choices], effort: Effort) -> Row:
    """All methods on one setting.

    Parameters
    ----------
    setting
        The setting.
    choices
        What the methods were tuned to, by world.
    effort
        How much goes into it.

    Returns
    -------
    dict
        The setting, its `gap`, and, where it is valid, `precision` by method, and `accuracy` by
        method: of images and of core quadrants, overall and in the worst group.
    """
    learned = _learn(setting, effort)
    row: Row = {**asdict(setting), "gap": learned.gap, "valid": learned.gap >= VALID_GAP}
    if not row["valid"]:
        return row
    shows, evidence = learned.look.shows.ravel(), learned.evidence
    order, found = ravl(evidence)
    orders = {"RaVL": order, "Random": random_order(evidence)}
    for name, (method, _) in BASELINES.items():
        orders[name] = method(evidence, **choices[setting.world].baselines[name])
    row["precision"] = {name: precision_at(own, shows) for name, own in orders.items()}
    suspects = _suspects(learned, found) if len(order) else None
    row["accuracy"] = _mitigated(learned, suspects, choices[setting.world].weight)
    return row


def _suspects(learned: _Learned, found: Findings | None) -> Suspects:
    """Regions to learn from whose nearest medoid is that of the first cluster."""
    if found is None:
        msg = "a ranking comes from findings"
        raise AssertionError(msg)
    _, parts = embedded(learned.model, learned.tuning.learn.pixels, regions=True)
    medoids = learned.evidence.regions.embeddings[found.clustering.medoids]
    nearest, _ = assign(parts.reshape(-1, parts.shape[-1]), medoids)
    spurious = (nearest == np.argmax(found.ranks == 1)).reshape(len(learned.tuning.learn), -1)
    return Suspects(spurious)


def _mitigated(learned: _Learned, suspects: Suspects | None, weight: float) -> Row:
    """Accuracy by method; where nothing was found, every method is plain fine-tuning."""
    models = {"finetune": learned.model, "wise-ft": wise_ft(learned.start, learned.model)}
    for method in METHODS:
        models[method] = learned.model
        if suspects is not None:
            models[method] = fine_tuned(
                learned.start, learned.head, learned.tuning, method, suspects, weight=weight
            )
    told = {}
    for method, model in models.items():
        image, region = accuracy(model, learned.head, learned.measure)
        told[method] = {"image": asdict(image), "region": asdict(region)}
    return told
