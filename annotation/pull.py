"""`cap annotate pull`: bring the answers home, exactly as they stand on the server.

Each project's mirror is brought up to date. All answers in the mirrors, read with suspicion, become
the rows of `annotations` whose source is Label Studio, and `labels` are settled anew; answers about
discoveries become `confirmations`. Answers whose task, project or server is gone stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotation.assignment import meaning
from annotation.client import Address, Project, connect
from annotation.hearing import CONFIRMATION, LABEL, SOURCE, Heard, Kind, hear
from annotation.labels import refuse_doubled, settle_labels
from annotation.mirror import Mirror, mirror_folder, stored_photos, workspace_id
from annotation.screen import discovery_screen, labelling_screen
from manifests.errors import CapError
from manifests.tables import count_by, from_rows, table_digest
from manifests.workspace import Job, Outcome

if TYPE_CHECKING:
    import pyarrow as pa

    from annotation.parameters import PullParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["pull"]

_COMPLAINTS_SHOWN = 20
_KINDS = (LABEL, CONFIRMATION)


@dataclass(frozen=True)
class _Home:
    """What came home of one kind of answer.

    Attributes
    ----------
    rows
        All answers of the kind, those that are no longer on the server included.
    heard
        What the server says now.
    gone
        How many of the rows are no longer on the server.
    asked
        Whether anything of the kind was ever asked.
    """

    rows: pa.Table
    heard: Heard
    gone: int
    asked: bool


def pull(workspace: Workspace, parameters: PullParameters, progress: Progress) -> Outcome:
    """Bring `annotations`, `labels` and `confirmations` up to date with the server."""
    photos = stored_photos(workspace)
    meant = meaning(workspace.label_space)
    with connect(Address.from_environment()) as client:
        projects = client.projects(workspace_id(workspace))
        if not projects and not any(_standing(workspace, k).num_rows for k in _KINDS):
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
    labels, confirmations = (
        _home(
            workspace,
            kind,
            hear([m for m in mirrors if _kind(m[0]) is kind], photos, people, kind, meant),
            asked=any(_kind(project) is kind for project in projects),
        )
        for kind in _KINDS
    )
    for complaint in _complaints(labels, confirmations)[:_COMPLAINTS_SHOWN]:
        progress.note(f"annotate pull: left out: {complaint}")
    # What was never asked makes no table, and leaves one that came from elsewhere alone.
    fresh = [
        commit(workspace, home.rows)
        for commit, home in ((_commit_labels, labels), (_commit_confirmations, confirmations))
        if home.asked
    ]
    return _outcome(workspace, labels, confirmations, fresh=all(fresh))


def _kind(project: Project) -> Kind:
    return LABEL if project.mark.about is None else CONFIRMATION


def _warn_of_edits(project: Project, progress: Progress) -> None:
    screens = [*(labelling_screen(adjudication=each) for each in (False, True)), discovery_screen()]
    for screen in screens:
        if screen.version == project.mark.screen and screen.config != project.config:
            progress.note(
                f"annotate pull: the labelling interface of {project.title!r} was edited in Label "
                "Studio; `cap annotate push` puts it back. Answers that the screen could not give "
                "are left out"
            )


def _standing(workspace: Workspace, kind: Kind) -> pa.Table:
    """Rows of earlier pulls."""
    spec = kind.table
    if not workspace.has(spec.name):
        return spec.schema.empty_table()
    return workspace.read(spec.name, SOURCE if "source" in spec.schema.names else None)


def _home(workspace: Workspace, kind: Kind, heard: Heard, *, asked: bool) -> _Home:
    """What the server says, and what it said before of tasks that are gone."""
    key = kind.table.key
    earlier = _standing(workspace, kind).to_pylist()
    new = {tuple(row[k] for k in key) for row in heard.rows}
    gone = [
        row
        for row in earlier
        if (row["source_id"].partition("/")[0], row["photo_id"]) not in heard.live
        and tuple(row[k] for k in key) not in new
    ]
    rows = from_rows(
        sorted([*heard.rows, *gone], key=lambda row: [row[k] for k in key]), kind.table.schema
    )
    return _Home(rows, heard, len(gone), asked or bool(earlier))


def _commit_labels(workspace: Workspace, annotations: pa.Table) -> bool:
    """Write `annotations`, and settle `labels`; gives whether both were up to date."""
    advice = "import that file again under another name, with --annotator"
    refuse_doubled(workspace, annotations, SOURCE, advice)
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
    return run.fresh and settled


def _commit_confirmations(workspace: Workspace, confirmations: pa.Table) -> bool:
    """Write `confirmations`; gives whether they were up to date."""
    job = Job(
        table="confirmations",
        stage="annotate pull",
        parameters={},
        inputs={"answers": table_digest(confirmations)},
    )
    run = workspace.begin(job)
    if not run.fresh:
        run.commit(confirmations)
    return run.fresh


def _complaints(*homes: _Home) -> list[str]:
    return [complaint for home in homes for complaint in home.heard.complaints]


def _outcome(workspace: Workspace, labels: _Home, confirmations: _Home, *, fresh: bool) -> Outcome:
    lines, facts = [], {}
    if labels.asked:
        decided = count_by(workspace.read("labels"), "decision")
        people = labels.rows["annotator"].unique()
        lines.append(
            f"{labels.rows.num_rows} answers of {len(people)} people; {decided.get('keep', 0)} "
            f"photos kept, {decided.get('reject', 0)} rejected"
        )
        facts = {"answers": labels.rows.num_rows, "people": people.to_pylist(), **decided}
    if confirmations.asked:
        rows = confirmations.rows
        people = rows["annotator"].unique()
        clusters = rows.group_by(["run", "cluster", "discovery"]).aggregate([]).num_rows
        lines.append(
            f"{rows.num_rows} answers of {len(people)} people about {clusters} discoveries"
        )
        facts |= {"confirmations": rows.num_rows, "discoveries": clusters}
    complaints = _complaints(labels, confirmations)
    gone = labels.gone + confirmations.gone
    if complaints:
        lines.append(
            f"{len(complaints)} answers make no sense and are left out; they stay in Label Studio"
        )
    lines += _about_photos(labels.heard, confirmations.heard)
    if gone:
        lines.append(f"{gone} answers of earlier pulls are no longer on the server and are kept")
    facts |= {
        "left_out": complaints,
        "unknown": sorted(labels.heard.unknown | confirmations.heard.unknown),
        "moved": sorted(labels.heard.moved | confirmations.heard.moved),
        "replaced": sorted(labels.heard.replaced | confirmations.heard.replaced),
        "nameless": sorted(labels.heard.nameless | confirmations.heard.nameless),
        "kept_though_gone": gone,
    }
    return Outcome("annotate pull", "\n  ".join(lines), facts, fresh)


def _about_photos(labels: Heard, confirmations: Heard) -> list[str]:
    """What is to be said of tasks that are about no photo as the workspace has it."""
    unknown = labels.unknown | confirmations.unknown
    replaced = labels.replaced | confirmations.replaced
    nameless = labels.nameless | confirmations.nameless
    lines = []
    if unknown:
        lines.append(
            f"{len(unknown)} photos in Label Studio are not in the workspace "
            f"({_first(unknown)}); their answers are kept"
        )
    if nameless:
        lines.append(
            f"{len(nameless)} tasks in Label Studio are about no photo of the workspace "
            f"({_first(nameless)}); what people say there is left out"
        )
    for photos, what in (
        (
            labels.moved | confirmations.moved,
            "were asked about as another class than theirs is now",
        ),
        (replaced, "have other bytes by now than those that were asked about"),
    ):
        if photos:
            again = ", and `cap annotate push` asks again" if photos & labels.unasked else ""
            if photos is not replaced:
                again += (
                    "; where a class was only renamed, write its earlier name into the label "
                    "space's column `synonyms` and pull again"
                )
            lines.append(
                f"{len(photos)} photos {what} ({_first(photos)}); these answers are left out{again}"
            )
    return lines


def _first(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3])
