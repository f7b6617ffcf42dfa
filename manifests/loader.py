"""Load a released split: its table, its photos, and the accuracy of predictions on it.

A release is a folder of Parquet files with a `release.json`, on this machine or at any URL that
fsspec reads. Its rows are compared with the digest in `release.json` when it is loaded. Photos are
read when they are asked for, one row group at a time; their bytes are the originals, and compared
with their digest once.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from manifests.errors import FetchError, ReleaseError
from manifests.fetch import local_addresses
from manifests.images import Images
from manifests.linked import CONNECTIONS, GONE, FetchReport, LinkedPhotos
from manifests.metrics import SplitAccuracy, evaluate_groups
from manifests.photos import open_array, open_upright
from manifests.schema import CONFUSING, SCHEMA_VERSION, SPLIT
from manifests.storage import Storage
from manifests.tables import from_rows, observer_codes, table_digest, validate, whole
from manifests.vocabulary import LabelSpace, label_space, read_label_space

if TYPE_CHECKING:
    import pandas as pd

    from manifests.torch_data import PhotoDataset, PhotoStream


__all__ = [
    "CONFUSING_FILE",
    "LABEL_SPACE_FILE",
    "MANIFEST",
    "Split",
    "load_split",
]

MANIFEST = "release.json"
LABEL_SPACE_FILE = "label_space.csv"
"""In a release: the classes that `class_index` refers to, unless they are ImageNet-1K's."""
CONFUSING_FILE = "confusing.parquet"
"""In a release: for each class the labels that are most like it."""

_NEEDED = {
    "schema_version": int,
    "name": str,
    "photos": int,
    "rows_sha256": str,
    "shards": list,
    "label_space": str,
    "label_space_digest": str,
}
"""What the loader takes from `release.json`."""


class Split:
    """A released split, or the part of it that one group, class or background makes up.

    Attributes
    ----------
    table
        Arrow table of the rows without image bytes, in the order of `photo_id`.
    release
        Content of its `release.json`.
    """

    def __init__(
        self, table: pa.Table, images: Images, storage: Storage, release: Mapping[str, Any]
    ) -> None:
        self._rows = table.combine_chunks()
        self._images = images
        self._storage = storage
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
        return self._filter(pc.equal(self._rows[column], value))

    def _filter(self, chosen: pa.ChunkedArray) -> Split:
        rows = self._rows.filter(pc.fill_null(chosen, False))
        return Split(rows, self._images, self._storage, self.release)

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
        if name == "imagenet1k":
            found = label_space(name)
            if found.digest != self.release["label_space_digest"]:
                msg = (
                    f"the release's classes are called {name}, but are not those of {name}; "
                    "fetch the release again, or have it made anew"
                )
                raise ReleaseError(msg)
            return found
        if not self._storage.has(LABEL_SPACE_FILE):
            return None
        changed = f"{LABEL_SPACE_FILE} has changed since the release; fetch the release again"
        try:
            content = self._storage.read(LABEL_SPACE_FILE)
            found = replace(read_label_space(content, Path(LABEL_SPACE_FILE)), name=name)
        except UnicodeDecodeError as error:
            raise ReleaseError(changed) from error
        if found.digest != self.release["label_space_digest"]:
            raise ReleaseError(changed)
        return found

    @cached_property
    def confusing(self) -> pa.Table | None:
        """For each class the labels most like it (`confusing`); None where it has none."""
        if not self._storage.has(CONFUSING_FILE):
            return None
        with self._storage.explained(CONFUSING_FILE):
            table = pq.read_table(pa.BufferReader(self._storage.read(CONFUSING_FILE)))
        return validate(table.replace_schema_metadata(None), CONFUSING)

    def exclude(self, photo_ids: Iterable[str]) -> Split:
        """The rows without some photos, such as those that a `fetch` could not get.

        Raises
        ------
        ReleaseError
            If one of them is not in the split.
        """
        ids = pa.array(list(photo_ids), pa.string())
        unknown = ids.filter(pc.invert(pc.is_in(ids, self._rows["photo_id"].combine_chunks())))
        if len(unknown):
            msg = f"the split has no photo {unknown[0].as_py()!r}"
            raise ReleaseError(msg)
        return self._filter(pc.invert(pc.is_in(self._rows["photo_id"], ids)))

    @cached_property
    def _links(self) -> pa.Array:
        """For each row the address of its photo, if the release only links to it, else null."""
        return self._images.links().take(self._columns["_row"])

    @property
    def linked(self) -> NDArray[np.bool_]:
        """Whether the release only links to each photo, of shape (photos,)."""
        known: NDArray[np.bool_] = self._links.is_valid().to_numpy(zero_copy_only=False)
        return known

    def read_bytes(self, index: int) -> bytes:
        """Original bytes of a photo.

        Raises
        ------
        ReleaseError
            If they are not the bytes that were released, or the release only links to the photo
            and it could not be had.
        """
        return bytes(self._content(index))

    def _content(self, index: int) -> memoryview:
        """`read_bytes` without a copy."""
        at = self._position(index)
        return self._images.read(
            *(self._value(name, at) for name in ("_row", "photo_id", "sha256"))
        )

    def read_array(self, index: int) -> NDArray[np.uint8]:
        """A photo, upright, as an array of shape (height, width, 3) of RGB in 0..255.

        With simplejpeg installed (extra `fast`), JPEGs take half the time; the values are the same.
        Raises as `read_bytes` does.
        """
        return open_array(self._content(index))

    def _position(self, index: int) -> int:
        """Row of an index, which may count from the end."""
        if not -len(self) <= index < len(self):
            msg = f"index {index} is out of range for {len(self)} photos"
            raise IndexError(msg)
        return index % len(self)

    @cached_property
    def _columns(self) -> dict[str, pa.Array]:
        """The rows by column, which gives a value faster than a table does."""
        return {name: whole(self._rows[name]) for name in self._rows.column_names}

    def _value(self, name: str, row: int) -> Any:
        return self._columns[name][row].as_py()

    def __getitem__(self, index: int) -> tuple[Image.Image, int, dict[str, Any]]:
        """Image (upright, RGB), class index, and the row as a dictionary."""
        row = self._position(index)
        image = open_upright(self.read_bytes(row))
        record = {name: self._value(name, row) for name in SPLIT.schema.names}
        return image, record["class_index"], record

    def __iter__(self) -> Iterator[tuple[Image.Image, int, dict[str, Any]]]:
        return (self[index] for index in range(len(self)))

    def fetch(self, connections: int = CONNECTIONS) -> FetchReport:
        """Fetch the photos that the release only links to, as far as they are not here.

        Parameters
        ----------
        connections
            Photos that are fetched at once.

        Returns
        -------
        FetchReport
            Which could not be had, and why; `split.exclude(report.gone["photo_id"].to_pylist())` is
            the split without them.

        Raises
        ------
        CapError
            If the cache cannot be written.
        """
        linked = np.flatnonzero(self.linked).tolist()

        def outcome(row: int) -> dict[str, Any] | None:
            url = self._links[row].as_py()
            try:
                self._images.linked.read(url, self._value("sha256", row))
            except FetchError as error:
                told = {"error": str(error), "transient": error.transient}
                return {"photo_id": self._value("photo_id", row), "url": url, **told}
            return None

        with ThreadPoolExecutor(connections) as pool:
            gone = [told for told in pool.map(outcome, linked) if told is not None]
        return FetchReport(len(linked), from_rows(gone, GONE))

    def torch(
        self, transform: Callable[[Any], Any] | None = None, *, arrays: bool = False
    ) -> PhotoDataset:
        """A map-style dataset for `torch.utils.data.DataLoader` (needs torch).

        With several processes, give the loader a `DistributedSampler`, as for any dataset; `stream`
        divides the photos by itself.

        Parameters
        ----------
        transform
            From an image to what the model takes; without it, images stay as they are.
        arrays
            Whether images are arrays, as `read_array` gives them, instead of PIL images.

        Returns
        -------
        PhotoDataset
            Items are (transformed image, class index, photo_id).
        """
        from manifests.torch_data import PhotoDataset

        return PhotoDataset(self, transform, arrays=arrays)

    def stream(
        self,
        transform: Callable[[Any], Any] | None = None,
        *,
        arrays: bool = False,
        shuffle: bool = False,
        seed: int = 0,
    ) -> PhotoStream:
        """An iterable dataset that reads row group after row group (needs torch).

        Every process of `torch.distributed` and every worker of a `DataLoader` reads its own part,
        and each photo is read once by one of them. Make it after `init_process_group`.

        Parameters
        ----------
        transform, arrays
            As for `torch`.
        shuffle
            Whether row groups, and the photos of each two of them, come in random order;
            `set_epoch` draws another.
        seed
            Seed of that order, the same in every process.
        """
        from manifests.torch_data import PhotoStream

        return PhotoStream(self, transform, arrays=arrays, shuffle=shuffle, seed=seed)

    @property
    def file_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices in the order of the files, and the row group of each, of shape (photos,).

        Photos that are read in this order are read with every row group opened once.
        """
        rows = self._columns["_row"].to_numpy()
        order = np.argsort(rows)
        return order, self._images.groups_of(rows[order])

    def evaluate(
        self, predictions: pa.Table | pd.DataFrame | Mapping[str, int], *, seed: int = 0
    ) -> SplitAccuracy:
        """Accuracy of predictions: per group, the drop between groups, per class.

        Parameters
        ----------
        predictions
            A table with the columns `photo_id` and `predicted_index`, or a mapping from the one to
            the other, with one prediction for each photo of this split. Predictions are whole
            numbers; null and NaN are none.
        seed
            Seed of the bootstrap intervals, which resample observers within class and group
            (photos where the observer is unknown).

        Raises
        ------
        ReleaseError
            If a photo has no prediction or two, a prediction is no whole number or for no photo of
            this split, or a column `label_space` says that they are over another one.
        """
        if not len(self):
            msg = "the split has no photos to evaluate on"
            raise ReleaseError(msg)
        # The intervals hang on no other order of the photos.
        names = ["photo_id", "class_index", "class_name", "group", "creator_id"]
        rows = self._rows.select(names).sort_by("photo_id").combine_chunks()
        ids = rows["photo_id"].to_pylist()
        given = _whole_numbers(_as_mapping(predictions, str(self.release["label_space"])))
        _check_ids(ids, given)
        classes = rows["class_index"].to_numpy()
        predicted = np.array([given[photo_id] for photo_id in ids])
        return evaluate_groups(
            predicted == classes,
            classes.astype(np.int64),
            np.array(rows["group"].to_pylist(), dtype=np.str_),
            observer_codes(rows),
            dict(zip(classes.tolist(), rows["class_name"].to_pylist(), strict=True)),
            seed=seed,
        )


def _as_mapping(
    predictions: pa.Table | pd.DataFrame | Mapping[str, int], space: str
) -> Mapping[str, object]:
    if isinstance(predictions, Mapping):
        return predictions
    try:
        table = (
            predictions
            if isinstance(predictions, pa.Table)
            else pa.table(dict(predictions.items()))
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        msg = f"the predictions have a column of several kinds of values: {error}"
        raise ReleaseError(msg) from error
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


def _whole_numbers(given: Mapping[str, object]) -> dict[str, int]:
    """The predictions as integers, without those that are null or NaN."""
    numbers = {}
    for photo_id, value in given.items():
        if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
            continue
        number = _whole_number(value)
        if number is None:
            msg = (
                f"the prediction for photo {photo_id} is {value!r}, which is no whole number; "
                "predictions are class indices"
            )
            raise ReleaseError(msg)
        numbers[photo_id] = number
    return numbers


def _whole_number(value: object) -> int | None:
    """A number of Python, NumPy or torch as an integer; None where it is none."""
    if isinstance(value, float | np.floating):
        # pandas makes floats of integers where it joins tables.
        return int(value) if float(value).is_integer() else None
    if isinstance(value, bool | np.bool_) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _check_ids(ids: list[str], given: Mapping[str, int]) -> None:
    missing = [photo_id for photo_id in ids if photo_id not in given]
    if missing:
        msg = f"{len(missing)} photos have no prediction, such as {missing[0]}"
        raise ReleaseError(msg)
    extra = given.keys() - set(ids)
    if extra:
        msg = f"{len(extra)} predictions are for photos outside this split, such as {min(extra)}"
        raise ReleaseError(msg)


def _read_manifest(storage: Storage) -> dict[str, Any]:
    place = storage.place
    try:
        content = storage.read(MANIFEST)
    except ReleaseError as error:
        msg = f"{place} is no release: {MANIFEST} cannot be read ({error})"
        raise ReleaseError(msg) from error
    try:
        manifest: dict[str, Any] = json.loads(content)
    except ValueError as error:
        msg = f"{MANIFEST} of {place} is not valid JSON; fetch the release again"
        raise ReleaseError(msg) from error
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        msg = f"{place} is no release: its {MANIFEST} has no schema version"
        raise ReleaseError(msg)
    if manifest["schema_version"] != SCHEMA_VERSION:
        msg = (
            f"{place} has schema version {manifest['schema_version']}; this loader reads "
            f"{SCHEMA_VERSION}: install the matching counteranimal-pipeline"
        )
        raise ReleaseError(msg)
    for key, kind in _NEEDED.items():
        if not isinstance(manifest.get(key), kind):
            msg = f"{MANIFEST} of {place} lacks {key!r}; fetch the release again"
            raise ReleaseError(msg)
    return manifest


def _files(storage: Storage, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the release's Parquet files, which all lie within it."""
    names = []
    for shard in manifest["shards"]:
        name = shard.get("file") if isinstance(shard, dict) else None
        if not isinstance(name, str):
            msg = f"{MANIFEST} of {storage.place} does not name its files; fetch the release again"
            raise ReleaseError(msg)
        names.append(storage.check(name, MANIFEST))
    if not names:
        msg = f"the release {storage.place} has no photos"
        raise ReleaseError(msg)
    return tuple(names)


def _read_shard(storage: Storage, name: str) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows of a file without their images, and the number of rows of its row groups."""
    file = storage.parquet(name)
    with storage.explained(name):
        groups = range(file.metadata.num_row_groups)
        counts = [file.metadata.row_group(group).num_rows for group in groups]
        rows = file.read(columns=SPLIT.schema.names)
    for wanted in SPLIT.schema:
        if wanted.name not in rows.column_names or rows[wanted.name].type != wanted.type:
            msg = f"{name} has no column {wanted.name!r} of type {wanted.type}"
            raise ReleaseError(msg)
    return rows.replace_schema_metadata(None), np.array(counts, np.int64)


def _allowed(storage: Storage, servers: Sequence[str]) -> frozenset[str]:
    """Private addresses that a person named: the release's own server, and `servers`."""
    own = [storage.place] if storage.place.startswith(("http://", "https://")) else []
    return frozenset().union(*(local_addresses(url) for url in (*own, *servers)))


def load_split(
    path: str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    servers: Sequence[str] = (),
) -> Split:
    """Load a release.

    Parameters
    ----------
    path
        The release's folder, or a URL that fsspec reads (extra `remote`): `https://…`, `s3://…`,
        `simplecache::https://…`.
    storage_options
        What fsspec opens the URL with, such as credentials.
    cache
        Folder for photos that the release only links to; without it, the user's cache.
    servers
        Addresses of servers on a private network, such as `http://photos.lab`, that linked photos
        may be fetched from; others on private networks are refused.

    Raises
    ------
    ReleaseError
        If it is no release, a file is missing, changed or cut short, or it was made for another
        schema.
    """
    storage = Storage(str(path), storage_options or {})
    manifest = _read_manifest(storage)
    files = _files(storage, manifest)
    shards = [_read_shard(storage, name) for name in files]
    rows = pa.concat_tables([table for table, _ in shards])
    if rows.num_rows != manifest["photos"]:
        msg = f"the release has {rows.num_rows} photos, {MANIFEST} says {manifest['photos']}"
        raise ReleaseError(msg)
    # `pa.array` would import pandas, which takes longer than all the rest.
    numbers = pa.py_buffer(np.arange(rows.num_rows, dtype=np.int64))
    number = pa.Array.from_buffers(pa.int64(), rows.num_rows, [None, numbers])
    numbered = rows.append_column("_row", number)
    ordered = numbered.sort_by("photo_id").combine_chunks()
    if table_digest(ordered.drop_columns(["_row"])) != manifest["rows_sha256"]:
        msg = f"the rows of {path} have changed since the release; fetch the release again"
        raise ReleaseError(msg)
    linked = LinkedPhotos(None if cache is None else Path(cache), _allowed(storage, servers))
    images = Images(storage, files, [counts for _, counts in shards], linked)
    return Split(ordered, images, storage, manifest)
