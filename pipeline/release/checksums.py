"""`checksums.sha256`, in the form of `sha256sum`, and the check of a release against it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from manifests.errors import ReleaseError
from manifests.loader import load_split
from manifests.workspace import Outcome

if TYPE_CHECKING:
    from manifests.progress import Progress

__all__ = ["CHECKSUMS_FILE", "verify", "write_checksums"]

CHECKSUMS_FILE = "checksums.sha256"

_DIGITS = 64
_TOLD = 5


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write down the digest of every file in the folder."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    lines = [f"{_digest(folder / file)}  {file.as_posix()}\n" for file in files]
    (folder / CHECKSUMS_FILE).write_text("".join(lines), "utf-8")


def _listed(folder: Path) -> dict[str, str]:
    """Digests by file name, from the list of a release."""
    file = folder / CHECKSUMS_FILE
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file} cannot be read; fetch the release again"
        raise ReleaseError(msg) from error
    found = {}
    for number, line in enumerate(lines, start=1):
        digest, separator, name = line.partition("  ")
        path = PurePosixPath(name)
        if len(digest) != _DIGITS or not separator or not name:
            msg = f"{CHECKSUMS_FILE}, line {number}: this is no digest and file name"
            raise ReleaseError(msg)
        inside = (folder / path).resolve().is_relative_to(folder.resolve())
        if path.is_absolute() or not inside:
            msg = f"{CHECKSUMS_FILE}, line {number}: {name!r} lies outside the release"
            raise ReleaseError(msg)
        found[name] = digest
    return found


def _strays(folder: Path, listed: Iterable[str]) -> list[str]:
    """Files below `data` that are not listed; readers of the whole folder would take them in."""
    known = {PurePosixPath(name) for name in listed}
    files = sorted(file for file in (folder / "data").rglob("*") if file.is_file())
    found = [PurePosixPath(file.relative_to(folder).as_posix()) for file in files]
    # No reader takes files with a dot, which some systems leave in every folder.
    return [str(name) for name in found if name not in known and not name.name.startswith(".")]


def verify(out: str | None, progress: Progress) -> Outcome:
    """Read every byte of a release again: its files against their digests, then its photos.

    Photos that it only links to are counted, not fetched.

    Raises
    ------
    ReleaseError
        If a file is missing or changed, another lies among the photos, or a photo's bytes are not
        those of its row.
    """
    if out is None:
        msg = "name the release to verify: `cap release --verify OUT`"
        raise ReleaseError(msg)
    if "://" in out:
        msg = f"--verify reads a folder; copy {out} to this machine, or load it: the loader checks"
        raise ReleaseError(msg)
    folder = Path(out)
    split = load_split(folder)
    listed = _listed(folder)
    problems = []
    with progress.task("verify files", len(listed)) as advance:
        for name, digest in listed.items():
            file = folder / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif _digest(file) != digest:
                problems.append(f"{name} has changed")
            advance(1)
    problems += [f"{name} is no file of it" for name in _strays(folder, listed)]
    if problems:
        more = f", and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        told = ", ".join(problems[:_TOLD])
        msg = (
            f"{folder} is not as it was released: {told}{more}; "
            "fetch it again, into an empty folder"
        )
        raise ReleaseError(msg)
    order, _ = split.file_order
    here = order[~split.linked[order]]
    with progress.task("verify photos", len(here)) as advance:
        for index in here.tolist():
            split.read_bytes(index)
            advance(1)
    linked = len(split) - len(here)
    text = f"{len(listed)} files and {len(here)} photos of {folder} are as they were released"
    if linked:
        text += f"; {linked} photos are links, which `load_split(…).fetch()` looks for"
    facts = {"files": len(listed), "photos": len(here), "linked": linked}
    return Outcome("verify", text, facts, fresh=False)
