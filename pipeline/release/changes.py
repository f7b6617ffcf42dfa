"""A release's version, and what changed since the one that it replaces.

The version is semantic: a photo that was taken out, moved to another group, class or partition, or
has other bytes makes a major one, because results are no longer comparable; photos that were only
added a minor one; anything else a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from manifests.errors import ReleaseError
from manifests.loader import load_split

__all__ = ["CHANGES_FILE", "Changes", "changes_since"]

CHANGES_FILE = "CHANGES.md"

_FIRST = "1.0.0"
_COMPARED = ("class_index", "group", "background", "partition", "sha256")


@dataclass(frozen=True)
class Changes:
    """What is new in a release.

    Attributes
    ----------
    version
        Semantic version.
    text
        Content of `CHANGES.md`, newest version first.
    """

    version: str
    text: str


def _facts(rows: pa.Table) -> dict[str, tuple[object, ...]]:
    columns = [rows[name].to_pylist() for name in _COMPARED]
    return dict(zip(rows["photo_id"].to_pylist(), zip(*columns, strict=True), strict=True))


def _next(version: str, removed: int, moved: int, added: int) -> str:
    major, minor, patch = (int(part) for part in version.split("."))
    if removed or moved:
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if added else f"{major}.{minor}.{patch + 1}"


def changes_since(previous: Path, manifest: Mapping[str, object] | None, rows: pa.Table) -> Changes:
    """Version and changes of a release that replaces another, or is the first.

    Parameters
    ----------
    previous
        Folder of the release that is replaced.
    manifest
        Its `release.json`; None for the first release.
    rows
        Rows of the new release.

    Raises
    ------
    ReleaseError
        If the release that is replaced cannot be read.
    """
    if manifest is None:
        return Changes(
            _FIRST, f"# Changes\n\n## {_FIRST}\n\n- First release, {len(rows)} photos.\n"
        )
    before = str(manifest["version"])
    try:
        old = _facts(load_split(previous).table)
        history = (previous / CHANGES_FILE).read_text("utf-8").partition("\n\n")[2]
    except (OSError, ReleaseError) as error:
        msg = (
            f"the release that is in {previous} is damaged, so that nobody can tell what changes "
            f"({error}); remove it, or name another folder"
        )
        raise ReleaseError(msg) from error
    new = _facts(rows)
    removed = len(old.keys() - new.keys())
    added = len(new.keys() - old.keys())
    moved = sum(old[photo_id] != new[photo_id] for photo_id in old.keys() & new.keys())
    version = _next(before, removed, moved, added)
    told = [
        f"- {count} {'photo' if count == 1 else 'photos'} {what}."
        for count, what in (
            (added, "added"),
            (removed, "removed"),
            (moved, "with another class, group, background, partition or other bytes"),
        )
        if count
    ] or ["- The same photos, described anew."]
    entry = "\n".join(told)
    return Changes(version, f"# Changes\n\n## {version}\n\n{entry}\n\n{history}")
