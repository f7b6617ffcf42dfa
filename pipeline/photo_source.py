"""Where a stage's workers read photos: in the workspace, or in a copy of its photos at a URL.

A cluster whose nodes share no file system reads from a bucket that `photos/` was copied to. Each
photo from there is compared with its sha256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import CapError, PhotoError, ReleaseError
from manifests.storage import Storage

if TYPE_CHECKING:
    from manifests.photos import PhotoStore

__all__ = ["PhotoAt", "PhotoHere", "PhotoSource"]

_AT_ONCE = 16


@dataclass(frozen=True)
class PhotoAt:
    """A photo in a copy of the store; can be pickled."""

    storage: Storage
    path: str
    sha256: str

    def read(self) -> bytes:
        """Its bytes, verified.

        Raises
        ------
        PhotoError
            If the copy has other bytes.
        CapError
            If the copy lacks it, or cannot be reached: no fault of the photo.
        """
        try:
            data = self.storage.read(self.path)
        except ReleaseError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                msg = (
                    f"{self.path} is not among the photos at {self.storage.place}; copy what is "
                    "missing, and the same command goes on from here"
                )
                raise CapError(msg) from error
            msg = (
                f"the photos at {self.storage.place} cannot be read ({error.__cause__}); "
                "the same command goes on from here"
            )
            raise CapError(msg) from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            msg = f"has other bytes at {self.storage.place} than when it was collected"
            raise PhotoError(msg)
        return data


@dataclass(frozen=True)
class PhotoHere:
    """A photo in the store itself; can be pickled."""

    store: PhotoStore
    path: str
    sha256: str

    def read(self) -> bytes:
        """Its bytes, verified.

        Raises
        ------
        PhotoError
            If it is gone, or its bytes have changed.
        CapError
            If the store cannot be read: no fault of the photo.
        """
        return self.store.read(self.path, self.sha256)


@dataclass(frozen=True)
class PhotoSource:
    """The photos of a workspace, or a copy of them; can be pickled.

    Attributes
    ----------
    store
        The workspace's.
    url
        Folder or URL, of any kind that fsspec reads, that holds a copy of the workspace's
        `photos/`; None where the store itself is read. A folder is named from the root, since
        workers are elsewhere.
    """

    store: PhotoStore
    url: str | None = None

    @classmethod
    def of(cls, store: PhotoStore, place: str | None) -> PhotoSource:
        """The store, or the copy at a URL or in a folder, as a person names it."""
        if place is None or "://" in place:
            return cls(store, place)
        return cls(store, str(Path(place).resolve()))

    @property
    def folder(self) -> Path | None:
        """The folder that workers have to see; None where they read from elsewhere."""
        if self.url is None:
            return self.store.root / "photos"
        return None if "://" in self.url else Path(self.url)

    @property
    def threads(self) -> int:
        """How many photos a process should read at once."""
        return 1 if self.url is None else _AT_ONCE

    def locate(self, path: str, sha256: str) -> PhotoHere | PhotoAt:
        """Where a photo is, which is not looked at before it is read.

        Parameters
        ----------
        path
            As in a table: `photos/ab/abcdef….jpg`.
        sha256
            Of its bytes.
        """
        if self.url is None:
            return PhotoHere(self.store, path, sha256)
        return PhotoAt(Storage(self.url.removesuffix("/")), path.removeprefix("photos/"), sha256)

    def read(self, path: str, sha256: str) -> bytes:
        """Bytes of a photo, verified.

        Raises
        ------
        PhotoError
            If it is gone from the store, or its bytes have changed.
        CapError
            If the store or the copy cannot be read, or the copy lacks it.
        """
        return self.locate(path, sha256).read()
