"""Where the work on many photos is done: in processes of this machine, or on a Ray cluster.

A stage writes one function for its photos and asks an engine to run it; results come in the order
of the items. `map` applies a function to each item. `map_batches` has batches prepared, such as
decoded, and worked on, such as by a model: by other processes, or in turn with it. `LocalEngine` is
here, and `ray_engine.RayEngine` does the same on a cluster.
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
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from manifests.cores import usable_cores
from manifests.errors import CapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from manifests.progress import Progress

__all__ = [
    "Engine",
    "LocalEngine",
    "Work",
    "apply",
    "engine_for",
    "map_ordered",
    "prepared_batches",
]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Prepared = TypeVar("_Prepared")
_PreparedIn_contra = TypeVar("_PreparedIn_contra", contravariant=True)
_ItemIn_contra = TypeVar("_ItemIn_contra", contravariant=True)

# Items travel in chunks, since sending one costs about as much as hashing a small photo.
_LARGEST_CHUNK = 32
_CHUNKS_PER_WORKER = 4

_FEW = 128
"""So few items are prepared in this process: starting workers would take longer."""

_MOST_PREPARING = 8
_MOST_PREPARING_FOR_GPU = 32
"""A GPU takes photos faster than many cores decode them."""

_HEAD_START = 2
"""Batches that are prepared in this process while workers start."""


class Work(Protocol[_ItemIn_contra, _PreparedIn_contra, _Result]):
    """What is done with prepared batches by something costly to set up, such as a model."""

    @property
    def device(self) -> str:
        """The torch device that it computes on."""
        ...

    def move(self, device: str) -> None:
        """Compute on another device, with all cores of the machine if that is the CPU."""
        ...

    def __call__(
        self,
        items: Sequence[_ItemIn_contra],
        prepared: _PreparedIn_contra,
        tell: Callable[[str], None],
        /,
    ) -> list[_Result]:
        """A result for each item; `tell` takes what a person should know."""
        ...


class Engine(Protocol):
    """Runs a function on many items; a context that ends what it has started."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def computing_on(self, device: str) -> str:
        """The torch device, for `map_batches`, that `auto` or another name means."""
        ...

    def loading_on(self, device: str) -> str:
        """The torch device of this process that `Work` is loaded on, before it is sent out."""
        ...

    def map(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int = 1
    ) -> Iterator[_Result]:
        """Results of a function for each item, in the order of the items.

        Parameters
        ----------
        function
            A function that can be pickled, as can its items and results.
        items
            Any number of items.
        threads
            Items that a process works on at once; above 1 where the function waits for a network.

        Raises
        ------
        CapError
            If a process dies and its work is not taken over by another.
        """
        ...

    def map_batches(
        self,
        prepare: Callable[[Sequence[_Item], int], _Prepared],
        work: Work[_Item, _Prepared, _Result],
        items: Sequence[_Item],
        batch_size: int,
        *,
        waits: bool = False,
    ) -> Iterator[list[_Result]]:
        """Results for each item, in the order of the items, one list per batch.

        Parameters
        ----------
        prepare
            From a batch of items, and how many threads may share the work on them, to what `work`
            is given of it; can be pickled.
        work
            What is done with it.
        items
            The items.
        batch_size
            Items of a batch; the last may have fewer.
        waits
            Whether preparing waits, as for a network, while work can go on.

        Raises
        ------
        CapError
            As `map`.
        """
        ...


def _end_with_parent(stop: Connection) -> None:
    """In a worker: leave interrupts to the parent, and exit at once when it stops or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        # Nothing is ever sent: `stop` becomes ready when the parent's end closes, which the
        # kernel does even for a parent that was killed.
        wait([stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def apply(
    function: Callable[[_Item], _Result], items: Sequence[_Item], threads: int
) -> list[_Result]:
    """Results of a function for each item, from as many threads."""
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(function, items))


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
        self, function: Callable[[_Item], _Result], chunk: list[_Item], threads: int
    ) -> Future[list[_Result]]:
        return self._executor.submit(apply, function, chunk, threads)

    def close(self, *, at_once: bool) -> None:
        if at_once:
            self._running.close()
        self._executor.shutdown(cancel_futures=True)
        self._running.close()
        self._stop.close()


class LocalEngine:
    """Processes of this machine; a context, `with LocalEngine(workers) as engine: …`.

    For `map`, worker processes are started only once the work has lasted as long as starting them
    takes, serve later calls too, and end with the process that started them, however that ends.
    Leaving the context ends the workers: after the work in hand, or at once after an exception or
    an interrupt.

    Parameters
    ----------
    workers
        Number of processes; None takes one per core that this process may use, and for
        `map_batches` what `prepared_batches` does. With 1 or less (for `map_batches` with 0) the
        work is done in this process.
    patience
        Seconds of work done in this process before workers are started. Starting them takes about
        as long as the default.
    tell
        Told what a person should know.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        patience: float = 0.5,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._asked = workers
        self._workers = usable_cores() if workers is None else workers
        self._patience = patience
        self._tell = tell
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

    def computing_on(self, device: str) -> str:
        """As asked for: a model chooses by itself what `auto` is."""
        return device

    def loading_on(self, device: str) -> str:
        """Where it computes."""
        return device

    def map(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int = 1
    ) -> Iterator[_Result]:
        """As `Engine.map`; items are taken a bounded number ahead of the results.

        Raises
        ------
        CapError
            If a worker process dies.
        """
        count = operator.length_hint(items, _LARGEST_CHUNK * self._workers)
        rest = iter(items)
        while first := list(itertools.islice(rest, threads)):
            if self._workers > 1 and self._patience <= 0:
                chunk = math.ceil(count / (self._workers * _CHUNKS_PER_WORKER))
                chunk = max(threads, min(chunk, _LARGEST_CHUNK))
                yield from self._map_in_pool(function, itertools.chain(first, rest), chunk, threads)
                return
            started = time.monotonic()
            results = apply(function, first, threads)
            self._patience -= time.monotonic() - started
            yield from results

    def map_batches(
        self,
        prepare: Callable[[Sequence[_Item], int], _Prepared],
        work: Work[_Item, _Prepared, _Result],
        items: Sequence[_Item],
        batch_size: int,
        *,
        waits: bool = False,
    ) -> Iterator[list[_Result]]:
        """As `Engine.map_batches`: prepared as by `prepared_batches`, and worked on here.

        Raises
        ------
        CapError
            If a worker process dies.
        """
        batches = prepared_batches(
            prepare, items, batch_size, self._asked, device=work.device, waits=waits
        )
        for batch, prepared in batches:
            yield work(batch, prepared, self._tell)

    def _map_in_pool(
        self,
        function: Callable[[_Item], _Result],
        items: Iterator[_Item],
        chunk: int,
        threads: int,
    ) -> Iterator[_Result]:
        if self._pool is None:
            self._pool = _Pool(self._workers)
        pending: deque[Future[list[_Result]]] = deque()
        try:
            while chunk_items := list(itertools.islice(items, chunk)):
                pending.append(self._pool.submit(function, chunk_items, threads))
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


class _Batches(Generic[_Item, _Prepared]):
    """Prepared batches by number, as torch's loader takes them."""

    def __init__(
        self,
        prepare: Callable[[Sequence[_Item], int], _Prepared],
        items: Sequence[_Item],
        batch_size: int,
    ) -> None:
        self._prepare = prepare
        self._items = items
        self._size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.count / self._size)

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._items)

    def after(self, number: int) -> _Batches[_Item, _Prepared]:
        """Those that come after so many."""
        return _Batches(self._prepare, self._items[number * self._size :], self._size)

    def items(self, number: int) -> Sequence[_Item]:
        return self._items[number * self._size : (number + 1) * self._size]

    def __getitem__(self, number: int) -> _Prepared | CapError:
        return self.prepared(number, 1)

    def prepared(self, number: int, threads: int) -> _Prepared | CapError:
        # Raised in a worker, an error would come back with the worker's whole traceback.
        try:
            return self._prepare(self.items(number), threads)
        except CapError as error:
            return error


def _end_with_starter(number: int) -> None:
    """In a process of torch's loader: exit at once when the one that wants the batches is gone.

    Torch's own watch looks for the parent, which is the fork server and stays.
    """
    del number
    starter = multiprocessing.parent_process()
    assert starter is not None

    def watch() -> None:
        wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-starter").start()


def _as_it_is(prepared: _Prepared) -> _Prepared:
    return prepared


def prepared_batches(
    prepare: Callable[[Sequence[_Item], int], _Prepared],
    items: Sequence[_Item],
    batch_size: int,
    workers: int | None,
    *,
    device: str,
    waits: bool = False,
) -> Iterator[tuple[Sequence[_Item], _Prepared]]:
    """Batches with what was made of them, in their order.

    Work on a GPU goes on while processes prepare what comes next. Work on the CPU wants every core:
    whatever is prepared beside it on one of them holds up its threads on all. Then the two take
    turns, and each has all cores.

    Parameters
    ----------
    prepare
        From a batch of items, and how many threads may share the work on them, to what is wanted
        of it; can be pickled.
    items
        The items.
    batch_size
        Items of a batch; the last may have fewer.
    workers
        Processes that prepare; with 0 the batches are prepared in this one, each before its work.
        None takes turns where the work is done on the CPU, with a thread per core up to 8; else a
        process per core up to 8, or up to 32 for a GPU, and none for a few items.
    device
        The torch device of the work.
    waits
        Whether preparing waits, as for a network: then None takes processes on a CPU too.

    Raises
    ------
    CapError
        If a worker process dies.
    """
    batches = _Batches(prepare, items, batch_size)
    if workers is None and device == "cpu" and not waits:
        results = _in_turns(batches)
    else:
        results = _by_processes(batches, workers, pin=device.startswith("cuda"))
    for number, found in enumerate(results):
        if isinstance(found, CapError):
            raise found
        yield batches.items(number), found


def _in_turns(batches: _Batches[Any, Any]) -> Iterator[Any]:
    """By threads of this process, each batch when its turn comes."""
    threads = min(usable_cores(), _MOST_PREPARING)
    for number in range(len(batches)):
        yield batches.prepared(number, threads)


def _by_processes(batches: _Batches[Any, Any], workers: int | None, *, pin: bool) -> Iterator[Any]:
    """By torch's own loader: with workers ahead of those that are used."""
    from torch.utils.data import DataLoader

    if workers is None:
        most = _MOST_PREPARING_FOR_GPU if pin else _MOST_PREPARING
        workers = 0 if batches.count < _FEW else min(usable_cores(), most)
    if len(batches) <= _HEAD_START:
        workers = 0
    head_start = _HEAD_START if workers else 0
    # A forked copy of a process in which torch's threads run may hang.
    context = multiprocessing.get_context("forkserver") if workers else None
    if context is not None:
        context.set_forkserver_preload(["torch", "torchvision"])
    loader: Any = DataLoader(
        batches.after(head_start),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        multiprocessing_context=context,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_end_with_starter if workers else None,
    )
    try:
        # The workers start here; what they need for that is used to prepare the first batches.
        rest = iter(loader)
        for number in range(head_start):
            yield batches[number]
        yield from rest
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        msg = (
            "a decoding process died, perhaps because (shared) memory ran out; "
            "run the same command again, with --workers 1 if it happens twice"
        )
        raise CapError(msg) from error


def map_ordered(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int | None
) -> Iterator[_Result]:
    """Results of a function for each item, in order, from processes that end with the last one.

    As `LocalEngine.map`, for a single call.
    """
    with LocalEngine(workers) as engine:
        yield from engine.map(function, items)


class _Chosen(Protocol):
    """The parameters of a stage that say where its work is done."""

    @property
    def engine(self) -> str: ...

    @property
    def ray_address(self) -> str | None: ...

    @property
    def workers(self) -> int | None: ...


def engine_for(parameters: _Chosen, progress: Progress, folder: Path | None) -> Engine:
    """The engine that a stage's parameters ask for.

    Parameters
    ----------
    parameters
        The stage's.
    progress
        Told what a person should know.
    folder
        What all workers have to see, if anything.

    Raises
    ------
    CapError
        If Ray is asked for and not installed.
    """
    if parameters.engine == "ray":
        from pipeline.ray_engine import RayEngine

        return RayEngine(
            parameters.workers, parameters.ray_address, folder=folder, tell=progress.note
        )
    return LocalEngine(parameters.workers, tell=progress.note)
