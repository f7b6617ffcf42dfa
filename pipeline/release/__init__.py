"""Release: the split with its photos as sharded Parquet, in a folder that `load_split` reads.

The folder is written beside its place and moved there when it is whole. The same split gives the
same bytes. Beside the photos it holds a card, whose photos they are, every file's digest, what
changed since the release that it replaces, the label space, unless that is ImageNet-1K, and, where
the choosing run kept its scores, the labels most like each class. A release that is there already,
from the same tables and parameters, is fresh.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests import __version__
from manifests.errors import CapError, PhotoError, ReleaseError
from manifests.loader import CONFUSING_FILE, LABEL_SPACE_FILE, MANIFEST
from manifests.photos import has_location
from manifests.schema import RELEASE, SCHEMA_VERSION
from manifests.tables import chosen_pairs, count_by
from manifests.vocabulary import allowed_licenses, sharing_licenses
from manifests.workspace import Outcome
from pipeline.attribution import ATTRIBUTION_FILE, write_attribution
from pipeline.release.card import dataset_card
from pipeline.release.changes import CHANGES_FILE, changes_since
from pipeline.release.checksums import write_checksums
from pipeline.release.confusing import Reference, choosing_run, confusing_rows, write_confusing

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import ReleaseParameters

__all__ = ["release"]

_SHARD_BYTES = 500 * 2**20
_ROWS_PER_GROUP = 64
"""Photos that a reader loads at once for one of them; 64 are a few megabytes."""


@dataclass(frozen=True)
class _Content:
    """What goes into a release: its rows with their files, and what was left out by licence."""

    rows: pa.Table
    left_out: dict[str, int]

    @property
    def shareable(self) -> bool:
        """Whether every photo's licence allows passing it on."""
        return set(count_by(self.rows, "license")) <= set(sharing_licenses())


def _select(workspace: Workspace, allowed: tuple[str, ...]) -> _Content:
    split = workspace.read("split")
    if not split.num_rows:
        msg = "the split is empty: no class was selected; `cap split` says why for each"
        raise CapError(msg)
    included = pc.is_in(split["license"], pa.array(allowed))
    left_out = count_by(split.filter(pc.invert(included)), "license")
    rows = split.filter(included)
    if not rows.num_rows:
        counted = ", ".join(f"{count} {name}" for name, count in left_out.items())
        msg = (
            f"no photo of the split has a licence to release under ({counted}); "
            "--licenses any makes a release for local use"
        )
        raise CapError(msg)
    files = workspace.read("photos").select(["photo_id", "path", "bytes"])
    return _Content(rows.join(files, "photo_id", join_type="inner").sort_by("photo_id"), left_out)


class _Shards:
    """Writes the rows of one group into `data/<group>-00000-of-000NN.parquet`."""

    def __init__(self, workspace: Workspace, folder: Path, progress: Progress) -> None:
        self._store = workspace.photos
        self._folder = folder
        self._progress = progress
        self.with_location = 0

    def write(self, rows: pa.Table, group: str) -> Iterator[dict[str, Any]]:
        """Write the shards; gives an entry of the release manifest for each."""
        parts = _cut(rows)
        for number, part in enumerate(parts):
            name = f"data/{group}-{number:05d}-of-{len(parts):05d}.parquet"
            file = self._folder / name
            self._write_shard(part, file)
            with file.open("rb") as handle:
                sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
            yield {
                "file": name,
                "rows": part.num_rows,
                "bytes": file.stat().st_size,
                "sha256": sha256,
            }

    def _write_shard(self, rows: pa.Table, file: Path) -> None:
        schema = RELEASE.schema.with_metadata(RELEASE.metadata())
        plain = [name for name in schema.names if name != "image"]
        with (
            pq.ParquetWriter(
                file,
                schema,
                # Photos are compressed already.
                compression={**dict.fromkeys(plain, "zstd"), "image.bytes": "none"},
                use_dictionary=plain,
                write_page_index=True,
            ) as writer,
            self._progress.task(f"release {file.stem}", rows.num_rows) as advance,
        ):
            for start in range(0, rows.num_rows, _ROWS_PER_GROUP):
                block = rows.slice(start, _ROWS_PER_GROUP)
                images = pa.array(
                    [self._image(row) for row in block.to_pylist()], schema.field("image").type
                )
                table = block.select(plain).append_column("image", images)
                writer.write_table(table.cast(schema))
                advance(block.num_rows)

    def _image(self, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            data = self._store.read(row["path"], row["sha256"])
        except PhotoError as error:
            msg = f"photo {row['photo_id']}: {error}; run `cap collect` again, then the rest"
            raise CapError(msg) from error
        self.with_location += has_location(data)
        return {"bytes": data, "path": Path(row["path"]).name}


def _cut(rows: pa.Table) -> list[pa.Table]:
    """Shards of about equal size in bytes, none above the limit unless one photo is."""
    sizes = rows["bytes"].to_pylist()
    parts, start, total = [], 0, 0
    for position, size in enumerate(sizes):
        if total and total + size > _SHARD_BYTES:
            parts.append(rows.slice(start, position - start))
            start, total = position, 0
        total += size
    return [*parts, rows.slice(start)]


def release(workspace: Workspace, parameters: ReleaseParameters, progress: Progress) -> Outcome:
    """Write the release and move it to its place."""
    if parameters.out is None:
        msg = "name the folder to write: `cap release OUT` (or `out` under [release] in cap.toml)"
        raise CapError(msg)
    out = Path(parameters.out).resolve()
    allowed = allowed_licenses(parameters.licenses)
    content = _select(workspace, allowed)
    run = choosing_run(workspace.read("pairs"))
    predictions = f"predictions/{run}"
    made_from = {
        "split": workspace.digest("split"),
        "pairs": workspace.digest("pairs"),
        "predictions": workspace.digest(predictions) if workspace.has(predictions) else None,
        "label_space": workspace.label_space.digest,
        "licenses": sorted(allowed),
        "cap_version": __version__,
    }
    _put_back(out)
    standing = _standing(out)
    if standing is not None and standing.get("made_from") == made_from:
        return _outcome(out, standing, fresh=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
        manifest = _write(workspace, content, partial, progress)
        manifest |= _write_labels(workspace, content.rows, run, partial)
        manifest["made_from"] = made_from
        manifest["name"] = out.name
        changes = changes_since(out, standing, content.rows)
        manifest["version"] = changes.version
        (partial / CHANGES_FILE).write_text(changes.text, "utf-8")
        write_attribution(partial / ATTRIBUTION_FILE, content.rows)
        (partial / "README.md").write_text(dataset_card(manifest), "utf-8")
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
        (partial / MANIFEST).write_text(f"{text}\n", "utf-8")
        write_checksums(partial)
        _move(partial, out)
    except OSError as error:
        msg = f"could not write the release {out}: {error.strerror or error}"
        raise CapError(msg) from error
    return _outcome(out, manifest, fresh=False)


def _write(
    workspace: Workspace, content: _Content, folder: Path, progress: Progress
) -> dict[str, Any]:
    rows = content.rows
    writer = _Shards(workspace, folder, progress)
    shards = [
        shard
        for group in ("common", "counter")
        for shard in writer.write(rows.filter(pc.equal(rows["group"], group)), group)
    ]
    pairs = chosen_pairs(workspace.read("pairs"))
    if writer.with_location:
        progress.note(
            f"warning: {writer.with_location} photos tell in their EXIF data where they were taken"
        )
    if not content.shareable:
        progress.note(
            "warning: the release holds photos whose licence does not allow sharing them; "
            "its card says that it is not for redistribution"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "photos": rows.num_rows,
        "groups": count_by(rows, "group"),
        "licenses": count_by(rows, "license"),
        "left_out": content.left_out,
        "redistribution": content.shareable,
        "photos_with_location": writer.with_location,
        "pairs": pairs.filter(pairs["selected"]).to_pylist(),
        "shards": shards,
    }


def _write_labels(workspace: Workspace, rows: pa.Table, run: str, folder: Path) -> dict[str, Any]:
    """Write the label space and the confusing labels; gives what the manifest says of them."""
    labels = workspace.label_space
    if labels.name != "imagenet1k":
        source = workspace.root / str(workspace.recipe["label_space"])
        shutil.copyfile(source, folder / LABEL_SPACE_FILE)
    reference = Reference.of(workspace, run)
    confusing = confusing_rows(workspace, rows, reference)
    if confusing is not None:
        write_confusing(folder / CONFUSING_FILE, confusing, reference)
    return {
        "label_space": labels.name,
        "label_space_digest": labels.digest,
        "chosen_by": {"run": reference.run, "model": reference.model},
        "confusing": None
        if confusing is None
        else {"run": run, "replaced": pc.sum(confusing["replaced"]).as_py()},
    }


def _standing(out: Path) -> dict[str, Any] | None:
    """The manifest of a release that is there already.

    Raises
    ------
    ReleaseError
        If something else is there.
    """
    if not out.exists():
        return None
    if out.is_dir() and not any(out.iterdir()):
        return None
    msg = f"{out} exists and is no release of cap; name another folder"
    try:
        manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(msg) from error
    if not {"made_from", "version"} <= manifest.keys():
        raise ReleaseError(msg)
    return manifest


def _replaced(out: Path) -> Path:
    """Where a release lies while another takes its place."""
    return out.with_name(f".{out.name}.old")


def _put_back(out: Path) -> None:
    """Put back the release that a run was replacing when it was stopped."""
    if _replaced(out).is_dir() and not out.exists():
        _replaced(out).rename(out)


def _move(partial: Path, out: Path) -> None:
    old = _replaced(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _outcome(out: Path, manifest: Mapping[str, Any], *, fresh: bool) -> Outcome:
    left_out = sum(manifest["left_out"].values())
    omitted = f"; {left_out} left out for their licence" if left_out else ""
    groups = ", ".join(f"{count} {name}" for name, count in manifest["groups"].items())
    text = f"{manifest['photos']} photos ({groups}) in {out}{omitted}"
    facts = {key: manifest[key] for key in ("photos", "groups", "licenses", "left_out")}
    return Outcome("release", text, {"out": str(out), **facts}, fresh)
