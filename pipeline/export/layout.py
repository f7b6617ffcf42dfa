"""What a layout is, what it is given, and the names that its files get.

Names of classes and ids of photos come from tables, which strangers may have made. They become
names of files here and nowhere else, and `ExportFolder` proves of each file that it is inside.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.errors import ReleaseError

if TYPE_CHECKING:
    from manifests import Split

__all__ = ["ExportFolder", "Layout", "Photo", "Task", "folder_name"]

_LONGEST = 60
_NOT_IN_FILES = re.compile(r"[^A-Za-z0-9]+")
_NOT_IN_FOLDERS = re.compile(r"[^\w '(),.&-]+")


def folder_name(text: str) -> str:
    """A name that people can read, as the name of one folder, or the rest of it.

    >>> folder_name("baluster / handrail"), folder_name("../.."), folder_name("St. Bernard")
    ('baluster _ handrail', '_', 'St. Bernard')
    """
    return _NOT_IN_FOLDERS.sub("_", text)[:_LONGEST].strip(" .") or "_"


def _stem(photo_id: str) -> str:
    """The name of a photo's file without its ending: the end of its id, and the id's digest.

    Without a dot, at which readers of some layouts would cut it, and short enough for every file
    system and for tar. The digest keeps names apart that differ in signs or case only.
    """
    digest = hashlib.sha256(photo_id.encode()).hexdigest()[:12]
    readable = _NOT_IN_FILES.sub("-", photo_id)[-_LONGEST:].strip("-")
    return f"{readable}-{digest}"


def _suffix(data: bytes) -> str | None:
    """What files with such content are called at the end."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


@dataclass(frozen=True)
class Photo:
    """A photo of the release: its row of `split`, its bytes, and what its file is to be called."""

    row: Mapping[str, Any]
    data: bytes
    stem: str
    suffix: str

    @classmethod
    def of(cls, row: Mapping[str, Any], data: bytes) -> Photo:
        """The photo with a name.

        Raises
        ------
        ReleaseError
            If the bytes are no photo.
        """
        suffix = _suffix(data)
        if suffix is None:
            msg = f"photo {row['photo_id']} is no JPEG, PNG or WebP"
            raise ReleaseError(msg)
        return cls(row, data, _stem(row["photo_id"]), suffix)

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.stem}.{self.suffix}"


class ExportFolder:
    """The folder that an export is written into."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def place(self, name: str) -> Path:
        """Where a new file goes; its folder is made.

        Raises
        ------
        ReleaseError
            If that lies outside, or a file is there already.
        """
        file = (self._root / name).resolve()
        if not file.is_relative_to(self._root) or file.exists():
            msg = f"the export cannot hold a file {name!r}: it is outside, or there already"
            raise ReleaseError(msg)
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def write(self, name: str, data: bytes) -> str:
        """Write a file; gives its name."""
        self.place(name).write_bytes(data)
        return name


@dataclass(frozen=True)
class Task:
    """What a layout is given besides the photos.

    Attributes
    ----------
    folder
        Where to write.
    split
        The release that the photos are of.
    shard_bytes
        How large an archive may become, for layouts that have archives.
    """

    folder: ExportFolder
    split: Split
    shard_bytes: int


@dataclass(frozen=True)
class Layout:
    """A way to lay photos out.

    Attributes
    ----------
    name
        What `--layout` calls it.
    write
        Writes photos, which come by group and then by id, one at a time; gives for each the file
        that holds it.
    reading
        How to read it: Markdown for the page that goes with the photos.
    front_matter
        What stands in front of that page, for dataset hubs.
    """

    name: str
    write: Callable[[Task, Iterable[Photo]], Iterator[str]]
    reading: str
    front_matter: str = ""
