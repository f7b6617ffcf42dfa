"""Parameters of the annotation commands."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.parameters import option

__all__ = ["AgreementParameters", "ExportParameters", "ImportParameters"]


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


@dataclass(frozen=True)
class AgreementParameters:
    """Parameters of `cap annotate agreement`."""

    suggest: str | None = option(
        None,
        "scoring run over backgrounds whose predictions were suggested, to tell how answers lean "
        "towards them",
        metavar="RUN",
    )
    resamples: int = option(1000, "resamples of the photos behind each interval", metavar="N")
    seed: int = option(0, "what the resamples are drawn from", metavar="N")


@dataclass(frozen=True)
class ExportParameters:
    """Parameters of `cap annotate export`."""

    file: str | None = option(None, "CSV, TSV or Parquet file to write", kind="path", argument=True)
    what: str = option(
        "labels",
        "one settled answer per photo, or every answer of every person",
        choices=("labels", "annotations"),
    )
