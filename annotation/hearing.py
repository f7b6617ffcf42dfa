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
        Photos that were asked about as another class than the workspace has them in.
    replaced
        Photos whose bytes are other ones by now than those that were asked about.
    """

    rows: list[Row] = field(default_factory=list)
    live: set[tuple[str, str]] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)


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
    stored = {photo_id for own in photos.values() for photo_id in own}
    latest: dict[tuple[Any, ...], tuple[datetime.datetime, int, Row]] = {}
    for project, mirror in mirrors:
        for key, task in mirror.tasks.items():
            own_photos = photos.get(task.sha256)
            name = task.photo_id or f"task {key} of {project.title!r}"
            if own_photos is None and task.sha256 and task.photo_id in stored:
                heard.replaced.add(name)
                own_photos = {}
            elif own_photos is None:
                heard.unknown.add(name)
                own_photos = {task.photo_id: task.class_name} if task.photo_id else {}
            # A photo that has another id by now was heard under its earlier one.
            heard.live.update(
                (project.mark.uid, photo_id)
                for photo_id in {*own_photos, task.photo_id}
                if photo_id
            )
            ids = [
                photo_id
                for photo_id, class_name in own_photos.items()
                if not task.class_name or meant(task.class_name) == meant(class_name)
            ]
            if own_photos and not ids:
                heard.moved.add(name)
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
