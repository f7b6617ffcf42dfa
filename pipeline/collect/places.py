"""A place with the Open Data tables: a folder, a URL, or a bucket, read in one way wherever it is.

`Place` is a file system for fsspec with nothing in it but the tables. DuckDB reads it as
`tables://photos.csv.gz`, so it needs no extension of its own for HTTP or S3; a block that does not
come is asked for again, so that one lost connection does not end an hour of reading.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from manifests.errors import CapError

__all__ = ["Place"]

_SUFFIXES = (".csv.gz", ".csv")

_BLOCK = 8 * 2**20
"""Bytes asked for at a time: enough that the wait for an answer is small beside the transfer."""

_WAITS = (1.0, 4.0, 16.0)
"""Seconds before a block is asked for again."""

_VERSION = ("size", "mtime", "ETag", "Last-Modified", "LastModified")
"""What local files, web servers and buckets tell of a file that changes when its bytes do."""


def _failures(source: AbstractFileSystem) -> tuple[type[Exception], ...]:
    """What is raised where a file, or a part of it, does not come."""
    if "s3" not in source.protocol:
        return (OSError, ValueError, aiohttp.ClientError)
    from botocore.exceptions import BotoCoreError

    return (OSError, ValueError, aiohttp.ClientError, BotoCoreError)


class Place(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The tables that lie at one address.

    Parameters
    ----------
    address
        A folder or a URL that fsspec knows (`https://…`; `s3://…` with the extra `s3`).
    tables
        Names of the tables, each there as `<name>.csv.gz` or `<name>.csv`.

    Attributes
    ----------
    files
        File name of each table.
    on_bytes
        Called with the number of bytes just read.
    failures
        What is raised where a part of a file does not come.
    failure
        Why a table stopped coming; whoever reads through DuckDB gets no better than its traceback.

    Raises
    ------
    CapError
        If the address cannot be read, or lacks a table.
    """

    protocol = "tables"
    cachable = False

    def __init__(self, address: str, tables: Sequence[str]) -> None:
        super().__init__()
        self.address = address.rstrip("/") or address
        self.on_bytes: Callable[[int], None] = lambda count: None
        self.failure: CapError | KeyboardInterrupt | None = None
        try:
            self._source, self._root = fsspec.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            cause = str(error)
            if isinstance(error, ImportError) and self.address.startswith("s3:"):
                cause = "run `pip install 'counteranimal-pipeline[s3]'`"
            msg = f"cannot read {address}: {cause}, or put the tables into a folder and name that"
            raise CapError(msg) from error
        self.failures = _failures(self._source)
        self._infos: dict[str, dict[str, Any]] = {}
        self.files = {table: self._find(table) for table in tables}

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _find(self, table: str) -> str:
        cause = ""
        for suffix in _SUFFIXES:
            name = table + suffix
            try:
                info = self._info(name)
            except FileNotFoundError as error:
                # fsspec says so of a server that does not answer, too; the cause tells.
                cause = cause or (f" ({error.__cause__})" if error.__cause__ else "")
            except self.failures as error:
                cause = cause or f" ({getattr(error, 'strerror', None) or error})"
            else:
                if info.get("size") is None:
                    msg = f"{self.address} does not say how large {name} is; download it first"
                    raise CapError(msg)
                self._infos[name] = info
                return name
        msg = (
            f"there is no {table}.csv.gz at {self.address}{cause}; "
            "name the folder or URL with the Open Data tables with --tables"
        )
        raise CapError(msg)

    def _info(self, name: str) -> dict[str, Any]:
        """What the source tells of a file; a bucket is asked unsigned where there are no keys."""
        try:
            return dict(self._source.info(self._path(name)))
        except self.failures as error:
            if type(error).__name__ != "NoCredentialsError":
                raise
        self._source, self._root = fsspec.url_to_fs(self.address, anon=True)
        return dict(self._source.info(self._path(name)))

    @property
    def digest(self) -> str:
        """sha256 that changes when a table does, as far as size, time and ETag tell."""
        known = [
            (name, [str(info.get(key)) for key in _VERSION])
            for name, info in sorted(self._infos.items())
        ]
        return hashlib.sha256(repr(known).encode()).hexdigest()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What fsspec and DuckDB ask of a file."""
        name = self._strip_protocol(path)
        if name not in self._infos:
            raise FileNotFoundError(path)
        return {"name": name, "size": self._infos[name]["size"], "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> _TableFile:
        inner = self._source.open(self._path(path), "rb", block_size=_BLOCK, cache_type="none")
        return _TableFile(self, path, inner, mode=mode, block_size=_BLOCK)


class _TableFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A table's bytes, asked for block by block, each again if it does not come."""

    def __init__(self, place: Place, path: str, inner: io.BufferedIOBase, **options: Any) -> None:
        self._inner = inner
        super().__init__(place, path, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            data = self._ask(start, end)
            self.fs.on_bytes(len(data))
        except (CapError, KeyboardInterrupt) as error:
            # DuckDB, which asks, may tell of it in words only.
            self.fs.failure = error
            raise
        return data

    def _ask(self, start: int, end: int) -> bytes:
        for wait in (*_WAITS, None):
            try:
                self._inner.seek(start)
                return self._inner.read(end - start)
            except ValueError as error:
                msg = (
                    f"the server of {self.fs.address} does not give parts of files; "
                    "download the tables into a folder and name that with --tables"
                )
                raise CapError(msg) from error
            except self.fs.failures as error:
                failure = error
            if wait is not None:
                time.sleep(wait)
        msg = f"{self.path} stopped coming from {self.fs.address}: {failure}; run it again later"
        raise CapError(msg) from failure

    def close(self) -> None:
        """Close both files."""
        super().close()
        self._inner.close()
