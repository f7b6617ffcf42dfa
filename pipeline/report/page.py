"""The page: facts and figures put into a template that escapes all text.

Given the facts, gives one HTML text that needs no script and no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from annotation.screen import REASONS
from manifests.metrics import SplitAccuracy
from manifests.vocabulary import licenses, sharing_licenses
from pipeline.report.classes import ClassFacts, HeatMap, Measured
from pipeline.report.collection import FATES, Collection, Copies, People
from pipeline.report.discoveries import Discoveries
from pipeline.report.plots import (
    accuracy_plot,
    drop_plot,
    heat_colours,
    heat_level,
    robustness_plot,
)
from pipeline.report.robustness import Standing
from pipeline.report.strips import Shot, Strip

__all__ = ["Facts", "render"]

_CLASSES_IN_FIGURES = 40
_HEAT_ROWS = 400
_REASONS_SHOWN = 12
_NAME_AT_MOST = 120
_NAMED = 3
"""Classes that a warning names."""


@dataclass(frozen=True)
class Facts:
    """All that the page tells.

    Attributes
    ----------
    name, version
        The workspace's folder, and the version of cap.
    mark
        Digest of what the page is made from.
    collection, copies, people
        What was collected; None for what has no table yet.
    pairs_of_copies
        Examples: a copy, the photo kept instead, and their distance.
    agreement, agreement_stale
        Content of `results/agreement.json`, and whether there are newer answers.
    run, model
        The run whose numbers are told, and the description of its model.
    parameters
        How the groups were chosen; empty where there are none.
    classes, strips
        Facts of every class, and by class index the photos of its two groups.
    heat
        Accuracy by class and background.
    measured
        The photos that the accuracies over all classes are of; None without a split.
    accuracies
        Accuracy on these photos by run, this run's first.
    models
        This workspace's models beside the paper's.
    discoveries
        What the run's model leans on in regions of the photos; None where nobody has looked.
    has_fresh
        Whether some photos of a pair were kept apart from its choice.
    """

    name: str
    version: str
    mark: str
    collection: Collection
    copies: Copies | None
    pairs_of_copies: tuple[tuple[Shot, Shot, int | None], ...]
    people: People | None
    agreement: Mapping[str, Any] | None
    agreement_stale: bool
    run: str | None
    model: Mapping[str, Any]
    parameters: Mapping[str, Any]
    classes: tuple[ClassFacts, ...]
    strips: Mapping[int, tuple[Strip, ...]]
    heat: HeatMap | None
    measured: Measured | None
    accuracies: Mapping[str, SplitAccuracy]
    models: Standing
    discoveries: Discoveries | None
    has_fresh: bool

    @property
    def shots(self) -> tuple[Shot, ...]:
        """Every photo on the page."""
        copies = [shot for first, second, _ in self.pairs_of_copies for shot in (first, second)]
        strips = [s for pair in self.strips.values() for strip in pair for s in strip.shots]
        return (*strips, *copies, *(self.discoveries.shots if self.discoveries else ()))

    @property
    def shareable(self) -> bool:
        """Whether the licence of every photo on the page lets others pass it on."""
        return all(shot.shareable for shot in self.shots if shot.image is not None)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _hundredths(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(drop: float) -> str:
    # To round first and add 0 leaves no minus before a zero.
    return f"{round(100 * drop, 1) + 0:.1f}".replace("-", "\N{MINUS SIGN}")


def _probability(value: float) -> str:
    smallest = 0.0001
    return f"<{smallest}" if value < smallest else f"{value:.2g}" if value < 1 else "1"


def _short(words: str) -> str:
    return words if len(words) <= _NAME_AT_MOST else f"{words[: _NAME_AT_MOST - 1]}…"


def _overall_agreement(agreement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Krippendorff's alpha of both questions over all photos, with its interval."""
    return [
        {"question": found["question"], **coefficient}
        for found in agreement["agreement"]
        if found["class_name"] is None and found["annotators"] is None
        for coefficient in found["coefficients"]
        if coefficient["coefficient"] == "krippendorff_alpha"
    ]


def _confused(agreement: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Backgrounds that two people gave to one photo, the most frequent first."""
    names, counts = agreement["confusion"]["backgrounds"], agreement["confusion"]["counts"]
    pairs = [
        (names[i], names[j], counts[i][j])
        for i in range(len(names))
        for j in range(i)
        if counts[i][j]
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair))[:_REASONS_SHOWN]


def _choosing(group: Mapping[str, Any]) -> int:
    """Photos of a class on a background that may choose a pair."""
    apart = group.get("validation_photos")
    return int(group["photos"] if apart is None else apart)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "hundredths": _hundredths,
        "percent": _percent,
        "points": _points,
        "probability": _probability,
        "short": _short,
    }
    return environment


def _figures(facts: Facts) -> dict[str, str]:
    """The figures by name; empty where there are no numbers yet."""
    compared = [c for c in facts.classes if c.sides][:_CLASSES_IN_FIGURES]
    figures = dict.fromkeys(("accuracy", "drop", "robustness"), "")
    if compared:
        figures["accuracy"] = accuracy_plot(compared)
        figures["drop"] = drop_plot(compared)
    if facts.models.own:
        figures["robustness"] = robustness_plot(facts.models)
    return figures


def render(facts: Facts) -> str:
    """The page of the facts, as one HTML text."""
    template = _environment().get_template("page.html.jinja")
    return template.render(
        facts=facts,
        fates=FATES,
        figures=_figures(facts),
        heat_colours=heat_colours(),
        heat_level=heat_level,
        licenses=licenses(),
        sharing=sharing_licenses(),
        reasons={reason.name: reason.definition for reason in REASONS},
        roles={
            (found.class_index, side.background): side.group
            for found in facts.classes
            for side in found.sides
        },
        min_photos=facts.parameters.get("min_photos", 0),
        choosing=_choosing,
        agreed=_overall_agreement(facts.agreement) if facts.agreement else [],
        confused=_confused(facts.agreement) if facts.agreement else [],
        classes_in_figures=_CLASSES_IN_FIGURES,
        named=_NAMED,
        heat_rows=_HEAT_ROWS,
        reasons_shown=_REASONS_SHOWN,
    )
