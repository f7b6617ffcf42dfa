"""Parameters of the annotation commands."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.parameters import option

__all__ = [
    "AgreementParameters",
    "ExportParameters",
    "ImportParameters",
    "PullParameters",
    "PushParameters",
    "ServeParameters",
    "StatusParameters",
]


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
class ServeParameters:
    """Parameters of `cap annotate serve`."""

    port: int = option(8080, "port on this machine", metavar="N")
    browser: bool = option(True, "open the page in the browser")
    new_password: bool = option(False, "give the owner a new password")


@dataclass(frozen=True)
class PushParameters:
    """Parameters of `cap annotate push`."""

    project: str | None = option(
        None, "name that projects in Label Studio begin with [default: the workspace's folder]"
    )
    annotators: tuple[str, ...] = option(
        (),
        "people to share the photos among, each with a project of their own [default: one project "
        "for everyone]",
        kind="list",
        metavar="A,B",
    )
    overlap: int = option(1, "people to ask about each photo", metavar="N")
    share: float = option(
        0.0, "share of the photos to ask two people about, where --overlap is 1", metavar="FRACTION"
    )
    limit: int | None = option(
        None,
        "send at most N photos; with --from-discovery, ask about at most N in all",
        metavar="N",
    )
    from_discovery: str | None = option(
        None,
        "ask whether photos show what the regions of a cluster of `cap discover` have in common: "
        "12, or RUN/12 where several runs have discoveries",
        metavar="ID",
    )
    suggest: str | None = option(
        None,
        "suggest the backgrounds of a scoring run over the label space backgrounds",
        metavar="RUN",
    )
    without_suggestion: float = option(
        0.1, "share of the photos that goes without its suggestion", metavar="FRACTION"
    )
    order: str = option(
        "random",
        "order within a class: seeded-random, or by suggested background",
        choices=("random", "suggestion"),
    )
    min_photos: int = option(
        20,
        "photos that a background needs; decides which class comes first where there is no plan",
        metavar="N",
    )
    adjudicate: bool = option(
        False, "send the photos that people disagree on, with their answers so far"
    )
    photos_at: str | None = option(
        None,
        "folder of the photos as Label Studio sees it [default: that of `cap annotate serve`]",
        metavar="DIR",
    )
    seed: int = option(0, "seed of the order and of the shares", kind="natural")


@dataclass(frozen=True)
class PullParameters:
    """Parameters of `cap annotate pull`."""

    full: bool = option(False, "ask for every answer again, not only for what has changed")


@dataclass(frozen=True)
class StatusParameters:
    """Parameters of `cap annotate status`."""


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
    seed: int = option(0, "what the resamples are drawn from", kind="natural")


@dataclass(frozen=True)
class ExportParameters:
    """Parameters of `cap annotate export`."""

    file: str | None = option(None, "CSV, TSV or Parquet file to write", kind="path", argument=True)
    what: str = option(
        "labels",
        "one settled answer per photo, or every answer of every person",
        choices=("labels", "annotations"),
    )
