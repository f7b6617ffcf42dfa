"""Toy photos, drawn: six animals in three families of look-alikes, on five backgrounds.

Given a random generator, a species, a background and where the animal's mark lies, it gives back
one photo. Nothing here knows about classes that a model confuses or about training; `render.py`
decides what is drawn how often. Colours are RGB, 0..255; lengths inside an animal are fractions of
its canvas.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

__all__ = ["ANIMALS", "SCENERIES", "SIDE", "draw_photo"]

SIDE = 128
"""Width and height of a photo, in pixels."""

_CANVAS = 192  # an animal is drawn larger than it is shown, so that its edges come out smooth

Colour = tuple[int, int, int]
Scenery = Callable[[np.random.Generator], Image.Image]


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` of the way from `first` to `second`."""
    mixed = [round(a + (b - a) * share) for a, b in zip(first, second, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour of the hue circle; `hue` in turns."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _jitter(rng: np.random.Generator, colour: Colour) -> Colour:
    """A colour like the given one: a little lighter or darker, and hardly another hue."""
    moved = np.asarray(colour) + rng.normal(0, 8) + rng.normal(0, 3, 3)
    kept = np.clip(moved, 0, 255).astype(int).tolist()
    return kept[0], kept[1], kept[2]


def _mottled(
    rng: np.random.Generator, dark: Colour, light: Colour, cells: tuple[int, int]
) -> NDArray[np.float32]:
    """Soft patches between two colours, shape (SIDE, SIDE, 3).

    The patches are few and large (`cells` across and down), which makes each photo's lowest
    frequencies its own: perceptual hashes read nothing else, and photos of one plain background
    would all hash alike.
    """
    coarse = rng.random((cells[1], cells[0]), dtype=np.float32)
    smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(smooth), 0, 1)[..., None]
    low, high = (np.asarray(_jitter(rng, end), np.float32) for end in (dark, light))
    # Light falls in from one side.
    slope = np.linspace(-0.18, 0.18, SIDE, dtype=np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    lit = 1 + slope[None, :, None] * math.cos(angle) + slope[:, None, None] * math.sin(angle)
    grain = 4 * rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    return np.asarray((low + (high - low) * share) * lit + grain, dtype=np.float32)


def _as_image(pixels: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _wave(rng: np.random.Generator, y: float, height: float, length: float) -> list[float]:
    """A wavy line across the photo as x0, y0, x1, y1, …"""
    x = np.arange(-4, SIDE + 8, 4)
    phase, tilt = rng.uniform(0, 2 * math.pi), rng.uniform(-0.12, 0.12)
    line = y + tilt * x + height * np.sin(2 * math.pi * x / length + phase)
    return np.stack([x, line], axis=1).ravel().tolist()


def _grass(rng: np.random.Generator) -> Image.Image:
    photo = _as_image(_mottled(rng, (38, 92, 30), (126, 180, 70), (6, 6)))
    draw = ImageDraw.Draw(photo)
    for x, y, lean, length, shade in rng.random((110, 5)).tolist():
        root = (x * SIDE * 1.1, y * SIDE * 1.15)
        tip = (root[0] + (lean - 0.5) * 12, root[1] - 5 - 9 * length)
        draw.line([root, tip], fill=_mix((30, 84, 26), (166, 206, 92), shade), width=1)
    for x, y, kind in rng.random((int(rng.integers(3, 9)), 3)).tolist():
        left, top = x * SIDE, y * SIDE
        petal = (250, 244, 240) if kind < 0.5 else (246, 214, 70)
        draw.ellipse([left, top, left + 4, top + 4], fill=petal)
        draw.point((left + 2, top + 2), fill=(236, 160, 40))
    return photo


def _snow(rng: np.random.Generator) -> Image.Image:
    photo = _as_image(_mottled(rng, (138, 168, 208), (255, 255, 255), (4, 5)))
    draw = ImageDraw.Draw(photo)
    for y in np.sort(rng.uniform(0, SIDE, 3)).tolist():
        crest = _wave(rng, y, rng.uniform(2, 6), rng.uniform(60, 140))
        draw.line(crest, fill=(176, 198, 226), width=2)
        lit = [value - 2 * (index % 2) for index, value in enumerate(crest)]
        draw.line(lit, fill=(255, 255, 255), width=1)
    for x, y in (rng.random((26, 2)) * SIDE).tolist():
        draw.ellipse([x, y, x + 1.4, y + 1.4], fill=(255, 255, 255))
    return photo


def _water(rng: np.random.Generator) -> Image.Image:
    photo = _as_image(_mottled(rng, (14, 66, 122), (66, 150, 196), (4, 8)))
    draw = ImageDraw.Draw(photo)
    for x, y, length, shade in rng.random((34, 4)).tolist():
        left, top = x * SIDE * 1.1 - 8, y * SIDE
        box = [left, top, left + 8 + 16 * length, top + 5]
        draw.arc(box, 200, 340, fill=_mix((90, 170, 212), (216, 238, 248), shade), width=1)
    return photo


def _sand(rng: np.random.Generator) -> Image.Image:
    photo = _as_image(_mottled(rng, (160, 116, 66), (250, 224, 168), (4, 5)))
    draw = ImageDraw.Draw(photo)
    length = rng.uniform(40, 90)
    for y in np.arange(rng.uniform(0, 14), SIDE + 10, rng.uniform(11, 16)).tolist():
        ripple = _wave(rng, y, rng.uniform(1.5, 4), length)
        draw.line(ripple, fill=(174, 134, 82), width=1)
        draw.line([v + 1.5 * (i % 2) for i, v in enumerate(ripple)], fill=(252, 232, 184), width=1)
    for x, y, size in rng.random((7, 3)).tolist():
        left, top, across = x * SIDE, y * SIDE, 1.5 + 3 * size
        draw.ellipse([left, top, left + across, top + across * 0.8], fill=(142, 110, 78))
    return photo


def _rock(rng: np.random.Generator) -> Image.Image:
    photo = _as_image(_mottled(rng, (72, 74, 80), (170, 168, 166), (6, 6)))
    draw = ImageDraw.Draw(photo)
    for _ in range(int(rng.integers(4, 8))):
        steps = rng.normal(0, 11, (7, 2)) + rng.normal(0, 13, 2)
        crack = (rng.uniform(0, SIDE, 2) + np.cumsum(steps, axis=0)).ravel().tolist()
        draw.line([value + 1 for value in crack], fill=(196, 194, 190), width=1)
        draw.line(crack, fill=(46, 46, 52), width=2)
    for x, y, size in rng.random((8, 3)).tolist():
        left, top, across = x * SIDE, y * SIDE, 2 + 6 * size
        draw.ellipse([left, top, left + across, top + across * 0.7], fill=(150, 158, 120))
    return photo


SCENERIES: dict[str, Scenery] = {
    "grass": _grass,
    "snow": _snow,
    "water": _water,
    "sand": _sand,
    "rock": _rock,
}
"""How each background is drawn; the names are among the 14 background labels."""


class _Pen:
    """Draws shapes given in fractions of the animal's canvas, with a dark outline."""

    def __init__(self, outline: Colour) -> None:
        self.image = Image.new("RGBA", (_CANVAS, _CANVAS))
        self._draw = ImageDraw.Draw(self.image)
        self.outline = outline

    def oval(self, at: tuple[float, float], size: tuple[float, float], fill: Colour) -> None:
        """An upright ellipse around `at` with half-axes `size`."""
        (x, y), (a, b) = at, size
        box = [(x - a) * _CANVAS, (y - b) * _CANVAS, (x + a) * _CANVAS, (y + b) * _CANVAS]
        self._draw.ellipse(box, fill=fill, outline=self.outline, width=3)

    def shape(self, corners: list[tuple[float, float]], fill: Colour) -> None:
        """A polygon."""
        points = [(x * _CANVAS, y * _CANVAS) for x, y in corners]
        self._draw.polygon(points, fill=fill)
        self._draw.line([*points, points[0]], fill=self.outline, width=3, joint="curve")

    def line(self, corners: list[tuple[float, float]], fill: Colour, width: float) -> None:
        """A line of the given width."""
        points = [(x * _CANVAS, y * _CANVAS) for x, y in corners]
        self._draw.line(points, fill=fill, width=round(width * _CANVAS), joint="curve")

    def dot(self, at: tuple[float, float], radius: float, fill: Colour) -> None:
        """A small disc without an outline."""
        (x, y), r = at, radius
        box = [(x - r) * _CANVAS, (y - r) * _CANVAS, (x + r) * _CANVAS, (y + r) * _CANVAS]
        self._draw.ellipse(box, fill=fill)


def _bear(mark: float, rng: np.random.Generator) -> Image.Image:
    """A bear from the side; the mark is its fur, from cream to dark brown."""
    cream, tan, brown = (248, 240, 220), (184, 134, 84), (84, 50, 28)
    fur = _mix(cream, tan, mark * 2) if mark < 0.5 else _mix(tan, brown, mark * 2 - 1)
    shade, dark = _mix(fur, (30, 20, 14), 0.25), (36, 26, 22)
    stride = float(rng.uniform(-0.03, 0.03))
    pen = _Pen(_mix(fur, dark, 0.75))
    for x in (0.30 - stride, 0.70 + stride):
        pen.shape([(x, 0.55), (x + 0.11, 0.55), (x + 0.11, 0.84), (x - 0.02, 0.84)], shade)
    pen.oval((0.08, 0.47), (0.035, 0.035), fur)
    pen.oval((0.44, 0.52), (0.36, 0.215), fur)
    for x in (0.17 + stride, 0.58 - stride):
        pen.shape([(x, 0.58), (x + 0.13, 0.58), (x + 0.13, 0.87), (x - 0.02, 0.87)], fur)
    for x in (0.69, 0.83):
        pen.oval((x, 0.245), (0.05, 0.05), fur)
    pen.oval((0.76, 0.36), (0.155, 0.14), fur)
    pen.oval((0.875, 0.41), (0.085, 0.062), _mix(fur, (255, 255, 255), 0.35))
    pen.dot((0.935, 0.385), 0.028, dark)
    pen.dot((0.79, 0.33), 0.02, dark)
    return pen.image


def _crab(mark: float, rng: np.random.Generator) -> Image.Image:
    """A crab from above; the mark is its shell, from blue through purple to red."""
    shell = _hsv(0.60 + mark * 0.41, 0.78, 0.86)
    dark, reach = (30, 22, 34), float(rng.uniform(-0.03, 0.03))
    limb = _mix(shell, dark, 0.3)
    pen = _Pen(_mix(shell, dark, 0.72))
    for side in (-1, 1):
        for knee, foot in ((0.42, 0.34), (0.52, 0.52), (0.61, 0.70), (0.70, 0.85)):
            joint = (0.5 + side * (0.36 + reach / 2), knee)
            pen.line([(0.5 + side * 0.2, 0.55), joint, (0.5 + side * 0.46, foot)], limb, 0.035)
        pen.line([(0.5 + side * 0.2, 0.47), (0.5 + side * (0.33 + reach), 0.3)], limb, 0.06)
        claw = (0.5 + side * (0.31 + reach), 0.2)
        pen.oval(claw, (0.115, 0.135), shell)
        notch = [(claw[0], claw[1]), (claw[0] - side * 0.1, 0.03), (claw[0] + side * 0.01, 0.03)]
        pen.shape(notch, dark)
        pen.line([(0.5 + side * 0.08, 0.44), (0.5 + side * 0.09, 0.33)], limb, 0.025)
        pen.dot((0.5 + side * 0.09, 0.32), 0.035, dark)
    pen.oval((0.5, 0.58), (0.30, 0.2), shell)
    pen.oval((0.5, 0.53), (0.17, 0.07), _mix(shell, (255, 255, 255), 0.3))
    return pen.image


def _wing(side: int, angle: float, size: tuple[float, float]) -> list[tuple[float, float]]:
    """Corners of a wing that grows from the body at `angle` (radians, 0 points outwards)."""
    corners = []
    for turn in np.linspace(0, 2 * math.pi, 25)[:-1].tolist():
        x, y = size[0] * (1 + math.cos(turn)), size[1] * math.sin(turn)
        out = x * math.cos(angle) - y * math.sin(angle)
        corners.append((0.5 + side * (0.01 + out), 0.5 + x * math.sin(angle) + y * math.cos(angle)))
    return corners


def _butterfly(mark: float, rng: np.random.Generator) -> Image.Image:
    """A butterfly from above; the mark is its wings, from yellow through green to turquoise."""
    wing = _hsv(0.14 + mark * 0.36, 0.75, 0.97 - 0.12 * mark)
    dark, spread = (34, 24, 30), float(rng.uniform(-0.12, 0.12))
    pen = _Pen(_mix(wing, dark, 0.8))
    for side in (-1, 1):
        pen.shape(_wing(side, 0.75 + spread, (0.19, 0.14)), _mix(wing, (255, 255, 255), 0.2))
        pen.shape(_wing(side, -0.6 + spread, (0.24, 0.17)), wing)
        for reach, height in ((0.36, 0.2), (0.29, 0.13)):
            pen.dot((0.5 + side * reach, height + 0.05 + spread / 3), 0.026, (252, 250, 244))
        pen.dot((0.5 + side * 0.2, 0.69 + spread / 4), 0.03, dark)
        pen.line([(0.5, 0.3), (0.5 + side * 0.06, 0.2), (0.5 + side * 0.12, 0.14)], dark, 0.014)
    pen.oval((0.5, 0.5), (0.035, 0.22), dark)
    return pen.image


ANIMALS: dict[str, Callable[[float, np.random.Generator], Image.Image]] = {
    "bear": _bear,
    "crab": _crab,
    "butterfly": _butterfly,
}
"""How each family is drawn: from a mark (0..1) and a generator to an RGBA picture."""


def _place(rng: np.random.Generator, photo: Image.Image, animal: Image.Image) -> None:
    """Put the animal, turned and scaled, with its shadow, somewhere into the photo."""
    if rng.random() < 0.5:
        animal = animal.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    across = int(rng.integers(60, 92))
    animal = animal.resize((across, across), Image.Resampling.BOX)
    animal = animal.rotate(float(rng.uniform(-35, 35)), Image.Resampling.BICUBIC, expand=True)
    # Up to 4 pixels may lie outside the photo; the corners of the animal's picture are empty.
    left, top = (int(rng.integers(-4, SIDE - length + 5)) for length in animal.size)
    shadow = animal.getchannel("A").filter(ImageFilter.BoxBlur(3)).point(lambda a: a * 2 // 5)
    photo.paste((16, 18, 26), (left + 3, top + 5), shadow)
    photo.paste(animal, (left, top), animal)


def draw_photo(rng: np.random.Generator, family: str, background: str, mark: float) -> Image.Image:
    """One photo of one animal.

    Parameters
    ----------
    rng
        Decides everything that is not named: place, size, turn, light and texture.
    family
        A key of `ANIMALS`.
    background
        A key of `SCENERIES`.
    mark
        Where the animal lies between its two look-alikes, 0..1.

    Returns
    -------
    PIL.Image.Image
        RGB, `SIDE` x `SIDE` pixels.
    """
    photo = SCENERIES[background](rng)
    _place(rng, photo, ANIMALS[family](mark, rng))
    return ImageEnhance.Brightness(photo).enhance(float(rng.uniform(0.93, 1.05)))
