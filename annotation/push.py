"""`cap annotate push`: send the photos that need people to Label Studio.

A photo is known by its digest: what a project has already is never sent again, however often the
command runs and wherever it was stopped. Every photo is checked to be readable before it is sent,
and one of each lot as an annotator would see it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from annotation.assignment import (
    EVERYONE,
    TWICE,
    Candidate,
    Plan,
    assign,
    draw,
    in_order,
    planned,
    still_needed,
)
from annotation.client import (
    Address,
    Client,
    Project,
    ProjectMark,
    connect,
    new_uid,
    photo_url,
)
from annotation.consensus import NONE_FITS, disputed
from annotation.mirror import Mirror, MirroredTask, mirror_folder, workspace_id
from annotation.screen import PHOTO, Screen, labelling_screen
from annotation.server import photo_root
from annotation.suggestions import predicted_backgrounds
from manifests.errors import CapError, PhotoError
from manifests.kept import kept_photos
from manifests.workspace import Outcome

if TYPE_CHECKING:
    from annotation.parameters import PushParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["LOT", "Question", "push", "task_of"]

LOT = 1000
"""Photos sent at a time; the server takes all of them or none."""

_SUGGESTION = "suggestion"
"""What Label Studio calls a version of a model; the page opens with its predictions."""

_LANDING_SECONDS = 10.0
"""A lot that was on its way when the command was stopped is there by then, or never."""


@dataclass(frozen=True)
class Question:
    """A candidate with what its task shows beside the photo."""

    candidate: Candidate
    definition: str
    answers: Mapping[str, str] | None = None


def task_of(question: Question) -> dict[str, Any]:
    """The task for Label Studio: what the screen shows, and the suggestion as a prediction."""
    candidate = question.candidate
    data: dict[str, Any] = {
        "image": photo_url(candidate.path),
        "sha256": candidate.sha256,
        "photo_id": candidate.photo_id,
        "class_name": candidate.class_name,
        "class_definition": question.definition,
        "suggested_background": candidate.suggested or "",
        "hint": "k keeps the photo, x rejects it",
    }
    if question.answers is not None:
        data["answers"] = dict(question.answers)
    task: dict[str, Any] = {"data": data}
    if candidate.suggested is not None:
        data["hint"] = f"Suggested: {candidate.suggested}. Enter takes it, another key changes it"
        task["predictions"] = [
            {
                "model_version": _SUGGESTION,
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


def push(workspace: Workspace, parameters: PushParameters, progress: Progress) -> Outcome:
    """Send what is missing, batch by batch."""
    _check(parameters)
    candidates, unsettled = _candidates(workspace, parameters)
    screen = labelling_screen(adjudication=parameters.adjudicate)
    with connect(Address.from_environment()) as client:
        sending = _Sending(workspace, parameters, client, screen, progress)
        return sending.run(candidates, unsettled)


def _check(parameters: PushParameters) -> None:
    people = len(parameters.annotators)
    if parameters.overlap < 1:
        msg = "--overlap is the number of people to ask about each photo, 1 or more"
        raise CapError(msg)
    for name, value in (
        ("share", parameters.share),
        ("without-suggestion", parameters.without_suggestion),
    ):
        if not 0 <= value <= 1:
            msg = f"--{name} is a fraction from 0 to 1, not {value}"
            raise CapError(msg)
    wanted = max(parameters.overlap, 2 if parameters.share else 1)
    if people and wanted > people:
        msg = f"{wanted} people are wanted for a photo, and --annotators names {people}"
        raise CapError(msg)
    if {EVERYONE, TWICE} & set(parameters.annotators):
        msg = f"no annotator can be called {EVERYONE} or {TWICE}; the projects for all are"
        raise CapError(msg)


def _candidates(
    workspace: Workspace, parameters: PushParameters
) -> tuple[list[Question], list[tuple[int, str]]]:
    """Photos to ask about, and class and background of those that are settled."""
    photos, _ = kept_photos(workspace)
    photos = photos.filter(pc.is_valid(photos["class_index"]))
    settled: dict[str, str | None] = {}
    if workspace.has("labels"):
        labels = workspace.read("labels")
        settled = dict(
            zip(labels["photo_id"].to_pylist(), labels["background"].to_pylist(), strict=True)
        )
    dispute: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    if parameters.adjudicate:
        dispute = disputed(workspace.read("annotations"))
    suggestions: Mapping[str, str] = {}
    if parameters.suggest is not None and not parameters.adjudicate:
        suggestions = predicted_backgrounds(workspace, parameters.suggest)
    definitions = workspace.label_space.definitions
    have: list[tuple[int, str]] = []
    asked: list[Question] = []
    columns = ["photo_id", "sha256", "path", "class_index", "class_name"]
    for row in photos.select(columns).to_pylist():
        background = settled.get(row["photo_id"])
        if background is not None:
            have.append((row["class_index"], background))
        wanted = (
            row["photo_id"] in dispute if parameters.adjudicate else row["photo_id"] not in settled
        )
        if not wanted:
            continue
        suggested = suggestions.get(row["photo_id"])
        if draw(parameters.seed, "suggest", row["sha256"]) < parameters.without_suggestion:
            suggested = None
        asked.append(
            Question(
                Candidate(**row, suggested=suggested),
                definitions[row["class_index"]] if definitions else "",
                _told(dispute[row["photo_id"]]) if parameters.adjudicate else None,
            )
        )
    return asked, have


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


class _Sending:
    """One run of the command, with all that its steps share."""

    def __init__(
        self,
        workspace: Workspace,
        parameters: PushParameters,
        client: Client,
        screen: Screen,
        progress: Progress,
    ) -> None:
        self.workspace = workspace
        self.parameters = parameters
        self.client = client
        self.screen = screen
        self.progress = progress
        self.round = "adjudication" if parameters.adjudicate else "first"
        self.unreadable = 0

    def run(self, questions: Sequence[Question], have: Sequence[tuple[int, str]]) -> Outcome:
        parameters = self.parameters
        plan = Plan(
            parameters.annotators,
            1 if parameters.adjudicate else parameters.overlap,
            0.0 if parameters.adjudicate else parameters.share,
            parameters.order,
            parameters.seed,
        )
        projects = self._projects()
        mirrors = {batch: self._mirror(project) for batch, project in projects.items()}
        everyone = projects.get(EVERYONE)
        if everyone is not None and everyone.people < plan.overlap:
            self.client.ask_more(everyone, plan.overlap)
        by_digest = {question.candidate.sha256: question for question in questions}
        ordered = self._in_order([question.candidate for question in questions], have, plan)
        given = assign(
            ordered, {batch: mirror.digests() for batch, mirror in mirrors.items()}, plan
        )
        sent: Counter[str] = Counter()
        for batch, candidates in self._limited(given).items():
            project = projects.get(batch) or self._make(batch, plan)
            mirror = mirrors.get(batch) or Mirror.load(self._folder, project.mark.uid)
            lot = [by_digest[candidate.sha256] for candidate in candidates]
            sent[project.title] = self._send(project, mirror, lot)
        return self._outcome(len(questions), sent)

    def _in_order(
        self, candidates: Sequence[Candidate], have: Sequence[tuple[int, str]], plan: Plan
    ) -> list[Candidate]:
        classes = {candidate.class_index for candidate in candidates}
        if not self.workspace.has("plan"):
            return in_order(
                candidates, still_needed(have, classes, self.parameters.min_photos), plan
            )
        rows = self.workspace.read("plan").to_pylist()
        wanted = planned(rows, have)
        needed: Counter[int] = Counter()
        for (index, _), count in wanted.items():
            needed[index] += count
        # A class that the plan does not know has been collected since, and lacks everything.
        unknown = classes - {row["class_index"] for row in rows}
        needed.update(dict.fromkeys(unknown, max(needed.values(), default=0)))
        return in_order(candidates, needed, plan, wanted)

    @property
    def _folder(self) -> Path:
        return mirror_folder(self.workspace)

    def _projects(self) -> dict[str, Project]:
        """Projects with this screen, by batch; their screens as they were made."""
        found = {}
        for project in self.client.projects(workspace_id(self.workspace)):
            mark = project.mark
            if (mark.screen, mark.round) != (self.screen.version, self.round):
                continue
            if mark.batch in found:
                continue
            if project.config != self.screen.config:
                self.client.restore_screen(project, self.screen)
                self.progress.note(
                    f"annotate push: the labelling interface of {project.title!r} had been edited "
                    "in Label Studio; it is put back"
                )
            self._let_serve(project)
            found[mark.batch] = project
        return found

    def _let_serve(self, project: Project) -> None:
        folder = self.parameters.photos_at or str(photo_root(self.workspace.root))
        try:
            self.client.let_serve_photos(project, folder)
        except CapError as error:
            msg = (
                f"{error}\nLabel Studio must serve the workspace's photos: start it with `cap "
                "annotate serve`, or mount them there and name the folder with --photos-at"
            )
            raise CapError(msg) from error

    def _make(self, batch: str, plan: Plan) -> Project:
        mark = ProjectMark(
            workspace_id(self.workspace), new_uid(), self.screen.version, self.round, batch
        )
        people = 2 if batch == TWICE else 1
        if batch == EVERYONE:
            people = plan.overlap
        name = self.parameters.project or self.workspace.root.name
        project = self.client.create_project(name, mark, self.screen, people)
        self._let_serve(project)
        return project

    def _mirror(self, project: Project) -> Mirror:
        mirror = Mirror.load(self._folder, project.mark.uid)
        mirror.refresh(self.client, project)
        deadline = time.monotonic() + _LANDING_SECONDS
        while set(mirror.in_flight) - mirror.digests() and time.monotonic() < deadline:
            time.sleep(0.5)
            mirror.refresh(self.client, project)
        self._remove_doubled(mirror)
        mirror.in_flight = ()
        mirror.save()
        return mirror

    def _remove_doubled(self, mirror: Mirror) -> None:
        for key in mirror.doubled():
            self.client.delete_task(key)
            del mirror.tasks[key]

    def _limited(self, given: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
        left = self.parameters.limit
        if left is None:
            return dict(given)
        kept = {}
        for batch, candidates in given.items():
            kept[batch] = candidates[:left]
            left -= len(kept[batch])
        return {batch: candidates for batch, candidates in kept.items() if candidates}

    def _send(self, project: Project, mirror: Mirror, questions: Sequence[Question]) -> int:
        sent = 0
        label = f"sending to {project.title!r}"
        with self.progress.task(label, len(questions)) as advance:
            for start in range(0, len(questions), LOT):
                asked = questions[start : start + LOT]
                lot = list(self._readable(asked))
                if lot:
                    self._check_served(project, lot[0].candidate)
                    self._send_lot(project, mirror, lot)
                sent += len(lot)
                advance(len(asked))
        if any(question.candidate.suggested for question in questions):
            self.client.name_suggestions(project, _SUGGESTION)
        mirror.in_flight = ()
        mirror.save()
        return sent

    def _send_lot(self, project: Project, mirror: Mirror, lot: Sequence[Question]) -> None:
        mirror.begin_sending(self.client, tuple(q.candidate.sha256 for q in lot))
        keys = self.client.import_tasks(project, [task_of(question) for question in lot])
        for key, question in zip(keys, lot, strict=True):
            candidate = question.candidate
            mirror.add(key, MirroredTask(candidate.sha256, candidate.photo_id, candidate.suggested))

    def _readable(self, questions: Sequence[Question]) -> Iterator[Question]:
        """Those whose stored photo is whole; the others are told, with the reason, and counted."""
        for question in questions:
            try:
                self.workspace.photos.read(question.candidate.path, question.candidate.sha256)
            except PhotoError as error:
                self.unreadable += 1
                self.progress.note(f"not sent: {question.candidate.photo_id} {error}")
            else:
                yield question

    def _check_served(self, project: Project, candidate: Candidate) -> None:
        reason = self.client.shows(candidate.path, candidate.sha256)
        if reason is not None:
            msg = (
                f"annotators of {project.title!r} would not see the photos: Label Studio gives "
                f"{reason} for {candidate.path}. Start it with `cap annotate serve`, or mount the "
                "workspace's photos there and name the folder with --photos-at"
            )
            raise CapError(msg)

    def _outcome(self, asked: int, sent: Counter[str]) -> Outcome:
        total = sent.total()
        lines = [f"  {title}: {count} photos" for title, count in sent.items()]
        what = "photos in dispute" if self.parameters.adjudicate else "photos that need people"
        text = f"{total} photos sent; {asked} {what}"
        if self.unreadable:
            text += f", {self.unreadable} could not be read and were not sent"
        if not total:
            text += ", all of them there already" if asked and not self.unreadable else ""
        lines.append(f"  people sign in at {self.client.address.url}")
        facts = {
            "sent": total,
            "asked": asked,
            "unreadable": self.unreadable,
            "projects": dict(sent),
        }
        return Outcome("annotate push", "\n".join([text, *lines]), facts, not total)
