"""The layout in which CounterAnimal itself is handed out, as a set to evaluate on.

A folder for each class, `10 brambling/`, named by its index in ImageNet-1K, with a folder for each
group, `common-grass/` and `counter-sky/`, that holds the photos. Nothing says who took them, nor
which photos chose the groups. Some of the published photos are cut short; they are decoded as far
as they go, as the published numbers were made.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from manifests.errors import ReleaseError, UnknownNameError
from manifests.schema import SPLIT
from manifests.tables import from_rows, table_digest
from manifests.vocabulary import LabelSpace, label_space, resolve_background
from pipeline.evaluate.photos import EvaluationSet, SetPhoto

__all__ = ["is_counteranimal", "open_counteranimal", "read_whole"]

_CLASS = re.compile(r"(?:(?P<index>\d+) )?(?P<name>.+)")
_GROUP = re.compile(r"(?P<group>common|counter)-(?P<background>.+)")
_PHOTOS = {".jpg", ".jpeg", ".png", ".webp"}
_JPEG_BEGINS, _JPEG_ENDS = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class _Group:
    """A folder of photos, and what its place says of them."""

    folder: Path
    class_index: int
    class_name: str
    group: str
    background: str


def is_counteranimal(place: Path) -> bool:
    """Whether a folder has folders of classes with folders of groups."""
    return any(_GROUP.fullmatch(folder.name) for folder in place.glob("*/*/"))


def read_whole(file: Path) -> bytes:
    """A photo's bytes; a JPEG that is cut short gets the marker that ends it.

    With the marker a decoder fills what is missing, instead of refusing the photo.
    """
    data = file.read_bytes()
    cut_short = data.startswith(_JPEG_BEGINS) and not data.rstrip(b"\0").endswith(_JPEG_ENDS)
    return data + _JPEG_ENDS if cut_short else data


def open_counteranimal(place: str) -> EvaluationSet:
    """The photos of a folder in CounterAnimal's layout.

    Raises
    ------
    ReleaseError
        If a class is not in ImageNet-1K, a folder's number is that of another class than its name,
        or no photo is there.
    """
    root = Path(place)
    labels = label_space("imagenet1k")
    rows = [row for group in _groups(root, labels) for row in _rows(root, group)]
    if not rows:
        msg = f"{place} holds no JPEG, PNG or WebP in its groups"
        raise ReleaseError(msg)
    table = from_rows(sorted(rows, key=lambda row: row["photo_id"]), SPLIT.schema)
    names = table["photo_id"].to_pylist()
    files = (root / name.removeprefix("folder:") for name in names)
    return EvaluationSet(
        name=root.resolve().name,
        place=place,
        rows=table,
        photos=tuple(
            SetPhoto(name, partial(read_whole, file))
            for name, file in zip(names, files, strict=True)
        ),
        label_space=labels,
        confusing=None,
        chosen_by=None,
        digest=table_digest(table),
    )


def _groups(root: Path, labels: LabelSpace) -> Iterator[_Group]:
    for folder in sorted(root.glob("*/*/")):
        found = _GROUP.fullmatch(folder.name)
        if found is None or folder.is_symlink() or folder.parent.is_symlink():
            continue
        index = _class_index(folder.parent.name, labels)
        yield _Group(
            folder, index, labels.names[index], found["group"], _background(found["background"])
        )


def _class_index(folder: str, labels: LabelSpace) -> int:
    """The class that a folder stands for: by its index, else by its name."""
    found = _CLASS.fullmatch(folder)
    if found is not None and found["index"] is not None and int(found["index"]) < len(labels):
        index = int(found["index"])
        other = _contradicted(index, found["name"], labels)
        if other is not None:
            msg = (
                f"the folder {folder!r} has the number of {labels.names[index]!r} and the name of "
                f"{labels.names[other]!r}, which is {other} in ImageNet-1K; mend the number or "
                "leave it out"
            )
            raise ReleaseError(msg)
        return index
    try:
        return labels.index_of(folder)
    except UnknownNameError as error:
        msg = f"the folder {folder!r} is no class of ImageNet-1K: {error}"
        raise ReleaseError(msg) from error


def _contradicted(index: int, name: str, labels: LabelSpace) -> int | None:
    """The other class that a name means beside an index; none for what means several, or nothing.

    A class may have a name, such as Cardigan, that without an index means another.
    """
    if labels.calls(index, name):
        return None
    try:
        return labels.index_of(name)
    except UnknownNameError:
        return None


def _background(word: str) -> str:
    """The background that a folder's word means, or the word itself: older copies have others."""
    try:
        return resolve_background(word)
    except UnknownNameError:
        return word


def _rows(root: Path, group: _Group) -> Iterator[dict[str, Any]]:
    for file in sorted(group.folder.iterdir()):
        if file.suffix.lower() not in _PHOTOS or file.is_symlink():
            continue
        yield {
            "photo_id": f"folder:{file.relative_to(root).as_posix()}",
            "class_index": group.class_index,
            "class_name": group.class_name,
            "group": group.group,
            "background": group.background,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "license": "unknown",
        }
