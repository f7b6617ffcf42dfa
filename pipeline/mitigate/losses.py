"""Losses of fine-tuning: the region-aware ones of RaVL, and those of its baselines.

RaVL (Varma et al., NeurIPS 2024, section 4) has not published its second stage. The losses here
follow a later public re-implementation that cites the paper's equations; where it leaves something
open, `Choices` names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

__all__ = ["Choices", "GroupWeights", "class_loss", "clip_loss", "region_losses"]


@dataclass(frozen=True)
class Choices:
    """What the region-aware losses leave open.

    Attributes
    ----------
    temperature
        Of the cosines between regions and labels.
    candidates
        The labels y_j in a batch B: each once (`distinct`), or one for each image (`multiset`).
    reduction
        Whether the losses of images are averaged (`mean`) or summed (`sum`).
    all_spurious
        Images whose regions are all spurious have no loss (`skip`), or keep all their regions as
        relevant ones (`relevant`).
    spurious_gradient
        Whether spurious regions are pushed away from labels, or only stand as negatives.
    """

    temperature: float = 0.07
    candidates: str = "distinct"
    reduction: str = "mean"
    all_spurious: str = "skip"
    spurious_gradient: bool = True


def region_losses(
    cosines: torch.Tensor,
    image: torch.Tensor,
    spurious: torch.Tensor,
    label: torch.Tensor,
    choices: Choices,
) -> tuple[torch.Tensor, torch.Tensor]:
    """L_R and L_A of a batch: from regions to labels, and from labels to regions.

    L_R asks that the relevant regions of an image pick its label, and that spurious regions pick
    none (equations 3, 5 and 6); L_A that a label picks regions of its own images, against those of
    images with other labels and against all spurious ones (equations 4 and 9). A set of regions
    counts by the region that fits best.

    Parameters
    ----------
    cosines
        Between regions and the features of all labels, of shape (regions, labels).
    image
        Image of each region, of shape (regions,), counted from 0.
    spurious
        Whether each is in a spurious cluster, of shape (regions,).
    label
        Label of each image, of shape (images,).
    choices
        What is left open.

    Returns
    -------
    tuple
        Two scalars; 0 where no image has a relevant region.
    """
    if choices.all_spurious == "relevant":
        spurious = spurious & _has(~spurious, image, len(label))[image]
    scaled = cosines / choices.temperature
    if not choices.spurious_gradient:
        scaled = torch.where(spurious[:, None], scaled.detach(), scaled)
    known = _has(~spurious, image, len(label))
    if not known.any():
        return cosines.sum() * 0, cosines.sum() * 0
    best = _best(scaled[~spurious], image[~spurious], len(label))
    labels = label if choices.candidates == "multiset" else label.unique()
    own = best[torch.arange(len(label), device=label.device), label]
    bad = scaled[spurious][:, label]
    rows = known.nonzero()[:, 0]

    picked_by_none = bad.max(dim=1).values.expand(len(rows), -1)
    to_labels = torch.cat([best[rows][:, labels], picked_by_none], dim=1)

    others = (label[rows, None] != label) & known
    rivals = best[:, label[rows]].T.masked_fill(~others, -torch.inf)
    to_regions = torch.cat([own[rows, None], rivals, bad.T[rows]], dim=1)

    losses = (every.logsumexp(dim=1) - own[rows] for every in (to_labels, to_regions))
    first, second = (loss.sum() if choices.reduction == "sum" else loss.mean() for loss in losses)
    return first, second


def _has(chosen: torch.Tensor, image: torch.Tensor, images: int) -> torch.Tensor:
    """Which images have a chosen region."""
    has = torch.zeros(images, dtype=torch.bool, device=image.device)
    has[image[chosen]] = True
    return has


def _best(scaled: torch.Tensor, image: torch.Tensor, images: int) -> torch.Tensor:
    """The largest value of each image's regions for each label, of shape (images, labels)."""
    lowest = scaled.new_full((images, scaled.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, image[:, None].expand_as(scaled), scaled, "amax")


def clip_loss(features: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's own loss of images and their captions (Radford et al., 2021, figure 3).

    Parameters
    ----------
    features, text
        Of unit length, of shape (images, d).
    scale
        What cosines are multiplied by.
    """
    from open_clip import ClipLoss

    found: torch.Tensor = ClipLoss()(features, text, scale)
    return found


def class_loss(
    features: torch.Tensor, head: torch.Tensor, label: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of each image over all labels, of shape (images,).

    Parameters
    ----------
    features, head
        Of unit length, of shapes (images, d) and (labels, d).
    label
        Of shape (images,).
    scale
        What cosines are multiplied by.
    """
    return functional.cross_entropy(scale * features @ head.T, label, reduction="none")


class GroupWeights:
    """Weights of groups that rise with their loss (Sagawa et al., ICLR 2020, algorithm 1).

    Parameters
    ----------
    groups
        How many there are.
    step
        Size of a step of the exponentiated gradient.
    """

    def __init__(self, groups: int, step: float = 0.01) -> None:
        self.weights = torch.full((groups,), 1 / groups)
        self._step = step

    def __call__(self, losses: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        """The weighted loss of a batch; moves the weights.

        Parameters
        ----------
        losses, group
            Of each image, of shape (images,).
        """
        weights = self.weights.to(losses.device)
        counts = torch.bincount(group, minlength=len(weights))
        means = losses.new_zeros(len(weights)).index_add(0, group, losses) / counts.clamp(min=1)
        weights = weights * torch.exp(self._step * means.detach())
        weights = weights / weights.sum()
        self.weights = weights.cpu()
        return (weights * means).sum()
