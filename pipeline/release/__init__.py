"""Release: the split with its photos as sharded Parquet, in a folder that `load_split` reads.

The folder is written beside its place and moved there when it is whole. The same split gives the
same bytes. Beside the photos, embedded or as links, it holds a card and the same for machines,
whose photos they are, every file's digest, what changed since the release that it replaces, the
results of the models that were scored, the label space, unless that is ImageNet-1K, and, where the
choosing run kept its scores, the labels most like each class. A release that is there already, from
the same tables and parameters, is fresh.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests import __version__
from manifests.errors import CapError, ReleaseError
from manifests.loader import CONFUSING_FILE, LABEL_SPACE_FILE, MANIFEST
from manifests.schema import SCHEMA_VERSION, SPLIT
from manifests.tables import chosen_pairs, count_by, table_digest
from manifests.workspace import Outcome
from pipeline.attribution import ATTRIBUTION_FILE, write_attribution
from pipeline.release.card import dataset_card
from pipeline.release.changes import CHANGES_FILE, changes_since
from pipeline.release.checksums import write_checksums
from pipeline.release.confusing import Reference, choosing_run, confusing_rows, write_confusing
from pipeline.release.content import Content, select
from pipeline.release.croissant import CROISSANT_FILE, croissant
from pipeline.release.facts import classes_of, construction, split_day
from pipeline.release.results import scored_runs, write_results
from pipeline.release.shards import ShardWriter
from pipeline.release.words import describe

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import ReleaseParameters

__all__ = ["release"]

_NAMED = 3


def _check_day(day: str | None) -> None:
    if day is None:
        return
    msg = f"--published {day} is no day; write it as 2026-11-25"
    try:
        written = datetime.date.fromisoformat(day).isoformat()
    except ValueError as error:
        raise CapError(msg) from error
    if written != day:
        raise CapError(msg)


def release(workspace: Workspace, parameters: ReleaseParameters, progress: Progress) -> Outcome:
    """Write the release and move it to its place."""
    if parameters.out is None:
        msg = "name the folder to write: `cap release OUT` (or `out` under [release] in cap.toml)"
        raise CapError(msg)
    out = Path(parameters.out).resolve()
    _check_day(parameters.published)
    made_from = _made_from(workspace, parameters)
    _put_back(out)
    standing = _standing(out)
    # Also where the release is there already: a photo that was taken back is told.
    content = select(workspace, parameters)
    if standing is not None and standing.get("made_from") == made_from:
        return _outcome(out, standing, fresh=True)
    run = choosing_run(workspace.read("pairs"))
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
        manifest = _write(workspace, content, run, partial, progress)
        changes = changes_since(out, standing, content.rows)
        manifest |= {
            "name": out.name,
            "version": changes.version,
            "published": made_from["published"],
            "creator": parameters.creator,
            "homepage": parameters.homepage,
            "made_from": made_from,
        }
        words = describe(manifest)
        (partial / CHANGES_FILE).write_text(changes.text, "utf-8")
        write_attribution(partial / ATTRIBUTION_FILE, content.rows)
        (partial / "README.md").write_text(dataset_card(manifest, words), "utf-8")
        (partial / CROISSANT_FILE).write_text(croissant(manifest, words), "utf-8")
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
        (partial / MANIFEST).write_text(f"{text}\n", "utf-8")
        write_checksums(partial)
        _move(partial, out)
    except OSError as error:
        msg = f"could not write the release {out}: {error.strerror or error}"
        raise CapError(msg) from error
    return _outcome(out, manifest, fresh=False)


def _made_from(workspace: Workspace, parameters: ReleaseParameters) -> dict[str, Any]:
    """The tables and parameters that a release is made from; the same make the same release."""
    asked = {key: value for key, value in asdict(parameters).items() if key != "out"}
    return {
        **{name: workspace.digest(name) for name in ("split", "pairs")},
        "labels": workspace.digest("labels") if workspace.has("labels") else None,
        "predictions": {
            name: workspace.digest(f"predictions/{name}") for name in scored_runs(workspace)
        },
        "label_space": workspace.label_space.digest,
        "cap_version": __version__,
        **asked,
        "published": parameters.published or split_day(workspace),
        "licenses": sorted(parameters.licenses),
    }


def _write(
    workspace: Workspace, content: Content, run: str, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the photos, labels and results; gives what the manifest says of them."""
    rows = content.rows
    writer = ShardWriter(workspace.photos, folder, progress)
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
    classes, halves = classes_of(rows)
    if halves:
        first = f"{', '.join(halves[:_NAMED])}{', …' if len(halves) > _NAMED else ''}"
        progress.note(
            f"warning: {len(halves)} of {classes} classes have photos of one group only ({first}), "
            "so that the drop is not between the same classes"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "photos": rows.num_rows,
        "rows_sha256": table_digest(rows.select(SPLIT.schema.names)),
        "linked": content.linked,
        "groups": count_by(rows, "group"),
        "classes": classes,
        "classes_of_one_group": halves,
        "licenses": count_by(rows, "license"),
        "left_out": content.left_out,
        "left_out_without_url": content.without_url,
        "redistribution": content.shareable,
        "photos_with_location": writer.with_location,
        "pairs": pairs.filter(pairs["selected"]).to_pylist(),
        "shards": shards,
        "construction": construction(workspace, rows),
        "results": write_results(workspace, rows, run, folder),
        **_write_labels(workspace, rows, run, folder),
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
    why = "licence or address" if manifest["left_out_without_url"] else "licence"
    omitted = f"; {left_out} left out for their {why}" if left_out else ""
    groups = ", ".join(f"{count} {name}" for name, count in manifest["groups"].items())
    linked = f", {manifest['linked']} of them as links" if manifest["linked"] else ""
    text = f"{manifest['photos']} photos ({groups}){linked} in {out}{omitted}"
    facts = {key: manifest[key] for key in ("photos", "linked", "groups", "licenses", "left_out")}
    return Outcome("release", text, {"out": str(out), **facts}, fresh)
