"""How many bytes may be fetched: so many in any hour, so many in any day, whichever program asks.

What was fetched is written down per minute in a small database under the user's cache, so that a
command that was stopped, or one in another workspace, counts on where this one was.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["ByteBudget"]

_MINUTE = 60
_EXCHANGE_SECONDS = 1.0


class ByteBudget:
    """Bytes that may be fetched from one host.

    Parameters
    ----------
    file
        The database.
    host
        Whose bytes are counted.
    limits
        Most bytes in any window, by the window's length in seconds.
    clock
        Gives the time in seconds since the epoch.

    Notes
    -----
    Bytes are known by their minute only, so a window counts the whole minute that it begins in:
    the limits are never exceeded, and up to a minute is waited in vain. What was spent is written
    down about once a second, and other processes are heard of as often.
    """

    def __init__(
        self,
        file: Path,
        host: str,
        limits: Mapping[int, int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._reserved = 0
        self._spent: Counter[int] = Counter()
        self._unsaved: Counter[int] = Counter()
        self._next_exchange = 0.0
        self._database = sqlite3.connect(
            file, check_same_thread=False, isolation_level=None, timeout=60
        )
        try:
            # Losing the last second to a power cut does no harm; waiting for the disk would.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS spent "
                "(host TEXT, minute INTEGER, bytes INTEGER, PRIMARY KEY (host, minute))"
            )
        except sqlite3.Error:
            self._database.close()
            raise

    def close(self) -> None:
        """Write down what was spent, and close the database."""
        with self._lock, contextlib.closing(self._database):
            self._exchange()

    def spend(self, count: int) -> None:
        """Count bytes that have arrived."""
        minute = int(self._clock()) // _MINUTE
        with self._lock:
            self._spent[minute] += count
            self._unsaved[minute] += count

    def wait_for(self, count: int) -> float:
        """Seconds until `count` bytes more may be asked for; 0 reserves them.

        Whoever gets 0 must call `release` with the same number once the bytes are counted. A number
        larger than a whole limit counts as that limit, so that it gets its turn alone.
        """
        now = self._clock()
        with self._lock:
            if not self._next_exchange - _EXCHANGE_SECONDS <= now < self._next_exchange:
                self._exchange()
                self._next_exchange = now + _EXCHANGE_SECONDS
            waits = [self._wait(window, count, now) for window in self._limits]
            if not any(waits):
                self._reserved += count
            return max(waits)

    def _exchange(self) -> None:
        """Write down what this process spent, and read what all have."""
        self._database.executemany(
            "INSERT INTO spent VALUES (?, ?, ?) "
            "ON CONFLICT (host, minute) DO UPDATE SET bytes = bytes + excluded.bytes",
            [(self._host, minute, count) for minute, count in self._unsaved.items()],
        )
        self._unsaved.clear()
        first = int(self._clock() - max(self._limits)) // _MINUTE
        rows = self._database.execute(
            "SELECT minute, bytes FROM spent WHERE host = ? AND minute >= ?", (self._host, first)
        )
        self._spent = Counter(dict(rows.fetchall()))

    def release(self, count: int) -> None:
        """Give back a reservation."""
        with self._lock:
            self._reserved -= count

    def _wait(self, window: int, count: int, now: float) -> float:
        limit = self._limits[window]
        room = limit - self._reserved - min(count, limit)
        first = int(now - window) // _MINUTE
        inside = sorted(minute for minute in self._spent if minute >= first)
        excess = sum(self._spent[minute] for minute in inside) - room
        if excess <= 0:
            return 0.0
        for minute in inside:
            excess -= self._spent[minute]
            if excess <= 0:
                return max(1.0, float((minute + 1) * _MINUTE + window - now))
        # What is under way will tell how much room there is.
        return 1.0
