"""What a project on the server holds, kept beside the workspace, so that only changes are asked.

A `Mirror` can be made again at any time from the server alone; what it saves is time. Every refresh
compares its counts with the server's and reads again what does not fit, so that edits, deletions
and whatever a killed command left behind are seen.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from annotation.assignment import Asked
from annotation.client import new_uid
from manifests.tables import write_bytes

if TYPE_CHECKING:
    from annotation.client import Client, Counts, Project, RawTask
    from manifests.workspace import Workspace

__all__ = ["Mirror", "MirroredTask", "mirror_folder", "stored_photos", "workspace_id"]

_OVERLAP = datetime.timedelta(seconds=5)
"""A change may be written this long after the time that it bears."""


def workspace_id(workspace: Workspace) -> str:
    """Random id by which projects on a server are known to be this workspace's."""
    file = workspace.root / "label-studio" / "workspace-id"
    if not file.is_file():
        write_bytes(file, f"{new_uid()}\n".encode())
    return file.read_text("utf-8").strip()


def mirror_folder(workspace: Workspace) -> Path:
    """Where mirrors of the projects are kept."""
    return workspace.root / ".cap" / "label-studio"


def stored_photos(workspace: Workspace) -> dict[str, dict[str, str]]:
    """By digest, the class names of the workspace's photos by photo_id."""
    photos = workspace.read("photos")
    stored = photos.filter(pc.equal(photos["status"], "ok"))
    classes: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in stored.select(["sha256", "photo_id", "class_name"]).to_pylist():
        classes[row["sha256"]][row["photo_id"]] = row["class_name"]
    return dict(classes)


@dataclass
class MirroredTask:
    """A photo on the server.

    Attributes
    ----------
    sha256
        Digest of the photo.
    photo_id
        The photo's id when it was sent.
    class_name
        The class that is asked about; empty where none is.
    suggested
        Background that the screen suggests, or None.
    sealed
        Whether the photo is in the cluster asked about, in a form that people cannot read; empty
        where labels are asked for.
    answers
        What people said, as the server gives it.
    """

    sha256: str
    photo_id: str
    class_name: str
    suggested: str | None
    sealed: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> MirroredTask:
        """From a task's data; a task of somebody else's making has no digest."""
        return cls(
            sha256=str(data.get("sha256") or ""),
            photo_id=str(data.get("photo_id") or ""),
            class_name=str(data.get("class_name") or ""),
            suggested=data.get("suggested_background") or None,
            sealed=str(data.get("sealed") or ""),
        )

    def asked(self, meant: Callable[[str], str]) -> Asked:
        """What is asked.

        Parameters
        ----------
        meant
            What names of classes mean; see `meaning`.
        """
        return Asked(self.sha256, meant(self.class_name))


@dataclass
class Mirror:
    """One project's tasks and answers, as last seen.

    Attributes
    ----------
    file
        Where it is kept.
    seen_until
        The server's time up to which all changes are in here; None before the first look.
    tasks
        Tasks by the server's id.
    in_flight
        What was being sent when the mirror was last saved.
    sent_above
        Tasks with a higher id were sent since the last refresh; None where none were.
    """

    file: Path
    seen_until: datetime.datetime | None = None
    tasks: dict[int, MirroredTask] = field(default_factory=dict)
    in_flight: tuple[Asked, ...] = ()
    sent_above: int | None = None

    @classmethod
    def load(cls, folder: Path, uid: str) -> Mirror:
        """The mirror of a project; an empty one where there is none, or none that can be read."""
        file = folder / f"{uid}.json"
        try:
            kept = json.loads(file.read_bytes())
            return cls(
                file,
                datetime.datetime.fromisoformat(kept["seen_until"]) if kept["seen_until"] else None,
                {int(key): MirroredTask(**value) for key, value in kept["tasks"].items()},
                tuple(Asked(*each) for each in kept["in_flight"]),
                kept["sent_above"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # It is only a copy: the server has all of it.
            return cls(file)

    def save(self) -> None:
        """Keep the mirror for the next command."""
        kept = {
            "seen_until": self.seen_until.isoformat() if self.seen_until else None,
            "tasks": {str(key): vars(task) for key, task in self.tasks.items()},
            "in_flight": self.in_flight,
            "sent_above": self.sent_above,
        }
        write_bytes(self.file, json.dumps(kept).encode())

    def refresh(self, client: Client, project: Project) -> None:
        """Take in what has changed on the server, and save."""
        until = client.clock() - _OVERLAP
        changed = list(client.tasks(project, self.seen_until, self.sent_above))
        self._take(changed)
        counts = client.counts(project)
        for skips in (False, True):
            # Of tasks just sent, which are not listed, nothing but answers can be new.
            unlisted = self.sent_above is not None and (counts.skips if skips else counts.answers)
            if unlisted or any(task.skips if skips else task.answers for task in changed):
                self._hear(client.answers(project, self.seen_until, skips=skips))
        if counts.tasks != len(self.tasks):
            listed = {task.id: task for task in client.tasks(project, None)}
            for key in set(self.tasks) - set(listed):
                del self.tasks[key]
            self._take(task for key, task in listed.items() if key not in self.tasks)
        if not self._agrees(counts):
            for task in self.tasks.values():
                task.answers = []
            for skips in (False, True):
                self._hear(client.answers(project, None, skips=skips))
        self.seen_until = until
        self.sent_above = None
        self.save()

    def begin_sending(self, client: Client, questions: tuple[Asked, ...]) -> None:
        """Note, and save, that these are on their way."""
        if self.seen_until is None:
            self.seen_until = client.clock() - _OVERLAP
        if self.sent_above is None:
            self.sent_above = max(self.tasks, default=0)
        self.in_flight = questions
        self.save()

    def add(self, key: int, task: MirroredTask) -> None:
        """Note a task that was just sent."""
        self.tasks[key] = task

    def _take(self, tasks: Iterable[RawTask]) -> None:
        for task in tasks:
            taken = MirroredTask.of(task.data)
            known = self.tasks.get(task.id)
            if known is not None and known.sha256 == taken.sha256 and task.answers + task.skips:
                taken.answers = known.answers
            self.tasks[task.id] = taken

    def _hear(self, answers: dict[int, list[dict[str, Any]]]) -> None:
        for key, heard in answers.items():
            # A task that was made since the tasks were listed is seen by the next refresh.
            if key in self.tasks:
                self.tasks[key].answers = heard

    def _agrees(self, counts: Counts) -> bool:
        held = Counter(
            bool(answer.get("was_cancelled"))
            for task in self.tasks.values()
            for answer in task.answers
        )
        return (held[False], held[True]) == (counts.answers, counts.skips)

    def asked(self, meant: Callable[[str], str]) -> set[Asked]:
        """What the server has."""
        return {task.asked(meant) for task in self.tasks.values()}

    def doubled(self, meant: Callable[[str], str]) -> list[int]:
        """Ids of unanswered tasks that ask what an older, or an answered, task asks already.

        Tasks without a digest were added by somebody else, and ask we do not know what.
        """
        answered_first = sorted(self.tasks, key=lambda key: (not self.tasks[key].answers, key))
        seen: set[Asked] = set()
        found = []
        for key in answered_first:
            task = self.tasks[key]
            asked = task.asked(meant)
            if asked in seen and task.sha256 and not task.answers:
                found.append(key)
            seen.add(asked)
        return found

    def superseded(
        self, photos: Mapping[str, Mapping[str, str]], meant: Callable[[str], str]
    ) -> list[int]:
        """Ids of unanswered tasks about other classes or bytes than the photos have by now.

        Parameters
        ----------
        photos
            As `stored_photos` gives them.
        meant
            What names of classes mean; see `meaning`.
        """
        stored = {photo_id for own in photos.values() for photo_id in own}
        found = []
        for key, task in self.tasks.items():
            now = photos.get(task.sha256)
            moved = now is not None and meant(task.class_name) not in map(meant, now.values())
            replaced = now is None and task.photo_id in stored
            if task.sha256 and not task.answers and (replaced or (moved and task.class_name)):
                found.append(key)
        return found
