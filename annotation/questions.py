"""What people are asked: which photos, in which order, and what stands beside each.

All of it is decided from tables, before the server is asked anything. An `Inquiry` is what `cap
annotate push` sends; `labelling` makes the one for labels, or for photos in dispute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from annotation.assignment import (
    Candidate,
    Plan,
    draw,
    in_order,
    meaning,
    planned,
    still_needed,
)
from annotation.client import ClusterMark, photo_url
from annotation.consensus import NONE_FITS, disputed
from annotation.screen import PHOTO, Screen, labelling_screen
from annotation.suggestions import predicted_backgrounds
from manifests.errors import CapError
from manifests.kept import kept_photos

if TYPE_CHECKING:
    from annotation.parameters import PushParameters
    from manifests.vocabulary import LabelSpace
    from manifests.workspace import Workspace

__all__ = ["SUGGESTION", "Inquiry", "Question", "labelling", "labelling_question", "task_of"]

SUGGESTION = "suggestion"
"""What Label Studio calls a version of a model; the page opens with its predictions."""


@dataclass(frozen=True)
class Question:
    """A photo that people are asked about.

    Attributes
    ----------
    candidate
        The photo.
    shown
        What stands beside the photo, by the names that the screen has for it.
    pictures
        Path and digest of stored pictures that stand there too.
    """

    candidate: Candidate
    shown: Mapping[str, Any]
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Inquiry:
    """All that is asked at a time, on one screen.

    Attributes
    ----------
    round
        What its projects are for: `first`, `adjudication` or `discovery`.
    screen
        Where it is asked.
    plan
        How the photos are shared out.
    questions
        The photos, in the order in which people should see them.
    what
        What these photos are, in words.
    limit
        Tasks to send at a time; None sends all that are missing.
    about
        The cluster that is asked about; None where labels are asked for.
    facts
        What machines are told of it.
    """

    round: str
    screen: Screen
    plan: Plan
    questions: tuple[Question, ...]
    what: str
    limit: int | None = None
    about: ClusterMark | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def labelling_question(
    candidate: Candidate, definition: str, answers: Mapping[str, str] | None = None
) -> Question:
    """What the labelling screen shows of a photo.

    Parameters
    ----------
    candidate
        The photo, perhaps with a suggestion.
    definition
        What its class looks like.
    answers
        What was said so far, for photos in dispute.
    """
    suggested = candidate.suggested
    hint = "k keeps the photo, x rejects it"
    if suggested is not None:
        hint = f"Suggested: {suggested}. Enter takes it, another key changes it"
    shown: dict[str, Any] = {
        "class_name": candidate.class_name,
        "class_definition": definition,
        "suggested_background": suggested or "",
        "hint": hint,
    }
    if answers is not None:
        shown["answers"] = dict(answers)
    return Question(candidate, shown)


def task_of(question: Question) -> dict[str, Any]:
    """The task for Label Studio: what the screen shows, and the suggestion as a prediction."""
    candidate = question.candidate
    task: dict[str, Any] = {
        "data": {
            "image": photo_url(candidate.path),
            "sha256": candidate.sha256,
            "photo_id": candidate.photo_id,
            **question.shown,
        }
    }
    if candidate.suggested is not None:
        task["predictions"] = [
            {
                "model_version": SUGGESTION,
                "result": [
                    _chosen("decision", "keep"),
                    _chosen("background", candidate.suggested),
                ],
            }
        ]
    return task


def _chosen(control: str, value: str) -> dict[str, Any]:
    return {
        "from_name": control,
        "to_name": PHOTO,
        "type": "choices",
        "value": {"choices": [value]},
    }


def labelling(workspace: Workspace, parameters: PushParameters) -> Inquiry:
    """The photos that want answers for a label, or those that people disagree on."""
    adjudicate = parameters.adjudicate
    plan = Plan(
        parameters.annotators,
        1 if adjudicate else parameters.overlap,
        0.0 if adjudicate else parameters.share,
        parameters.order,
        parameters.seed,
    )
    questions, have = _questions(workspace, parameters, plan)
    # Photos of a class with the same bytes are one question.
    by_asked = {question.candidate.asked: question for question in questions}
    candidates = [question.candidate for question in by_asked.values()]
    ordered = _in_order(workspace, candidates, have, plan, parameters.min_photos)
    return Inquiry(
        round="adjudication" if adjudicate else "first",
        screen=labelling_screen(adjudication=adjudicate),
        plan=plan,
        questions=tuple(by_asked[candidate.asked] for candidate in ordered),
        what="photos in dispute" if adjudicate else "photos that need people",
        limit=parameters.limit,
    )


def _questions(
    workspace: Workspace, parameters: PushParameters, plan: Plan
) -> tuple[list[Question], list[tuple[int, str]]]:
    """Photos to ask about, and class and background of those that have a label."""
    photos, _ = kept_photos(workspace)
    photos = photos.filter(pc.is_valid(photos["class_index"]))
    settled: dict[str, Mapping[str, Any]] = {}
    if workspace.has("labels"):
        settled = {label["photo_id"]: label for label in workspace.read("labels").to_pylist()}
    dispute: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    if parameters.adjudicate:
        dispute = disputed(workspace.read("annotations"))
    suggestions: Mapping[str, str] = {}
    if parameters.suggest is not None and not parameters.adjudicate:
        suggestions = predicted_backgrounds(workspace, parameters.suggest)
    space = workspace.label_space
    meant = meaning(space)
    have: list[tuple[int, str]] = []
    asked: list[Question] = []
    columns = ["photo_id", "sha256", "path", "class_index", "class_name"]
    for row in photos.select(columns).to_pylist():
        label = settled.get(row["photo_id"])
        if label is not None and label["background"] is not None:
            have.append((row["class_index"], label["background"]))
        wanted = (
            row["photo_id"] in dispute
            if parameters.adjudicate
            else label is None or _lacks_people(label, plan.people(row["sha256"]))
        )
        if not wanted:
            continue
        row["class_name"] = _present_name(space, meant, row)
        predicted = suggestions.get(row["photo_id"])
        suggested = predicted
        if draw(parameters.seed, "suggest", row["sha256"]) < parameters.without_suggestion:
            suggested = None
        asked.append(
            labelling_question(
                Candidate(**row, suggested=suggested, predicted=predicted),
                space.definitions[row["class_index"]] if space.definitions else "",
                _told(dispute[row["photo_id"]]) if parameters.adjudicate else None,
            )
        )
    return asked, have


def _lacks_people(label: Mapping[str, Any], people: int) -> bool:
    """Whether one answer has settled a photo about which more people are to be asked."""
    return bool(label["settled_by"] == "single" and label["annotators"] < people)


def _present_name(space: LabelSpace, meant: Callable[[str], str], photo: Mapping[str, Any]) -> str:
    """What the label space calls a photo's class now; a name that it does not know stays.

    Raises
    ------
    CapError
        If another class has its place by now, whose definition people would read.
    """
    index, name = int(photo["class_index"]), str(photo["class_name"])
    if space.contradicts(index, name):
        msg = (
            f"{photo['photo_id']} was collected as class {index}, {name!r}; {space.name} has "
            "another there now. Run `cap collect` first"
        )
        raise CapError(msg)
    return meant(name) if meant(name) == space.names[index] else name


def _told(answers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Answers so far as the adjudicator reads them, without names."""
    told = {}
    for number, answer in enumerate(answers, start=1):
        words = [answer["decision"]]
        if answer["decision"] == "keep":
            words.append(answer["background"] or NONE_FITS)
        words += answer["reject_reasons"] or []
        if answer["background_second"]:
            words.append(f"second: {answer['background_second']}")
        if answer["note"]:
            words.append(f"note: {answer['note']}")
        told[f"answer {number}"] = ", ".join(words)
    return told


def _in_order(
    workspace: Workspace,
    candidates: Sequence[Candidate],
    have: Sequence[tuple[int, str]],
    plan: Plan,
    min_photos: int,
) -> list[Candidate]:
    classes = {candidate.class_index for candidate in candidates}
    if not workspace.has("plan"):
        return in_order(candidates, still_needed(have, classes, min_photos), plan)
    rows = workspace.read("plan").to_pylist()
    wanted = planned(rows, have)
    needed: Counter[int] = Counter()
    for (index, _), count in wanted.items():
        needed[index] += count
    # A class that the plan does not know has been collected since, and lacks everything.
    unknown = classes - {row["class_index"] for row in rows}
    needed.update(dict.fromkeys(unknown, max(needed.values(), default=0)))
    return in_order(candidates, needed, plan, wanted)
