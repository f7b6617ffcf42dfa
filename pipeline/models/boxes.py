"""Parts of photos as boxes, and which part of a photo a model sees."""

from __future__ import annotations

from typing import NamedTuple, Self

__all__ = ["Box", "centred"]


class Box(NamedTuple):
    """A part of an upright photo, in pixels from its top left corner; it may reach beyond it."""

    left: float
    top: float
    right: float
    bottom: float

    def clipped(self, width: int, height: int) -> Box:
        """The part of it that lies on a photo, which is empty where it lies beside it."""
        return self.within(Box(0, 0, width, height))

    def within(self, other: Box) -> Box:
        """The part of it that lies in another box, which is empty where it lies beside that."""
        left, right = (min(max(x, other.left), other.right) for x in (self.left, self.right))
        top, bottom = (min(max(y, other.top), other.bottom) for y in (self.top, self.bottom))
        return Box(left, top, right, bottom)

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return self.right <= self.left or self.bottom <= self.top

    def relative_to(self, frame: Self) -> Box:
        """The same part in shares of another box's width and height, from its top left corner."""
        width, height = frame.right - frame.left, frame.bottom - frame.top
        return Box(
            (self.left - frame.left) / width,
            (self.top - frame.top) / height,
            (self.right - frame.left) / width,
            (self.bottom - frame.top) / height,
        )

    def grid(self, side: int) -> list[Box]:
        """The whole pixels of it in `side` rows and columns, row by row, without empty parts."""

        def edges(start: float, end: float) -> list[float]:
            return [float(round(start + (end - start) * i / side)) for i in range(side + 1)]

        across, down = edges(self.left, self.right), edges(self.top, self.bottom)
        tiles = [
            Box(across[column], down[row], across[column + 1], down[row + 1])
            for row in range(side)
            for column in range(side)
        ]
        return [tile for tile in tiles if not tile.empty]


def centred(size: tuple[int, int], part: tuple[float, float]) -> Box:
    """A box of (width, height) `part` pixels in the middle of a photo of (width, height) `size`."""
    left, top = (size[0] - part[0]) / 2, (size[1] - part[1]) / 2
    return Box(left, top, left + part[0], top + part[1])
