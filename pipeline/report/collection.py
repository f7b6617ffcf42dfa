"""What became of every photo: which were lost and why, which repeat another, what people said.

Given the tables up to `labels` and the split, gives the facts of the report's first sections. Every
photo asked for has exactly one fate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.progress import reason_of

__all__ = [
    "FATES",
    "ClassCounts",
    "Collection",
    "Copies",
    "Fate",
    "People",
    "collection",
    "copies",
    "people",
]

_EXAMPLES = 6


@dataclass(frozen=True)
class Fate:
    """What may become of a photo: a word for a column, and a sentence for a legend."""

    key: str
    word: str
    meaning: str


FATES = (
    Fate("split", "in the groups", "kept, and in a common or counter group of a selected class"),
    Fate("tagged", "kept", "kept, with a background that is in no selected pair"),
    Fate("untagged", "no background", "kept by people, but without one background of the list"),
    Fate("waiting", "waiting", "nobody has settled yet what it shows"),
    Fate("rejected", "rejected", "people found that it is no good example of its class"),
    Fate("duplicate", "copy", "repeats another photo, which stands for it"),
    Fate("failed", "failed", "could not be fetched or read"),
)


@dataclass(frozen=True)
class ClassCounts:
    """Photos of one class, or of all, by fate."""

    class_name: str
    asked: int
    fates: Mapping[str, int]


@dataclass(frozen=True)
class Collection:
    """What was collected and lost.

    Attributes
    ----------
    total, classes
        Photos by fate: of all classes, and of each, by name.
    failures, rejections
        Failed photos by reason; rejected photos by the reasons that people gave, of which a photo
        may have several.
    licenses
        Photos that were stored, by licence.
    observers
        People who took the stored photos, where that is known.
    """

    total: ClassCounts
    classes: tuple[ClassCounts, ...]
    failures: Mapping[str, int]
    rejections: Mapping[str, int]
    licenses: Mapping[str, int]
    observers: int


@dataclass(frozen=True)
class Copies:
    """Photos that repeat another: how many, and a few (photo_id, keeper, distance) to look at."""

    exact: int
    near: int
    examples: tuple[tuple[str, str, int | None], ...]


@dataclass(frozen=True)
class People:
    """How the labels came about: photos by the way they were settled, and by number of people."""

    settled_by: Mapping[str, int]
    annotators: Mapping[int, int]


def _by_photo(table: pa.Table | None, column: str) -> dict[str, Any]:
    if table is None:
        return {}
    return dict(zip(table["photo_id"].to_pylist(), table[column].to_pylist(), strict=True))


def _most_first(counts: Mapping[Any, int]) -> dict[Any, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))))


def collection(
    photos: pa.Table,
    duplicates: pa.Table | None,
    annotations: pa.Table | None,
    labels: pa.Table | None,
    split: pa.Table | None,
) -> Collection:
    """What was collected and lost, from the tables that are there."""
    relation, hash_error = _by_photo(duplicates, "relation"), _by_photo(duplicates, "error")
    decision, background = _by_photo(labels, "decision"), _by_photo(labels, "background")
    in_split = set() if split is None else set(split["photo_id"].to_pylist())

    def fate(photo_id: str, status: str) -> str:
        if status == "failed" or hash_error.get(photo_id) is not None:
            return "failed"
        if relation.get(photo_id) in {"exact", "near"}:
            return "duplicate"
        if decision.get(photo_id) != "keep":
            return "rejected" if photo_id in decision else "waiting"
        if background[photo_id] is None:
            return "untagged"
        return "split" if photo_id in in_split else "tagged"

    counts: dict[str, Counter[str]] = {}
    failures: Counter[str] = Counter()
    rejected = set()
    columns = ("photo_id", "class_name", "status", "error")
    for photo_id, name, status, error in zip(
        *(photos[column].to_pylist() for column in columns), strict=True
    ):
        found = fate(photo_id, status)
        counts.setdefault(name, Counter())[found] += 1
        if found == "failed":
            failures[reason_of(error or hash_error[photo_id])] += 1
        elif found == "rejected":
            rejected.add(photo_id)
    stored = photos.filter(pc.equal(photos["status"], "ok"))
    total = sum(counts.values(), Counter())
    return Collection(
        total=ClassCounts("all classes", total.total(), total),
        classes=tuple(
            ClassCounts(name, counts[name].total(), counts[name]) for name in sorted(counts)
        ),
        failures=_most_first(failures),
        rejections=_most_first(_rejections(annotations, rejected)),
        licenses=_most_first(Counter(stored["license"].to_pylist())),
        observers=len(set(stored["creator_id"].drop_null().to_pylist())),
    )


def _rejections(annotations: pa.Table | None, rejected: set[str]) -> Counter[str]:
    """Rejected photos by reason; a reason that several people gave counts once."""
    if annotations is None:
        return Counter()
    given = zip(
        annotations["photo_id"].to_pylist(),
        annotations["reject_reasons"].to_pylist(),
        strict=True,
    )
    pairs = {(photo_id, r) for photo_id, reasons in given for r in reasons or ()}
    return Counter(reason for photo_id, reason in pairs if photo_id in rejected)


def copies(duplicates: pa.Table, photos: Container[str]) -> Copies:
    """How many photos repeat another; the examples are the near copies that differ most.

    Both of an example are among `photos`; a reference that a photo repeats may be no photo of ours.
    """
    rows = duplicates.select(["photo_id", "relation", "keeper", "distance"]).to_pylist()
    found = {kind: [r for r in rows if r["relation"] == kind] for kind in ("exact", "near")}
    furthest = sorted(found["near"], key=lambda r: (-(r["distance"] or 0), r["photo_id"]))
    shown = [
        row
        for row in [*furthest, *found["exact"]]
        if row["photo_id"] in photos and row["keeper"] in photos
    ]
    return Copies(
        exact=len(found["exact"]),
        near=len(found["near"]),
        examples=tuple(
            (row["photo_id"], row["keeper"], row["distance"]) for row in shown[:_EXAMPLES]
        ),
    )


def people(labels: pa.Table) -> People:
    """How the labels came about."""
    return People(
        settled_by=_most_first(Counter(labels["settled_by"].to_pylist())),
        annotators=dict(sorted(Counter(labels["annotators"].to_pylist()).items())),
    )
