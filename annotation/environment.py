"""Label Studio's own environment: installed once per user, with a database that is ready to copy.

The server pins packages that this project does not want, so it lives in a virtual environment
below the user's cache. `python -m annotation.environment` makes it beforehand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import CapError
from manifests.progress import LineProgress

if TYPE_CHECKING:
    from manifests.progress import Progress

__all__ = ["VERSION", "Environment", "clean_variables"]

VERSION = "1.23.2"
"""The Label Studio that the screen, the client and the tests are made for."""

_CALLS_HOME_OFF = {
    "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
    "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
    "LABEL_STUDIO_SENTRY_DSN": "",
    "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
    "LABEL_STUDIO_FEATURE_FLAGS_OFFLINE": "true",
}

# Label Studio reads its settings without their prefix too.
_ALSO_READ = ("HOST", "PORT", "DEBUG", "USERNAME", "PASSWORD", "DATABASE_NAME")


def clean_variables() -> dict[str, str]:
    """The environment for Label Studio: none of its settings by accident, no calls home."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LABEL_STUDIO_", "HEARTEX_")) and name not in _ALSO_READ
    }
    return own | _CALLS_HOME_OFF


@dataclass(frozen=True)
class Environment:
    """A folder with Label Studio in it.

    Attributes
    ----------
    folder
        Below the user's cache unless a test says otherwise.
    """

    folder: Path

    @classmethod
    def of_user(cls) -> Environment:
        """The environment below the cache of whoever runs this."""
        import platformdirs

        return cls(platformdirs.user_cache_path("cap") / f"label-studio-{VERSION}")

    @property
    def executable(self) -> Path:
        """The program `label-studio`."""
        return self.folder / "venv" / "bin" / "label-studio"

    @property
    def database(self) -> Path:
        """A data folder whose database is migrated and holds nobody; copies of it start fast."""
        return self.folder / "database"

    @property
    def ready(self) -> bool:
        """Whether everything is there."""
        return (self.folder / "ready").is_file()

    def prepare(self, progress: Progress) -> None:
        """Install Label Studio and make the database, unless that is done.

        Raises
        ------
        CapError
            If the packages cannot be installed; the end of pip's words is in the message.
        """
        import filelock

        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / "lock"):
            if self.ready:
                return
            progress.note(
                f"Label Studio {VERSION} is installed into an environment of its own, once "
                "(1 GB, two to three minutes)"
            )
            with progress.task("installing Label Studio", 3) as advance:
                venv = self.folder / "venv"
                shutil.rmtree(venv, ignore_errors=True)
                _run([sys.executable, "-m", "venv", str(venv)], "its environment")
                advance(1)
                python = str(venv / "bin" / "python")
                package = f"label-studio=={VERSION}"
                _run([python, "-m", "pip", "install", "--quiet", package], "its packages")
                advance(1)
                self._make_database()
                advance(1)
            (self.folder / "ready").touch()

    def _make_database(self) -> None:
        shutil.rmtree(self.database, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            # `version` brings the database up to date, and makes no user.
            _run([str(self.executable), "version", "--data-dir", name], "its database")
            # The secret key signs sessions; every copy makes its own.
            (Path(name) / ".env").unlink(missing_ok=True)
            shutil.copytree(name, self.database)


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(  # noqa: S603
        command,
        env=clean_variables(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-600:]
        msg = f"Label Studio could not be installed, {what} failed:\n{words}"
        raise CapError(msg)


if __name__ == "__main__":
    Environment.of_user().prepare(LineProgress())
