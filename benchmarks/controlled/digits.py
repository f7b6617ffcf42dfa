"""Digits in one quadrant of a black image, a coloured rectangle in another.

As released by RaVL's authors (Varma et al., NeurIPS 2024), with the 1,797 digits of scikit-learn
in place of MNIST's. Those of one half are learned from, those of the other measured on.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from .planted import SIDE, TILE, Bools, Ints, Pixels, Planted, compose

__all__ = ["Digits"]

_COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 200, 0),
    "blue": (40, 60, 255),
    "yellow": (240, 220, 0),
    "purple": (170, 0, 190),
    "orange": (255, 140, 0),
}
_BRIGHTNESS = 0.3
"""Of digits beside rectangles, so that these are learned first."""
_RECTANGLES = 600
_KNOWN = 6
"""Digits of each class that a model meets before it is fine-tuned: so few that it hardly knows
them. A model that knows digits well learns no tie."""


class Digits:
    """The world of digits."""

    classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    features = ("red",)

    @cached_property
    def _tiles(self) -> tuple[Pixels, Ints]:
        """All digits, of shape (digits, TILE, TILE, 3), and their classes."""
        found = load_digits()
        tiles = []
        for image in found.images:
            small = Image.fromarray((image * (_BRIGHTNESS * 255 / 16)).astype(np.uint8))
            large = np.asarray(small.resize((TILE, TILE), Image.Resampling.BICUBIC))
            tiles.append(large[..., None].repeat(3, axis=2))
        return np.stack(tiles), found.target.astype(np.int64)

    def _digit(self, rng: np.random.Generator, label: int, learn: bool) -> Pixels:
        """A digit of one of the halves."""
        tiles, of = self._tiles
        own = np.flatnonzero((of == label) & (np.arange(len(of)) % 2 == (not learn)))
        return tiles[rng.choice(own)]

    def prompts(self, name: str) -> list[str]:
        """As in the authors' captions."""
        return [f"a photo of the number {name}", f"the digit {name}"]

    def draw(
        self, rng: np.random.Generator, label: Ints, has: Bools, feature: str, part: str
    ) -> Planted:
        """A digit in a quadrant drawn for each image; the rectangle in another."""
        pixels = np.zeros((len(label), SIDE, SIDE, 3), np.uint8)
        places = np.argsort(rng.random((len(label), 4)), axis=1)
        shows = np.zeros((len(label), 4), bool)
        for at, (own, with_it) in enumerate(zip(label.tolist(), has.tolist(), strict=True)):
            quadrants = [_black()] * 4
            quadrants[places[at, 0]] = self._digit(rng, own, part == "learn")
            if with_it:
                quadrants[places[at, 1]] = _rectangle(rng, feature)
                shows[at, places[at, 1]] = True
            pixels[at] = compose(quadrants)
        return Planted(pixels, label, has, places[:, 0], shows)

    def captioned(self, rng: np.random.Generator) -> tuple[Pixels, list[str]]:
        """Rectangles of all colours, and a few digits, each alone in its image."""
        images, captions = [], []
        for _ in range(_RECTANGLES):
            colour = rng.choice(list(_COLOURS))
            images.append(_alone(rng, _rectangle(rng, colour)))
            captions.append(f"a {colour} rectangle")
        for label, name in enumerate(self.classes):
            for _ in range(_KNOWN):
                images.append(_alone(rng, self._digit(rng, label, True)))
                captions.append(str(rng.choice(self.prompts(name))))
        return np.stack(images), captions


def _black() -> Pixels:
    return np.zeros((TILE, TILE, 3), np.uint8)


def _rectangle(rng: np.random.Generator, colour: str) -> Pixels:
    tile = _black()
    height, width = rng.integers(5, 12, 2)
    top, left = rng.integers(1, TILE - 1 - np.array([height, width]), endpoint=True)
    tile[top : top + height, left : left + width] = _COLOURS[colour]
    return tile


def _alone(rng: np.random.Generator, tile: Pixels) -> Pixels:
    quadrants = [_black()] * 4
    quadrants[rng.integers(4)] = tile
    return compose(quadrants)
