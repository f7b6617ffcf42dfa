"""Annotators of a real Label Studio, who answer over HTTP what the page would send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from annotation.client import Address, Client, Project, connect
from annotation.mirror import workspace_id
from annotation.parameters import PullParameters, PushParameters
from annotation.pull import pull
from annotation.push import push
from annotation.server import Server, photo_root
from manifests.progress import Progress
from manifests.workspace import Outcome, Workspace

PASSWORD = "a-long-password"


class Notes(Progress):
    """Keeps what a command tells on the way."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def choice(control: str, *values: str) -> dict[str, Any]:
    return {
        "from_name": control,
        "to_name": "photo",
        "type": "choices",
        "value": {"choices": list(values)},
    }


def kept(background: str, second: str | None = None) -> list[dict[str, Any]]:
    result = [choice("decision", "keep"), choice("background", background)]
    return [*result, choice("background_second", second)] if second else result


def rejected(*reasons: str) -> list[dict[str, Any]]:
    return [choice("decision", "reject"), choice("reject_reasons", *reasons)]


@dataclass
class Person:
    """Somebody with an account on the server."""

    url: str
    email: str
    token: str
    http: httpx.Client = field(repr=False)

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = self.http.request(
            method, self.url + path, headers={"Authorization": f"Token {self.token}"}, **options
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def answer(
        self, task: int, result: Sequence[dict[str, Any]], seconds: float = 4.0, **more: Any
    ) -> int:
        body = {"result": list(result), "lead_time": seconds, **more}
        return int(self.call("POST", f"/api/tasks/{task}/annotations/", json=body)["id"])

    def skip(self, task: int) -> int:
        return self.answer(task, kept("grass"), was_cancelled=True)

    def change(self, answer: int, result: Sequence[dict[str, Any]]) -> None:
        self.call("PATCH", f"/api/annotations/{answer}/", json={"result": list(result)})

    def remove(self, answer: int) -> None:
        self.call("DELETE", f"/api/annotations/{answer}/")

    def remove_task(self, task: int) -> None:
        self.call("DELETE", f"/api/tasks/{task}/")


@dataclass
class Office:
    """A running server with its owner; others join by invitation."""

    url: str
    owner: Person
    root: Path
    http: httpx.Client = field(repr=False)
    server: Server = field(repr=False)

    def join(self, email: str) -> Person:
        link = self.owner.call("GET", "/api/invite")["invite_url"]
        with httpx.Client(base_url=self.url, timeout=60) as page:
            page.get(link)
            form = {
                "email": email,
                "password": PASSWORD,
                "csrfmiddlewaretoken": page.cookies["csrftoken"],
            }
            assert page.post(link, data=form).status_code == 302
            token = page.get("/api/current-user/token").json()["token"]
        return Person(self.url, email, token, self.http)

    @contextmanager
    def client(self) -> Iterator[Client]:
        with connect(Address(self.url, self.owner.token)) as client:
            yield client

    def push(self, workspace: Workspace, progress: Progress | None = None, **options) -> Outcome:
        options.setdefault("photos_at", str(photo_root(self.root)))
        return push(workspace, PushParameters(**options), progress or Progress())

    def pull(self, workspace: Workspace, progress: Progress | None = None, **options) -> Outcome:
        return pull(workspace, PullParameters(**options), progress or Progress())

    def projects(self, workspace: Workspace) -> list[Project]:
        with self.client() as client:
            return client.projects(workspace_id(workspace))

    def tasks(self, workspace: Workspace, batch: str = "everyone") -> dict[str, int]:
        """Task ids by photo_id, in the order in which people see them."""
        with self.client() as client:
            for project in client.projects(workspace_id(workspace)):
                if project.mark.batch == batch:
                    listed = sorted(client.tasks(project, None), key=lambda task: task.id)
                    return {str(task.data["photo_id"]): task.id for task in listed}
        return {}
