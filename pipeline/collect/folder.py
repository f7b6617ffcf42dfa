"""Collect from a folder of class folders: ROOT/CLASS_NAME/*.

Every file in a class folder becomes a row of `photos`; what is no JPEG, PNG or WebP, or cannot be
decoded, becomes a failed row with the reason. `ROOT/metadata.csv`, if there is one, tells more of
the photos: a column `file_name` (the path below ROOT) and any of license, attribution, creator,
creator_id (the creator, where that is empty), observation_id, observed_at, uploaded_at, taxon,
taxon_id, taxon_rank and url.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import hashlib
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError, PhotoError, UnknownNameError
from manifests.photos import PhotoStore, inspect_photo, printable
from manifests.schema import PHOTOS
from manifests.tables import count_by, from_rows
from manifests.vocabulary import LabelSpace, resolve_license
from manifests.workspace import Job, Outcome, Workspace, now
from pipeline.engine import LocalEngine

if TYPE_CHECKING:
    from manifests.progress import Progress
    from pipeline.parameters import CollectParameters

__all__ = ["Listing", "Photo", "collect_folder", "list_folder"]

METADATA = "metadata.csv"

_TEXTS = (
    "attribution",
    "creator",
    "creator_id",
    "observation_id",
    "taxon",
    "taxon_id",
    "taxon_rank",
    "url",
)
_TIMES = ("observed_at", "uploaded_at")
_NOBODY = {"", "unknown", "anonymous", "none", "n/a", "na", "various", "-"}
"""What is written for a creator who is not known, in lower case."""

_BATCH = 32
"""Photos per batch: small enough that a kill costs little, large enough to keep workers busy."""


@dataclass(frozen=True)
class Photo:
    """A file to collect: its path below ROOT, its class, and what is wrong with it already."""

    relative: str
    class_index: int
    class_name: str
    error: str | None = None


@dataclass(frozen=True)
class Listing:
    """The photos of a folder in order of their ids, and a digest that changes when any does.

    `names` are those of all files in the class folders, also beyond the photos asked for, as
    `metadata.csv` may spell them.
    """

    root: Path
    photos: tuple[Photo, ...]
    digest: str
    names: frozenset[str]


def _class_folders(root: Path, labels: LabelSpace) -> dict[int, list[Path]]:
    """Folders below ROOT by the class that their name means."""
    found: dict[int, list[Path]] = {}
    unknown = []
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            found.setdefault(labels.index_of(printable(folder.name)), []).append(folder)
        except UnknownNameError as error:
            unknown.append(str(error))
    if unknown:
        others = f" (and {len(unknown) - 1} more folders)" if len(unknown) > 1 else ""
        msg = f"{unknown[0]}{others}; rename the folder, or name the classes with --classes"
        raise UnknownNameError(msg)
    return found


def _chosen_folders(
    root: Path, labels: LabelSpace, classes: tuple[str, ...]
) -> dict[int, list[Path]]:
    """As `_class_folders`, but only of the classes asked for, whatever else lies there."""
    if not classes:
        return _class_folders(root, labels)
    wanted: dict[int, list[Path]] = {labels.index_of(name): [] for name in classes}
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            try:
                index = labels.index_of(printable(folder.name))
            except UnknownNameError:
                continue
            if index in wanted:
                wanted[index].append(folder)
    for index, folders in wanted.items():
        if not folders:
            msg = f"{root} has no folder for the class {labels.names[index]!r}"
            raise CapError(msg)
    return wanted


def _files(folder: Path, root: Path) -> Iterator[tuple[Path, str | None]]:
    """Files at any depth below a class folder, with an error for what cannot be a photo.

    A link that leads out of ROOT is an error, as is a folder that cannot be listed.
    """
    if not folder.resolve().is_relative_to(root):
        yield folder, "a link that leads out of the root folder; copy the photos instead"
        return
    try:
        entries = sorted(folder.iterdir())
        # A folder may tell what it holds, and give nothing of it.
        for entry in entries[:1]:
            entry.lstat()
    except OSError as error:
        yield folder, f"a folder that cannot be listed: {error.strerror or error}"
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and (problem := _problem_of(entry, root)) is not None:
            yield entry, problem
        elif entry.is_dir():
            yield from _files(entry, root)
        elif entry.exists() and not entry.is_file():
            yield entry, "no regular file"
        else:
            yield entry, None


def _problem_of(link: Path, root: Path) -> str | None:
    """Why what a link leads to is not collected; None where it is a file below ROOT, or gone."""
    try:
        inside = link.resolve().is_relative_to(root)
    except RuntimeError:
        return "a link that leads to itself"
    if not inside or link.is_dir():
        return "a link that leads out of the root folder or to a folder; copy the photos"
    return None


@contextlib.contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Tell in one line that a folder or file cannot be read."""
    try:
        yield
    except OSError as error:
        msg = (
            f"{error.filename or place} cannot be read: {error.strerror or error}; mend this and "
            "run the same command again"
        )
        raise CapError(msg) from error


def _state_of(file: Path) -> str:
    """Size and time of change of a file; of a link also of what it leads to, if that is there."""
    stats = [file.lstat()]
    if file.is_symlink():
        with contextlib.suppress(OSError):
            stats.append(file.stat())
    return "\0".join(f"{stat.st_size}\0{stat.st_mtime_ns}" for stat in stats)


def list_folder(root: Path, labels: LabelSpace, parameters: CollectParameters) -> Listing:
    """What lies in a folder of class folders.

    Raises
    ------
    CapError
        If the folder cannot be read or has no class folder.
    UnknownNameError
        If a folder's name is no class; the nearest names are in the message.
    """
    with _reading(root):
        if not root.is_dir():
            msg = f"{root} is no folder; give the folder that holds CLASS_NAME/* with --root"
            raise CapError(msg)
        return _list_photos(root.resolve(), labels, parameters)


def _list_photos(root: Path, labels: LabelSpace, parameters: CollectParameters) -> Listing:
    digest = hashlib.sha256()
    photos: list[Photo] = []
    names: set[str] = set()
    for index, folders in _chosen_folders(root, labels, parameters.classes).items():
        files = sorted(pair for folder in folders for pair in _files(folder, root))
        names.update(_plain(printable(file.relative_to(root).as_posix())) for file, _ in files)
        for file, error in files[: parameters.per_class]:
            relative = printable(file.relative_to(root).as_posix())
            photos.append(
                Photo(os.fspath(file.relative_to(root)), index, labels.names[index], error)
            )
            digest.update(f"{relative}\0{_state_of(file)}\n".encode())
    if not photos:
        msg = f"{root} has no photos in class folders (ROOT/CLASS_NAME/*)"
        raise CapError(msg)
    metadata = root / METADATA
    digest.update(metadata.read_bytes() if metadata.is_file() else b"")
    photos.sort(key=lambda photo: printable(photo.relative))
    return Listing(root, tuple(photos), digest.hexdigest(), frozenset(names))


def _metadata_row(row: Mapping[str, str | None], line: int) -> dict[str, Any]:
    described: dict[str, Any] = {name: row.get(name) or None for name in _TEXTS}
    # A person known by name only is still one person, whose photos depend on each other.
    if (described["creator"] or "").strip().casefold() not in _NOBODY:
        described["creator_id"] = described["creator_id"] or described["creator"]
    try:
        described["license"] = resolve_license(row.get("license") or "")
        for name in _TIMES:
            text = row.get(name)
            moment = datetime.datetime.fromisoformat(text) if text else None
            if moment is not None and moment.tzinfo is None:
                moment = moment.replace(tzinfo=datetime.UTC)
            described[name] = moment
    except (UnknownNameError, ValueError) as error:
        msg = f"{METADATA}, line {line}: {error}"
        raise CapError(msg) from error
    return described


def read_metadata(root: Path) -> dict[str, dict[str, Any]]:
    """What `ROOT/metadata.csv` says of each file, by `file_name`; empty without that file.

    Raises
    ------
    CapError
        If it cannot be read or is no table in UTF-8, or a line names a licence that is not known or
        a time that is not ISO 8601.
    """
    path = root / METADATA
    if not path.is_file():
        return {}
    try:
        with _reading(path), path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            if "file_name" not in (reader.fieldnames or ()):
                msg = f"{path} needs a column 'file_name' with paths below {root}"
                raise CapError(msg)
            return {row["file_name"] or "": _metadata_row(row, reader.line_num) for row in reader}
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} is no text table in UTF-8 ({error})"
        raise CapError(msg) from error


def _plain(name: str) -> str:
    """A path below ROOT as one program and another would spell it alike."""
    parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in {"", "."})


def _by_photo(
    metadata: Mapping[str, dict[str, Any]], listing: Listing
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the rows of `metadata.csv` say of each photo, by photo_id, and which name no file.

    A row that spells the path otherwise (with backslashes, from `.`, with letters and accents
    apart) is taken where none names it exactly.
    """
    alike = {_plain(name): row for name, row in metadata.items()}
    described = {}
    for photo in listing.photos:
        name = printable(photo.relative)
        row = metadata.get(name) or alike.get(_plain(name))
        if row is not None:
            described[_photo_id(photo)] = row
    return described, [name for name in metadata if _plain(name) not in listing.names]


def _tell_strangers(strangers: list[str], classes: tuple[str, ...], progress: Progress) -> None:
    """Say how many rows of `metadata.csv` name no file, unless only some classes were listed."""
    if strangers and not classes:
        progress.note(
            f"{METADATA}: {len(strangers)} rows name no file in a class folder, the first names "
            f"{strangers[0]!r}; what they say is used for no photo"
        )


def _collect_one(photo: Photo, root: Path, store: PhotoStore) -> dict[str, Any]:
    """Read, check and store one photo; gives the columns that its bytes decide."""
    if photo.error is not None:
        return {"status": "failed", "error": photo.error, "transient": False}
    try:
        data = (root / photo.relative).read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        # Of what is gone, the next listing tells.
        transient = not isinstance(error, FileNotFoundError)
        return {"status": "failed", "error": reason, "transient": transient}
    known = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    try:
        facts = inspect_photo(data)
    except PhotoError as error:
        return {"status": "failed", "error": str(error), "transient": False, **known}
    _, path = store.add(data, facts)
    return {"status": "ok", "path": path, "fetched_at": now(), **asdict(facts), **known}


def _photo_id(photo: Photo) -> str:
    return f"folder:{printable(photo.relative)}"


def _row(photo: Photo, columns: dict[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "license": "unknown",
        **described,
        "photo_id": _photo_id(photo),
        "source": "folder",
        "class_index": photo.class_index,
        "class_name": photo.class_name,
        **columns,
    }


def collect_folder(
    workspace: Workspace, parameters: CollectParameters, progress: Progress
) -> Outcome:
    """Bring a folder's photos into the workspace, as the `folder` rows of `photos`."""
    if parameters.root is None:
        msg = "collecting from a folder needs --root DIR (or `root` under [collect] in cap.toml)"
        raise CapError(msg)
    if parameters.refresh or parameters.dry_run:
        msg = "--refresh and --dry-run are for photos from iNaturalist; a folder is read as it is"
        raise CapError(msg)
    listing = list_folder(Path(parameters.root), workspace.label_space, parameters)
    described, strangers = _by_photo(read_metadata(listing.root), listing)
    job = Job(
        table="photos",
        stage="collect",
        source="folder",
        parameters={
            "source": "folder",
            "root": str(listing.root),
            "classes": parameters.classes,
            "per_class": parameters.per_class,
        },
        inputs={"listing": listing.digest, "label_space": workspace.label_space.digest},
    )
    run = workspace.begin(job)
    photos, ready = listing.photos, PHOTOS.schema.empty_table()
    if run.fresh:
        ready = workspace.read("photos", "folder")
        photos = _to_try_again(photos, ready)
        if not photos:
            return _outcome(ready, fresh=True)
        run = workspace.begin_again(job, ready)
        tried = pa.array([_photo_id(photo) for photo in photos])
        ready = ready.filter(pc.invert(pc.is_in(ready["photo_id"], tried)))
    _tell_strangers(strangers, parameters.classes, progress)
    collect_one = partial(_collect_one, root=listing.root, store=workspace.photos)
    with LocalEngine(parameters.workers) as engine:
        for index, batch in run.batches(photos, _BATCH, progress):
            columns = engine.map(collect_one, batch)
            rows = [
                _row(photo, found, described.get(_photo_id(photo), {}))
                for photo, found in zip(batch, columns, strict=True)
            ]
            run.save(index, from_rows(rows, PHOTOS.schema))
    own = run.saved(ready)
    run.commit(own)
    return _outcome(own, fresh=False)


def _to_try_again(photos: tuple[Photo, ...], rows: pa.Table) -> tuple[Photo, ...]:
    """The photos of a table that is there already which failed for a reason that may pass."""
    if "transient" not in rows.column_names:
        return ()
    failed = set(rows.filter(pc.fill_null(rows["transient"], False))["photo_id"].to_pylist())
    return tuple(photo for photo in photos if _photo_id(photo) in failed)


def _outcome(own: pa.Table, *, fresh: bool) -> Outcome:
    """What there is of the folder, by its rows."""
    rows = {"total": own.num_rows, **count_by(own, "status")}
    failed = rows.get("failed", 0)
    hint = f", {failed} failed (`cap status --failures` says why)" if failed else ""
    return Outcome("collect", f"{rows.get('ok', 0)} photos{hint}", rows, fresh)
