"""Where a release lies: a folder of this machine, or any URL that fsspec reads.

Files are named relative to the release and proven to lie inside it. What goes wrong while one is
read is a `ReleaseError` that names it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import MissingExtraError, ReleaseError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["Storage"]


def _read_errors() -> tuple[type[Exception], ...]:
    """What reading may raise: the network clients below fsspec have errors that are no OSError."""
    found: list[type[Exception]] = [OSError]
    for module, name in (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def _reason(error: Exception) -> str:
    """The first line of what an error says; some say nothing beside their name."""
    told = getattr(error, "strerror", None) or str(error)
    return told.partition("\n")[0] or type(error).__name__


@dataclass(frozen=True)
class Storage:
    """A release's place; it can be pickled, and used after a fork.

    Attributes
    ----------
    place
        The folder or URL, as it was given.
    options
        What fsspec's file system is opened with: credentials, caching, and so on.
    """

    place: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL."""
        return "://" in self.place

    def __reduce__(self) -> tuple[Any, ...]:
        # A connection stays where it is; a worker process makes its own.
        return (Storage, (self.place, self.options))

    @cached_property
    def _connected(self) -> dict[int, tuple[AbstractFileSystem, str]]:
        """What `_remote` is in each process: connections do not outlive a fork."""
        return {}

    @property
    def _remote(self) -> tuple[AbstractFileSystem, str]:
        """The file system of fsspec and the release's path on it, of this process."""
        process = os.getpid()
        if process not in self._connected:
            self._connected[process] = self._connect()
        return self._connected[process]

    def _connect(self) -> tuple[AbstractFileSystem, str]:
        try:
            import fsspec
        except ImportError as error:
            msg = (
                "a release at a URL needs fsspec; install it with "
                "`pip install 'counteranimal-pipeline[remote]'`"
            )
            raise MissingExtraError(msg) from error
        try:
            system, path = fsspec.core.url_to_fs(self.place, **self.options)
        except (ImportError, ValueError) as error:
            msg = f"{self.place} cannot be opened: {error}"
            raise ReleaseError(msg) from error
        return system, str(path).rstrip("/")

    def check(self, name: str, told_by: str) -> str:
        """The name of a file, if it lies below the release whatever a manifest says.

        Raises
        ------
        ReleaseError
            If it leads out of the release.
        """
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts
        if self.is_remote:
            # A URL may say `..` in other ways, and ends where its query begins.
            outside = outside or any(mark in name for mark in "%?#")
        elif not outside:
            root = Path(self.place).resolve()
            outside = not (root / path).resolve().is_relative_to(root)
        if outside:
            msg = f"{told_by} names {name!r}, which lies outside the release"
            raise ReleaseError(msg)
        return name

    @contextlib.contextmanager
    def explained(self, name: str) -> Iterator[None]:
        """Turn what goes wrong with a file of the release into a `ReleaseError`."""
        try:
            yield
        except FileNotFoundError as error:
            msg = f"the release lacks {name}; fetch it again"
            raise ReleaseError(msg) from error
        except pa.ArrowInvalid as error:
            msg = f"{name} is not a whole Parquet file; fetch the release again"
            raise ReleaseError(msg) from error
        except ValueError as error:
            # fsspec has found while reading what `open` could not know.
            if "range requests" not in str(error):
                raise
            raise self._whole_files_only() from error
        except _read_errors() as error:
            msg = f"{name} of the release {self.place} cannot be read: {_reason(error)}"
            raise ReleaseError(msg) from error

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        with self.explained(name):
            if self.is_remote:
                system, root = self._remote
                return bool(system.exists(f"{root}/{name}"))
            return (Path(self.place) / name).is_file()

    def read(self, name: str) -> bytes:
        """Content of a small file.

        Raises
        ------
        ReleaseError
            If it cannot be read.
        """
        with self.explained(name):
            if self.is_remote:
                system, root = self._remote
                return bytes(system.cat_file(f"{root}/{name}"))
            return (Path(self.place) / name).read_bytes()

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file, of which only what is asked for is read; closed when nobody holds it.

        Raises
        ------
        ReleaseError
            If it cannot be opened, or the server gives whole files only.
        """
        with self.explained(name):
            if not self.is_remote:
                return pq.ParquetFile(Path(self.place) / name)
            system, root = self._remote
            source: BinaryIO = system.open(f"{root}/{name}", "rb")
            try:
                self._check_that_it_seeks(source)
                file = pq.ParquetFile(source, pre_buffer=True)
            except BaseException:
                source.close()
                raise
            # pyarrow leaves open what it was given open.
            weakref.finalize(file, source.close)
            return file

    def _check_that_it_seeks(self, source: BinaryIO) -> None:
        try:
            # A stream of fsspec says that it can seek, and then cannot.
            source.seek(0, os.SEEK_END)
            source.seek(0)
        except (OSError, ValueError) as error:
            raise self._whole_files_only() from error

    def _whole_files_only(self) -> ReleaseError:
        return ReleaseError(
            f"the server of {self.place} gives no parts of files (HTTP range requests); copy "
            f"the release to a folder, or load simplecache::{self.place}"
        )
