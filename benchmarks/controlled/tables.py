"""Means over settings, with intervals from settings drawn anew, as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["discovery_table", "invalid_table", "mean", "mitigation_table"]

Row = dict[str, Any]

_STRONG = 0.9
_PARTS = ("image", "region")


def mean(values: Sequence[float] | NDArray[np.float64], scale: float = 1.0) -> str:
    """A mean with its 95 % interval, from values drawn anew 2,000 times."""
    found = np.asarray(values, np.float64) * scale
    digits = 2 if scale == 1 else 1
    if len(found) == 0:
        return "-"
    if len(found) == 1 or np.ptp(found) == 0:
        return f"{found.mean():.{digits}f}"
    ends = stats.bootstrap((found,), np.mean, n_resamples=2_000, rng=0).confidence_interval
    return f"{found.mean():.{digits}f} ({ends.low:.{digits}f} to {ends.high:.{digits}f})"


def _valid(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["valid"]]


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    every = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


def discovery_table(rows: list[Row]) -> str:
    """Precision at 10 by method: of all valid settings, of strong ties, of each world."""
    valid = _valid(rows)
    if not valid:
        return "No setting is valid."
    groups = {
        "valid settings": valid,
        f"V >= {_STRONG}": [row for row in valid if row["strength"] >= _STRONG],
    }
    groups |= {
        world: [row for row in valid if row["world"] == world]
        for world in sorted({row["world"] for row in valid})
    }
    head = ["precision at 10", *(f"{name} ({len(own)})" for name, own in groups.items())]
    lines = [
        [method, *(mean([row["precision"][method] for row in own]) for own in groups.values())]
        for method in valid[0]["precision"]
    ]
    return _markdown(head, lines)


def mitigation_table(rows: list[Row]) -> str:
    """Accuracy in percent by method, and how the worst group differs from plain fine-tuning's."""
    valid = _valid(rows)
    if not valid:
        return "No model leans on what was planted."
    head = [f"accuracy, % ({len(valid)} settings)"]
    head += [f"{part}, {what}" for part in _PARTS for what in ("overall", "worst group")]
    head += [f"{part}, {what}: points gained" for part in _PARTS for what in ("overall", "worst")]
    lines = []
    for method in valid[0]["accuracy"]:
        told = {
            (part, what): np.array([row["accuracy"][method][part][what] for row in valid])
            for part in _PARTS
            for what in ("overall", "worst")
        }
        plain = {
            (part, what): np.array([row["accuracy"]["finetune"][part][what] for row in valid])
            for part, what in told
        }
        gained = [mean(own - plain[name], 100) for name, own in told.items()]
        lines.append([method, *(mean(own, 100) for own in told.values()), *gained])
    return _markdown(head, lines)


def invalid_table(rows: list[Row]) -> str:
    """The settings that do not count."""
    left = [row for row in rows if not row["valid"]]
    told = ("world", "label", "feature", "strength", "number")
    lines = [[*(str(row[name]) for name in told), f"{row['gap']:.2f}"] for row in left]
    head = [f"not valid ({len(left)} of {len(rows)}): {told[0]}", *told[1:], "gap"]
    return _markdown(head, lines)
