"""The paper's rule for common and counter groups.

Per class, among backgrounds with enough photos, the one with the highest accuracy is common and the
one with the lowest is counter; the class is kept when the drop between them exceeds a bar. The rule
takes the extremes on the very photos that are then reported, so that its drops are too large.

Source: "A Sober Look at the Robustness of CLIPs to Spurious Features" (NeurIPS 2024), section 3.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from operator import itemgetter
from typing import Any

__all__ = ["choose_pairs"]

Group = dict[str, Any]


def choose_pairs(groups: list[Group], min_photos: int, min_drop: float) -> list[dict[str, Any]]:
    """Rows of `pairs`: for each class its pair, or the reason why it has none.

    Parameters
    ----------
    groups
        Rows of `groups`, sorted by class.
    min_photos
        Photos that a background needs to be considered.
    min_drop
        Drop, as a fraction, that must be exceeded. Among equal accuracies the background with more
        photos wins, then the name that comes first.
    """
    return [
        _choose(list(members), min_photos, min_drop)
        for _, members in groupby(groups, key=itemgetter("class_index"))
    ]


def _choose(groups: list[Group], min_photos: int, min_drop: float) -> dict[str, Any]:
    pair = {name: groups[0][name] for name in ("run", "class_index", "class_name")}
    eligible = [group for group in groups if group["photos"] >= min_photos]
    if len(eligible) < 2:  # noqa: PLR2004 - a pair
        reason = (
            f"{len(eligible)} of {len(groups)} backgrounds have {min_photos} photos; "
            "a pair needs two"
        )
        return {**pair, "selected": False, "reason": reason}
    common = min(eligible, key=lambda g: (-g["accuracy"], -g["photos"], g["background"]))
    others = [group for group in eligible if group is not common]
    counter = min(others, key=lambda g: (g["accuracy"], -g["photos"], g["background"]))
    exact = [Fraction(group["correct"], group["photos"]) for group in (common, counter)]
    drop = float(exact[0] - exact[1])
    # In floating point 0.55 - 0.5 exceeds 0.05.
    selected = exact[0] - exact[1] > Fraction(str(min_drop))
    return {
        **pair,
        **{f"common_{name}": common[name] for name in ("background", "photos", "accuracy")},
        **{f"counter_{name}": counter[name] for name in ("background", "photos", "accuracy")},
        "drop": drop,
        "selected": selected,
        "reason": None
        if selected
        else f"the drop of {100 * drop:.1f} points is not above {100 * min_drop:g}",
    }
