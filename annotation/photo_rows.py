"""Files whose rows name photos, whatever else they say of them: CSV, TSV or Parquet.

A photo is named in a column `photo_id`, `path` or `sha256`; the first of these that a file has is
used.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from annotation.spreadsheet import unguarded
from manifests.errors import CapError

__all__ = ["PhotoRows", "photo_lookup", "read_photo_rows"]

_IDENTITIES = ("photo_id", "path", "sha256")
_FOLDER = "folder:"


@dataclass(frozen=True)
class PhotoRows:
    """The rows of a file as text, each with the line it stands on."""

    name: str
    rows: tuple[tuple[int, dict[str, str]], ...]

    @property
    def identity(self) -> str:
        """The column that names the photo."""
        return next(name for name in _IDENTITIES if name in self.rows[0][1])


def _read_text(path: Path, delimiter: str) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter=delimiter, restval="")
            rows = []
            for row in reader:
                if None in row:
                    msg = f"{path.name}, line {reader.line_num}: more cells than the header has"
                    raise CapError(msg)
                rows.append((reader.line_num, {k: unguarded(v).strip() for k, v in row.items()}))
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{path.name} is no text table in UTF-8 ({error})"
        raise CapError(msg) from error


def _read_parquet(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        msg = f"{path.name} is not a whole Parquet file"
        raise CapError(msg) from error
    return [
        (number, {key: _cell(value) for key, value in row.items()})
        for number, row in enumerate(rows, start=1)
    ]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return "|".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def read_photo_rows(path: Path, what: str, needed: tuple[str, ...]) -> PhotoRows:
    """The rows of a file.

    Parameters
    ----------
    path
        The file; its suffix says what it is.
    what
        What it is a file of, such as `tags`, for the messages.
    needed
        Columns that it must have.

    Raises
    ------
    CapError
        If it cannot be read, is empty, or lacks a column that names the photo or is needed.
    """
    if not path.is_file():
        msg = f"there is no {what} file {path}"
        raise CapError(msg)
    if path.suffix == ".parquet":
        rows = _read_parquet(path)
    elif path.suffix in {".tsv", ".csv", ".txt"}:
        rows = _read_text(path, "," if path.suffix == ".csv" else "\t")
    else:
        msg = f"{path.name}: {what} are read from .csv, .tsv and .parquet files"
        raise CapError(msg)
    if not rows:
        msg = f"{path.name} has no rows"
        raise CapError(msg)
    columns = rows[0][1]
    if not (set(needed) <= columns.keys() and any(name in columns for name in _IDENTITIES)):
        listed = ", ".join(repr(name) for name in needed)
        wanted = f"columns {listed}" if len(needed) > 1 else f"a column {listed}"
        msg = f"{path.name} needs {wanted} and one of {', '.join(_IDENTITIES)}"
        raise CapError(msg)
    return PhotoRows(path.name, tuple(rows))


def photo_lookup(photos: pa.Table, identity: str) -> dict[str, list[str]]:
    """photo_ids by what a file may call them; one digest may stand for several photos.

    Parameters
    ----------
    photos
        The table photos.
    identity
        The column by which the file names them.
    """
    ids = photos["photo_id"].to_pylist()
    lookup: dict[str, list[str]] = {}
    if identity == "path":
        stored = zip(ids, photos["path"].to_pylist(), strict=True)
        for photo_id, path in stored:
            for name in {path, photo_id.removeprefix(_FOLDER)} - {None, photo_id}:
                lookup.setdefault(name, []).append(photo_id)
        return lookup
    for photo_id, name in zip(ids, photos[identity].to_pylist(), strict=True):
        if name is not None:
            lookup.setdefault(name, []).append(photo_id)
    return lookup
