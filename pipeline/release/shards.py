"""The Parquet files of a release: `data/<group>-00000-of-000NN.parquet`.

Photos are not compressed a second time; row groups are small, because a reader loads a whole one
for a single photo. The same rows and photos give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import CapError, PhotoError
from manifests.photos import has_location
from manifests.schema import RELEASE, SPLIT
from pipeline.release.features import parquet_metadata

if TYPE_CHECKING:
    from manifests.photos import PhotoStore
    from manifests.progress import Progress

__all__ = ["ShardWriter"]

_SHARD_BYTES = 500 * 2**20
_GROUP_BYTES = 8 * 2**20
_GROUP_ROWS = 64
_LINK_BYTES = 512
"""What a photo that is only linked takes, about."""
_LINKS_PER_GROUP = 10_000


class ShardWriter:
    """Writes the rows of one group after the other.

    Parameters
    ----------
    store
        Where the photos lie.
    folder
        The release's folder, with an empty folder `data`.
    progress
        Told of each photo.

    Attributes
    ----------
    with_location
        Embedded photos that tell in their EXIF data where they were taken.
    """

    def __init__(self, store: PhotoStore, folder: Path, progress: Progress) -> None:
        self._store = store
        self._folder = folder
        self._progress = progress
        self.with_location = 0

    def write(self, rows: pa.Table, group: str) -> Iterator[dict[str, Any]]:
        """Write the files of a group; gives an entry of the release manifest for each.

        Raises
        ------
        CapError
            If a photo is not in the store as it was collected.
        """
        sizes = _sizes(rows)
        shards = _cut(sizes, _SHARD_BYTES, len(sizes))
        start = 0
        for number, count in enumerate(shards):
            name = f"data/{group}-{number:05d}-of-{len(shards):05d}.parquet"
            file = self._folder / name
            part = slice(start, start + count)
            self._write_shard(rows.slice(start, count), sizes[part], file)
            start += count
            with file.open("rb") as handle:
                sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
            yield {"file": name, "rows": count, "bytes": file.stat().st_size, "sha256": sha256}

    def _write_shard(self, rows: pa.Table, sizes: list[int], file: Path) -> None:
        schema = RELEASE.schema.with_metadata(parquet_metadata())
        plain = SPLIT.schema.names
        linked_only = not any(rows["embed"].to_pylist())
        most = _LINKS_PER_GROUP if linked_only else _GROUP_ROWS
        with (
            pq.ParquetWriter(
                file,
                schema,
                # Photos are compressed already.
                compression={
                    **dict.fromkeys(plain, "zstd"),
                    "image.bytes": "none",
                    "image.path": "zstd",
                },
                use_dictionary=plain,
                write_page_index=True,
            ) as writer,
            self._progress.task(f"release {file.stem}", rows.num_rows) as advance,
        ):
            start = 0
            for count in _cut(sizes, _GROUP_BYTES, most):
                block = rows.slice(start, count)
                start += count
                images = pa.array(
                    [self._image(row) for row in block.to_pylist()], schema.field("image").type
                )
                table = block.select(plain).append_column("image", images)
                writer.write_table(table.cast(schema), row_group_size=count)
                advance(count)

    def _image(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if not row["embed"]:
            return {"bytes": None, "path": row["url"]}
        try:
            data = self._store.read(row["path"], row["sha256"])
        except PhotoError as error:
            msg = f"photo {row['photo_id']}: {error}; run `cap collect` again, then the rest"
            raise CapError(msg) from error
        self.with_location += has_location(data)
        return {"bytes": data, "path": PurePosixPath(row["path"]).name}


def _sizes(rows: pa.Table) -> list[int]:
    """Bytes that each row takes, about."""
    return [
        size if embed else _LINK_BYTES
        for size, embed in zip(rows["bytes"].to_pylist(), rows["embed"].to_pylist(), strict=True)
    ]


def _cut(sizes: list[int], most_bytes: int, most_rows: int) -> list[int]:
    """Lengths of the parts that rows are cut into: none above a limit, unless a single row is."""
    parts: list[int] = []
    rows = total = 0
    for size in sizes:
        if rows and (total + size > most_bytes or rows == most_rows):
            parts.append(rows)
            rows = total = 0
        rows += 1
        total += size
    return [*parts, rows] if rows else parts
