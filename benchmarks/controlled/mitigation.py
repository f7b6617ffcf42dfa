"""Fine-tuning of a small model: as it comes, and by each method that trains a tie away.

All have the same number of steps, and the same learning rates to choose from by their accuracy on
images like those that they learn from, where the tie still holds. No method is told what was
planted: groups and regions are those of the cluster that was found.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.mitigate.training import Batch, Settings, Trainer, interpolated

from .models import embedded, tensors
from .planted import QUADRANTS, Planted

__all__ = [
    "METHODS",
    "WEIGHTS",
    "Accuracy",
    "Suspects",
    "Tuning",
    "accuracy",
    "fine_tuned",
    "wise_ft",
]

METHODS = ("region-aware", "upsample", "erm", "gdro")
"""Beside plain fine-tuning."""

WEIGHTS = (0.8, 0.4, 0.1)
"""Shares λ of the contrastive loss beside the region-aware ones; 0.8 is the one reported."""

_BATCH = 100
_SETTINGS = Settings()
_SMALLEST_GROUP = 10
_WISE_FT = 0.5

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Suspects:
    """Regions of the images to learn from that are in the cluster that was found: (images, 4)."""

    spurious: Bools

    def groups(self, planted: Planted) -> NDArray[np.int64]:
        """Labels with and without such a region."""
        return planted.label * 2 + self.spurious.any(axis=1)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy, of images or of the quadrants that show what they are of.

    Attributes
    ----------
    overall, worst
        Of all; and of the worst group, a label with or without the feature, of 10 images at least.
    """

    overall: float
    worst: float


def _said(features: NDArray[np.float32], head: torch.Tensor) -> NDArray[np.int64]:
    said: NDArray[np.int64] = (features @ head.numpy().T).argmax(axis=-1)
    return said


def accuracy(model: Any, head: torch.Tensor, planted: Planted) -> tuple[Accuracy, Accuracy]:
    """Of images, and of their core quadrants."""
    whole, parts = embedded(model, planted.pixels, regions=True)
    core = parts[np.arange(len(planted)), planted.core]
    group = planted.label * 2 + planted.has
    counts = np.bincount(group)
    found = []
    for features in (whole, core):
        right = _said(features, head) == planted.label
        by_group = np.bincount(group, right) / counts.clip(min=1)
        found.append(
            Accuracy(float(right.mean()), float(by_group[counts >= _SMALLEST_GROUP].min()))
        )
    return found[0], found[1]


@dataclass(frozen=True)
class Tuning:
    """What a model is fine-tuned on, and how; the same for every method.

    Attributes
    ----------
    learn, held_back
        Images to learn from, and to choose a learning rate by.
    epochs, rates, seed
        Passes over the images, learning rates to choose from, and what decides their order.
    """

    learn: Planted
    held_back: Planted
    epochs: int
    rates: tuple[float, ...]
    seed: int


def fine_tuned(
    start: Any,
    head: torch.Tensor,
    tuning: Tuning,
    method: str,
    suspects: Suspects | None = None,
    *,
    weight: float = WEIGHTS[0],
) -> Any:
    """The model of the learning rate that is best on the images that were held back."""
    held_back, best, found = tuning.held_back, -1.0, None
    for rate in tuning.rates:
        made = replace(_SETTINGS, method=method, learning_rate=rate, weight=weight)
        model = _trained(start, head, tuning, made, suspects)
        features, _ = embedded(model, held_back.pixels, regions=False)
        right = float((_said(features, head) == held_back.label).mean())
        if right > best:
            best, found = right, model
    return found


def _trained(
    start: Any,
    head: torch.Tensor,
    tuning: Tuning,
    settings: Settings,
    suspects: Suspects | None,
) -> Any:
    rng = np.random.default_rng(tuning.seed)
    model, learn = copy.deepcopy(start), tuning.learn
    images, label = tensors(learn.pixels), torch.from_numpy(learn.label)
    group = label * 0 if suspects is None else torch.from_numpy(suspects.groups(learn))
    steps = len(learn) // _BATCH
    settings = replace(settings, steps=steps * tuning.epochs)
    trainer = Trainer(model, head, settings, int(group.max()) + 1)
    for _ in range(tuning.epochs):
        order = rng.permutation(len(learn))
        if settings.method == "upsample":
            weights = 1 / torch.bincount(group)[group].double()
            order = rng.choice(len(learn), len(learn), p=(weights / weights.sum()).numpy())
        for batch in torch.from_numpy(order)[: steps * _BATCH].split(_BATCH):
            own: dict[str, Any] = {}
            if settings.uses_regions and suspects is not None:
                own = {
                    "regions": [QUADRANTS] * len(batch),
                    "image": torch.arange(len(batch)).repeat_interleave(len(QUADRANTS)),
                    "spurious": torch.from_numpy(suspects.spurious[batch.numpy()]).flatten(),
                }
            trainer.step(Batch(images[batch], label[batch], group[batch], **own))
    return model


def wise_ft(start: Any, tuned: Any) -> Any:
    """Half way between a model and what became of it (Wortsman et al., CVPR 2022)."""
    model = copy.deepcopy(tuned)
    model.load_state_dict(interpolated(start.state_dict(), tuned.state_dict(), _WISE_FT))
    return model
