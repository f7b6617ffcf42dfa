"""Load a released split: its table, its photos, and the accuracy of predictions on it.

A release is a folder of Parquet files with a `release.json`. Photos are read when they are asked
for, one row group at a time, and their bytes are the originals.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from manifests.errors import ReleaseError
from manifests.metrics import SplitAccuracy, evaluate_groups
from manifests.photos import open_image
from manifests.schema import CONFUSING, SCHEMA_VERSION, TABLES
from manifests.tables import observer_codes, read_table
from manifests.vocabulary import LabelSpace, label_space

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "CONFUSING_FILE",
    "LABEL_SPACE_FILE",
    "MANIFEST",
    "PhotoDataset",
    "Split",
    "load_split",
]

MANIFEST = "release.json"
LABEL_SPACE_FILE = "label_space.csv"
"""In a release: the classes that `class_index` refers to, unless they are ImageNet-1K's."""
CONFUSING_FILE = "confusing.parquet"
"""In a release: for each class the labels that are most like it."""

_ROW_GROUPS_IN_MEMORY = 2


@dataclass(frozen=True)
class _Place:
    """Where the row groups of a release lie: file, and number of the group within it."""

    file: Path
    row_group: int
    first_row: int


class _Images:
    """Random access to the image column, by row of the release's files in order."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._places: list[_Place] = []
        row = 0
        for file in files:
            metadata = pq.read_metadata(file)
            for group in range(metadata.num_row_groups):
                self._places.append(_Place(file, group, row))
                row += metadata.row_group(group).num_rows
        self._first_rows = np.array([place.first_row for place in self._places])
        self._group = lru_cache(_ROW_GROUPS_IN_MEMORY)(self._read_group)

    def _read_group(self, number: int) -> pa.Array:
        place = self._places[number]
        with pq.ParquetFile(place.file) as file:
            column = file.read_row_group(place.row_group, columns=["image"]).column("image")
        return pc.struct_field(column.combine_chunks(), "bytes")

    def read(self, row: int) -> bytes:
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        data = self._group(number)[row - self._places[number].first_row].as_py()
        return bytes(data)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the files by itself; the cache stays where it is.
        return (_Images, (tuple(dict.fromkeys(place.file for place in self._places)),))


class Split:
    """A released split, or the part of it that one group, class or background makes up.

    Attributes
    ----------
    table
        Arrow table of the rows without image bytes, in the order of `photo_id`.
    folder
        The release's folder.
    release
        Content of its `release.json`.
    """

    def __init__(
        self, table: pa.Table, images: _Images, folder: Path, release: Mapping[str, Any]
    ) -> None:
        self._rows = table
        self._images = images
        self.folder = folder
        self.release = dict(release)

    @property
    def table(self) -> pa.Table:
        """Arrow table of the rows, without image bytes."""
        return self._rows.drop_columns(["_row"])

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __repr__(self) -> str:
        groups = ", ".join(f"{count} {name}" for name, count in self._counts.items())
        return f"<Split {self.release['name']}: {groups or 'empty'}>"

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts = pc.value_counts(self._rows["group"].combine_chunks()).to_pylist()
        return {row["values"]: row["counts"] for row in sorted(counts, key=lambda r: r["values"])}

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame (needs pandas)."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def _where(self, column: str, value: object, known: list[Any]) -> Split:
        if value not in known:
            listed = ", ".join(str(name) for name in known)
            msg = f"the split has no {column} {value!r}; it has {listed or 'none'}"
            raise ReleaseError(msg)
        rows = self._rows.filter(pc.equal(self._rows[column], value))
        return Split(rows, self._images, self.folder, self.release)

    def _known(self, column: str) -> list[Any]:
        return sorted(pc.unique(self._rows[column].drop_null()).to_pylist())

    def group(self, name: str) -> Split:
        """The rows of `common` or `counter`.

        Raises
        ------
        ReleaseError
            If the split has no such group.
        """
        return self._where("group", name, self._known("group"))

    def partition(self, name: str) -> Split:
        """The rows of `validation`, which chose the groups, or of `test`; raises as `group` does.

        A release made by the paper's rule has no partitions.
        """
        return self._where("partition", name, self._known("partition"))

    def background(self, name: str) -> Split:
        """The rows on one background; raises as `group` does."""
        return self._where("background", name, self._known("background"))

    def class_name(self, name: str) -> Split:
        """The rows of one class; raises as `group` does."""
        return self._where("class_name", name, self._known("class_name"))

    @cached_property
    def label_space(self) -> LabelSpace | None:
        """The classes that `class_index` refers to; None where the release does not hold them.

        Raises
        ------
        ReleaseError
            If they are not those that were released.
        """
        name = str(self.release["label_space"])
        file = self.folder / LABEL_SPACE_FILE
        if name == "imagenet1k":
            return label_space(name)
        if not file.is_file():
            return None
        found = replace(label_space(str(file)), name=name)
        if found.digest != self.release["label_space_digest"]:
            msg = f"{file} has changed since the release; fetch the release again"
            raise ReleaseError(msg)
        return found

    @cached_property
    def confusing(self) -> pa.Table | None:
        """For each class the labels most like it (`confusing`); None where it has none."""
        file = self.folder / CONFUSING_FILE
        return read_table(file, CONFUSING) if file.is_file() else None

    def read_bytes(self, index: int) -> bytes:
        """Original bytes of a photo.

        Raises
        ------
        ReleaseError
            If they are not the bytes that were released.
        """
        row = self._record(index)
        data = self._images.read(row["_row"])
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            msg = f"photo {row['photo_id']} has changed since the release; fetch the release again"
            raise ReleaseError(msg)
        return data

    def _record(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            msg = f"index {index} is out of range for {len(self)} photos"
            raise IndexError(msg)
        record: dict[str, Any] = self._rows.slice(index % len(self), 1).to_pylist()[0]
        return record

    def __getitem__(self, index: int) -> tuple[Image.Image, int, dict[str, Any]]:
        """Image (upright, RGB), class index, and the row as a dictionary."""
        record = self._record(index)
        image = open_image(self.read_bytes(index))
        record.pop("_row")
        return image, record["class_index"], record

    def __iter__(self) -> Iterator[tuple[Image.Image, int, dict[str, Any]]]:
        return (self[index] for index in range(len(self)))

    def torch(self, transform: Callable[[Image.Image], Any] | None = None) -> PhotoDataset:
        """A map-style dataset for `torch.utils.data.DataLoader`.

        Parameters
        ----------
        transform
            From an RGB image to what the model takes; without it, images stay PIL images.

        Returns
        -------
        PhotoDataset
            Items are (transformed image, class index, photo_id).
        """
        return PhotoDataset(self, transform)

    def evaluate(
        self, predictions: pa.Table | pd.DataFrame | Mapping[str, int], *, seed: int = 0
    ) -> SplitAccuracy:
        """Accuracy of predictions: per group, the drop between groups, per class.

        Parameters
        ----------
        predictions
            A table with the columns `photo_id` and `predicted_index`, or a mapping from the one to
            the other, with one prediction for each photo of this split.
        seed
            Seed of the bootstrap intervals, which resample observers within class and group
            (photos where the observer is unknown).

        Raises
        ------
        ReleaseError
            If a photo has no prediction or two, a prediction is for no photo of this split, or a
            column `label_space` says that they are over another one.
        """
        if not len(self):
            msg = "the split has no photos to evaluate on"
            raise ReleaseError(msg)
        ids = self._rows["photo_id"].to_pylist()
        given = _as_mapping(predictions, str(self.release["label_space"]))
        _check_ids(ids, given)
        classes = self._rows["class_index"].to_numpy()
        predicted = np.array([given[photo_id] for photo_id in ids])
        return evaluate_groups(
            predicted == classes,
            classes.astype(np.int64),
            np.array(self._rows["group"].to_pylist(), dtype=np.str_),
            observer_codes(self._rows),
            dict(zip(classes.tolist(), self._rows["class_name"].to_pylist(), strict=True)),
            seed=seed,
        )


class PhotoDataset:
    """A split as torch's `DataLoader` takes it: length and items; safe in worker processes."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Any] | None) -> None:
        self._split = split
        self._transform = transform

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        image, label, record = self._split[index]
        transformed = image if self._transform is None else self._transform(image)
        return transformed, label, record["photo_id"]


def _as_mapping(
    predictions: pa.Table | pd.DataFrame | Mapping[str, int], space: str
) -> Mapping[str, int]:
    if isinstance(predictions, Mapping):
        return predictions
    table = (
        predictions if isinstance(predictions, pa.Table) else pa.table(dict(predictions.items()))
    )
    missing = {"photo_id", "predicted_index"} - set(table.column_names)
    if missing:
        msg = f"the predictions have no column {sorted(missing)[0]!r}"
        raise ReleaseError(msg)
    if "label_space" in table.column_names:
        others = set(table["label_space"].to_pylist()) - {space}
        if others:
            msg = f"the predictions are over {others.pop()}, this split's classes are {space}"
            raise ReleaseError(msg)
    ids = table["photo_id"].to_pylist()
    if len(set(ids)) < len(ids):
        doubled = next(i for i in ids if ids.count(i) > 1)
        msg = f"photo {doubled} has more than one prediction"
        raise ReleaseError(msg)
    return dict(zip(ids, table["predicted_index"].to_pylist(), strict=True))


def _check_ids(ids: list[str], given: Mapping[str, int]) -> None:
    missing = [photo_id for photo_id in ids if given.get(photo_id) is None]
    if missing:
        msg = f"{len(missing)} photos have no prediction, such as {missing[0]}"
        raise ReleaseError(msg)
    extra = given.keys() - set(ids)
    if extra:
        msg = f"{len(extra)} predictions are for photos outside this split, such as {min(extra)}"
        raise ReleaseError(msg)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
    except OSError as error:
        msg = f"{folder} is no release: {MANIFEST} cannot be read ({error.strerror})"
        raise ReleaseError(msg) from error
    except ValueError as error:
        msg = f"{folder / MANIFEST} is not valid JSON; fetch the release again"
        raise ReleaseError(msg) from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        msg = (
            f"{folder} has schema version {manifest.get('schema_version')}; this loader reads "
            f"{SCHEMA_VERSION}: install the matching counteranimal-pipeline"
        )
        raise ReleaseError(msg)
    return manifest


def _shard(folder: Path, name: str) -> Path:
    """A shard's path, below the release whatever the manifest says."""
    path = PurePosixPath(name)
    file = (folder / path).resolve()
    if path.is_absolute() or not file.is_relative_to(folder.resolve()):
        msg = f"{MANIFEST} names {name!r}, which lies outside the release"
        raise ReleaseError(msg)
    if not file.is_file():
        msg = f"the release lacks {name}; fetch it again"
        raise ReleaseError(msg)
    return file


def _read_rows(file: Path) -> pa.Table:
    columns = [name for name in TABLES["release"].schema.names if name != "image"]
    try:
        return pq.read_table(file, columns=columns, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        msg = f"{file.name} is not a whole Parquet file; fetch the release again"
        raise ReleaseError(msg) from error


def load_split(path: str | Path) -> Split:
    """Load a release.

    Parameters
    ----------
    path
        The release's folder.

    Raises
    ------
    ReleaseError
        If it is no release, a file is missing or cut short, or it was made for another schema.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    files = tuple(_shard(folder, shard["file"]) for shard in manifest["shards"])
    tables = [_read_rows(file) for file in files]
    rows = pa.concat_tables(tables) if tables else _empty()
    if rows.num_rows != manifest["photos"]:
        msg = f"the release has {rows.num_rows} photos, {MANIFEST} says {manifest['photos']}"
        raise ReleaseError(msg)
    numbered = rows.append_column("_row", pa.array(np.arange(rows.num_rows)))
    ordered = numbered.sort_by("photo_id").combine_chunks()
    return Split(ordered, _Images(files), folder, manifest)


def _empty() -> pa.Table:
    return TABLES["release"].schema.empty_table().drop_columns(["image"])
