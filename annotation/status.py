"""`cap annotate status`: how far each project is, and each annotator."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from annotation.client import Address, Project, connect
from annotation.mirror import Mirror, mirror_folder, workspace_id
from manifests.columns import columns
from manifests.workspace import Outcome

if TYPE_CHECKING:
    from annotation.parameters import StatusParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["status"]


def status(workspace: Workspace, parameters: StatusParameters, progress: Progress) -> Outcome:
    """Ask the server how far people are; nothing is written into the tables."""
    del parameters, progress
    with connect(Address.from_environment()) as client:
        people = client.people()
        seen = []
        for project in client.projects(workspace_id(workspace)):
            mirror = Mirror.load(mirror_folder(workspace), project.mark.uid)
            mirror.refresh(client, project)
            seen.append((project, mirror))
    projects = [_progress_of(project, mirror) for project, mirror in seen]
    annotators = _annotators([mirror for _, mirror in seen], people)
    left = sum(row["left"] for row in projects)
    text = f"{left} photos wait for an answer at {client.address.url}"
    if not projects:
        text = f"no project of this workspace at {client.address.url}; run `cap annotate push`"
    blocks = [columns(projects), columns(annotators)]
    lines = [f"  {line}" for block in blocks if block for line in ["", *block]]
    facts = {"left": left, "projects": projects, "annotators": annotators}
    return Outcome("annotate status", "\n".join([text, *lines]), facts)


def _progress_of(project: Project, mirror: Mirror) -> dict[str, Any]:
    answers = [
        [answer for answer in task.answers if not answer.get("was_cancelled")]
        for task in mirror.tasks.values()
    ]
    people = [len({answer.get("completed_by") for answer in given}) for given in answers]
    return {
        "project": project.title,
        "photos": len(people),
        "answered": sum(count > 0 for count in people),
        "left": sum(count < project.people for count in people),
        "people": project.people,
    }


def _annotators(mirrors: list[Mirror], people: dict[int, str]) -> list[dict[str, Any]]:
    answers: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for mirror in mirrors:
        for task in mirror.tasks.values():
            for answer in task.answers:
                answers[answer.get("completed_by") or 0].append(answer)
    rows = []
    for user in sorted(answers, key=lambda user: people.get(user, "")):
        given = answers[user]
        seconds = [a["lead_time"] for a in given if a.get("lead_time") and not a["was_cancelled"]]
        rows.append(
            {
                "annotator": people.get(user, f"user {user}"),
                "answers": sum(not answer.get("was_cancelled") for answer in given),
                "skips": sum(bool(answer.get("was_cancelled")) for answer in given),
                "seconds a photo": round(statistics.median(seconds), 1) if seconds else None,
                "last": max(str(answer.get("updated_at")) for answer in given)[:16],
            }
        )
    return rows
