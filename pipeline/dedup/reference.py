"""Photos that a dataset must not repeat, such as a model's training set: `cap dedup --against`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError, PhotoError
from manifests.schema import DUPLICATES
from manifests.tables import read_table, table_digest
from pipeline.engine import Engine

if TYPE_CHECKING:
    from manifests.progress import Progress

__all__ = ["ReferencePhotos", "read_reference_photos"]

_SCHEMA = pa.schema([("photo_id", pa.string()), ("sha256", pa.string()), ("phash", pa.uint64())])


@dataclass(frozen=True)
class ReferencePhotos:
    """Identities of the reference photos: columns photo_id, sha256 (may be null) and phash."""

    photos: pa.Table
    digest: str


def _hash_file(file: Path) -> dict[str, Any] | None:
    from pipeline.dedup.hashing import phash

    try:
        data = file.read_bytes()
        return {"sha256": hashlib.sha256(data).hexdigest(), "phash": phash(data)}
    except (OSError, PhotoError):
        return None


def _from_folder(root: Path, workers: int | None, progress: Progress) -> pa.Table:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    rows = []
    with Engine(workers) as engine, progress.task("reference photos", len(files)) as advance:
        for file, found in zip(files, engine.map(_hash_file, files), strict=True):
            if found is not None:
                rows.append({"photo_id": f"against:{file.relative_to(root).as_posix()}", **found})
            advance(1)
    if not rows:
        msg = f"{root} has no photo that could be read; --against needs some"
        raise CapError(msg)
    skipped = len(files) - len(rows)
    if skipped:
        progress.note(f"reference photos: {skipped} of {len(files)} files are no readable photo")
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _from_table(path: Path) -> pa.Table:
    table = read_table(path, DUPLICATES)
    table = table.filter(pc.is_valid(table["phash"])).select(["photo_id", "phash"])
    nothing = pa.nulls(table.num_rows, pa.string())
    return table.append_column("sha256", nothing).select(_SCHEMA.names).cast(_SCHEMA)


def read_reference_photos(
    against: str | None, workers: int | None, progress: Progress
) -> ReferencePhotos | None:
    """Hashes of the photos in a folder, or in another workspace's duplicates table.

    Raises
    ------
    CapError
        If there is no such folder or table, or no photo in it.
    """
    if against is None:
        return None
    path = Path(against)
    if path.is_dir():
        photos = _from_folder(path, workers, progress)
    elif path.is_file():
        photos = _from_table(path)
    else:
        msg = f"--against: there is no folder or table {against}"
        raise CapError(msg)
    return ReferencePhotos(photos, table_digest(photos))
