"""Images of four quadrants with a planted feature, and how strongly it is tied to a label.

One quadrant shows what the image is of. The feature lies in one or more of the others; in images to
learn from it goes with one label, in images to measure on with none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats.contingency import association

from pipeline.models.boxes import Box

__all__ = ["QUADRANTS", "SIDE", "TILE", "Planted", "World", "compose", "cramers_v", "tied"]

TILE = 16
SIDE = 2 * TILE
"""Width and height of a quadrant and of an image, in pixels."""

QUADRANTS = tuple(Box(x, y, x + 0.5, y + 0.5) for y in (0, 0.5) for x in (0, 0.5))
"""The regions of each image, in shares of its width and height."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Planted:
    """Images and the truth about them.

    Attributes
    ----------
    pixels
        RGB, of shape (images, SIDE, SIDE, 3).
    label
        Of shape (images,).
    has
        Whether the feature is there, of shape (images,).
    core
        The quadrant that shows what the image is of, of shape (images,).
    shows
        Quadrants that show the feature, and not what the image is of: of shape (images, 4).
    """

    pixels: Pixels
    label: Ints
    has: Bools
    core: Ints
    shows: Bools

    def __len__(self) -> int:
        return len(self.label)


class World(Protocol):
    """A kind of images.

    Attributes
    ----------
    classes
        Names of the labels.
    features
        Names of the features that can be planted.
    """

    classes: tuple[str, ...]
    features: tuple[str, ...]

    def draw(
        self, rng: np.random.Generator, label: Ints, has: Bools, feature: str, part: str
    ) -> Planted:
        """Images with given labels, with and without a feature; `part` is `learn` or `measure`."""

    def prompts(self, name: str) -> list[str]:
        """What a class is called in captions."""

    def captioned(self, rng: np.random.Generator) -> tuple[Pixels, list[str]]:
        """Images and captions that a model meets before it is fine-tuned."""


def compose(tiles: Sequence[Pixels]) -> Pixels:
    """One image of four quadrants, row by row; each of shape (TILE, TILE, 3)."""
    rows = [np.concatenate(tiles[at : at + 2], axis=1) for at in (0, 2)]
    return np.concatenate(rows, axis=0)


def cramers_v(label: Ints, has: Bools) -> float:
    """How strongly a feature goes with the labels, 0 to 1."""
    table = np.zeros((label.max() + 1, 2), np.int64)
    np.add.at(table, (label, has.astype(int)), 1)
    return float(association(table, method="cramer"))


def tied(rng: np.random.Generator, label: Ints, to: int, strength: float) -> Bools:
    """Which images have the feature, so that Cramér's V is as close to `strength` as can be.

    As RaVL's authors make their sets: at first all images of one label have the feature and no
    other has; then of every label the same number of images changes sides, until V is no more than
    what is asked for.
    """
    order = rng.permutation(len(label))
    # The place of each image among those of its label, in random order.
    place = np.empty(len(label), np.int64)
    for each in np.unique(label):
        own = order[label[order] == each]
        place[own] = np.arange(len(own))
    for moved in range(len(label)):
        has: Bools = (label == to) ^ (place < moved)
        if cramers_v(label, has) <= strength:
            return has
    msg = f"no set of {len(label)} images has a V of {strength}"
    raise ValueError(msg)
