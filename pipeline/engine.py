"""Work on many photos in several processes.

Given a function and items, gives the function's results in the order of the items. Worker processes
are started only once the work has lasted as long as starting them takes, serve later calls too, and
end with the process that started them, however that ends.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import operator
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Self, TypeVar

from manifests.errors import CapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

__all__ = ["Engine", "map_ordered"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Items travel in chunks, since sending one costs about as much as hashing a small photo.
_LARGEST_CHUNK = 32
_CHUNKS_PER_WORKER = 4


def _end_with_parent(stop: Connection) -> None:
    """In a worker: leave interrupts to the parent, and exit at once when it stops or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        # Nothing is ever sent: `stop` becomes ready when the parent's end closes, which the
        # kernel does even for a parent that was killed.
        wait([stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _apply(function: Callable[[_Item], _Result], chunk: list[_Item]) -> list[_Result]:
    return [function(item) for item in chunk]


class _Pool:
    """Worker processes that can be stopped in the middle of their work."""

    def __init__(self, workers: int) -> None:
        # A forked copy of a process with threads may hang; a spawned one starts afresh.
        context = multiprocessing.get_context("spawn")
        self._stop, self._running = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            workers, context, initializer=_end_with_parent, initargs=(self._stop,)
        )

    def submit(
        self, function: Callable[[_Item], _Result], chunk: list[_Item]
    ) -> Future[list[_Result]]:
        return self._executor.submit(_apply, function, chunk)

    def close(self, *, at_once: bool) -> None:
        if at_once:
            self._running.close()
        self._executor.shutdown(cancel_futures=True)
        self._running.close()
        self._stop.close()


class Engine:
    """Processes that work on items; a context, `with Engine(workers) as engine: …`.

    Leaving the context ends the workers: after the work in hand, or at once after an exception or
    an interrupt.

    Parameters
    ----------
    workers
        Number of processes; None takes one per core that this process may use. With 1 or less the
        work is done in this process.
    patience
        Seconds of work done in this process before workers are started. Starting them takes about
        as long as the default.
    """

    def __init__(self, workers: int | None = None, *, patience: float = 0.5) -> None:
        self._workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self._patience = patience
        self._pool: _Pool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(at_once=kind is not None)

    def map(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item]
    ) -> Iterator[_Result]:
        """Results of a function for each item, in the order of the items.

        Items are taken from `items` a bounded number ahead of the results that have been used. An
        exception in the function is raised here.

        Parameters
        ----------
        function
            A function that can be pickled, as can its items and results.
        items
            Any number of items.

        Raises
        ------
        CapError
            If a worker process dies.
        """
        count = operator.length_hint(items, _LARGEST_CHUNK * self._workers)
        rest = iter(items)
        for item in rest:
            if self._workers > 1 and self._patience <= 0:
                chunk = math.ceil(count / (self._workers * _CHUNKS_PER_WORKER))
                chunk = max(1, min(chunk, _LARGEST_CHUNK))
                yield from self._map_in_pool(function, itertools.chain([item], rest), chunk)
                return
            started = time.monotonic()
            result = function(item)
            self._patience -= time.monotonic() - started
            yield result

    def _map_in_pool(
        self, function: Callable[[_Item], _Result], items: Iterator[_Item], chunk: int
    ) -> Iterator[_Result]:
        if self._pool is None:
            self._pool = _Pool(self._workers)
        pending: deque[Future[list[_Result]]] = deque()
        try:
            while chunk_items := list(itertools.islice(items, chunk)):
                pending.append(self._pool.submit(function, chunk_items))
                if len(pending) == self._workers * _CHUNKS_PER_WORKER:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            self._close(at_once=True)
            msg = (
                "a worker process died, perhaps because memory ran out; "
                "run the same command again, with fewer workers if it happens twice"
            )
            raise CapError(msg) from error
        finally:
            for future in pending:
                future.cancel()

    def _close(self, *, at_once: bool) -> None:
        if self._pool is not None:
            self._pool.close(at_once=at_once)
            self._pool = None


def map_ordered(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int | None
) -> Iterator[_Result]:
    """Results of a function for each item, in order, from processes that end with the last one.

    As `Engine.map`, for a single call.
    """
    with Engine(workers) as engine:
        yield from engine.map(function, items)
