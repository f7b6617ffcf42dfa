"""What the companion experiments share: 95 % intervals over seeds, and the look of plots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLACK", "BLUE", "GREEN", "GREY", "ORANGE", "RED", "Estimate", "over_seeds", "save"]

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
"""Of Okabe and Ito's palette, which colour-blind readers tell apart."""
BLACK, GREY = "#222222", "#8a8a8a"


class Estimate(NamedTuple):
    """A mean over seeds and half the width of its 95 % interval, by Student's t.

    `half` is NaN for a single seed.
    """

    mean: float
    half: float

    def percent(self) -> str:
        """As in a table: `87.4 ± 0.3`, in percent."""
        if np.isnan(self.half):
            return f"{100 * self.mean:.1f}"
        return f"{100 * self.mean:.1f} ± {100 * self.half:.1f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one value for each seed."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) == 1:
        return Estimate(float(found[0]), float("nan"))
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return Estimate(float(found.mean()), float(half))


def over_seeds(
    rows: Iterable[Mapping[str, Any]], keys: Sequence[str], value: str
) -> dict[tuple[Any, ...], Estimate]:
    """Estimates of `value` for each combination of `keys`, in the order in which they occur."""
    found: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row[value])
    return {key: estimate(values) for key, values in found.items()}


def save(figure: Figure, file: Path) -> Path:
    """Write a plot at 150 dpi, in few colours so that it is small, and forget it."""
    import matplotlib.pyplot as plt
    from PIL import Image

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=BLACK, labelsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, bbox_inches="tight")
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(64).save(file, optimize=True)
    return file
