"""Toy animals in one quadrant, and one background in the three others.

Drawn as the photos of `cap demo`; what is planted is one of the backgrounds. The animal itself
stands on any of them, so that what an image is of and what is planted lie in different regions.
Tiles are drawn once, some to be learned from and others to be measured on.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from PIL import Image

from pipeline.demo.drawing import SCENERIES, draw_photo

from .planted import TILE, Bools, Ints, Pixels, Planted, compose

__all__ = ["Animals"]

_LOOKS = {
    "polar bear": ("bear", 0.1),
    "brown bear": ("bear", 0.9),
    "blue crab": ("crab", 0.1),
    "red crab": ("crab", 0.9),
    "yellow butterfly": ("butterfly", 0.1),
    "turquoise butterfly": ("butterfly", 0.9),
}
"""Family and mark of each animal."""

_SPREAD = 0.15
"""Of the marks of an animal: look-alikes hardly overlap."""
_ANIMALS, _PLACES = 30, 600
"""Tiles of each animal on each background, and of each background, for each part."""
_SCENES = 1_800
_KNOWN = 25


class Animals:
    """The world of toy animals."""

    classes = tuple(_LOOKS)
    features = tuple(SCENERIES)

    @cached_property
    def _tiles(self) -> dict[str, tuple[dict[tuple[int, str], Pixels], dict[str, Pixels]]]:
        """Animals by class and background, and empty backgrounds, for each part."""
        found = {}
        for number, part in enumerate(("learn", "measure")):
            rng = np.random.default_rng([28, number])
            animals = {
                (label, scene): np.stack(
                    [_small(self._photo(rng, label, scene)) for _ in range(_ANIMALS)]
                )
                for label in range(len(self.classes))
                for scene in SCENERIES
            }
            places = {
                scene: np.stack([_small(paint(rng)) for _ in range(_PLACES)])
                for scene, paint in SCENERIES.items()
            }
            found[part] = animals, places
        return found

    def _photo(self, rng: np.random.Generator, label: int, scene: str) -> Image.Image:
        family, mark = _LOOKS[self.classes[label]]
        moved = float(np.clip(rng.normal(mark, _SPREAD), 0, 1))
        return draw_photo(rng, family, scene, moved)

    def prompts(self, name: str) -> list[str]:
        """Two captions."""
        return [f"a photo of a {name}", f"the animal is a {name}"]

    def draw(
        self, rng: np.random.Generator, label: Ints, has: Bools, feature: str, part: str
    ) -> Planted:
        """An animal in a quadrant drawn for each image; other images show any other background."""
        others = [scene for scene in SCENERIES if scene != feature]
        scenes = [feature if own else str(rng.choice(others)) for own in has.tolist()]
        core = rng.integers(0, 4, len(label))
        pixels = np.stack(
            [
                self._image(rng, part, own, scene, at)
                for own, scene, at in zip(label.tolist(), scenes, core.tolist(), strict=True)
            ]
        )
        shows = has[:, None] & (np.arange(4) != core[:, None])
        return Planted(pixels, label, has, core, shows)

    def _image(
        self, rng: np.random.Generator, part: str, label: int | None, scene: str, core: int = 0
    ) -> Pixels:
        animals, places = self._tiles[part]
        quadrants = list(places[scene][rng.integers(0, _PLACES, 4)])
        if label is not None:
            ground = str(rng.choice(self.features))
            quadrants[core] = animals[label, ground][rng.integers(0, _ANIMALS)]
        return compose(quadrants)

    def captioned(self, rng: np.random.Generator) -> tuple[Pixels, list[str]]:
        """Backgrounds alone, and a few animals."""
        images, captions = [], []
        for _ in range(_SCENES):
            scene = str(rng.choice(self.features))
            images.append(self._image(rng, "learn", None, scene))
            captions.append(f"a photo of {scene}")
        for label, name in enumerate(self.classes):
            for _ in range(_KNOWN):
                scene = str(rng.choice(self.features))
                images.append(self._image(rng, "learn", label, scene, int(rng.integers(4))))
                captions.append(str(rng.choice(self.prompts(name))))
        return np.stack(images), captions


def _small(photo: Image.Image) -> Pixels:
    return np.asarray(photo.resize((TILE, TILE), Image.Resampling.BOX))
