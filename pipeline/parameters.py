"""Parameters of every stage, one frozen dataclass each.

They are also the options of the `cap` commands, the sections of `cap.toml`, and the variables
`CAP_<STAGE>_<OPTION>`. This module imports nothing heavy, because `cap --help` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from manifests.parameters import option

__all__ = [
    "CollectParameters",
    "DedupParameters",
    "ReleaseParameters",
    "ScoreParameters",
    "SplitParameters",
]


@dataclass(frozen=True)
class CollectParameters:
    """Parameters of `cap collect`."""

    source: str = option("folder", "where the photos come from", choices=("folder",))
    root: str | None = option(
        None, "folder that holds ROOT/CLASS_NAME/*", kind="path", metavar="DIR"
    )
    classes: tuple[str, ...] = option(
        (), "classes to collect, separated by commas [default: all]", kind="list", metavar="A,B"
    )
    per_class: int | None = option(None, "at most N photos of a class", metavar="N")
    workers: int | None = option(None, "processes [default: one per core]", metavar="N")


@dataclass(frozen=True)
class DedupParameters:
    """Parameters of `cap dedup`."""

    distance: int = option(
        6, "photos whose 64-bit pHash differs in at most N bits are near duplicates", metavar="N"
    )
    against: str | None = option(
        None,
        "folder of photos, or duplicates table, whose photos must not occur here",
        kind="path",
        metavar="DIR|TABLE",
    )
    workers: int | None = option(None, "processes [default: one per core]", metavar="N")


@dataclass(frozen=True)
class ScoreParameters:
    """Parameters of `cap score`."""

    model: str | None = option(
        None, "FAMILY:ARCHITECTURE[:WEIGHTS], weights a tag or a file", kind="model", metavar="SPEC"
    )
    label_space: str | None = option(
        None,
        "imagenet1k, backgrounds or a CSV file [default: the workspace's]",
        kind="path",
        metavar="SPACE",
    )
    prompts: str = option(
        "A photo of {}.", "prompt template with {} for the class, or openai80", metavar="TEXT"
    )
    batch_size: int = option(64, "photos per forward pass", metavar="N")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps; auto takes the best there is")
    precision: str = option(
        "auto", "auto is bf16 on CUDA, else float32", choices=("auto", "float32", "bf16")
    )
    workers: int | None = option(None, "processes that decode [default: by cores]", metavar="N")
    save_scores: bool = option(False, "keep the scores over the whole label space")
    save_embeddings: bool = option(False, "keep the image embeddings, as float16")


@dataclass(frozen=True)
class SplitParameters:
    """Parameters of `cap split`."""

    model: str | None = option(
        None,
        "model whose predictions choose, as given to `cap score`, or the name of a run "
        "[default: the only run]",
        kind="model",
        metavar="SPEC",
    )
    rule: str = option("paper", "how common and counter are chosen", choices=("paper",))
    min_photos: int = option(20, "photos that a background needs to be considered", metavar="N")
    min_drop: float = option(
        0.05, "a class is kept when its accuracy drops by more than this", metavar="FRACTION"
    )


@dataclass(frozen=True)
class ReleaseParameters:
    """Parameters of `cap release`."""

    out: str | None = option(None, "folder to write", kind="path", argument=True)
    licenses: tuple[str, ...] = option(
        (),
        "licences whose photos are included, or any [default: those that allow sharing]",
        kind="list",
        metavar="A,B",
    )
