"""Where models stand between common and counter accuracy, on logit axes.

Given the paper's published results and the accuracy of this workspace's runs, gives the points and
the line of the effective-robustness plot.

Source: Taori et al., "Measuring robustness to natural distribution shifts in image classification"
(NeurIPS 2020): models on one line differ in accuracy only, and the height above it is what they
are more robust.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from manifests.metrics import SplitAccuracy
from manifests.vocabulary import read_reference

__all__ = ["Line", "Point", "baseline", "logit", "published", "stands"]

_TABLES = {"3": "clip", "4": "imagenet"}
"""Published tables with one prompt and all of ImageNet's classes, and the family they are of."""


@dataclass(frozen=True)
class Point:
    """A model: whose (`clip`, `imagenet` or `here`), and its accuracy in the two groups."""

    name: str
    kind: str
    common: float
    counter: float


@dataclass(frozen=True)
class Line:
    """Counter accuracy as a linear function of common accuracy, both as logits."""

    intercept: float
    slope: float


def logit(share: float) -> float:
    """Log odds of an accuracy; of 0 and 1, those of half a per mille from there."""
    clipped = min(max(share, 0.0005), 0.9995)
    return float(np.log(clipped / (1 - clipped)))


def published() -> tuple[Point, ...]:
    """The paper's models, on the paper's photos."""
    return tuple(
        Point(
            f"{row['backbone']} {row['pretrained']}".strip(),
            _TABLES[row["table"]],
            float(row["common"]),
            float(row["counter"]),
        )
        for row in read_reference("counteranimal_results")
        if row["table"] in _TABLES
    )


def baseline(points: tuple[Point, ...]) -> Line:
    """The least-squares line through the models trained on ImageNet."""
    fitted = [point for point in points if point.kind == "imagenet"]
    slope, intercept = np.polyfit(
        [logit(point.common) for point in fitted], [logit(point.counter) for point in fitted], 1
    )
    return Line(float(intercept), float(slope))


def stands(accuracies: Mapping[str, SplitAccuracy]) -> tuple[Point, ...]:
    """The runs of this workspace, by name."""
    return tuple(
        Point(run, "here", found.groups["common"].accuracy, found.groups["counter"].accuracy)
        for run, found in accuracies.items()
        if found.drop is not None
    )
