"""Photos that a dataset must not repeat, such as a model's training set: `cap dedup --against`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError, PhotoError
from manifests.photos import printable
from manifests.schema import DUPLICATES
from manifests.tables import read_table, table_digest, whole
from pipeline.engine import LocalEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from manifests.progress import Progress
    from pipeline.dedup.known import Known

__all__ = ["ReferencePhotos", "read_reference_photos"]

_Found = TypeVar("_Found")

_SCHEMA = pa.schema([("photo_id", pa.string()), ("sha256", pa.string()), ("phash", pa.uint64())])


@dataclass(frozen=True)
class ReferencePhotos:
    """Identities of the reference photos: columns photo_id, sha256 (may be null) and phash."""

    photos: pa.Table
    digest: str


def _digest_file(file: Path) -> str | None:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return None


def _hash_file(file: Path) -> int | None:
    from pipeline.dedup.hashing import phash

    try:
        return phash(file)
    except (OSError, PhotoError):
        return None


def _from_folder(root: Path, workers: int | None, known: Known, progress: Progress) -> pa.Table:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    with LocalEngine(workers) as engine:
        contents = _mapped(engine, _digest_file, files, "reference files", progress)
        digests = pa.array(contents, pa.string())
        earlier = known.hashes()
        places = pc.index_in(digests, value_set=whole(earlier["sha256"]))
        hashes = earlier["phash"].take(places).to_pylist()
        new = [i for i, found in enumerate(hashes) if found is None and digests[i].is_valid]
        some = [files[i] for i in new]
        made = _mapped(engine, _hash_file, some, "reference photos", progress)
    for position, found in zip(new, made, strict=True):
        hashes[position] = found
    names = [f"against:{printable(file.relative_to(root).as_posix())}" for file in files]
    photos = pa.table([names, digests, hashes], schema=_SCHEMA)
    known.add_hashes(photos.take(pa.array(new, pa.int64())).select(["sha256", "phash"]))
    photos = photos.filter(pc.is_valid(photos["phash"]))
    if not photos.num_rows:
        msg = f"{root} has no photo that could be read; --against needs some"
        raise CapError(msg)
    skipped = len(files) - photos.num_rows
    if skipped:
        progress.note(f"reference photos: {skipped} of {len(files)} files are no readable photo")
    return photos


def _mapped(
    engine: LocalEngine,
    function: Callable[[Path], _Found],
    files: list[Path],
    name: str,
    progress: Progress,
) -> list[_Found]:
    """What a function finds in each file."""
    found = []
    with progress.task(name, len(files)) as advance:
        for result in engine.map(function, files):
            found.append(result)
            advance(1)
    return found


def _from_table(path: Path) -> pa.Table:
    table = read_table(path, DUPLICATES)
    table = table.filter(pc.is_valid(table["phash"])).select(["photo_id", "phash"])
    nothing = pa.nulls(table.num_rows, pa.string())
    return table.append_column("sha256", nothing).select(_SCHEMA.names).cast(_SCHEMA)


def read_reference_photos(
    against: str | None, workers: int | None, known: Known, progress: Progress
) -> ReferencePhotos | None:
    """Hashes of the photos in a folder, or in another workspace's duplicates table.

    Files of a folder are hashed once, as photos of the workspace are.

    Raises
    ------
    CapError
        If there is no such folder or table, or no photo in it.
    """
    if against is None:
        return None
    path = Path(against)
    if path.is_dir():
        photos = _from_folder(path, workers, known, progress)
    elif path.is_file():
        photos = _from_table(path)
    else:
        msg = f"--against: there is no folder or table {against}"
        raise CapError(msg)
    return ReferencePhotos(photos, table_digest(photos))
