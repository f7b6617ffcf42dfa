"""What people said, as rows: answers in mirrored projects, read with suspicion.

`hear` takes the mirrors and one `Kind` of answer, `LABEL` or `CONFIRMATION`, which knows the table
and how an answer becomes a row of it. What makes no sense becomes a complaint.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from annotation.answers import AnswerError, Given, read_answer, read_confirmation
from annotation.assignment import Asked
from annotation.client import Project
from annotation.confirming import unsealed
from annotation.mirror import Mirror, MirroredTask
from manifests.schema import ANNOTATIONS, CONFIRMATIONS, TableSchema

__all__ = ["CONFIRMATION", "LABEL", "SOURCE", "Heard", "Kind", "hear"]

SOURCE = "label-studio"
"""`source` of the rows of `annotations`; `source_id` tells project and answer."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of answer.

    Attributes
    ----------
    table
        The table that it goes to.
    read
        From the server's answer, its task and its project to what it has in common with all
        answers, and to the columns that are the table's own. Raises an `AnswerError` for what the
        screen cannot have given.
    """

    table: TableSchema
    read: Callable[[Mapping[str, Any], MirroredTask, Project], tuple[Given, Row]]


@dataclass
class Heard:
    """What the mirrors say.

    Attributes
    ----------
    rows
        Rows of the table, one per key.
    live
        Project uid and photo_id of every task on the server.
    complaints
        Answers that make no sense, in words.
    unknown
        Photos on the server that the workspace does not have.
    moved
        Photos with answers to another class than the workspace has them in.
    replaced
        Photos with answers to other bytes than the workspace has of them.
    unasked
        Those of `moved` and `replaced` whose labels are not asked for anew on the server.
    nameless
        Tasks about no photo that the workspace has or had, in words.
    """

    rows: list[Row] = field(default_factory=list)
    live: set[tuple[str, str]] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    unasked: set[str] = field(default_factory=set)
    nameless: set[str] = field(default_factory=set)


def hear(
    mirrors: Sequence[tuple[Project, Mirror]],
    photos: Mapping[str, Mapping[str, str]],
    people: Mapping[int, str],
    kind: Kind,
    meant: Callable[[str], str],
) -> Heard:
    """Rows of a table from mirrored projects.

    Parameters
    ----------
    mirrors
        Projects with their mirrors.
    photos
        By digest, the class names of the workspace's photos by photo_id.
    people
        Names by the server's user id.
    kind
        What the projects ask.
    meant
        What names of classes mean; see `meaning`.

    Notes
    -----
    Where one person has answered twice for a photo, the answer changed last stands.
    """
    heard = Heard()
    stored = {
        photo_id: Asked(sha256, meant(class_name))
        for sha256, own in photos.items()
        for photo_id, class_name in own.items()
    }
    asked = {question for _, mirror in mirrors for question in mirror.asked(meant)}
    latest: dict[tuple[Any, ...], tuple[datetime.datetime, int, Row]] = {}
    for project, mirror in mirrors:
        for key, task in mirror.tasks.items():
            name = task.photo_id or f"task {key} of {project.title!r}"
            now = photos.get(task.sha256, {})
            ids = [i for i in now if not task.class_name or task.asked(meant) == stored[i]]
            if not now and not task.photo_id:
                heard.nameless.add(name)
            elif not now and (not task.sha256 or task.photo_id not in stored):
                heard.unknown.add(name)
                ids = [task.photo_id]
            elif not ids and task.answers:
                (heard.moved if now else heard.replaced).add(name)
                # The question that is to be asked in the place of this one.
                if task.class_name and not asked & {stored[i] for i in now or (task.photo_id,)}:
                    heard.unasked.add(name)
            # A photo that has another id by now was heard under its earlier one.
            heard.live.update((project.mark.uid, i) for i in {*now, task.photo_id} if i)
            for answer in task.answers:
                try:
                    given, own = kind.read(answer, task, project)
                except AnswerError as error:
                    heard.complaints.append(_complaint(project, key, answer, people, error))
                    continue
                annotator = people.get(given.user_id, f"user {given.user_id}")
                for photo_id in ids:
                    row = {"photo_id": photo_id, "annotator": annotator, **own}
                    row |= _common(given, project)
                    of = tuple(row[name] for name in kind.table.key)
                    place = (given.updated_at, given.answer_id)
                    if of not in latest or latest[of][:2] < place:
                        latest[of] = (*place, row)
    heard.rows = [row for _, _, row in latest.values()]
    return heard


def _complaint(
    project: Project,
    key: int,
    answer: Mapping[str, Any],
    people: Mapping[int, str],
    error: AnswerError,
) -> str:
    who = people.get(answer.get("completed_by") or 0, "somebody")
    return f"{project.title!r}, task {key}, by {who}: {error}"


def _common(given: Given, project: Project) -> Row:
    return {
        "note": given.note,
        "seconds": given.seconds,
        "created_at": given.created_at,
        "updated_at": given.updated_at,
        "source_id": f"{project.mark.uid}/{given.answer_id}",
        "config_version": project.mark.screen,
    }


def _label(answer: Mapping[str, Any], task: MirroredTask, project: Project) -> tuple[Given, Row]:
    said = read_answer(answer)
    accepted = None
    if task.suggested is not None and said.decision != "skip":
        accepted = said.decision == "keep" and said.background == task.suggested
    return said, {
        "round": project.mark.round,
        "decision": said.decision,
        "reject_reasons": said.reject_reasons,
        "background": said.background,
        "background_second": said.background_second,
        "source": SOURCE,
        "suggested_background": task.suggested,
        "suggestion_accepted": accepted,
    }


def _confirmation(
    answer: Mapping[str, Any], task: MirroredTask, project: Project
) -> tuple[Given, Row]:
    said = read_confirmation(answer)
    about = project.mark.about
    in_cluster = unsealed(task.sealed, project.mark.workspace, task.sha256)
    if about is None or in_cluster is None:
        msg = "its task does not tell what was asked"
        raise AnswerError(msg)
    return said, {
        "run": about.run,
        "cluster": about.cluster,
        "discovery": about.discovery,
        "shows": said.shows,
        "in_cluster": in_cluster,
    }


LABEL = Kind(ANNOTATIONS, _label)
CONFIRMATION = Kind(CONFIRMATIONS, _confirmation)
