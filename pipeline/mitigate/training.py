"""One step of fine-tuning after another: the image tower of an open_clip model, on batches.

The text tower stays as it is, so that a label's features are those that the model was scored with;
so do the statistics of batch normalisation. How batches are made is not this module's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import normalize

from pipeline.mitigate.losses import (
    Choices,
    GroupWeights,
    class_loss,
    clip_loss,
    region_losses,
)
from pipeline.models.boxes import Box
from pipeline.models.network import casting
from pipeline.models.pooling import pooled_features

__all__ = ["METHODS", "Batch", "Losses", "Settings", "Trainer", "interpolated"]

METHODS = ("region-aware", "finetune", "upsample", "erm", "gdro")
"""RaVL's second stage; plain fine-tuning, as it is and on groups of equal weight; and with the
classes' cross-entropy besides, of all photos alike and of the worst groups most."""

_WHOLE = Box(0, 0, 1, 1)


@dataclass(frozen=True)
class Settings:
    """How a model is fine-tuned.

    Attributes
    ----------
    method
        One of `METHODS`.
    contrast
        L_CL: `clip`, CLIP's own loss, or `class`, the cross-entropy over all labels, in which
        photos of one class do not repel each other.
    weight
        λ, the share of L_CL beside that of the region-aware losses.
    choices
        What the region-aware losses leave open.
    assign
        Whether regions are spurious by the model as it was (`once`), or by the medoid that is
        nearest to them at each step (`live`).
    learning_rate, weight_decay
        Of AdamW; the learning rate falls to 0 along a cosine.
    steps
        All of them.
    device, precision
        As for scoring.
    """

    method: str = "region-aware"
    contrast: str = "clip"
    weight: float = 0.8
    choices: Choices = field(default_factory=Choices)
    assign: str = "once"
    learning_rate: float = 1e-5
    weight_decay: float = 0.2
    steps: int = 1000
    device: str = "cpu"
    precision: str = "float32"

    @property
    def uses_regions(self) -> bool:
        """Whether regions have a part in the loss."""
        return self.method == "region-aware"


@dataclass(frozen=True)
class Batch:
    """Images of a step.

    Attributes
    ----------
    images
        Of shape (images, 3, H, W).
    label, group
        Of shape (images,).
    regions
        The regions as images, of shape (regions, 3, H, W), or the parts of each image, in shares of
        its width and height, to be pooled over its feature map; None where they have no part.
    image, spurious
        Image of each region and whether it is spurious, of shape (regions,).
    """

    images: torch.Tensor
    label: torch.Tensor
    group: torch.Tensor
    regions: torch.Tensor | Sequence[Sequence[Box]] | None = None
    image: torch.Tensor | None = None
    spurious: torch.Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """Losses of a step; those that have no part in it are 0."""

    total: float
    contrast: float
    regions: float = 0.0
    labels: float = 0.0
    classes: float = 0.0


class Trainer:
    """A model on its way.

    Parameters
    ----------
    network
        The open_clip network; its image tower is changed in place.
    head
        Text features of all labels, of unit length, of shape (labels, d).
    settings
        How it is trained.
    groups
        How many groups there are.
    medoids
        For `assign="live"`: embeddings of all medoids, of shape (clusters, d), and the spurious
        ones' numbers.
    """

    def __init__(
        self,
        network: Any,
        head: torch.Tensor,
        settings: Settings,
        groups: int,
        *,
        medoids: tuple[torch.Tensor, Sequence[int]] | None = None,
    ) -> None:
        self._device = torch.device(settings.device)
        self._network = network.to(self._device).eval()
        self._head = head.to(self._device)
        self._settings = settings
        self._medoids = medoids
        self._groups = GroupWeights(groups)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        # What has no gradient at the moment a loss is computed stays as it is.
        learned = [p.requires_grad_(True) for p in network.visual.parameters()]
        self._optimiser = torch.optim.AdamW(
            learned, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimiser, max(settings.steps, 1)
        )

    @property
    def _scale(self) -> torch.Tensor:
        scale: torch.Tensor = self._network.logit_scale.exp()
        return scale

    def step(self, batch: Batch) -> Losses:
        """Learn from a batch."""
        total, told = self._loss(batch)
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        self._optimiser.step()
        self._schedule.step()
        return told

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, Losses]:
        settings = self._settings
        label = batch.label.to(self._device)
        features, regions = self._features(batch)
        by_class = class_loss(features, self._head, label, self._scale)
        if settings.contrast == "class":
            contrast = by_class.mean()
        else:
            contrast = clip_loss(features, self._head[label], self._scale)
        if regions is not None:
            image, spurious = self._assigned(batch, regions)
            pair = region_losses(regions @ self._head.T, image, spurious, label, settings.choices)
            total = settings.weight * contrast + (1 - settings.weight) * sum(pair)
            told = (each.item() for each in pair)
            return total, Losses(total.item(), contrast.item(), *told)
        if settings.method in {"erm", "gdro"}:
            group = batch.group.to(self._device)
            more = by_class.mean() if settings.method == "erm" else self._groups(by_class, group)
            total = contrast + more
            return total, Losses(total.item(), contrast.item(), classes=more.item())
        return contrast, Losses(contrast.item(), contrast.item())

    def _features(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of unit length: those of the images, and those of their regions."""
        images = batch.images.to(self._device, non_blocking=True)
        network = self._network
        with casting(self._device, self._settings.precision):
            if not self._settings.uses_regions:
                return normalize(network.encode_image(images).float(), dim=-1), None
            if isinstance(batch.regions, torch.Tensor):
                regions = network.encode_image(batch.regions.to(self._device, non_blocking=True))
                whole = network.encode_image(images)
            else:
                parts = [[_WHOLE, *own] for own in batch.regions or ()]
                every = pooled_features(network.visual, images, parts)
                first = torch.zeros(len(every), dtype=torch.bool, device=every.device)
                first[_starts(parts)] = True
                whole, regions = every[first], every[~first]
        return normalize(whole.float(), dim=-1), normalize(regions.float(), dim=-1)

    def _assigned(self, batch: Batch, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image of each region, and whether it is spurious."""
        if batch.image is None or batch.spurious is None:
            msg = "a batch with regions says whose they are"
            raise AssertionError(msg)
        spurious = batch.spurious.to(self._device)
        if self._settings.assign == "live" and self._medoids is not None:
            medoids, bad = self._medoids
            nearest = (regions.detach() @ medoids.to(self._device).T).argmax(dim=1)
            spurious = torch.isin(nearest, torch.tensor(list(bad), device=self._device))
        return batch.image.to(self._device), spurious

    def state(self) -> dict[str, Any]:
        """What a later `restore` goes on from: tensors and plain values."""
        return {
            "tower": self._network.visual.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "groups": self._groups.weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._network.visual.load_state_dict(state["tower"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._groups.weights = state["groups"]


def _starts(parts: Sequence[Sequence[Box]]) -> list[int]:
    """Where the parts of each image begin among those of all images."""
    starts, at = [], 0
    for own in parts:
        starts.append(at)
        at += len(own)
    return starts


def interpolated(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Weights between two models (Wortsman et al., CVPR 2022): `share` of `after`, 0 to 1."""
    return {
        name: value if not value.is_floating_point() else torch.lerp(before[name], value, share)
        for name, value in after.items()
    }
