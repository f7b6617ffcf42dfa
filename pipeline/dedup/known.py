"""What earlier runs found out, so that no photo is hashed and no two hashes are compared twice.

Files below the workspace's cache: the hash of each content by its sha256, which hashes hang
together, and what a model made of each content. Each says what it follows from, and counts only
where that is the same now. All can be made again, so that one which is missing, damaged or of
another version is like none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.tables import replacing, whole
from pipeline.dedup.hashing import method
from pipeline.dedup.linking import LinkedHashes

__all__ = ["Known"]

_HASHES = pa.schema([("sha256", pa.string()), ("phash", pa.uint64())])
_LINKED = pa.schema([("phash", pa.uint64()), ("group", pa.int64())])
_ORIGIN = b"cap.origin"


@dataclass(frozen=True)
class Known:
    """What the files in a folder say."""

    folder: Path

    def hashes(self) -> pa.Table:
        """Columns sha256, each once, and phash, of all contents that were ever hashed this way."""
        found = self._read("hashes", method())
        return _HASHES.empty_table() if found is None else found

    def add_hashes(self, rows: pa.Table) -> None:
        """Keep the hashes of further contents: columns sha256 and phash, null where there is none.

        Copies may come several times, with the same hash.
        """
        made = rows.group_by("sha256").aggregate([("phash", "min")])
        made = made.rename_columns(_HASHES.names).drop_null()
        if made.num_rows:
            self._write("hashes", pa.concat_tables([self.hashes(), made]), method())

    def linked(self, distance: int) -> LinkedHashes | None:
        """Which hashes hang together at a distance, if that was found out."""
        found = self._read("linked", {"distance": distance})
        if found is None:
            return None
        return LinkedHashes(distance, found["phash"].to_numpy(), found["group"].to_numpy())

    def keep_linked(self, linked: LinkedHashes) -> None:
        """Keep which hashes hang together, in place of what was found out before."""
        table = pa.table([linked.hashes, linked.group], schema=_LINKED)
        self._write("linked", table, {"distance": linked.distance})

    def embeddings(self, run: str, model: str) -> pa.Table:
        """Columns sha256, each once, and embedding, of all contents that were in a run."""
        found = self._read(f"embeddings-{run}", {"model": model})
        nothing = pa.schema([("sha256", pa.string()), ("embedding", pa.list_(pa.float16(), 1))])
        return nothing.empty_table() if found is None else found

    def add_embeddings(self, run: str, model: str, rows: pa.Table) -> None:
        """Keep the embeddings of further contents; those that are there stay as they are."""
        earlier = self.embeddings(run, model)
        there = pc.is_in(rows["sha256"], whole(earlier["sha256"]))
        new = rows.filter(pc.invert(there))
        if new.num_rows:
            every = pa.concat_tables([earlier, new]) if earlier.num_rows else new
            self._write(f"embeddings-{run}", every, {"model": model})

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def _read(self, name: str, origin: dict[str, Any]) -> pa.Table | None:
        try:
            table = pq.read_table(self._file(name), partitioning=None)
        except (pa.ArrowInvalid, OSError):
            return None
        metadata = table.schema.metadata or {}
        return table if metadata.get(_ORIGIN) == _plain(origin) else None

    def _write(self, name: str, table: pa.Table, origin: dict[str, Any]) -> None:
        with replacing(self._file(name)) as temporary:
            marked = table.replace_schema_metadata({_ORIGIN: _plain(origin)})
            pq.write_table(marked, temporary, compression="zstd")


def _plain(origin: dict[str, Any]) -> bytes:
    return json.dumps(origin, sort_keys=True).encode()
