"""Parameters of the annotation commands."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.parameters import option

__all__ = ["ImportParameters"]


@dataclass(frozen=True)
class ImportParameters:
    """Parameters of `cap annotate import`."""

    file: str | None = option(
        None, "CSV, TSV or Parquet file with the tags", kind="path", argument=True
    )
    annotator: str | None = option(
        None, "who tagged, where the file has no column for it [default: the file's name]"
    )
    skip_unknown: bool = option(
        False, "leave out tags of photos that the workspace does not have, and count them"
    )
