"""The engine on a Ray cluster: Ray Data streams batches through tasks that decode and actors.

Each row that Ray Data moves is one pickled batch, so that batches are cut as on one machine and
come back in their order. Work whose worker died is done again by Ray, on another node if need be;
its result is taken once. Ray would do so for ever; a batch that ends one worker after another is
told instead. The cluster is one at an address, or is started on this machine and ends with the
command.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import re
import socket
import urllib.parse
from collections import Counter
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pyarrow as pa

from manifests import __version__
from manifests.cores import usable_cores
from manifests.errors import CapError, MissingExtraError
from pipeline.engine import apply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from pipeline.engine import Work

__all__ = ["RayEngine"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Prepared = TypeVar("_Prepared")

_CHUNK = 64
"""Items of a task of `map`."""

_MOST_ATTEMPTS = 8
"""Times that a batch is begun: a worker may die through no fault of its batch, but not so often."""

_Key = tuple[int, int]
"""A batch: the number of the call that it belongs to, and its own within that."""

_CONNECT_SECONDS = 5.0
_NODE_SECONDS = 120.0


def _row(value: object) -> pa.Table:
    """A block of one row; pickled, since Arrow knows neither photos nor tensors."""
    return pa.table({"batch": pa.array([pickle.dumps(value, protocol=5)], pa.large_binary())})


def _value(table: pa.Table) -> Any:
    # What is unpickled was pickled by this command, or by its workers.
    return pickle.loads(table["batch"][0].as_buffer())  # noqa: S301


class _Attempts:
    """An actor that knows how often each step of a batch was begun: those who begin it may die."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[str, _Key]] = Counter()

    def begin(self, step: str, key: _Key) -> int:
        self._begun[step, key] += 1
        return self._begun[step, key]


def _begun(attempts: Any, step: str, key: _Key, items: Sequence[Any]) -> None:
    """Count that a step of a batch is begun.

    Raises
    ------
    CapError
        If that was so too often.
    """
    # Not `ray.get`, for which Ray would have another task begin on this task's core meanwhile.
    if attempts.begin.remote(step, key).future().result() > _MOST_ATTEMPTS:
        msg = (
            f"{_MOST_ATTEMPTS} workers of the Ray cluster died one after another on the same "
            f"{len(items)} items, of which the first is {items[0]}; see that their nodes have "
            "memory for them, and look at the photos"
        )
        raise CapError(msg)


def _unless_refused(make: Callable[[], object]) -> pa.Table:
    """A block with what is made, or with the error that a stage raises; Ray adds words to those."""
    try:
        return _row(make())
    except CapError as error:
        return _row(error)


class _Apply:
    """A task of `map`."""

    def __init__(self, function: Callable[[Any], Any], threads: int, attempts: Any) -> None:
        self._function = function
        self._threads = threads
        self._attempts = attempts

    def __call__(self, table: pa.Table) -> pa.Table:
        key, items = _value(table)

        def applied() -> list[Any]:
            _begun(self._attempts, "apply", key, items)
            return apply(self._function, items, self._threads)

        return _unless_refused(applied)


class _Prepare:
    """A task that prepares a batch, and hands the items on with it."""

    def __init__(self, prepare: Callable[[Sequence[Any], int], Any], attempts: Any) -> None:
        self._prepare = prepare
        self._attempts = attempts

    def __call__(self, table: pa.Table) -> pa.Table:
        key, items = _value(table)

        def prepared() -> tuple[_Key, Sequence[Any], Any]:
            _begun(self._attempts, "prepare", key, items)
            return key, items, self._prepare(items, 1)

        return _unless_refused(prepared)


class _Worker:
    """An actor that holds the work, such as a model, on its device."""

    def __init__(self, work: list[Any], device: str, attempts: Any) -> None:
        import ray

        # Inside a list, so that Ray passes the reference and each node fetches the object once.
        self._work = ray.get(work[0])
        self._work.move(device)
        self._attempts = attempts

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = _value(table)
        if isinstance(batch, CapError):
            return table
        key, items, prepared = batch
        told: list[str] = []

        def worked() -> tuple[list[Any], list[str]]:
            _begun(self._attempts, "work", key, items)
            return self._work(items, prepared, told.append), told

        return _unless_refused(worked)


def _on_node(folder: Path | None) -> tuple[str, bool]:
    """On a node: the version that is installed there, and whether it sees a folder."""
    from manifests import __version__ as version

    return version, folder is None or folder.is_dir()


class RayEngine:
    """A Ray cluster; a context, `with RayEngine() as engine: …`.

    Parameters
    ----------
    workers
        For `map_batches`, how many hold the work; None takes one per GPU, or one per node of a
        cluster without.
    address
        `HOST:PORT` of the cluster's head; None takes that of the variable RAY_ADDRESS, and without
        one starts a cluster on this machine.
    folder
        What every node has to see, such as the workspace; None where photos lie elsewhere.
    tell
        Told what a person should know.

    Raises
    ------
    CapError
        If Ray is not installed.
    """

    def __init__(
        self,
        workers: int | None = None,
        address: str | None = None,
        *,
        folder: Path | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            msg = (
                "--engine ray needs Ray; install it with "
                "`pip install 'counteranimal-pipeline[pipeline,ray]'`"
            )
            raise MissingExtraError(msg) from error
        self._workers = workers
        self._folder = folder
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._tell = tell
        self._calls = itertools.count()
        self._attempts: Any = None

    def __enter__(self) -> Self:
        import ray

        if ray.is_initialized():
            msg = "this process is connected to a Ray cluster already"
            raise CapError(msg)
        self._connect()
        try:
            self._check_nodes()
            self._attempts = _here(_Attempts)
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import ray

        ray.shutdown()

    def computing_on(self, device: str) -> str:
        """A GPU where the cluster has one, unless the CPU is asked for.

        Raises
        ------
        CapError
            If the device is not to be had.
        """
        has_gpu = self._gpus() > 0
        if device == "auto":
            return "cuda" if has_gpu else "cpu"
        if device not in {"cpu", "cuda"} or (device == "cuda" and not has_gpu):
            msg = (
                f"the device {device!r} is not to be had on the Ray cluster {self._address}; "
                "devices are auto, cpu, and cuda where the cluster has a GPU"
            )
            raise CapError(msg)
        return device

    def loading_on(self, device: str) -> str:
        """The CPU: this process only sends the work out."""
        del device
        return "cpu"

    def map(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int = 1
    ) -> Iterator[_Result]:
        """As `Engine.map`; the items are all taken at the beginning.

        Raises
        ------
        CapError
            If the cluster gives up.
        """
        dataset = self._dataset(items, _CHUNK)
        if dataset is None:
            return
        done = dataset.map_batches(
            _Apply(function, threads, self._attempts),
            batch_size=1,
            batch_format="pyarrow",
        )
        for results in self._streamed(done):
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
        """As `Engine.map_batches`: prepared by tasks, beside the actors that work on them.

        Raises
        ------
        CapError
            If the cluster gives up.
        """
        import ray
        from ray.data import ActorPoolStrategy

        del waits
        dataset = self._dataset(items, batch_size)
        if dataset is None:
            return
        on_gpu = work.device.startswith("cuda")
        count = self._workers or (self._gpus() if on_gpu else self._nodes())
        done = dataset.map_batches(
            _Prepare(prepare, self._attempts),
            batch_size=1,
            batch_format="pyarrow",
        ).map_batches(
            _Worker,
            fn_constructor_args=([ray.put(work)], work.device, self._attempts),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=max(1, min(count, dataset.num_blocks()))),
            num_gpus=1 if on_gpu else 0,
            # Preparing takes the cores; on a CPU the work takes those of its node too.
            num_cpus=0,
        )
        for results, told in self._streamed(done):
            for text in told:
                self._tell(text)
            yield results

    def _dataset(self, items: Iterable[Any], batch_size: int) -> Any | None:
        """Rows of one batch each; None without items, of which Ray makes no dataset."""
        import ray

        call = next(self._calls)
        rest = iter(items)
        blocks: list[Any] = []
        while batch := list(itertools.islice(rest, batch_size)):
            blocks.append(ray.put(_row(((call, len(blocks)), batch))))
        return ray.data.from_arrow_refs(blocks) if blocks else None

    def _streamed(self, dataset: Any) -> Iterator[Any]:
        """What is in each row, in the order of the rows."""
        with _explained():
            for table in dataset.iter_batches(
                batch_size=1, batch_format="pyarrow", prefetch_batches=2
            ):
                value = _value(table)
                if isinstance(value, CapError):
                    raise value
                yield value

    def _connect(self) -> None:
        import ray

        if self._address not in {"local", "auto"}:
            _check_reachable(self._address)
        # Nothing is reported to Ray's makers, no GPU is hidden from work that asks for none, and
        # Ray's own warnings about how it is used are not for the person at the command.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        own: dict[str, Any] = {}
        if self._address == "local":
            own = {"num_cpus": usable_cores(), "include_dashboard": False}
        try:
            ray.init(address=self._address, logging_level=logging.ERROR, log_to_driver=False, **own)
        except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            msg = (
                f"the Ray cluster {self._address} cannot be joined: {_reason(error)}; if it "
                "wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            )
            raise CapError(msg) from error
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.execution_options.verbose_progress = False
        context.enable_progress_bars = False
        context.print_on_execution_start = False

    def _check_nodes(self) -> None:
        """See that every node has this package, in this version, and sees the folder."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        on_node = ray.remote(num_cpus=0)(_on_node)
        asked = [
            on_node.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(self._folder)
            for node in nodes
        ]
        try:
            found = ray.get(asked, timeout=_NODE_SECONDS)
        except ray.exceptions.RayError as error:
            msg = (
                f"the nodes of the Ray cluster {self._address} cannot run cap; install "
                f"counteranimal-pipeline[pipeline,ray] {__version__} on each: {_reason(error)}"
            )
            raise CapError(msg) from error
        for node, (version, sees) in zip(nodes, found, strict=True):
            name = node["NodeManagerHostname"]
            if version != __version__:
                msg = f"the node {name} has cap {version}, and this is {__version__}; install one"
                raise CapError(msg)
            if not sees:
                msg = (
                    f"the node {name} does not see {self._folder}; share it with all nodes, or "
                    "copy the photos to where they read them and say so with --photos-at"
                )
                raise CapError(msg)

    def _gpus(self) -> int:
        import ray

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return int(resources.get("GPU", 0))

    def _nodes(self) -> int:
        import ray

        return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]


def _here(kind: type) -> Any:
    """An actor on the node of this process, with which it ends."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0)(kind).options(scheduling_strategy=strategy).remote()


_RAISED = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception)\b.*$", re.MULTILINE)


def _reason(error: BaseException) -> str:
    """What was raised first, of the traceback that Ray's errors have for a text."""
    raised = _RAISED.search(str(error))
    return raised[0] if raised else (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_reachable(address: str) -> None:
    """Say at once, instead of after minutes, that nobody answers.

    Raises
    ------
    CapError
        If the address is none, or does not answer.
    """
    try:
        parts = urllib.parse.urlsplit(f"gcs://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or "/" in address:
        msg = (
            f"{address!r} is no address of a Ray cluster; write HOST:PORT, as `ray start` printed "
            "it on the head"
        )
        raise CapError(msg)
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        msg = (
            f"the Ray cluster {address} cannot be reached: {error.strerror or error}; "
            "see that it runs (`ray status`), or leave out --ray-address to use this machine"
        )
        raise CapError(msg) from error


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what Ray raises into one line."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        msg = (
            f"the Ray cluster gave up: {_reason(error)}; what is done is kept, and the same "
            "command goes on from there"
        )
        raise CapError(msg) from error
