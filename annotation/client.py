"""The way to a Label Studio server: its projects, what is sent to it, what is read from it.

`connect` gives a `Client` over label-studio-sdk, which is imported here and nowhere else, because
that takes time. Whatever goes wrong comes out as one sentence and what to do next.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from manifests.errors import CapError

if TYPE_CHECKING:
    import httpx

    from annotation.screen import Screen

__all__ = [
    "Address",
    "Client",
    "ClusterMark",
    "Counts",
    "Project",
    "ProjectMark",
    "RawTask",
    "connect",
    "new_uid",
    "photo_url",
]

_TIMEOUT_SECONDS = 300.0
_PAGE = 500
_MARK = "cap: "
_TITLE_AT_MOST = 50
_PROJECT_FIELDS = "id,title,description,label_config,maximum_annotations"
_TASK_FIELDS = "id,data,total_annotations,cancelled_annotations"
_ANSWER_FIELDS = (
    # The fields of the answers must be named beside those of their tasks.
    "id,annotations,result,completed_by,was_cancelled,lead_time,created_at,updated_at"
)


@dataclass(frozen=True)
class Address:
    """Where Label Studio is, and the token to show there."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def from_environment(cls) -> Address:
        """From LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY.

        Raises
        ------
        CapError
            If there is no token, or what is there cannot be one.
        """
        url = os.environ.get("LABEL_STUDIO_URL") or "http://127.0.0.1:8080"
        key = os.environ.get("LABEL_STUDIO_API_KEY", "").strip()
        if not key:
            msg = (
                f"Label Studio at {url} asks for a token; set LABEL_STUDIO_API_KEY to the one that "
                "`cap annotate serve` told, or to the one on your account page there"
            )
            raise CapError(msg)
        if not key.isascii():
            msg = "LABEL_STUDIO_API_KEY is no token: it has a character that no token has"
            raise CapError(msg)
        if not url.startswith(("http://", "https://")):
            msg = f"LABEL_STUDIO_URL is {url!r}; it begins with http:// or https://"
            raise CapError(msg)
        return cls(url.rstrip("/"), key)


@dataclass(frozen=True)
class ClusterMark:
    """Which cluster of `cap discover` a project asks about.

    Attributes
    ----------
    run
        The scoring run whose model the cluster is of.
    cluster
        Its number.
    discovery
        Digest of what is in it: another clustering may give another cluster the same number.
    """

    run: str
    cluster: int
    discovery: str


@dataclass(frozen=True)
class ProjectMark:
    """What a project of ours is for; kept in its description.

    Attributes
    ----------
    workspace
        Id of the workspace that made it.
    uid
        Random id of the project, which no other server gives again.
    screen
        Version of the labelling screen.
    round
        `first`, `adjudication` or `discovery`.
    batch
        Whose photos these are: `everyone`, `twice`, or an annotator.
    about
        The cluster that is asked about; None where labels are asked for.
    """

    workspace: str
    uid: str
    screen: str
    round: str
    batch: str
    about: ClusterMark | None = None


@dataclass(frozen=True)
class Project:
    """A project on the server.

    Attributes
    ----------
    config
        The labelling screen as it stands there.
    people
        How many people each photo asks for.
    """

    id: int
    title: str
    config: str = field(repr=False)
    mark: ProjectMark
    people: int = 1


@dataclass(frozen=True)
class Counts:
    """How many tasks and answers a project has, as the server counts them."""

    tasks: int
    answers: int
    skips: int


@dataclass(frozen=True)
class RawTask:
    """A task as the server lists it, without its answers."""

    id: int
    data: Mapping[str, Any]
    answers: int
    skips: int


def _described(mark: ProjectMark) -> str:
    told = {name: value for name, value in asdict(mark).items() if value is not None}
    return (
        "Made by cap, which finds the project again by the next line: leave it as it is, and the "
        f"labelling interface too.\n{_MARK}{json.dumps(told, sort_keys=True)}"
    )


def _mark_in(description: str | None) -> ProjectMark | None:
    for line in (description or "").splitlines():
        if line.startswith(_MARK):
            try:
                told = json.loads(line.removeprefix(_MARK))
                about = told.pop("about", None)
                return ProjectMark(**told, about=None if about is None else ClusterMark(**about))
            except (ValueError, TypeError, AttributeError):
                return None
    return None


def _title(name: str, mark: ProjectMark) -> str:
    """What people read in the list of projects; the name gives way where it gets too long."""
    words = f"{mark.batch} {mark.screen}"
    if mark.about is not None:
        words = f"cluster {mark.about.cluster} of {mark.about.run.rpartition('-')[2]} {words}"
    return f"{name[: max(0, _TITLE_AT_MOST - len(words) - 1)]} {words}".strip()[:_TITLE_AT_MOST]


@contextlib.contextmanager
def connect(address: Address) -> Iterator[Client]:
    """A client for a server, after asking it whether the token is good.

    Raises
    ------
    CapError
        If the server does not answer or refuses the token.
    """
    import httpx

    # The SDK follows no proxy rules of its own; httpx reads the usual variables.
    with httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=True) as http:
        client = Client(address, http)
        with client.explained("sign in"):
            client.sign_in()
        yield client


class Client:
    """A server that has accepted the token; made by `connect`."""

    def __init__(self, address: Address, http: httpx.Client) -> None:
        self.address = address
        self.me = ""
        self._sdk: Any = None
        self._http = http

    def sign_in(self) -> None:
        """Show the token to the server."""
        # `LabelStudio` adds exports and label interfaces to this base, and takes half a second more
        # to import.
        from label_studio_sdk.base_client import LabelStudioBase

        address = self.address
        self._sdk = LabelStudioBase(
            base_url=address.url, api_key=address.key, httpx_client=self._http
        )
        self.me = str(self._sdk.users.whoami().email)

    @contextlib.contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn the SDK's errors into sentences; `what` says what was being done."""
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        url = self.address.url
        try:
            yield
        except httpx.TimeoutException as error:
            msg = f"Label Studio at {url} takes too long to {what}; run the same command again"
            raise CapError(msg) from error
        except httpx.HTTPError as error:
            msg = (
                f"Label Studio at {url} does not answer ({error}); start it with `cap annotate "
                "serve` or set LABEL_STUDIO_URL, then run the same command again: nothing is lost"
            )
            raise CapError(msg) from error
        except ApiError as error:
            raise CapError(self._told(error, what)) from error
        except json.JSONDecodeError as error:
            raise CapError(self._stranger()) from error

    def _stranger(self) -> str:
        return (
            f"what answers at {self.address.url} is not Label Studio, perhaps a proxy before it "
            "while it starts; run the same command again"
        )

    def _told(self, error: Any, what: str) -> str:
        url = self.address.url
        # What has no error and is no JSON either is a page.
        if error.status_code is not None and error.status_code < HTTPStatus.BAD_REQUEST:
            return self._stranger()
        if error.status_code == HTTPStatus.UNAUTHORIZED:
            return (
                f"Label Studio at {url} refuses the token in LABEL_STUDIO_API_KEY (wrong, expired "
                "or switched off); copy the present one from your account page there"
            )
        body = error.body if isinstance(error.body, dict) else {}
        details = body.get("validation_errors") or body.get("detail")
        said = json.dumps(details, ensure_ascii=False) if details else f"{error.body}"[:200]
        return f"Label Studio at {url} could not {what} (HTTP {error.status_code}): {said}"

    def projects(self, workspace: str) -> list[Project]:
        """Projects that this workspace made, oldest first."""
        found = []
        with self.explained("list its projects"):
            pager = self._sdk.projects.list(include=_PROJECT_FIELDS, page_size=_PAGE)
            for row in _rows(pager, "count"):
                mark = _mark_in(row.description)
                if mark is not None and mark.workspace == workspace:
                    found.append(
                        Project(
                            int(row.id),
                            str(row.title),
                            str(row.label_config),
                            mark,
                            int(row.maximum_annotations or 1),
                        )
                    )
        return sorted(found, key=lambda project: project.id)

    def create_project(self, name: str, mark: ProjectMark, screen: Screen, people: int) -> Project:
        """Make a project with a screen, in which each photo asks `people` people."""
        title = _title(name, mark)
        with self.explained("make a project"):
            made = self._sdk.projects.create(
                title=title,
                description=_described(mark),
                label_config=screen.config,
                expert_instruction=screen.instruction,
                show_instruction=True,
                show_collab_predictions=True,
                enable_empty_annotation=False,
                maximum_annotations=people,
            )
        return Project(int(made.id), title, screen.config, mark, people)

    def restore_screen(self, project: Project, screen: Screen) -> None:
        """Put a project's screen back as it was made."""
        with self.explained(f"put the labelling interface of project {project.title!r} back"):
            self._sdk.projects.update(
                project.id,
                label_config=screen.config,
                expert_instruction=screen.instruction,
            )

    def ask_more(self, project: Project, people: int) -> None:
        """Let each photo of a project ask for more people."""
        with self.explained("ask more people"):
            self._sdk.projects.update(project.id, maximum_annotations=people)

    def let_serve_photos(self, project: Project, folder: str) -> None:
        """Allow a project's annotators to see the photos below a folder of the server."""
        storages = self._sdk.import_storage.local
        with self.explained(f"serve photos from {folder}"):
            if not any(row.path == folder for row in storages.list(project=project.id)):
                storages.create(project=project.id, path=folder, title="photos", use_blob_urls=True)

    def shows(self, path: str, sha256: str) -> str | None:
        """Why an annotator would not see a stored photo; None where the server gives its bytes."""
        with self.explained("show a photo"):
            answer = self._http.get(
                self.address.url + photo_url(path), headers={"Authorization": self._authorization()}
            )
        if answer.status_code != HTTPStatus.OK:
            return f"HTTP {answer.status_code}"
        same = hashlib.sha256(answer.content).hexdigest() == sha256
        return None if same else "other bytes than were collected"

    def _authorization(self) -> str:
        key = self.address.key
        # A personal access token is a JWT, exchanged for one that is good for some minutes.
        if key.count(".") == 2:  # noqa: PLR2004
            return f"Bearer {self._sdk.tokens.refresh(refresh=key).access}"
        return f"Token {key}"

    def import_tasks(self, project: Project, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Send tasks, all or none of them; gives their ids on the server."""
        with self.explained(f"take {len(tasks)} photos"):
            done = self._sdk.projects.import_tasks(
                project.id, request=list(tasks), return_task_ids=True
            )
        return [int(each) for each in done.task_ids or ()]

    def name_suggestions(self, project: Project, version: str) -> None:
        """Let new annotations begin with the predictions of a version."""
        with self.explained("choose the suggestions"):
            self._sdk.projects.update(project.id, model_version=version)

    def delete_task(self, task_id: int) -> None:
        """Remove a task."""
        with self.explained("remove a doubled photo"):
            self._sdk.tasks.delete(str(task_id))

    def counts(self, project: Project) -> Counts:
        """How many tasks and answers there are at present."""
        with self.explained("count its tasks"):
            row = self._sdk.projects.get(project.id)
        return Counts(
            int(row.task_number or 0),
            int(row.total_annotations_number or 0),
            int(row.skipped_annotations_number or 0),
        )

    def clock(self) -> datetime.datetime:
        """The server's time, to the second."""
        with self.explained("tell the time"):
            answer = self._http.get(f"{self.address.url}/health")
        return email.utils.parsedate_to_datetime(answer.headers["date"])

    def people(self) -> dict[int, str]:
        """E-mail addresses by user id."""
        with self.explained("list its users"):
            return {int(user.id): str(user.email) for user in self._sdk.users.list()}

    def tasks(
        self, project: Project, since: datetime.datetime | None, up_to: int | None = None
    ) -> Iterator[RawTask]:
        """Tasks that have changed since a time, or all; with ids up to `up_to`."""
        filters = [] if since is None else [_changed_since(since)]
        if up_to is not None:
            filters.append(_filter("id", "less_or_equal", "Number", up_to))
        for row in self._listed(project, filters, "task_only", _TASK_FIELDS):
            yield RawTask(
                int(row.id),
                row.data or {},
                int(row.total_annotations or 0),
                int(row.cancelled_annotations or 0),
            )

    def answers(
        self, project: Project, since: datetime.datetime | None, *, skips: bool
    ) -> dict[int, list[dict[str, Any]]]:
        """Answers by task, of the tasks that have changed since a time.

        Parameters
        ----------
        since
            The server's time; None for all tasks.
        skips
            Whether tasks that somebody skipped are asked for, or those that somebody answered. All
            that people did with a task is given either way.
        """
        column = "cancelled_annotations" if skips else "total_annotations"
        filters = [] if since is None else [_changed_since(since)]
        filters.append(_filter(column, "greater", "Number", 0))
        return {
            int(row.id): [dict(answer) for answer in row.annotations or ()]
            for row in self._listed(project, filters, "all", _ANSWER_FIELDS)
        }

    def _listed(
        self, project: Project, filters: list[dict[str, Any]], kind: str, include: str
    ) -> Iterator[Any]:
        query = {
            "filters": {"conjunction": "and", "items": filters},
            "ordering": ["tasks:id"],
        }
        with self.explained("list its tasks"):
            pager = self._sdk.tasks.list(
                project=project.id,
                query=json.dumps(query),
                page_size=_PAGE,
                fields=kind,
                include=include,
            )
            yield from _rows(pager, "total")


def new_uid() -> str:
    """A random id."""
    return secrets.token_hex(6)


def photo_url(path: str) -> str:
    """The server's address of a stored photo, from its path below the workspace."""
    return f"/data/local-files/?d={quote(path)}"


def _rows(pager: Any, counted: str) -> Iterator[Any]:
    """Rows of all pages; the SDK would ask for a page after the last one, too."""
    seen = 0
    while pager is not None and pager.items:
        yield from pager.items
        seen += len(pager.items)
        pager = pager.get_next() if seen < getattr(pager.response, counted) else None


def _filter(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {
        "filter": f"filter:tasks:{column}",
        "operator": operator,
        "type": kind,
        "value": value,
    }


def _changed_since(since: datetime.datetime) -> dict[str, Any]:
    moment = since.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return _filter("updated_at", "greater", "Datetime", moment)
