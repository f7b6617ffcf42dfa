"""The one downloader: many URLs to files, politely, and none of them twice.

Given photos with their URLs, gives for each a file with its bytes or the reason why there is none,
as they arrive. A file is kept under a name that follows from photo and URL until its caller has
taken what it needs, so that whatever had arrived when a command was killed is not fetched again.

To each host there are so many connections and no more. A host that asks for a pause gets one from
all of them; bytes are counted against a budget; what can succeed later is tried again after a
growing, random wait, what cannot is not.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Self
from urllib.parse import urlsplit

from manifests.errors import CapError, FetchError
from manifests.fetch import LONGEST_PAUSE, Fetched, Limits, fetch, open_session, retrying
from pipeline.collect.budget import ByteBudget

__all__ = ["Arrival", "Downloader", "Politeness", "Wanted"]

_WORTH_TELLING = 90.0
"""Seconds of waiting for the budget that a person is told of."""

_FIRST_GUESS = 1_000_000
"""Bytes that a photo is expected to have, before any has come."""

_AHEAD = 8
"""Photos handed to a host's connections, per connection, so that none is idle."""


@dataclass(frozen=True)
class Politeness:
    """How hard a host may be asked.

    Attributes
    ----------
    connections
        Photos fetched at the same time from one host.
    bytes_per_hour, bytes_per_day
        Most bytes in any hour and any day, from one host.
    ledger
        Database of what was fetched; see `ByteBudget`.
    allowed
        Private and loopback addresses that may be talked to; see `local_addresses`.
    limits
        When to give up on a photo.
    """

    connections: int
    bytes_per_hour: int
    bytes_per_day: int
    ledger: Path
    allowed: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)

    @property
    def windows(self) -> dict[int, int]:
        """Most bytes by length of the window in seconds."""
        return {3600: self.bytes_per_hour, 86400: self.bytes_per_day}


@dataclass(frozen=True)
class Wanted:
    """A photo to fetch."""

    photo_id: str
    url: str

    @property
    def key(self) -> str:
        """Name of its file while it waits to be taken: nothing of a server's words is in it."""
        return hashlib.sha256(f"{self.photo_id}\0{self.url}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Arrival:
    """What became of a photo: a file, or the reason why there is none.

    Attributes
    ----------
    photo_id
        The photo.
    file
        Its bytes, or None.
    sha256
        Their digest; None where they waited from an earlier command.
    error
        Why there are none.
    transient
        Whether asking again later may succeed.
    """

    photo_id: str
    file: Path | None
    sha256: str | None = None
    error: str | None = None
    transient: bool = False


class _Stopped(Exception):
    """The downloader was closed while this photo waited."""


class _Host:
    """One host: its connections, its budget, and the pause that it may have asked for."""

    def __init__(
        self,
        name: str,
        politeness: Politeness,
        stop: threading.Event,
        say: Callable[[str], None],
    ) -> None:
        most = min(politeness.limits.max_bytes, *politeness.windows.values())
        self._name = name
        self._limits = replace(politeness.limits, max_bytes=most)
        self._budget = ByteBudget(politeness.ledger, name, politeness.windows)
        self._session = open_session(politeness.connections, politeness.allowed)
        self._stop = stop
        self._say = say
        self._paused_until = 0.0
        self._quiet_until = 0.0
        self._left_alone: FetchError | None = None
        self._largest = 0
        self.pool = ThreadPoolExecutor(politeness.connections, thread_name_prefix=f"fetch {name}")

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self._session.close()
        self._budget.close()

    def get(self, wanted: Wanted, target: Path) -> Arrival:
        """Fetch one photo, with as many attempts as make sense."""
        try:
            fetched: Fetched = retrying(self._sleep)(self._attempt, wanted.url, target)
        except FetchError as error:
            return Arrival(wanted.photo_id, None, error=str(error), transient=error.transient)
        except (OSError, sqlite3.Error):
            # A disk that takes nothing more ends all connections, before they fetch in vain.
            self._stop.set()
            raise
        return Arrival(wanted.photo_id, target, fetched.sha256)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped

    def _wait_for_budget(self, seconds: float) -> None:
        if seconds > _WORTH_TELLING and time.monotonic() > self._quiet_until:
            self._quiet_until = time.monotonic() + seconds
            moment = time.strftime("%H:%M", time.localtime(time.time() + seconds))
            self._say(f"the byte budget for {self._name} is used up; going on at {moment}")
        self._sleep(seconds)

    def _attempt(self, url: str, target: Path) -> Fetched:
        while (pause := self._paused_until - time.monotonic()) > 0:
            self._sleep(pause)
        if self._stop.is_set():
            raise _Stopped
        if self._left_alone is not None:
            raise self._left_alone
        reserved = self._reserve()
        arrived = 0

        def count(size: int) -> None:
            nonlocal arrived, reserved
            arrived += size
            if self._stop.is_set():
                raise _Stopped
            while arrived > reserved:
                if self._budget.wait_for(reserved):
                    # The next attempt waits until there is room.
                    msg = "the byte budget is used up"
                    raise FetchError(msg, transient=True)
                reserved *= 2

        try:
            return fetch(url, target, self._session, self._limits, received=count)
        except FetchError as error:
            self._heed(error)
            raise
        finally:
            self._largest = max(self._largest, arrived)
            self._budget.spend(arrived)
            self._budget.release(reserved)

    def _reserve(self) -> int:
        """Wait until the budget has room for a photo; more is asked for if it turns out larger."""
        while True:
            room = min(2 * self._largest or _FIRST_GUESS, self._limits.max_bytes)
            wait = self._budget.wait_for(room)
            if not wait:
                return room
            self._wait_for_budget(wait)

    def _heed(self, error: FetchError) -> None:
        """Let the host have the pause that it asks for, on all its connections."""
        if error.retry_after is None:
            return
        if error.retry_after > LONGEST_PAUSE:
            self._left_alone = error
        else:
            self._paused_until = max(self._paused_until, time.monotonic() + error.retry_after)


class Downloader:
    """Fetches photos; a context, `with Downloader(folder, politeness, say) as downloader: …`.

    Leaving the context ends all connections; what has arrived stays in the folder.

    Parameters
    ----------
    folder
        Where files wait until they are taken.
    politeness
        How hard a host may be asked.
    say
        Told what a person should know, such as a budget that is used up.
    """

    def __init__(self, folder: Path, politeness: Politeness, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._politeness = politeness
        self._say = say
        self._stop = threading.Event()
        self._hosts: dict[str, _Host] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        failure = None
        for host in self._hosts.values():
            try:
                host.close()
            except sqlite3.Error as error:
                failure = error
        # What ended the fetching is told before what came of it.
        if failure is not None and kind is None:
            raise _uncounted(self._politeness.ledger, failure) from failure

    def file_of(self, wanted: Wanted) -> Path:
        """Where a photo's bytes wait; whoever has taken them removes the file."""
        return self._folder / wanted.key

    def arrivals(self, photos: Iterable[Wanted]) -> Iterator[Arrival]:
        """What becomes of each photo, in the order in which they arrive.

        Photos are taken from `photos` as connections become free.

        Raises
        ------
        CapError
            If bytes cannot be written, or cannot be counted.
        """
        finished: SimpleQueue[Future[Arrival]] = SimpleQueue()
        under_way = 0
        waiting = {file.name for file in self._folder.iterdir()}
        for wanted in photos:
            if wanted.key in waiting:
                yield Arrival(wanted.photo_id, self.file_of(wanted))
                continue
            self._submit(wanted).add_done_callback(finished.put)
            under_way += 1
            while under_way >= _AHEAD * self._politeness.connections:
                yield from _result(finished.get())
                under_way -= 1
        for _ in range(under_way):
            yield from _result(finished.get())

    def _submit(self, wanted: Wanted) -> Future[Arrival]:
        name = urlsplit(wanted.url).netloc.rpartition("@")[2]
        if name not in self._hosts:
            try:
                self._hosts[name] = _Host(name, self._politeness, self._stop, self._say)
            except sqlite3.Error as error:
                raise _uncounted(self._politeness.ledger, error) from error
        host = self._hosts[name]
        return host.pool.submit(host.get, wanted, self.file_of(wanted))


def _uncounted(ledger: Path, error: sqlite3.Error) -> CapError:
    msg = (
        f"{ledger}, where bytes are counted, cannot be written ({error}); mend this and run the "
        "same command again"
    )
    return CapError(msg)


def _result(future: Future[Arrival]) -> Iterator[Arrival]:
    """What arrived, or nothing where another photo's trouble ended the fetching."""
    try:
        yield future.result()
    except _Stopped:
        return
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        msg = (
            f"could not write a photo: {reason or error}; what has arrived is kept: mend this and "
            "run the same command again"
        )
        raise CapError(msg) from error
