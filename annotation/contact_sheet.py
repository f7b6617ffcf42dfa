"""A contact sheet: regions that were cut out of photos, side by side in one picture.

`Sheets` makes the sheets of a cluster and puts them among the workspace's photos, where Label
Studio finds them. A photo never stands on the sheet that is shown beside it, and every sheet lacks
one of the regions, so that what is missing says nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from annotation.assignment import draw
from manifests.photos import inspect_photo

if TYPE_CHECKING:
    from manifests.photos import PhotoStore

__all__ = ["REGIONS_AT_MOST", "Cut", "Sheets", "contact_sheet"]

REGIONS_AT_MOST = 12
"""Regions on a sheet."""

_ACROSS = 4
_CELL, _GAP = 240, 12
_GROUND = (236, 236, 236)
_QUALITY = 90


@dataclass(frozen=True)
class Cut:
    """A region that was cut out of a photo with this digest."""

    sha256: str
    image: Image.Image


def contact_sheet(regions: Sequence[Image.Image]) -> bytes:
    """Regions in rows of four, each as large as its cell allows, as a JPEG without metadata.

    Parameters
    ----------
    regions
        At least one region, of any size.
    """
    across = min(_ACROSS, len(regions))
    down = math.ceil(len(regions) / across)
    sheet = Image.new("RGB", (_side(across), _side(down)), _GROUND)
    for number, region in enumerate(regions):
        row, column = divmod(number, across)
        cell = ImageOps.contain(region, (_CELL, _CELL), Image.Resampling.LANCZOS)
        left = _GAP + column * (_CELL + _GAP) + (_CELL - cell.width) // 2
        top = _GAP + row * (_CELL + _GAP) + (_CELL - cell.height) // 2
        sheet.paste(cell, (left, top))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _side(cells: int) -> int:
    return _GAP + cells * (_CELL + _GAP)


class Sheets:
    """The contact sheets of a cluster.

    Parameters
    ----------
    cuts
        Regions of different photos, two or more, the most telling first; a sheet shows all but one.
    store
        Where the sheets are put.
    seed
        What decides which region is left out beside a photo that is not among them.
    """

    def __init__(self, cuts: Sequence[Cut], store: PhotoStore, seed: int) -> None:
        self._cuts = cuts
        self._store = store
        self._seed = seed
        self._made: dict[int, tuple[str, str]] = {}

    def left_out(self, sha256: str) -> int:
        """Which of the regions does not stand beside a photo: its own, else one drawn."""
        for number, cut in enumerate(self._cuts):
            if cut.sha256 == sha256:
                return number
        return int(draw(self._seed, "sheet", sha256) * len(self._cuts))

    def beside(self, sha256: str) -> tuple[str, str]:
        """Digest of the sheet to show beside a photo, and its path below the workspace."""
        number = self.left_out(sha256)
        if number not in self._made:
            shown = [cut.image for n, cut in enumerate(self._cuts) if n != number]
            data = contact_sheet(shown)
            self._made[number] = self._store.add(data, inspect_photo(data))
        return self._made[number]
