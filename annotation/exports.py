"""Write labels or annotations to a file that people and other programs read.

A file is CSV, TSV or Parquet, one row per label or annotation, with `path`, `sha256` and
`class_name` of the photo beside its id. In text the values of a list are joined by `|`, times are
ISO 8601, and cells that look like formulas have an apostrophe before them. `cap annotate import`
reads the file back and settles the same labels.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from annotation.spreadsheet import guarded
from manifests.errors import CapError
from manifests.tables import replacing
from manifests.workspace import Outcome

if TYPE_CHECKING:
    from annotation.parameters import ExportParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["export_tags", "with_photos"]

_OF_PHOTOS = ("path", "sha256", "class_name")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def with_photos(table: pa.Table, photos: pa.Table) -> pa.Table:
    """The rows of `labels` or `annotations` with columns of their photos after the id."""
    places = {photo_id: row for row, photo_id in enumerate(photos["photo_id"].to_pylist())}
    rows = pa.array(
        [places.get(photo_id) for photo_id in table["photo_id"].to_pylist()], pa.int64()
    )
    for position, name in enumerate(_OF_PHOTOS, start=1):
        table = table.add_column(position, name, photos[name].take(rows))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return guarded(value)
    if isinstance(value, list):
        return guarded("|".join(map(str, value)))
    return value.isoformat() if isinstance(value, datetime.datetime) else str(value)


def _write_text(path: Path, table: pa.Table, delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter)
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=10_000):
            columns: Sequence[list[object]] = [column.to_pylist() for column in batch.columns]
            writer.writerows([_cell(value) for value in row] for row in zip(*columns, strict=True))


def export_tags(workspace: Workspace, parameters: ExportParameters, progress: Progress) -> Outcome:
    """Write the labels or the annotations to a new file.

    Raises
    ------
    CapError
        If no file is named, it is of another kind, or it is there already.
    """
    del progress
    if parameters.file is None:
        msg = "name the file to write: `cap annotate export FILE`"
        raise CapError(msg)
    path = Path(parameters.file)
    if path.suffix not in {*_DELIMITERS, ".parquet"}:
        msg = f"{path.name}: {parameters.what} are written to .csv, .tsv and .parquet files"
        raise CapError(msg)
    if path.exists():
        # It may be what somebody tagged by hand.
        msg = f"{path} is there already; name another file, or move it away"
        raise CapError(msg)
    table = with_photos(workspace.read(parameters.what), workspace.read("photos"))
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary, compression="zstd")
        else:
            _write_text(temporary, table, _DELIMITERS[path.suffix])
    facts = {"file": str(path), "what": parameters.what, "rows": table.num_rows}
    return Outcome("annotate export", f"{table.num_rows} {parameters.what} in {path}", facts)
