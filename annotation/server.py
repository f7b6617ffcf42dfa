"""`cap annotate serve`: a Label Studio on loopback for one workspace.

Its database lies in the workspace's folder `label-studio/`, beside a folder that leads to the
photos and to nothing else. The server is started with all calls home off and sign-up closed; it
stops with the command. Passwords and tokens are told once and kept nowhere but in its database.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import types
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from annotation.environment import Environment, clean_variables
from annotation.screen import KEYMAP
from manifests.errors import CapError

if TYPE_CHECKING:
    from annotation.parameters import ServeParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["Owner", "Server", "photo_root", "serve"]

_START_SECONDS = 180.0
_STOP_SECONDS = 15.0
_OWNER = "owner.json"


@dataclass(frozen=True)
class Owner:
    """Who may sign in first.

    Attributes
    ----------
    email
        Name to sign in with.
    password
        Password, used only when the database has no user yet.
    token
        Token for `LABEL_STUDIO_API_KEY`, used only then too.
    """

    email: str
    password: str
    token: str

    @classmethod
    def from_environment(cls) -> Owner:
        """From LABEL_STUDIO_USERNAME, _PASSWORD and _API_KEY; what is not said is made up."""
        return cls(
            email=os.environ.get("LABEL_STUDIO_USERNAME") or "owner@localhost.localdomain",
            password=_chosen_password() or secrets.token_urlsafe(12),
            token=_chosen_token() or secrets.token_hex(20),
        )


def _chosen_password() -> str | None:
    return os.environ.get("LABEL_STUDIO_PASSWORD") or None


def _chosen_token() -> str | None:
    """The token in LABEL_STUDIO_API_KEY; a personal access token belongs to another server."""
    token = os.environ.get("LABEL_STUDIO_API_KEY")
    return token if token and "." not in token else None


def _folder(workspace_root: Path) -> Path:
    return workspace_root / "label-studio"


def photo_root(workspace_root: Path) -> Path:
    """Folder of the photos as a Label Studio of this workspace sees it."""
    return _folder(workspace_root) / "files" / "photos"


class Server:
    """A Label Studio process on loopback; a context manager that starts and stops it.

    Parameters
    ----------
    workspace_root
        The workspace; its folder `label-studio` holds the database.
    port
        Port on 127.0.0.1.
    environment
        Where Label Studio is installed.
    """

    def __init__(self, workspace_root: Path, port: int, environment: Environment) -> None:
        self.folder = _folder(workspace_root)
        self.port = port
        self._root = workspace_root
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    @property
    def data(self) -> Path:
        """Label Studio's data folder: its database, which holds the answers."""
        return self.folder / "data"

    @property
    def owner_email(self) -> str:
        """Who was made the owner when the database was made."""
        about = self.data / _OWNER
        if not about.is_file():
            return "its owner"
        return str(json.loads(about.read_text("utf-8"))["owner"])

    def set_up(self, owner: Owner) -> None:
        """Copy the empty database, lay the way to the photos, and make the owner.

        Raises
        ------
        CapError
            If the owner's e-mail address or password is not accepted.
        """
        files = photo_root(self._root)
        files.parent.mkdir(parents=True, exist_ok=True)
        (self._root / "photos").mkdir(exist_ok=True)
        if not files.is_symlink():
            files.symlink_to(Path("..") / ".." / "photos", target_is_directory=True)
        if self.data.exists():
            return
        # The folder gets its name when all is in it: one that is there is never made again.
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            made = Path(name) / "data"
            shutil.copytree(self._environment.database, made)
            # An owner given by variables is not seen by others in the list of processes.
            what = f"make its owner {owner.email}"
            self._call(("init", "-q", "--data-dir", str(made)), self._variables(made, owner), what)
            (made / _OWNER).write_text(json.dumps({"owner": owner.email}) + "\n", "utf-8")
            made.rename(self.data)

    def reset_password(self, password: str) -> None:
        """Give the owner another password.

        Raises
        ------
        CapError
            If Label Studio does not accept it.
        """
        email = self.owner_email
        # One word each, since a password may begin with a dash.
        command = ("reset_password", f"--username={email}", f"--password={password}")
        self._call(command, self._variables(self.data), f"change the password of {email}")

    def _call(self, command: Sequence[str], variables: dict[str, str], what: str) -> None:
        """Let the installed Label Studio do one thing, and wait for its end."""
        done = subprocess.run(  # noqa: S603
            [str(self._environment.executable), *command],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            msg = f"Label Studio could not {what}:\n{done.stderr.strip()[-600:]}"
            raise CapError(msg)

    def _variables(self, data: Path, owner: Owner | None = None) -> dict[str, str]:
        variables = clean_variables() | {
            "LABEL_STUDIO_BASE_DATA_DIR": str(data),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.folder / "files"),
            "LABEL_STUDIO_EDITOR_KEYMAP": json.dumps(KEYMAP),
        }
        if owner is not None:
            variables |= {
                "LABEL_STUDIO_USERNAME": owner.email,
                "LABEL_STUDIO_PASSWORD": owner.password,
                "LABEL_STUDIO_USER_TOKEN": owner.token,
            }
        return variables

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises
        ------
        CapError
            If the port is taken, or the server does not start.
        """
        _check_free(self.port)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [
                    str(self._environment.executable),
                    *("start", "--no-browser", "--internal-host", "127.0.0.1"),
                    *("--port", str(self.port)),
                ],
                env=self._variables(self.data),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        # Where the port is taken, Label Studio moves to the next one without a word; the log says.
        while f"server at http://127.0.0.1:{self.port}/" not in self._said():
            if self.ended or time.monotonic() > deadline:
                msg = f"Label Studio did not start; the end of {self.log}:\n{self._said()[-1200:]}"
                raise CapError(msg)
            time.sleep(0.1)
        while not _answers(self.port):
            if self.ended or time.monotonic() > deadline:
                msg = f"Label Studio does not answer at {self.url}; see {self.log}"
                raise CapError(msg)
            time.sleep(0.1)

    def _said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    @property
    def ended(self) -> bool:
        """Whether the server has stopped by itself."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """Stop the server and wait for its end."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            msg = (
                f"port {port} is taken, perhaps by another Label Studio; stop that, or name "
                "another with --port N"
            )
            raise CapError(msg) from error


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl+C does."""

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    former = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def serve(workspace: Workspace, parameters: ServeParameters, progress: Progress) -> None:
    """Run Label Studio for the workspace until it is interrupted.

    Raises
    ------
    CapError
        If it cannot be installed or started, or ends by itself.
    """
    # Before an owner is made, whose secrets are told once.
    _check_free(parameters.port)
    environment = Environment.of_user()
    environment.prepare(progress)
    owner = Owner.from_environment()
    server = Server(workspace.root, parameters.port, environment)
    first = not server.data.exists()
    server.set_up(owner)
    if parameters.new_password and not first:
        server.reset_password(owner.password)
    renewed = first or parameters.new_password
    for line in _made_up(server, owner, password=renewed, token=first):
        progress.note(line)
    progress.note("annotate serve: starting Label Studio")
    with _ended_by_signals(), server:
        for line in _greeting(server, owner, first=first, renewed=parameters.new_password):
            progress.note(line)
        if parameters.browser:
            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            while not server.ended:
                time.sleep(0.2)
            msg = f"Label Studio has stopped by itself; see {server.log}"
            raise CapError(msg)
    progress.note("annotate serve: stopped")


def _made_up(server: Server, owner: Owner, *, password: bool, token: bool) -> list[str]:
    """Secrets that were just made up: they are told even where the server does not start."""
    lines = []
    if password and _chosen_password() is None:
        lines.append(f"the password of {server.owner_email} is {owner.password}")
    if token and _chosen_token() is None:
        lines.append(f"the token of {server.owner_email} is {owner.token}")
    return lines


def _greeting(server: Server, owner: Owner, *, first: bool, renewed: bool) -> list[str]:
    """What a person needs to go on; secrets that the person chose are not repeated."""
    lines = [f"Label Studio is at {server.url}; Ctrl+C stops it"]
    if first or renewed:
        chosen = _chosen_password() is not None
        how = "your LABEL_STUDIO_PASSWORD" if chosen else f"the password {owner.password}"
        once = "" if chosen else "   (told once: note it down)"
        lines.append(f"sign in as {server.owner_email} with {how}{once}")
    else:
        lines.append(
            f"sign in as {server.owner_email}; a forgotten password is replaced with --new-password"
        )
    lines.append("for `cap annotate push` and `pull`, in another terminal:")
    lines.append(f"  export LABEL_STUDIO_URL={server.url}")
    if first and _chosen_token() is None:
        lines.append(f"  export LABEL_STUDIO_API_KEY={owner.token}   (told once, too)")
    else:
        lines.append("  export LABEL_STUDIO_API_KEY=…   (as before; the account page shows it)")
    return lines
