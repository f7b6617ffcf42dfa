"""A workspace: where tables, receipts and photos lie, what is fresh, and who may write.

A stage asks a workspace to `begin` a `Job`. It gets a `Run`, which says whether the table is fresh,
keeps the batches that are done so that a killed stage goes on where it stopped, and commits the
table and then its receipt. A receipt that is present means the table is done.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from manifests import __version__
from manifests.errors import CapError, LockedError, TableError
from manifests.photos import PhotoStore
from manifests.progress import Progress
from manifests.schema import table_schema
from manifests.tables import (
    count_by,
    read_parts,
    read_table,
    table_digest,
    validate,
    write_bytes,
    write_table,
    write_validated,
)
from manifests.vocabulary import LabelSpace, label_space

__all__ = ["Job", "Outcome", "Receipt", "Run", "State", "Workspace", "now"]

RECIPE = "cap.toml"

State = Literal["missing", "fresh", "external", "unfinished"]
"""What can be said of a table without asking its stage: `external` has no receipt that fits."""

_WRITERS = {
    "photos": "cap collect",
    "duplicates": "cap dedup",
    "annotations": "cap annotate import FILE` or `cap annotate pull",
    "labels": "cap annotate import FILE` or `cap annotate pull",
    "predictions": "cap score --model SPEC",
    "groups": "cap split",
    "pairs": "cap split",
    "split": "cap split",
    "plan": "cap split --plan",
    "regions": "cap discover",
    "discoveries": "cap discover",
    "mitigations": "cap mitigate",
    "confirmations": "cap annotate pull",
}

_PARTS_AT_MOST = 200
_NOTE = "job.json"
"""In a run's folder: whose rows it makes, when it began, and how many items its batches have."""
_COMMITTING = "committing"
"""In a run's folder: its table is being written."""

Item = TypeVar("Item")


def now() -> datetime.datetime:
    """The present time in UTC."""
    return datetime.datetime.now(datetime.UTC)


def _json(value: object) -> bytes:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace") + b"\n"


@dataclass(frozen=True)
class Job:
    """What a stage is about to make: the same job on the same inputs makes the same table.

    Attributes
    ----------
    table
        Table to write.
    stage
        The command that writes it, such as `dedup`.
    parameters
        Everything that decides the rows, as plain values.
    inputs
        sha256 of each input, by name.
    source
        For a table that is a union of sources, the source whose rows are replaced.
    step
        For a table that is brought up to date in more than one way, which of them this is.
    seed
        Seed of the stage's randomness, if it has any.
    model
        Description of the model that scored, if one did.
    packages
        Installed packages whose versions the receipt records.
    """

    table: str
    stage: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    source: str | None = None
    step: str | None = None
    seed: int | None = None
    model: Mapping[str, Any] | None = None
    packages: tuple[str, ...] = ("pyarrow", "pillow", "numpy")

    def plain(self) -> dict[str, Any]:
        """Parameters and inputs as they look after a round trip through JSON."""
        plain: dict[str, Any] = json.loads(
            _json({"parameters": dict(self.parameters), "inputs": dict(self.inputs)})
        )
        return plain

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digits that differ when table, source, parameters or inputs differ."""
        return hashlib.sha256(
            _json([self.table, self.source, self.step, self.plain()])
        ).hexdigest()[:16]

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that made the rows."""
        return {name: metadata.version(name) for name in self.packages}


@dataclass(frozen=True)
class Receipt:
    """What a table was made from; see the architecture page, section 2."""

    table: str
    stage: str
    cap_version: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    rows: dict[str, int]
    digest: str
    started_at: str
    ended_at: str
    versions: dict[str, str]
    work: dict[str, int]
    seed: int | None = None
    model: dict[str, Any] | None = None
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def made_by(self, job: Job) -> bool:
        """Whether this receipt is for exactly that job."""
        entry = self.sources.get(job.source) if job.source else asdict(self)
        plain = job.plain()
        return entry is not None and all(entry[key] == plain[key] for key in plain)


@dataclass(frozen=True)
class Outcome:
    """What a command did: a sentence for people, and the same facts for machines."""

    stage: str
    text: str
    facts: Mapping[str, Any]
    fresh: bool = False


def _source_of(run: Path) -> str | None:
    """The source whose rows a run was to replace; None where that is not written down."""
    try:
        note = json.loads((run / _NOTE).read_bytes())
    except FileNotFoundError:
        return None
    source: str | None = note.get("source")
    return source


class Run:
    """One stage at work on one table; made by `Workspace.begin`."""

    def __init__(self, workspace: Workspace, job: Job) -> None:
        self.workspace = workspace
        self.job = job
        self._parts = workspace.parts_folder(job.table) / job.fingerprint
        self._batches = 0

    @cached_property
    def fresh(self) -> bool:
        """Whether the table is there already, made by the same job, with all rows of its source."""
        receipt = self.workspace.receipt(self.job.table)
        return (
            receipt is not None
            and receipt.made_by(self.job)
            and self.workspace.state(self.job.table) == "fresh"
            and self._has_all_rows(receipt)
        )

    def _has_all_rows(self, receipt: Receipt) -> bool:
        """Whether no row of the source went with a table that was removed, or with a source.

        Those that another source has taken over are there.
        """
        table, source = self.job.table, self.job.source
        if source is None:
            return True
        entry = receipt.sources[source]
        there = self.workspace.read(table, source).num_rows + sum(entry.get("taken", {}).values())
        return bool(entry["rows"] == there)

    def start(self) -> None:
        """Note the time at which the work first began; a resumed run keeps it."""
        if not self._note.exists():
            begun = {"source": self.job.source, "started_at": now().isoformat()}
            write_bytes(self._note, _json(begun))
        self._count("attempts")

    @property
    def folder(self) -> Path:
        """Where the stage keeps what it has, until the table is committed."""
        return self._parts

    @property
    def _note(self) -> Path:
        return self._parts / _NOTE

    def _count(self, event: str) -> None:
        # One byte per event: appending survives a kill, and its size is the count.
        with (self._parts / f"{event}.count").open("ab") as handle:
            handle.write(b".")

    def _counted(self, event: str) -> int:
        file = self._parts / f"{event}.count"
        return file.stat().st_size if file.exists() else 0

    def _part(self, index: int) -> Path:
        return self._parts / f"{index:05d}.parquet"

    def batches(
        self, items: Sequence[Item], unit: int, report: Progress
    ) -> Iterator[tuple[int, Sequence[Item]]]:
        """Batches of `items` that no earlier attempt has committed.

        Batches are cut from the whole list, so `items` must be in the same order each time. There
        are at most 200, each a multiple of `unit` items, so that little is lost to a kill and few
        files are made. A resumed run cuts them as the first attempt did, whatever its `unit`. Give
        each back to `save`.
        """
        todo = self.open_batches(items, unit)
        pending = sum(len(batch) for _, batch in todo)
        with report.task(self.job.stage, len(items), len(items) - pending) as advance:
            for index, batch in todo:
                self.begin_batch()
                yield index, batch
                advance(len(batch))

    def open_batches(self, items: Sequence[Item], unit: int) -> list[tuple[int, Sequence[Item]]]:
        """The batches that `batches` gives, all at once; `begin_batch` tells that one is begun."""
        size = self._size(unit * max(1, -(-len(items) // (unit * _PARTS_AT_MOST))))
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        self._batches = len(batches)
        return [(i, batch) for i, batch in enumerate(batches) if not self._part(i).exists()]

    def _size(self, wanted: int) -> int:
        """Items of a batch: as the first attempt cut them, since its batches may be there."""
        note = json.loads(self._note.read_bytes())
        if "batch" not in note:
            write_bytes(self._note, _json(note | {"batch": wanted}))
        size: int = note.get("batch", wanted)
        return size

    def begin_batch(self) -> None:
        """Note that the work on a batch begins."""
        self._count("batches")

    def pending(self, items: Sequence[Item], unit: int) -> list[Item]:
        """The items that `batches` will give, in its order, as one list."""
        return [item for _, batch in self.open_batches(items, unit) for item in batch]

    def save(self, index: int, rows: pa.Table) -> None:
        """Commit the rows of one batch."""
        write_table(self._part(index), rows, table_schema(self.job.table))

    def saved(self, further: pa.Table | None = None) -> pa.Table:
        """The rows of all committed batches, and `further` rows, sorted by key."""
        # What the stage has freed goes back before the table takes as much.
        pa.default_memory_pool().release_unused()
        parts = [self._part(index) for index in range(self._batches)]
        return read_parts(parts, table_schema(self.job.table), further)

    def commit(self, table: pa.Table) -> Receipt:
        """Write the table, then its receipt, then drop the batches.

        For a union, `table` holds the rows of the job's source; other sources keep theirs.
        """
        workspace, job = self.workspace, self.job
        spec = table_schema(job.table)
        earlier = workspace.receipt(job.table)
        sources = {name: dict(entry) for name, entry in earlier.sources.items()} if earlier else {}
        if job.source is not None and workspace.has(job.table):
            standing = workspace.read(job.table)
            self._note_taken(sources, standing, table)
            table = self._with_other_sources(standing, table)
        rows = validate(table, spec)
        (self._parts / _COMMITTING).touch()
        # The earlier receipt stays beside the new table until there is a new one: it is not of its
        # rows, and knows what the other sources' were made from.
        write_validated(workspace.table_path(job.table), rows, spec)
        receipt = self._receipt(rows, sources)
        write_bytes(workspace.receipt_path(job.table), _json(asdict(receipt)))
        self._drop_batches()
        return receipt

    def _drop_batches(self) -> None:
        """Remove the batches of this run, and what earlier runs of its source have left."""
        parts = self.workspace.parts_folder(self.job.table)
        # Under another name first: what a kill leaves of it is no batch of a later run.
        done = parts.with_name(f"{parts.name}.done")
        shutil.rmtree(done, ignore_errors=True)
        done.mkdir()
        others = False
        for run in list(parts.iterdir()):
            if run == self._parts or _source_of(run) in {None, self.job.source}:
                run.rename(done / run.name)
            else:
                others = True
        if not others:
            parts.rmdir()
        shutil.rmtree(done)

    def _note_taken(
        self, sources: dict[str, dict[str, Any]], standing: pa.Table, rows: pa.Table
    ) -> None:
        """Note how many rows this source has from each other, which are then not missing there.

        Once it gives rows up, nothing tells whose they were: then the others miss theirs.
        """
        key = list(table_schema(self.job.table).key)
        mine = pc.equal(standing["source"], self.job.source)
        keys, wanted = standing.select([*key, "source"]), rows.select(key)
        given_up = keys.filter(mine).join(wanted, key, join_type="left anti").num_rows
        shared = keys.filter(pc.invert(mine)).join(wanted, key, join_type="left semi")
        taken = count_by(shared, "source")
        for name, entry in sources.items():
            before = entry.get("taken", {})
            kept = 0 if given_up else before.get(self.job.source, 0)
            if name != self.job.source and (before or name in taken):
                entry["taken"] = {**before, self.job.source: kept + taken.get(name, 0)}

    def _with_other_sources(self, standing: pa.Table, rows: pa.Table) -> pa.Table:
        others = standing.filter(pc.not_equal(standing["source"], self.job.source))
        # What two sources share belongs to the one that asked for it last.
        # Arrow joins no lists, so the keys are joined and the rows taken by their positions.
        key = list(table_schema(self.job.table).key)
        positions = pa.array(range(others.num_rows), pa.int64())
        numbered = others.select(key).append_column("row", positions)
        own = numbered.join(rows.select(key), key, join_type="left anti")
        others = others.take(own["row"])
        return pa.concat_tables([others, rows], promote_options="default")

    def _receipt(self, rows: pa.Table, sources: dict[str, dict[str, Any]]) -> Receipt:
        job, plain = self.job, self.job.plain()
        counted = "status" if "status" in rows.column_names else None
        counts = count_by(rows, counted) if counted else {}
        times = {
            "started_at": json.loads(self._note.read_bytes())["started_at"],
            "ended_at": now().isoformat(),
        }
        if job.source is not None:
            own = count_by(rows, "source").get(job.source, 0)
            entry = {**plain, **times, "rows": own}
            if job.step is not None and job.source in sources:
                # Bringing rows up to date brings none back: what was missing is so still.
                told = sources[job.source]
                entry |= {name: told[name] for name in ("rows", "taken") if name in told}
            sources[job.source] = entry
        return Receipt(
            table=job.table,
            stage=job.stage,
            cap_version=__version__,
            rows={"total": rows.num_rows, **counts},
            digest=table_digest(rows),
            versions=job.versions,
            work={
                "attempts": self._counted("attempts"),
                "batches": self._batches,
                "batches_started": self._counted("batches"),
            },
            seed=job.seed,
            model=dict(job.model) if job.model is not None else None,
            sources=sources,
            **plain,
            **times,
        )


class Workspace:
    """A folder with a `cap.toml`, and everything that the stages keep in it.

    Raises
    ------
    CapError
        If the folder has no `cap.toml`, or it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if not (self.root / RECIPE).is_file():
            msg = f"{root} is no workspace (it has no {RECIPE}); make one with `cap init {root}`"
            raise CapError(msg)
        self.photos = PhotoStore(self.root)

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """The workspace that `start` lies in: the nearest parent with a `cap.toml`."""
        for folder in (start.resolve(), *start.resolve().parents):
            if (folder / RECIPE).is_file():
                return cls(folder)
        msg = f"no {RECIPE} here or above; run `cap init DIR`, or name one with --workspace DIR"
        raise CapError(msg)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """`cap.toml` as nested dictionaries."""
        try:
            return tomllib.loads((self.root / RECIPE).read_text("utf-8"))
        except (OSError, ValueError) as error:
            msg = f"{self.root / RECIPE} cannot be read: {error}"
            raise CapError(msg) from error

    @cached_property
    def label_space(self) -> LabelSpace:
        """The label space that `class_index` refers to."""
        return label_space(str(self.recipe.get("label_space", "imagenet1k")), self.root)

    @property
    def cache(self) -> Path:
        """Folder for what can be made again, such as text features."""
        return self.root / ".cap" / "cache"

    def table_path(self, table: str) -> Path:
        """File of a table; scoring runs are called `predictions/<run>`."""
        return self.root / "manifests" / f"{table}.parquet"

    def receipt_path(self, table: str) -> Path:
        """File of a table's receipt."""
        return self.root / "manifests" / f"{table}.json"

    def parts_folder(self, table: str) -> Path:
        """Folder of the batches of a stage at work."""
        return self.root / ".cap" / "parts" / table.replace("/", "__")

    def has(self, table: str) -> bool:
        """Whether the table's file is there."""
        return self.table_path(table).is_file()

    def read(self, table: str, source: str | None = None) -> pa.Table:
        """Read a table; of a union perhaps only the rows of one source.

        Raises
        ------
        TableError
            If it is not there (the message names the command that makes it) or not valid.
        """
        if not self.has(table):
            writer = _WRITERS[table.partition("/")[0]]
            msg = f"the workspace has no {table} table yet; run `{writer}` first"
            raise TableError(msg)
        rows = read_table(self.table_path(table), table_schema(table))
        return rows if source is None else rows.filter(pc.equal(rows["source"], source))

    def receipt(self, table: str) -> Receipt | None:
        """A table's receipt, or None where there is none.

        Raises
        ------
        TableError
            If the file is not a receipt of this version.
        """
        path = self.receipt_path(table)
        try:
            return Receipt(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            msg = f"{path} is not a receipt ({error}); remove it and run the stage again"
            raise TableError(msg) from error

    def state(self, table: str) -> State:
        """Whether a table is there, and whether its receipt speaks of it.

        `unfinished` tables have rows on disk that their stage has not committed as a whole.
        """
        receipt = self.receipt(table) if self.has(table) else None
        if receipt is not None and receipt.digest == self.digest(table):
            return "fresh"
        if self._at_work(table):
            return "unfinished"
        return "external" if self.has(table) else "missing"

    def _at_work(self, table: str) -> bool:
        """Whether a stage has rows of a table that it has not committed as a whole."""
        parts = self.parts_folder(table)
        if not parts.exists():
            return False
        # Where a union's table is there, what one source has left may be older than it.
        union = "source" in table_schema(table).schema.names and self.has(table)
        return not union or any((run / _COMMITTING).exists() for run in parts.iterdir())

    def digest(self, table: str) -> str:
        """sha256 of a table's rows, without columns of time."""
        return table_digest(self.read(table))

    def follows(self, table: str, source: str) -> bool:
        """Whether a table was made from another as that is now; yes where no receipt tells."""
        receipt = self.receipt(table)
        made_from = receipt.inputs.get(source.partition("/")[0]) if receipt else None
        return made_from in {None, self.digest(source)}

    def runs(self, table: str = "predictions") -> tuple[str, ...]:
        """Names of the scoring runs that have a table of this kind, sorted."""
        folder = self.root / "manifests" / table
        return tuple(sorted(path.stem for path in folder.glob("*.parquet")))

    def begin(self, job: Job) -> Run:
        """Set out to make a table.

        Raises
        ------
        CapError
            If a table that was put there by other means would be overwritten.
        """
        run = Run(self, job)
        if run.fresh:
            return run
        if job.source is None and self.state(job.table) == "external":
            msg = (
                f"manifests/{job.table}.parquet was put there or changed by other means; it is "
                f"used as it is. Move it away to let `cap {job.stage}` build its own"
            )
            raise CapError(msg)
        run.start()
        return run

    def begin_again(self, job: Job, own: pa.Table) -> Run:
        """Set out to try again what failed in a table that is there, in batches of their own.

        Parameters
        ----------
        job
            The job that made the rows; the receipt stays one of it.
        own
            The rows of its source. Others have other batches, and so has the job itself: an
            interrupted commit may have left those.
        """
        run = Run(self, replace(job, step=f"again {table_digest(own)}"))
        run.start()
        return run

    @contextlib.contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Keep other `cap` processes from writing here.

        The lock belongs to this process alone: workers do not inherit it, and it ends with the
        process, however that ends.

        Raises
        ------
        LockedError
            If another process holds it; the message says which.
        """
        path = self.root / ".cap" / "lock"
        try:
            path.parent.mkdir(exist_ok=True)
            handle = path.open("a+", encoding="utf-8")
        except OSError as error:
            msg = f"{self.root} cannot be written: {error.strerror or error}"
            raise CapError(msg) from error
        with handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                msg = f"{self.root} is being written by {holder}; wait for it, or stop it"
                raise LockedError(msg) from error
            handle.truncate(0)
            handle.write(
                f"`{command}` (process {os.getpid()}, since {now():%Y-%m-%d %H:%M:%S} UTC)"
            )
            handle.flush()
            try:
                yield
            finally:
                handle.truncate(0)
