"""Figures as inline SVG, drawn by matplotlib: they need no script, no font and no network.

Text from outside never passes through matplotlib, which would measure it and read it as formulas:
a placeholder is drawn and then replaced in the XML. Colours are names of the page's style sheet, so
that a figure follows a dark page, and the sizes of its words are the style sheet's as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.report.classes import ClassFacts
from pipeline.report.robustness import Standing

__all__ = [
    "HEAT_LEVELS",
    "accuracy_plot",
    "drop_plot",
    "heat_colours",
    "heat_level",
    "robustness_plot",
]

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _XLINK)

_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--soft)",
    "#030303": "var(--line)",
    "#040404": "var(--common)",
    "#050505": "var(--counter)",
    "#060606": "var(--here)",
    "#070707": "var(--page)",
}
"""Colours that nothing is drawn in by chance, and what the style sheet calls them."""

INK, SOFT, LINE, COMMON, COUNTER, HERE, PAGE = _COLOURS

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

_POINTS_PER_INCH = 72

HEAT_LEVELS = 20
_HEAT = LinearSegmentedColormap.from_list(
    "heat", ["#b5500b", "#f0b27a", "#f6f3ee", "#85b8e0", "#14599c"]
)
_LIGHT_BELOW = 0.45


def heat_level(share: float) -> int:
    """Which of the heat map's colours stands for an accuracy."""
    return round(share * HEAT_LEVELS)


def heat_colours() -> tuple[tuple[str, str], ...]:
    """Colour of each level, from wrong (orange) to right (blue), and of words upon it."""
    found = []
    for level in range(HEAT_LEVELS + 1):
        red, green, blue, _ = _HEAT(level / HEAT_LEVELS)
        bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        found.append((to_hex((red, green, blue)), "#fff" if bright < _LIGHT_BELOW else "#111"))
    return tuple(found)


@dataclass
class _Drawing:
    """A figure in points, and what is put into its XML afterwards.

    Attributes
    ----------
    texts
        Words to put in the place of a placeholder, by its id.
    titles
        What is told of a part when a pointer rests on it, by the part's id.
    readout
        Where a figure has room for it, the place in points at which the same is written when a
        part is pointed at or tapped, since a phone shows no titles.
    """

    figure: Figure
    name: str
    texts: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    readout: tuple[float, float] | None = None

    def write(self, axes: Axes, place: tuple[float, float], words: str, **style: object) -> None:
        """Put words at a place in the axes' units."""
        gid = f"text-{len(self.texts)}"
        self.texts[gid] = words
        axes.text(*place, "x", gid=gid, **style)  # type: ignore[arg-type]

    def svg(self, alternative: str) -> str:
        """The figure as an SVG element for a page; `alternative` is read to who cannot see it."""
        buffer = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": self.name}):
            self.figure.savefig(
                buffer,
                format="svg",
                transparent=True,
                metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
            )
        root = ET.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib has just written it
        self._fill(root)
        return _plain(root, alternative)

    def _fill(self, root: ET.Element) -> None:
        parts = {part.get("id"): part for part in root.iter(f"{{{_SVG}}}g")}
        for gid, words in self.texts.items():
            (text,) = parts[gid].iter(f"{{{_SVG}}}text")
            text.text = words
        for gid, words in self.titles.items():
            part = parts[gid]
            part.set("class", "tells")
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = words
            part.insert(0, title)
            if self.readout is not None:
                self._read_out(part, words)

    def _read_out(self, part: ET.Element, words: str) -> None:
        """Make a part easy to hit with a finger, and write what it tells into the figure."""
        part.set("tabindex", "-1")
        (mark,) = part.iter(f"{{{_SVG}}}use")
        circle = {"class": "hit", "cx": mark.get("x", ""), "cy": mark.get("y", ""), "r": "9"}
        ET.SubElement(part, f"{{{_SVG}}}circle", circle)
        x, y = (f"{place:g}" for place in self.readout or ())
        text = ET.SubElement(part, f"{{{_SVG}}}text", {"class": "says", "x": x, "y": y})
        for line, part_of_words in enumerate(words.split("\n")):
            ET.SubElement(
                text, f"{{{_SVG}}}tspan", {"x": x, "dy": "1.25em" if line else "0"}
            ).text = _short(part_of_words)


def _plain(root: ET.Element, alternative: str) -> str:
    """The XML without what would reach beyond the figure: ids, fonts, fixed sizes, styles."""
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's style sheet would hold for the whole page.
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    for part in root.iter():
        if part.tag == f"{{{_SVG}}}g":
            part.attrib.pop("id", None)
        if part.tag == f"{{{_SVG}}}text":
            part.set("style", _kept_style(part.get("style", "")))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", alternative)
    text = ET.tostring(root, encoding="unicode")
    for colour, name in _COLOURS.items():
        text = text.replace(colour, name)
    return re.sub(r">\s+<", "><", text)


def _kept_style(style: str) -> str:
    parts = (part.strip() for part in style.split(";"))
    return "; ".join(part for part in parts if part.startswith(("fill", "text-anchor", "opacity")))


def _drawing(name: str, width: float, height: float) -> tuple[_Drawing, Axes]:
    """An empty figure of a size in points, with axes that fill it but for the ticks."""
    figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH))
    return _Drawing(figure, name), figure.add_axes((0, 0, 1, 1))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


_ROW = 34.0
_WIDTH = 400.0
_FOOT = 40.0
_NAME, _DOTS = 0.38, 0.72
"""Where in its row a class has its name and its dots, from the top."""

_APART = 0.07
_LETTERS_AT_MOST = 36
_SERIES: Mapping[str, tuple[str, str, str, float]] = {
    "common": ("o", COMMON, COMMON, 7),
    "counter": ("D", COUNTER, COUNTER, 6),
    "naive": ("o", PAGE, INK, 7),
    "honest": ("D", HERE, HERE, 6.5),
}
"""Marker, colour, colour of its edge and size."""


def _short(words: str) -> str:
    return words if len(words) <= _LETTERS_AT_MOST else f"{words[: _LETTERS_AT_MOST - 1]}…"


def _rows(name: str, classes: Sequence[ClassFacts], label: str) -> tuple[_Drawing, Axes]:
    """A figure with a line for each class, its name above the line, and fractions across."""
    height = _ROW * len(classes) + _FOOT
    drawing, axes = _drawing(name, _WIDTH, height)
    axes.set_position((0.035, _FOOT / height, 0.93, 1 - _FOOT / height))
    axes.set_ylim(len(classes), 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for row, facts in enumerate(classes):
        axes.axhline(row + _DOTS, color=LINE, linewidth=0.6, zorder=0)
        place = (0.0, row + _NAME)
        drawing.write(
            axes, place, _short(facts.class_name), transform=axes.get_yaxis_transform(), zorder=5
        )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))
    axes.set_xlabel(label)
    axes.tick_params(length=3)
    return drawing, axes


def _dot(axes: Axes, place: tuple[float, float], series: str, gid: str) -> None:
    marker, colour, edge, size = _SERIES[series]
    axes.plot(
        *([value] for value in place),
        marker,
        markerfacecolor=colour,
        markeredgecolor=edge,
        markersize=size,
        zorder=4,
        gid=gid,
    )


def _line(axes: Axes, ends: tuple[float, float], height: float, colour: str) -> None:
    axes.plot(
        ends, (height, height), color=colour, linewidth=1.7, alpha=0.55, solid_capstyle="round"
    )


@mpl.rc_context(_SETTINGS)
def accuracy_plot(classes: Sequence[ClassFacts]) -> str:
    """Accuracy in both groups of each class, as dots with their intervals."""
    drawing, axes = _rows("accuracy", classes, "percent of the photos named correctly")
    axes.set_xlim(-0.02, 1.02)
    for row, facts in enumerate(classes):
        for side in facts.sides:
            height = row + _DOTS + (_APART if side.group == "counter" else -_APART)
            found, gid = side.shown, f"{side.group}-{row}"
            _line(axes, (found.low, found.high), height, _SERIES[side.group][1])
            _dot(axes, (found.share, height), side.group, gid)
            drawing.titles[gid] = (
                f"{facts.class_name} on {side.background} ({side.group}): "
                f"{_percent(found.share)} of {found.photos} photos, "
                f"interval {_percent(found.low)} to {_percent(found.high)}"
            )
    return drawing.svg(
        f"Accuracy in the common and the counter group of {len(classes)} classes; the table of all "
        "classes holds the same numbers"
    )


@mpl.rc_context(_SETTINGS)
def drop_plot(classes: Sequence[ClassFacts]) -> str:
    """Naive and honest drop of each class, the honest one with its interval."""
    drawing, axes = _rows("drop", classes, "drop, in points")
    ends = {0.0}
    for row, facts in enumerate(classes):
        height = row + _DOTS
        drops = {"naive": facts.drop}
        if facts.honest is not None:
            drops["honest"] = facts.honest.value
            if facts.honest.low is not None and facts.honest.high is not None:
                ends |= {facts.honest.low, facts.honest.high}
                _line(axes, (facts.honest.low, facts.honest.high), height, HERE)
        for series, drop in drops.items():
            if drop is not None:
                ends.add(drop)
                _dot(axes, (drop, height), series, f"{series}-{row}")
                drawing.titles[f"{series}-{row}"] = f"{facts.class_name}: {_told(facts)}"
    axes.axvline(0, color=SOFT, linewidth=0.8, zorder=0)
    axes.set_xlim(min(ends) - _MARGIN, max(ends) + _MARGIN)
    return drawing.svg(
        f"Drop of {len(classes)} classes; the table of all classes holds the same numbers"
    )


_MARGIN = 0.04


def _told(facts: ClassFacts) -> str:
    """The drops of a class, as part of a sentence."""
    words = [] if facts.drop is None else [f"naive drop {100 * facts.drop:.1f} points"]
    if facts.honest is not None:
        words.append(f"honest drop {100 * facts.honest.value:.1f} points")
        if facts.honest.low is not None and facts.honest.high is not None:
            words.append(f"interval {100 * facts.honest.low:.1f} to {100 * facts.honest.high:.1f}")
    return ", ".join(words)


_SQUARE = 440.0
_EDGE = 0.03
"""Axes end here at the latest, since the logits of 0 and 1 are infinite; marks stay at the edge."""

_SPACE = 0.35
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_KINDS: Mapping[str, tuple[str, str, float]] = {
    "clip": ("o", COMMON, 6),
    "imagenet": ("s", SOFT, 5.5),
    "evaluated": ("P", HERE, 8),
    "here": ("*", COUNTER, 15),
}


def _logit(share: float) -> float:
    """Log odds of an accuracy; of 0 and 1, those of a share beyond the axes' ends."""
    inside = min(max(share, _EDGE / 10), 1 - _EDGE / 10)
    return float(np.log(inside / (1 - inside)))


def _limits(shares: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds accuracies, as logits."""
    low, high = (_logit(min(max(end, _EDGE), 1 - _EDGE)) for end in (min(shares), max(shares)))
    return low - _SPACE, high + _SPACE


@mpl.rc_context(_SETTINGS)
def robustness_plot(models: Standing) -> str:
    """Counter against common accuracy of models on logit axes, with names on hover."""
    # What is drawn last lies on top.
    points = sorted(models.points, key=lambda point: point.kind in {"here", "evaluated"})
    drawing, axes = _drawing("robustness", _SQUARE, _SQUARE)
    axes.set_position((0.13, 0.1, 0.85, 0.885))
    drawing.readout = (_SQUARE * 0.15, _SQUARE * 0.06)
    left, right = _limits([point.common for point in points])
    low, high = _limits([point.counter for point in points])
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    across = np.array([left, right])
    axes.plot(across, across, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.plot(
        across,
        models.line.intercept + models.line.slope * across,
        color=SOFT,
        linewidth=1.4,
        zorder=0,
    )
    for number, point in enumerate(points):
        marker, colour, size = _KINDS[point.kind]
        axes.plot(
            [min(max(_logit(point.common), left), right)],
            [min(max(_logit(point.counter), low), high)],
            marker,
            color=colour,
            markersize=size,
            markeredgecolor=PAGE,
            markeredgewidth=0.7,
            alpha=1 if point.kind == "here" else 0.8,
            gid=f"point-{number}",
            clip_on=False,
        )
        drawing.titles[f"point-{number}"] = (
            f"{point.name}\ncommon {_percent(point.common)}, counter {_percent(point.counter)}"
        )
    for set_ticks, limits in ((axes.set_xticks, (left, right)), (axes.set_yticks, (low, high))):
        ticks = [share for share in _SHARES if limits[0] < _logit(share) < limits[1]]
        set_ticks([_logit(share) for share in ticks], [f"{100 * share:g}" for share in ticks])
    axes.tick_params(length=3)
    axes.grid(color=LINE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("percent correct on common backgrounds")
    axes.set_ylabel("percent correct on counter backgrounds", labelpad=8)
    return drawing.svg(
        f"Accuracy of {len(points)} models on counter against common backgrounds; the table below "
        "the figure holds the same numbers"
    )
