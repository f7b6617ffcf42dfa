"""Fetch the photos of a listing into the workspace, as rows of `photos`.

Photos arrive in any order; a batch of them is saved when all of it is there. What had arrived
before a command was stopped is taken from where it waits, and what the workspace has from an
earlier run is not asked for at all.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import PhotoError
from manifests.photos import PhotoStore, inspect_photo
from manifests.progress import reason_of
from manifests.schema import PHOTOS
from manifests.tables import count_by, from_rows
from pipeline.collect.download import Arrival, Downloader, Politeness, Wanted
from pipeline.engine import LocalEngine

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Run, Workspace

__all__ = ["fetch_listing", "known_rows"]

_BATCH = 256
_SMALLEST_SIDE = 32
"""Pixels; what is smaller is a placeholder and no photo."""

_FETCHED = (
    *("status", "error", "transient"),
    *("sha256", "path", "bytes", "width", "height", "format", "fetched_at"),
)
"""Columns of `photos` that a listing does not know."""


def _ingest(arrival: Arrival, store: PhotoStore) -> dict[str, Any]:
    """Check and store a photo that has arrived; gives the columns that its bytes decide."""
    row: dict[str, Any] = {"photo_id": arrival.photo_id, "status": "failed", "transient": False}
    if arrival.file is None:
        return {**row, "error": arrival.error, "transient": arrival.transient}
    data = arrival.file.read_bytes()
    sha256 = arrival.sha256 or hashlib.sha256(data).hexdigest()
    row |= {"sha256": sha256, "bytes": len(data)}
    try:
        facts = inspect_photo(data)
    except PhotoError as error:
        # What waited from an earlier command may have been cut short by a power failure.
        return {**row, "error": str(error), "transient": arrival.sha256 is None}
    if max(facts.width, facts.height) < _SMALLEST_SIDE:
        size = f"{facts.width} x {facts.height} pixels"
        return {**row, "error": f"not the photo: a placeholder of {size}"}
    moment = datetime.datetime.fromtimestamp(arrival.file.stat().st_mtime, datetime.UTC)
    return {
        **row,
        "status": "ok",
        "transient": None,
        "path": store.adopt(arrival.file, sha256, facts),
        "fetched_at": moment,
        **asdict(facts),
    }


class _OpenBatch:
    """A batch whose photos arrive one by one."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = {row["photo_id"]: row for row in rows}
        self._missing = len(rows)

    def add(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        self._missing -= 1
        self._rows[columns["photo_id"]] |= columns
        return self._rows[columns["photo_id"]]

    @property
    def whole(self) -> bool:
        return not self._missing

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self._rows.values())


class _Fetching:
    """Brings the photos of a run's open batches in, and saves a batch when all of it is there."""

    def __init__(self, run: Run, downloader: Downloader) -> None:
        self._run = run
        self._downloader = downloader
        self._open: dict[int, _OpenBatch] = {}
        self._batch_of: dict[str, int] = {}

    def wanted(self, batches: Sequence[tuple[int, pa.Table]]) -> Iterator[Wanted]:
        """The photos to fetch; a batch is opened when its first photo is asked for."""
        source = self._run.job.source
        for index, table in batches:
            self._run.begin_batch()
            rows = table.to_pylist()
            self._open[index] = _OpenBatch([{**row, "source": source} for row in rows])
            for row in rows:
                self._batch_of[row["photo_id"]] = index
                yield Wanted(row["photo_id"], row["url"])

    def add(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Take a photo's columns; gives back its row."""
        index = self._batch_of.pop(columns["photo_id"])
        batch = self._open[index]
        row = batch.add(columns)
        if batch.whole:
            self._run.workspace.photos.sync(r["path"] for r in batch.rows if r["status"] == "ok")
            self._run.save(index, from_rows(batch.rows, PHOTOS.schema))
            for saved in batch.rows:
                file = self._downloader.file_of(Wanted(saved["photo_id"], saved["url"]))
                file.unlink(missing_ok=True)
            del self._open[index]
        return row


def _known(workspace: Workspace, *, permanent: bool) -> pa.Table:
    """Id and address of the photos that the workspace has, and what fetching told of them."""
    known = workspace.read("photos") if workspace.has("photos") else PHOTOS.schema.empty_table()
    if "transient" not in known.column_names:
        known = known.append_column("transient", pa.nulls(known.num_rows, pa.bool_()))
    there = [
        path is not None and workspace.photos.has(path, size)
        for path, size in zip(known["path"].to_pylist(), known["bytes"].to_pylist(), strict=True)
    ]
    good = pa.array(there, pa.bool_())
    if permanent:
        failed = pc.and_(
            pc.equal(known["status"], "failed"), pc.invert(pc.fill_null(known["transient"], False))
        )
        good = pc.or_(good, failed)
    return known.select(["photo_id", "url", *_FETCHED]).filter(good)


def known_rows(
    workspace: Workspace, listing: pa.Table, source: str, *, permanent: bool
) -> pa.Table:
    """Rows of `photos` for what the workspace has of a listing, in the order of the listing.

    What it has is told by id and address. With `permanent`, photos that can never be had are among
    it.
    """
    known = _known(workspace, permanent=permanent)
    position = pc.index_in(listing["photo_id"], known["photo_id"].combine_chunks())
    # Of what has no address, that is the same too.
    addresses = (listing["url"], known["url"].take(position))
    same = pc.equal(*(pc.fill_null(column, "") for column in addresses))
    there = pc.and_(pc.is_valid(position), same)
    ready, found = listing.filter(there), known.take(position.filter(there))
    columns = {
        **{name: ready[name] for name in ready.column_names},
        **{name: found[name] for name in _FETCHED},
        "source": pa.repeat(source, ready.num_rows),
    }
    return pa.table([columns[name] for name in PHOTOS.schema.names], schema=PHOTOS.schema)


def _counts(table: pa.Table) -> Counter[str]:
    return Counter(count_by(table, "class_name"))


def fetch_listing(
    run: Run,
    listing: pa.Table,
    ready: pa.Table,
    politeness: Politeness,
    workers: int | None,
    progress: Progress,
) -> None:
    """Fetch the photos of a listing into the batches of a run.

    Parameters
    ----------
    run
        The run that keeps the batches.
    listing
        Schema `LISTING`, each photo once, sorted by class and photo.
    ready
        Rows of `photos` that need no fetching, for the progress to count.
    politeness
        How hard a host may be asked.
    workers
        Processes that check photos; None takes one per core.
    progress
        Told of each photo.

    Raises
    ------
    CapError
        If photos cannot be written.
    """
    batches = run.open_batches(listing, _BATCH)
    totals = _counts(listing) + _counts(ready)
    done = totals - sum((_counts(batch) for _, batch in batches), Counter())
    with (
        Downloader(run.folder / "arrived", politeness, progress.note) as downloader,
        LocalEngine(workers) as engine,
        progress.board("collect", totals, done) as count,
    ):
        fetching = _Fetching(run, downloader)
        arrivals = downloader.arrivals(fetching.wanted(batches))
        for columns in engine.map(partial(_ingest, store=run.workspace.photos), arrivals):
            row = fetching.add(columns)
            problem = None if row["status"] == "ok" else reason_of(row["error"])
            count(row["class_name"], row.get("bytes") or 0, problem)
