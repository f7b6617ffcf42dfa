"""Whose photos a release or an export holds: `ATTRIBUTION.csv`, one line per photo."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa

from annotation.spreadsheet import guarded
from manifests.vocabulary import licenses

__all__ = ["ATTRIBUTION_FILE", "write_attribution"]

ATTRIBUTION_FILE = "ATTRIBUTION.csv"

_AT_ONCE = 10_000
_COLUMNS = ("photo_id", "class_name", "group", "creator", "attribution", "license", "url")


def write_attribution(file: Path, rows: pa.Table) -> None:
    """Write creator, credit line, licence with its address, and source of each photo.

    Names come from strangers, so cells that a spreadsheet would compute are guarded.

    Parameters
    ----------
    file
        File to write.
    rows
        Rows of `split`; where photos lie in files of their own, with a column `file` that names
        them.
    """
    known = licenses()
    columns = [name for name in ("file", *_COLUMNS) if name in rows.column_names]
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*columns, "license_url", "sha256"])
        for batch in rows.select([*columns, "sha256"]).to_batches(max_chunksize=_AT_ONCE):
            for row in batch.to_pylist():
                license_url = known[row["license"]].url if row["license"] in known else ""
                cells = [*(row[name] or "" for name in columns), license_url, row["sha256"]]
                writer.writerow([guarded(cell) for cell in cells])
