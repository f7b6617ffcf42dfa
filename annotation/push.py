"""`cap annotate push`: send the photos that need people to Label Studio.

A photo is known by its digest and class: what a project has already is never sent again, however
often the command runs and wherever it was stopped. Every photo is checked to be readable before it
is sent, and one of each lot as an annotator would see it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from annotation.assignment import EVERYONE, TWICE, Asked, Candidate, assign, meaning
from annotation.client import Address, Client, Project, ProjectMark, connect, new_uid
from annotation.confirming import confirming
from annotation.mirror import Mirror, MirroredTask, mirror_folder, stored_photos, workspace_id
from annotation.questions import SUGGESTION, Inquiry, Question, labelling, task_of
from annotation.server import photo_root
from manifests.errors import CapError, PhotoError
from manifests.workspace import Outcome

if TYPE_CHECKING:
    from annotation.parameters import PushParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["LOT", "push"]

LOT = 1000
"""Photos sent at a time; the server takes all of them or none."""

_LANDING_SECONDS = 10.0
"""A lot that was on its way when the command was stopped is there by then, or never."""


def push(workspace: Workspace, parameters: PushParameters, progress: Progress) -> Outcome:
    """Send what is missing, batch by batch."""
    _check(parameters)
    ask = labelling if parameters.from_discovery is None else confirming
    inquiry = ask(workspace, parameters)
    with connect(Address.from_environment()) as client:
        return _Sending(workspace, parameters, client, inquiry, progress).run()


def _check(parameters: PushParameters) -> None:
    people = len(parameters.annotators)
    other = "--adjudicate" if parameters.adjudicate else "--suggest"
    if parameters.from_discovery is not None and (parameters.adjudicate or parameters.suggest):
        msg = f"--from-discovery asks nothing about backgrounds; leave out {other}"
        raise CapError(msg)
    if parameters.limit is not None and parameters.limit < 1:
        msg = f"--limit is a number of photos, 1 or more, not {parameters.limit}"
        raise CapError(msg)
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
    # An adjudicator decides alone.
    several = max(parameters.overlap, 2 if parameters.share else 1)
    wanted = 1 if parameters.adjudicate else several
    if people and wanted > people:
        msg = f"{wanted} people are wanted for a photo, and --annotators names {people}"
        raise CapError(msg)
    if {EVERYONE, TWICE} & set(parameters.annotators):
        msg = f"no annotator can be called {EVERYONE} or {TWICE}; the projects for all are"
        raise CapError(msg)


class _Sending:
    """One run of the command, with all that its steps share."""

    def __init__(
        self,
        workspace: Workspace,
        parameters: PushParameters,
        client: Client,
        inquiry: Inquiry,
        progress: Progress,
    ) -> None:
        self.workspace = workspace
        self.parameters = parameters
        self.client = client
        self.inquiry = inquiry
        self.progress = progress
        self.unreadable = 0
        self.meant = meaning(workspace.label_space)
        self.photos = stored_photos(workspace)

    def run(self) -> Outcome:
        inquiry, plan = self.inquiry, self.inquiry.plan
        projects = self._projects()
        mirrors = {batch: self._mirror(project) for batch, project in projects.items()}
        everyone = projects.get(EVERYONE)
        if everyone is not None and everyone.people < plan.overlap:
            self.client.ask_more(everyone, plan.overlap)
        by_asked = {question.candidate.asked: question for question in inquiry.questions}
        given = assign(
            [question.candidate for question in inquiry.questions],
            {batch: mirror.asked(self.meant) for batch, mirror in mirrors.items()},
            plan,
        )
        sent: Counter[str] = Counter()
        for batch, candidates in self._limited(given).items():
            project = projects.get(batch) or self._make(batch)
            mirror = mirrors.get(batch) or Mirror.load(self._folder, project.mark.uid)
            lot = [by_asked[candidate.asked] for candidate in candidates]
            sent[project.title] = self._send(project, mirror, lot)
        return self._outcome(sent)

    @property
    def _folder(self) -> Path:
        return mirror_folder(self.workspace)

    def _projects(self) -> dict[str, Project]:
        """Projects with this screen, by batch; their screens as they were made."""
        found = {}
        screen = self.inquiry.screen
        asked = (screen.version, self.inquiry.round, self.inquiry.about)
        for project in self.client.projects(workspace_id(self.workspace)):
            mark = project.mark
            if (mark.screen, mark.round, mark.about) != asked:
                continue
            if mark.batch in found:
                continue
            if project.config != screen.config:
                self.client.restore_screen(project, screen)
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

    def _make(self, batch: str) -> Project:
        inquiry = self.inquiry
        mark = ProjectMark(
            workspace=workspace_id(self.workspace),
            uid=new_uid(),
            screen=inquiry.screen.version,
            round=inquiry.round,
            batch=batch,
            about=inquiry.about,
        )
        people = 2 if batch == TWICE else 1
        if batch == EVERYONE:
            people = inquiry.plan.overlap
        name = self.parameters.project or self.workspace.root.name
        project = self.client.create_project(name, mark, inquiry.screen, people)
        self._let_serve(project)
        return project

    def _mirror(self, project: Project) -> Mirror:
        mirror = Mirror.load(self._folder, project.mark.uid)
        mirror.refresh(self.client, project)
        deadline = time.monotonic() + _LANDING_SECONDS
        flying = {Asked(each.sha256, self.meant(each.class_name)) for each in mirror.in_flight}
        while flying - mirror.asked(self.meant) and time.monotonic() < deadline:
            time.sleep(0.5)
            mirror.refresh(self.client, project)
        self._remove(mirror, mirror.doubled(self.meant))
        superseded = mirror.superseded(self.photos, self.meant)
        if superseded:
            self.progress.note(
                f"annotate push: {len(superseded)} photos that nobody has answered in "
                f"{project.title!r} are in another class, or other photos, by now; these questions "
                "are taken back"
            )
            self._remove(mirror, superseded)
        mirror.in_flight = ()
        mirror.save()
        return mirror

    def _remove(self, mirror: Mirror, keys: Sequence[int]) -> None:
        for key in keys:
            self.client.delete_task(key)
            del mirror.tasks[key]

    def _limited(self, given: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
        if self.inquiry.limit is None:
            return dict(given)
        # The first by need, each for all who are to be asked about it.
        there = {candidate.asked for own in given.values() for candidate in own}
        order = [question.candidate.asked for question in self.inquiry.questions]
        first = set([asked for asked in order if asked in there][: self.inquiry.limit])
        kept = {
            batch: [candidate for candidate in candidates if candidate.asked in first]
            for batch, candidates in given.items()
        }
        return {batch: candidates for batch, candidates in kept.items() if candidates}

    def _send(self, project: Project, mirror: Mirror, questions: Sequence[Question]) -> int:
        sent = 0
        label = f"sending to {project.title!r}"
        with self.progress.task(label, len(questions)) as advance:
            for start in range(0, len(questions), LOT):
                asked = questions[start : start + LOT]
                lot = list(self._readable(asked))
                if lot:
                    self._check_served(project, lot[0])
                    self._send_lot(project, mirror, lot)
                sent += len(lot)
                advance(len(asked))
        if any(question.candidate.suggested for question in questions):
            self.client.name_suggestions(project, SUGGESTION)
        mirror.in_flight = ()
        mirror.save()
        return sent

    def _send_lot(self, project: Project, mirror: Mirror, lot: Sequence[Question]) -> None:
        mirror.begin_sending(self.client, tuple(q.candidate.asked for q in lot))
        tasks = [task_of(question) for question in lot]
        keys = self.client.import_tasks(project, tasks)
        for key, task in zip(keys, tasks, strict=True):
            mirror.add(key, MirroredTask.of(task["data"]))

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

    def _check_served(self, project: Project, question: Question) -> None:
        own = (question.candidate.path, question.candidate.sha256)
        for path, sha256 in (own, *question.pictures):
            reason = self.client.shows(path, sha256)
            if reason is not None:
                msg = (
                    f"annotators of {project.title!r} would not see the photos: Label Studio gives "
                    f"{reason} for {path}. Start it with `cap annotate serve`, or mount the "
                    "workspace's photos there and name the folder with --photos-at"
                )
                raise CapError(msg)

    def _outcome(self, sent: Counter[str]) -> Outcome:
        total, asked = sent.total(), len(self.inquiry.questions)
        lines = [f"  {title}: {count} photos" for title, count in sent.items()]
        text = f"{total} photos sent; {asked} {self.inquiry.what}"
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
            **self.inquiry.facts,
        }
        return Outcome("annotate push", "\n".join([text, *lines]), facts, not total)
