"""Export: a release's photos written into a layout that other people's code reads.

Given a release, wherever it lies, writes a folder: the photos' own bytes in one of the layouts of
`LAYOUTS`, whose photos they are, and a page that tells how to read them. It needs no workspace. The
folder is written beside its place and moved there when every photo is in it. The same release gives
the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from manifests import load_split
from manifests.errors import CapError, ReleaseError
from manifests.schema import SPLIT
from manifests.tables import count_by
from manifests.workspace import Outcome
from pipeline.attribution import ATTRIBUTION_FILE, write_attribution
from pipeline.export.counteranimal import COUNTERANIMAL
from pipeline.export.fiftyone import FIFTYONE
from pipeline.export.imagefolder import IMAGEFOLDER
from pipeline.export.layout import ExportFolder, Photo, Task
from pipeline.export.readme import readme
from pipeline.export.webdataset import WEBDATASET

if TYPE_CHECKING:
    from manifests import Split
    from manifests.progress import Progress
    from pipeline.parameters import ExportReleaseParameters

__all__ = ["LAYOUTS", "export"]

LAYOUTS = {layout.name: layout for layout in (COUNTERANIMAL, WEBDATASET, IMAGEFOLDER, FIFTYONE)}

_TOLD = 5


def export(parameters: ExportReleaseParameters, progress: Progress) -> Outcome:
    """Write a release's photos in another layout.

    Raises
    ------
    CapError
        If the place is taken, the layout cannot hold the release, or a photo is not to be had;
        nothing is then there.
    """
    if None in (parameters.release, parameters.out, parameters.layout):
        msg = f"say what to write: `cap export RELEASE OUT --layout {'|'.join(LAYOUTS)}`"
        raise CapError(msg)
    layout = LAYOUTS[str(parameters.layout)]
    out = _free(Path(str(parameters.out)))
    split = load_split(str(parameters.release))
    photos = _Photos(split, progress)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        task = Task(ExportFolder(partial), split, round(parameters.shard_mb * 1e6))
        files = list(layout.write(task, photos))
        photos.check()
        rows = photos.rows.append_column("file", pa.array(files, pa.string()))
        write_attribution(partial / ATTRIBUTION_FILE, rows)
        (partial / "README.md").write_text(readme(layout, split.release, rows), "utf-8")
        partial.rename(out)
    except OSError as error:
        msg = f"could not write the export {out}: {error.strerror or error}"
        raise CapError(msg) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    groups = count_by(rows, "group")
    counted = ", ".join(f"{count} {name}" for name, count in groups.items())
    text = f"{rows.num_rows} photos ({counted}) as {layout.name} in {out}"
    facts = {"out": str(out), "layout": layout.name, "photos": rows.num_rows, "groups": groups}
    return Outcome("export", text, facts)


def _free(out: Path) -> Path:
    """The place, if nothing is there but perhaps an empty folder."""
    place = out.resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        msg = f"{out} exists and is not empty; name another folder, or remove it"
        raise CapError(msg)
    return place


class _Photos:
    """The photos of a release in the order of its files, so that each row group is read once."""

    def __init__(self, split: Split, progress: Progress) -> None:
        if not len(split):
            msg = f"the release {split.release['name']} has no photos"
            raise ReleaseError(msg)
        keys = [("group", "ascending"), ("photo_id", "ascending")]
        self._split = split
        self._order = pc.sort_indices(split.table, keys)
        self._progress = progress
        self._failures: dict[str, str] = {}
        self.rows = split.table.take(self._order).select(SPLIT.schema.names)

    def __iter__(self) -> Iterator[Photo]:
        order = iter(self._order.to_pylist())
        with self._progress.task("export", self.rows.num_rows) as advance:
            for batch in self.rows.to_batches(max_chunksize=1024):
                for row in batch.to_pylist():
                    try:
                        yield Photo.of(row, self._split.read_bytes(next(order)))
                    except ReleaseError as error:
                        self._failures[row["photo_id"]] = str(error)
                    advance(1)

    def check(self) -> None:
        """Raise an error if a photo could not be had."""
        if self._failures:
            names = ", ".join(list(self._failures)[:_TOLD])
            left = len(self._failures) - _TOLD
            more = f" and {left} more" if left > 0 else ""
            msg = (
                f"{len(self._failures)} of {self.rows.num_rows} photos could not be had, and "
                f"nothing was exported: {names}{more}; of the first, "
                f"{next(iter(self._failures.values()))}"
            )
            raise ReleaseError(msg)
