"""`cap annotate pull`: bring the answers home, exactly as they stand on the server.

Each project's mirror is brought up to date; all answers in the mirrors, read with suspicion, become
the rows of `annotations` whose source is Label Studio, and `labels` are settled anew. Answers whose
task, project or server is gone stay as they were.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from annotation.answers import AnswerError, Said, read_answer
from annotation.client import Address, Project, connect
from annotation.labels import refuse_doubled, settle_labels
from annotation.mirror import Mirror, MirroredTask, mirror_folder, workspace_id
from annotation.screen import labelling_screen
from manifests.errors import CapError
from manifests.schema import ANNOTATIONS
from manifests.tables import count_by, from_rows, table_digest
from manifests.workspace import Job, Outcome

if TYPE_CHECKING:
    import pyarrow as pa

    from annotation.parameters import PullParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["SOURCE", "Heard", "hear", "pull"]

SOURCE = "label-studio"
"""`source` of the rows; `source_id` tells project and answer."""

_COMPLAINTS_SHOWN = 20

Row = dict[str, Any]


@dataclass
class Heard:
    """What the mirrors say.

    Attributes
    ----------
    rows
        Rows of `annotations`, one per photo, annotator and round.
    live
        Project uid and photo_id of every task on the server.
    complaints
        Answers that make no sense, in words.
    unknown
        Photos on the server that the workspace does not have.
    """

    rows: list[Row] = field(default_factory=list)
    live: set[tuple[str, str]] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)


def hear(
    mirrors: Sequence[tuple[Project, Mirror]],
    photo_ids: Mapping[str, Sequence[str]],
    people: Mapping[int, str],
) -> Heard:
    """Rows of `annotations` from mirrored projects.

    Parameters
    ----------
    mirrors
        Projects with their mirrors.
    photo_ids
        Ids of the workspace's photos by digest.
    people
        Names by the server's user id.

    Notes
    -----
    Where one person has answered twice for a photo, the answer changed last stands.
    """
    heard = Heard()
    latest: dict[tuple[str, str, str], tuple[datetime.datetime, int, Row]] = {}
    for project, mirror in mirrors:
        for key, task in mirror.tasks.items():
            ids = photo_ids.get(task.sha256)
            if ids is None:
                heard.unknown.add(task.photo_id or f"task {key} of {project.title!r}")
                ids = [task.photo_id] if task.photo_id else []
            heard.live.update((project.mark.uid, photo_id) for photo_id in ids)
            for answer in task.answers:
                try:
                    said = read_answer(answer)
                except AnswerError as error:
                    heard.complaints.append(_complaint(project, key, answer, people, error))
                    continue
                annotator = people.get(said.user_id, f"user {said.user_id}")
                for photo_id in ids:
                    row = _row(photo_id, annotator, said, task, project)
                    own = (photo_id, annotator, project.mark.round)
                    place = (said.updated_at, said.answer_id)
                    if own not in latest or latest[own][:2] < place:
                        latest[own] = (*place, row)
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


def _row(photo_id: str, annotator: str, said: Said, task: MirroredTask, project: Project) -> Row:
    accepted = None
    if task.suggested is not None and said.decision != "skip":
        accepted = said.decision == "keep" and said.background == task.suggested
    return {
        "photo_id": photo_id,
        "annotator": annotator,
        "round": project.mark.round,
        "decision": said.decision,
        "reject_reasons": said.reject_reasons,
        "background": said.background,
        "background_second": said.background_second,
        "note": said.note,
        "seconds": said.seconds,
        "created_at": said.created_at,
        "updated_at": said.updated_at,
        "source": SOURCE,
        "source_id": f"{project.mark.uid}/{said.answer_id}",
        "config_version": project.mark.screen,
        "suggested_background": task.suggested,
        "suggestion_accepted": accepted,
    }


def pull(workspace: Workspace, parameters: PullParameters, progress: Progress) -> Outcome:
    """Bring `annotations` and `labels` up to date with the server."""
    photos = workspace.read("photos")
    stored = photos.filter(pc.equal(photos["status"], "ok")).select(["sha256", "photo_id"])
    photo_ids: defaultdict[str, list[str]] = defaultdict(list)
    for digest, photo_id in zip(*(column.to_pylist() for column in stored.columns), strict=True):
        photo_ids[digest].append(photo_id)
    with connect(Address.from_environment()) as client:
        projects = client.projects(workspace_id(workspace))
        if not projects and not _standing(workspace).num_rows:
            msg = (
                f"Label Studio at {client.address.url} has no project of this workspace; run "
                "`cap annotate push` first"
            )
            raise CapError(msg)
        mirrors = []
        for project in projects:
            _warn_of_edits(project, progress)
            mirror = Mirror.load(mirror_folder(workspace), project.mark.uid)
            if parameters.full:
                mirror = Mirror(mirror.file, in_flight=mirror.in_flight)
            mirror.refresh(client, project)
            mirrors.append((project, mirror))
        people = client.people()
    heard = hear(mirrors, photo_ids, people)
    return _commit(workspace, heard, progress)


def _warn_of_edits(project: Project, progress: Progress) -> None:
    screens = [labelling_screen(adjudication=each) for each in (False, True)]
    for screen in screens:
        if screen.version == project.mark.screen and screen.config != project.config:
            progress.note(
                f"annotate pull: the labelling interface of {project.title!r} was edited in Label "
                "Studio; `cap annotate push` puts it back. Answers that the screen could not give "
                "are left out"
            )


def _standing(workspace: Workspace) -> pa.Table:
    """Rows of earlier pulls."""
    if not workspace.has("annotations"):
        return ANNOTATIONS.schema.empty_table()
    table = workspace.read("annotations")
    return table.filter(pc.equal(table["source"], SOURCE))


def _commit(workspace: Workspace, heard: Heard, progress: Progress) -> Outcome:
    earlier = _standing(workspace).to_pylist()
    new = {tuple(row[k] for k in ANNOTATIONS.key) for row in heard.rows}
    gone = [
        row
        for row in earlier
        if (row["source_id"].partition("/")[0], row["photo_id"]) not in heard.live
        and tuple(row[k] for k in ANNOTATIONS.key) not in new
    ]
    annotations = from_rows(
        sorted([*heard.rows, *gone], key=lambda row: [row[k] for k in ANNOTATIONS.key]),
        ANNOTATIONS.schema,
    )
    advice = "import that file again under another name, with --annotator"
    refuse_doubled(workspace, annotations, SOURCE, advice)
    for complaint in heard.complaints[:_COMPLAINTS_SHOWN]:
        progress.note(f"annotate pull: left out: {complaint}")
    job = Job(
        table="annotations",
        stage="annotate pull",
        source=SOURCE,
        parameters={},
        inputs={"answers": table_digest(annotations)},
    )
    run = workspace.begin(job)
    if not run.fresh:
        run.commit(annotations)
    settled = settle_labels(workspace)
    return _outcome(workspace, annotations, heard, len(gone), fresh=run.fresh and settled)


def _outcome(
    workspace: Workspace, annotations: pa.Table, heard: Heard, gone: int, *, fresh: bool
) -> Outcome:
    decided = count_by(workspace.read("labels"), "decision")
    people = annotations["annotator"].unique()
    lines = [
        f"{annotations.num_rows} answers of {len(people)} people; {decided.get('keep', 0)} photos "
        f"kept, {decided.get('reject', 0)} rejected"
    ]
    if heard.complaints:
        lines.append(
            f"  {len(heard.complaints)} answers make no sense and are left out; they stay in Label "
            "Studio"
        )
    if heard.unknown:
        first = ", ".join(sorted(heard.unknown)[:3])
        lines.append(
            f"  {len(heard.unknown)} photos in Label Studio are not in the workspace ({first}); "
            "their answers are kept"
        )
    if gone:
        lines.append(f"  {gone} answers of earlier pulls are no longer on the server and are kept")
    facts = {
        "answers": annotations.num_rows,
        "people": people.to_pylist(),
        "left_out": heard.complaints,
        "unknown": sorted(heard.unknown),
        "kept_though_gone": gone,
        **decided,
    }
    return Outcome("annotate pull", "\n".join(lines), facts, fresh)
