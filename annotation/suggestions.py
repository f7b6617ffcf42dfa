"""What the model's suggestions do to the answers: how often they are taken, and what they cost.

Given first answers as rows of `annotations`, says how many suggestions were accepted, whether
answers lean towards a suggestion because it was shown (anchoring), and how long people took with
and without one. Where suggestions are withheld at random, the difference is the suggestion's doing;
people who answer many photos, and photos that many people answer, make its interval too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.errors import CapError
from manifests.metrics import newcombe, wilson

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = [
    "Acceptance",
    "Anchoring",
    "Seconds",
    "Share",
    "acceptance",
    "anchoring",
    "predicted_backgrounds",
    "seconds",
    "withheld",
]

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """How many of some answers are the suggestion; `share` is None where there are no answers.

    `ci_low` and `ci_high` are Wilson's 95 % interval.
    """

    answers: int
    same: int
    share: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Acceptance:
    """Suggestions accepted among kept photos for which one was shown, overall and by annotator."""

    overall: Share
    by_annotator: dict[str, Share]


@dataclass(frozen=True)
class Anchoring:
    """How often the chosen background is the model's, where people saw it and where they did not.

    Attributes
    ----------
    run
        The scoring run that suggested; None if it was not named.
    shown, withheld
        Answers that keep the photo.
    from_other_run
        Answers with a suggestion that is not the run's; they are left out.
    difference, ci_low, ci_high
        Share where shown minus share where withheld, with Newcombe's 95 % interval.
    reason
        Why there is no difference; else None.
    """

    run: str | None
    shown: Share
    withheld: Share
    from_other_run: int = 0
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Seconds:
    """Seconds per photo: quartiles over the answers that have a time; None where none has."""

    answers: int
    lower_quartile: float | None = None
    median: float | None = None
    upper_quartile: float | None = None


def _share(same: Sequence[bool]) -> Share:
    answers, hits = len(same), sum(same)
    if not answers:
        return Share(0, 0)
    low, high = wilson(np.array(hits), np.array(answers))
    return Share(answers, hits, hits / answers, float(low), float(high))


def acceptance(answers: Sequence[Answer]) -> Acceptance:
    """How many of the suggestions shown were accepted."""
    shown = [a for a in answers if a["decision"] == "keep" and a["suggestion_accepted"] is not None]
    people = sorted({a["annotator"] for a in shown})
    return Acceptance(
        _share([a["suggestion_accepted"] for a in shown]),
        {
            name: _share([a["suggestion_accepted"] for a in shown if a["annotator"] == name])
            for name in people
        },
    )


def withheld(answers: Sequence[Answer]) -> list[Answer]:
    """Answers without a suggestion from projects that suggest.

    What came from a file, or from a project without suggestions, was not withheld from anybody.
    """
    suggesting = {_asked_in(a) for a in answers if a["suggested_background"] is not None}
    return [a for a in answers if a["suggested_background"] is None and _asked_in(a) in suggesting]


def _asked_in(answer: Answer) -> tuple[str, str]:
    """The source of an answer, and its project there if it has one."""
    project, _, _ = (answer["source_id"] or "").rpartition("/")
    return answer["source"], project


def anchoring(
    answers: Sequence[Answer], run: str | None, predicted: Mapping[str, str]
) -> Anchoring:
    """Compare answers that saw the run's suggestion with answers that did not.

    Parameters
    ----------
    answers
        First answers.
    run
        Name of the scoring run that suggested, if known.
    predicted
        The background that it predicts, by photo_id.
    """
    kept = [a for a in answers if a["decision"] == "keep"]
    seen = [a for a in kept if a["suggested_background"] is not None]
    own = [
        a for a in seen if run is None or a["suggested_background"] == predicted.get(a["photo_id"])
    ]
    shown = _share([a["background"] == a["suggested_background"] for a in own])
    unseen = [a for a in withheld(answers) if a["decision"] == "keep"]
    hidden = _share(
        [a["background"] == predicted[a["photo_id"]] for a in unseen if a["photo_id"] in predicted]
    )
    reason = _why_not(run, seen, shown, hidden)
    found = Anchoring(run, shown, hidden, len(seen) - len(own), reason=reason)
    if shown.share is None or hidden.share is None or reason is not None:
        return found
    low, high = newcombe(
        (np.array(shown.same), np.array(hidden.same)),
        (np.array(shown.answers), np.array(hidden.answers)),
    )
    difference = shown.share - hidden.share
    return replace(found, difference=difference, ci_low=float(low), ci_high=float(high))


def _why_not(run: str | None, seen: Sequence[Answer], shown: Share, hidden: Share) -> str | None:
    if not seen:
        return "no suggestion was shown with a photo that was kept"
    if run is None:
        return "name the scoring run that suggested with --suggest RUN"
    if not shown.answers:
        return f"no suggestion that was shown is what {run} predicts"
    if not hidden.answers:
        return f"the suggestion was withheld from no kept photo that {run} has scored"
    return None


def seconds(answers: Iterable[Answer]) -> Seconds:
    """Quartiles of the seconds that people took."""
    taken = [a["seconds"] for a in answers if a["seconds"] is not None]
    if not taken:
        return Seconds(0)
    lower, median, upper = np.quantile(taken, [0.25, 0.5, 0.75]).tolist()
    return Seconds(len(taken), lower, median, upper)


def predicted_backgrounds(workspace: Workspace, run: str) -> dict[str, str]:
    """The background that a run predicts for each photo.

    Raises
    ------
    CapError
        If there is no such run, or it chose from another label space.
    """
    if run not in workspace.runs():
        known = ", ".join(workspace.runs()) or "none"
        msg = (
            f"there is no scoring run {run!r} (there are: {known}); name the run whose predictions "
            "were suggested, made by `cap score --label-space backgrounds`"
        )
        raise CapError(msg)
    said = ["photo_id", "status", "label_space", "predicted_name"]
    rows = workspace.read(f"predictions/{run}").select(said).to_pylist()
    spaces = {row["label_space"] for row in rows}
    if spaces - {"backgrounds"}:
        msg = (
            f"the run {run} chose from {', '.join(sorted(spaces))}; suggestions come from a run of "
            "`cap score --label-space backgrounds`"
        )
        raise CapError(msg)
    return {row["photo_id"]: row["predicted_name"] for row in rows if row["status"] == "ok"}
