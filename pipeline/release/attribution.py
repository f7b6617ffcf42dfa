"""Whose photos a release holds: `ATTRIBUTION.csv`, one line per photo."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa

from annotation.spreadsheet import guarded
from manifests.vocabulary import licenses

__all__ = ["ATTRIBUTION_FILE", "write_attribution"]

ATTRIBUTION_FILE = "ATTRIBUTION.csv"

_COLUMNS = ("photo_id", "class_name", "group", "creator", "attribution", "license", "url")


def write_attribution(file: Path, rows: pa.Table) -> None:
    """Write creator, credit line, licence with its address, and source of each photo.

    Names come from strangers, so cells that a spreadsheet would compute are guarded.

    Parameters
    ----------
    file
        File to write.
    rows
        Rows of `split`.
    """
    known = licenses()
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*_COLUMNS, "license_url", "sha256"])
        for row in rows.select([*_COLUMNS, "sha256"]).to_pylist():
            license_url = known[row["license"]].url if row["license"] in known else ""
            cells = [*(row[name] or "" for name in _COLUMNS), license_url, row["sha256"]]
            writer.writerow([guarded(cell) for cell in cells])
