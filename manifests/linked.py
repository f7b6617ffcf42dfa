"""Photos that a release names by their address only: fetched when first used, kept, verified.

A photo is kept in a cache below its sha256, so that it is fetched once on a machine, whichever
release or process asks. Its bytes are those that were released, or there is an error that says why
not.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from manifests.errors import CapError, FetchError, MissingExtraError
from manifests.fetch import Limits, fetch, open_session, retrying

if TYPE_CHECKING:
    import requests

__all__ = ["CONNECTIONS", "FetchReport", "LinkedPhotos"]

CONNECTIONS = 4
"""Photos that are fetched at once from all servers together."""

_TOLD = 5

GONE = pa.schema(
    [
        pa.field("photo_id", pa.string()),
        pa.field("url", pa.string()),
        pa.field("error", pa.string()),
        pa.field("transient", pa.bool_()),
    ]
)


def _needs_remote(error: ImportError) -> MissingExtraError:
    msg = (
        f"photos that a release links to need {error.name}; install it with "
        "`pip install 'counteranimal-pipeline[remote]'`"
    )
    return MissingExtraError(msg)


@dataclass(frozen=True)
class FetchReport:
    """What became of the photos that a split links to.

    Attributes
    ----------
    linked
        Number of photos that the release names by their address.
    gone
        Arrow table of those that could not be had: `photo_id`, `url`, `error`, and `transient`,
        whether asking again later may succeed.
    """

    linked: int
    gone: pa.Table

    def __str__(self) -> str:
        here = self.linked - self.gone.num_rows
        text = f"{here} of {self.linked} linked photos are here"
        if not self.gone.num_rows:
            return text
        told = ", ".join(
            f"{row['photo_id']} ({row['error']})" for row in self.gone.slice(0, _TOLD).to_pylist()
        )
        more = f", and {self.gone.num_rows - _TOLD} more" if self.gone.num_rows > _TOLD else ""
        return f"{text}; {self.gone.num_rows} could not be had: {told}{more}"


@dataclass(frozen=True)
class LinkedPhotos:
    """The photos behind addresses; it can be pickled.

    Attributes
    ----------
    cache
        Folder in which photos are kept; None takes the user's cache.
    allowed
        Private and loopback addresses that may be asked; see `manifests.fetch.local_addresses`.
    """

    cache: Path | None = None
    allowed: frozenset[str] = frozenset()

    def _file(self, sha256: str) -> Path:
        cache = self.cache
        if cache is None:
            try:
                import platformdirs
            except ImportError as error:
                raise _needs_remote(error) from error
            cache = platformdirs.user_cache_path("cap") / "linked"
        return cache / sha256[:2] / sha256

    def read(self, url: str, sha256: str) -> bytes:
        """Bytes of a photo, verified.

        Parameters
        ----------
        url
            Where it is fetched from, unless it is in the cache.
        sha256
            Digest that it must have, in hexadecimal.

        Raises
        ------
        FetchError
            If it could not be had.
        CapError
            If the cache cannot be written.
        """
        if len(sha256) != hashlib.sha256().digest_size * 2 or not sha256.isalnum():
            msg = f"the release gives no sha256 for {url}"
            raise FetchError(msg)
        file = self._file(sha256)
        if file.is_file():
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        # Other processes and threads may fetch the same photo; each moves its own file.
        part = file.with_name(f".{sha256}.{os.getpid()}.{threading.get_ident()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            retrying(time.sleep)(fetch, url, part, self._session(), Limits(), sha256=sha256)
            data = part.read_bytes()
            part.replace(file)
        except ImportError as error:
            raise _needs_remote(error) from error
        except OSError as error:
            msg = f"could not keep a photo in {file.parent}: {error.strerror or error}"
            raise CapError(msg) from error
        return data

    def _session(self) -> requests.Session:
        """A session of the thread: none is shared between threads or with a forked process."""
        mine: dict[str, Any] = _sessions.__dict__
        key = f"{os.getpid()} {sorted(self.allowed)}"
        if key not in mine:
            mine[key] = open_session(1, self.allowed)
        session: requests.Session = mine[key]
        return session


_sessions = threading.local()
