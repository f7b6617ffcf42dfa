"""The image column of a release: a photo's bytes by the number of its row.

One row group is read at a time, and the last few are kept. A photo is compared with its sha256 the
first time that it is read; photos that the release only links to come from `LinkedPhotos`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import FetchError, ReleaseError
from manifests.linked import LinkedPhotos
from manifests.storage import Storage

__all__ = ["Images"]

_GROUPS_IN_MEMORY = 2
_FILES_OPEN = 4


class Images:
    """Random access to the image column, by row of the release's files in order.

    It can be pickled, and used after a fork.

    Parameters
    ----------
    storage
        Where the release lies.
    files
        Names of its Parquet files, in order; at least one.
    group_rows
        For each file the number of rows of its row groups, each of shape (row groups,).
    linked
        Where photos come from that the release only links to.
    """

    def __init__(
        self,
        storage: Storage,
        files: Sequence[str],
        group_rows: Sequence[NDArray[np.int64]],
        linked: LinkedPhotos,
    ) -> None:
        self._arguments = (storage, files, group_rows, linked)
        self._storage = storage
        self._files = files
        self.linked = linked
        self._first_rows = np.concatenate([[0], np.cumsum(np.concatenate(group_rows))])
        self._file_of = np.repeat(np.arange(len(files)), [len(rows) for rows in group_rows])
        self._within = np.concatenate([np.arange(len(rows)) for rows in group_rows])
        self._checked = np.zeros(int(self._first_rows[-1]), np.bool_)
        self._lock = threading.RLock()
        self._open = lru_cache(_FILES_OPEN)(self._open_file)
        self._group = lru_cache(_GROUPS_IN_MEMORY)(self._read_group)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the files by itself; what has been read stays where it is.
        return (Images, self._arguments)

    def groups_of(self, rows: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Number of the row group, over all files, that holds each row; of the shape of `rows`."""
        return np.asarray(np.searchsorted(self._first_rows, rows, side="right") - 1)

    def _open_file(self, process: int, number: int) -> pq.ParquetFile:
        """A file, open in one process; a forked one opens its own."""
        del process
        return self._storage.parquet(self._files[number])

    def _read_group(self, number: int) -> tuple[pa.Array, pa.Array]:
        """Bytes and paths of the photos of a row group."""
        file = int(self._file_of[number])
        with self._storage.explained(self._files[file]):
            column = self._open(os.getpid(), file).read_row_group(
                int(self._within[number]), columns=["image"], use_threads=False
            )
        images = column.column("image").combine_chunks()
        return images.field("bytes"), images.field("path")

    def _at(self, row: int) -> tuple[pa.Scalar, pa.Scalar]:
        """Bytes and path of a photo."""
        number = int(self.groups_of(row))
        within = row - int(self._first_rows[number])
        with self._lock:
            contents, paths = self._group(number)
        return contents[within], paths[within]

    def read(self, row: int, photo_id: str, sha256: str) -> memoryview:
        """Original bytes of a photo, as they lie in memory.

        Parameters
        ----------
        row
            Its row in the release's files.
        photo_id, sha256
            What its row says of it.

        Raises
        ------
        ReleaseError
            If they are not those that were released, or a linked photo could not be had.
        """
        content, path = self._at(row)
        if not content.is_valid:
            return memoryview(self._read_linked(str(path), photo_id, sha256))
        data = memoryview(content.as_buffer()).cast("B")
        if not self._checked[row]:
            if hashlib.sha256(data).hexdigest() != sha256:
                msg = f"photo {photo_id} has changed since the release; fetch the release again"
                raise ReleaseError(msg)
            self._checked[row] = True
        return data

    def _read_linked(self, url: str, photo_id: str, sha256: str) -> bytes:
        try:
            return self.linked.read(url, sha256)
        except FetchError as error:
            msg = (
                f"photo {photo_id}, which the release links to, could not be had from {url}: "
                f"{error}; `split.fetch()` tells of all such photos"
            )
            raise ReleaseError(msg) from error

    def links(self) -> pa.Array:
        """For each row the address of a photo that the release links to, else null."""
        paths = []
        for number, name in enumerate(self._files):
            with self._storage.explained(name), self._lock:
                table = self._open(os.getpid(), number).read(
                    columns=["image.path"], use_threads=False
                )
            paths.append(table.column("image").combine_chunks().field("path"))
        every = pa.concat_arrays(paths)
        return pc.if_else(pc.match_substring(every, "://"), every, None)
