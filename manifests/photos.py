"""The photo store, and the one place where photos are decoded.

Photos are kept as their original bytes, in files named by their sha256. A photo is opened with a
limit on its pixels and turned upright by its EXIF orientation; what cannot be opened raises a
`PhotoError` whose message becomes the row's `error`.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from manifests.errors import CapError, PhotoError
from manifests.tables import write_bytes

__all__ = [
    "MAX_PIXELS",
    "PhotoFacts",
    "PhotoStore",
    "has_location",
    "inspect_photo",
    "open_array",
    "open_image",
    "open_upright",
    "printable",
    "stored_path",
]

MAX_PIXELS = 100_000_000
"""Photos with more pixels are refused before they are decoded."""

_FORMATS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}
_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
_JPEG_BEGINS = b"\xff\xd8"
_MARKER, _SCAN = 0xFF, 0xDA
"""In a JPEG: what a segment begins with, and the kind of the segment with pixels."""
_TURNING = (b"Exif\0\0", b"tiff:Orientation")
"""What a JPEG holds that may have to be turned: EXIF data, or the same in XMP."""
_COLORSPACES = {"YCbCr", "RGB", "Gray"}
_SIXTEEN_BITS = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
"""Modes of grey values up to 65535, which Pillow cuts off at 255 when it makes others of them."""
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)
"""What Pillow raises for files that are broken in one way or another."""
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class PhotoFacts:
    """What is known of a photo that decodes: upright size in pixels and format by content."""

    width: int
    height: int
    format: str


class _Quiet:
    """Leaves out warnings while any thread is inside, since their filters are the whole process's.

    Pillow warns below our own limit, and of EXIF blocks that do not matter here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        del raised
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


_QUIET = _Quiet()


def _bytes_of(source: bytes | Path) -> bytes:
    """A photo's bytes, read if need be."""
    try:
        return source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        msg = f"cannot be read: {error.strerror or error}"
        raise PhotoError(msg) from error


def _open(source: bytes | Path) -> Image.Image:
    """Open a photo without decoding it, or say why not."""
    data = _bytes_of(source)
    if not data:
        msg = "empty file (0 bytes)"
        raise PhotoError(msg)
    if data.startswith(_LFS_POINTER):
        msg = "a Git LFS pointer: not the photo; run `git lfs pull` where it came from"
        raise PhotoError(msg)
    try:
        with _QUIET:
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        msg = "not an image: the content is no JPEG, PNG or WebP"
        raise PhotoError(msg) from error
    except Image.DecompressionBombError as error:
        msg = f"too large: more than {MAX_PIXELS // 1_000_000} megapixels"
        raise PhotoError(msg) from error
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        msg = f"cannot be decoded: {error}"
        raise PhotoError(msg) from error
    if image.format not in _FORMATS:
        msg = f"format {image.format} is not accepted; use JPEG, PNG or WebP"
        raise PhotoError(msg)
    if image.width * image.height > MAX_PIXELS:
        megapixels = image.width * image.height // 1_000_000
        msg = f"too large: {megapixels} megapixels, the limit is {MAX_PIXELS // 1_000_000}"
        raise PhotoError(msg)
    return image


def _is_turned(image: Image.Image) -> bool:
    """Whether Pillow turns the photo or mirrors it, by its EXIF data or by XMP."""
    return _orientation(image) in range(2, 9)


def _orientation(image: Image.Image) -> object:
    """EXIF's orientation, or 1 where nothing can be read of it."""
    try:
        with _QUIET:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """A photo with 16 bits of grey as one with 8: the upper ones, as Pillow takes those of RGB."""
    if image.mode not in _SIXTEEN_BITS:
        return image
    return Image.fromarray((np.array(image) >> 8).clip(0, 255).astype(np.uint8))


def _decode(
    image: Image.Image, draft: tuple[str, tuple[int, int]] | None, mode: str
) -> Image.Image:
    try:
        with _QUIET:
            if draft is not None:
                image.draft(*draft)
            image.load()
            # It copies what it does not turn, too.
            upright = ImageOps.exif_transpose(image) if _is_turned(image) else image
            return _eight_bits(upright).convert(mode)
    except _BROKEN as error:
        msg = f"cannot be decoded: {error}"
        raise PhotoError(msg) from error


def open_image(
    source: bytes | Path, *, draft: tuple[str, tuple[int, int]] | None = None
) -> Image.Image:
    """Decode a photo, upright.

    Parameters
    ----------
    source
        The file or its bytes.
    draft
        Mode (`RGB` or `L`) and smallest size, (width, height), that a JPEG may be decoded at; it
        is then decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that is no smaller. Other formats
        are decoded in full.

    Returns
    -------
    Image
        Mode `RGB`, or `L` where `draft` asks for it.

    Raises
    ------
    PhotoError
        If the file is unreadable, empty, cut short, no JPEG, PNG or WebP, or over `MAX_PIXELS`.
    """
    return _decode(_open(source), draft, "L" if draft is not None and draft[0] == "L" else "RGB")


def _head(data: memoryview) -> bytes:
    """What stands in a JPEG before its pixels: its segments, up to the first scan."""
    at, end = 2, len(data) - 4
    while at < end and data[at] == _MARKER and data[at + 1] != _SCAN:
        # A marker may be filled with further such bytes; else its length follows it.
        filled = data[at + 1] == _MARKER
        at += 1 if filled else 2 + int.from_bytes(data[at + 2 : at + 4])
    whole = at >= end or data[at] != _MARKER
    return bytes(data if whole else data[:at])


def _fast_array(
    data: bytes | memoryview, colors: str = "RGB", smallest: int = 0
) -> NDArray[np.uint8] | None:
    """An upright JPEG by libjpeg-turbo, which Pillow uses too; None where Pillow is to do it."""
    view = memoryview(data)
    if bytes(view[:2]) != _JPEG_BEGINS:
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        head = _head(view)
        if any(mark in head for mark in _TURNING) and _is_turned(_open(bytes(data))):
            return None
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in _COLORSPACES or height * width > MAX_PIXELS:
            return None
        # Of 0, the photo's own size.
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace=colors, min_height=smallest, min_width=smallest
        )
    except _BROKEN:
        # Pillow says what is wrong with it, or reads it all the same.
        return None
    return decoded


def open_array(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode a photo, upright, as an array of shape (height, width, 3) of RGB in 0..255.

    The values are those of `open_image`; with simplejpeg installed, JPEGs take half the time.

    Raises
    ------
    PhotoError
        As `open_image`.
    """
    found = _fast_array(data)
    return np.array(open_image(bytes(data))) if found is None else found


def open_upright(source: bytes | Path, *, smallest: int | None = None) -> Image.Image:
    """`open_image` of a file or its bytes, at the speed of `open_array`.

    Parameters
    ----------
    source
        The file or its bytes.
    smallest
        Pixels that the shorter side may come down to: a JPEG is then decoded at the smallest scale
        that libjpeg-turbo has and that leaves so many, which takes a fraction of the time. None
        decodes in full, and so do other formats.

    Raises
    ------
    PhotoError
        As `open_image`.
    """
    data = _bytes_of(source)
    found = _fast_array(data, "RGBX", smallest or 0)
    if found is not None:
        # Pillow keeps four bytes for a pixel of RGB, and takes these as they lie.
        height, width, bytes_each = found.shape
        # From its buffer, since `pa.array` would import pandas.
        values = pa.Array.from_buffers(pa.uint8(), found.size, [None, pa.py_buffer(found)])
        pixels = pa.FixedSizeListArray.from_arrays(values, bytes_each)
        return Image.fromarrow(pixels, "RGB", (width, height))
    return open_image(data, draft=None if smallest is None else ("RGB", (smallest, smallest)))


def inspect_photo(data: bytes) -> PhotoFacts:
    """Size and format of a photo, after decoding all of it once.

    Raises
    ------
    PhotoError
        As `open_image`.
    """
    image = _open(data)
    size = image.size
    quarter_turned = _orientation(image) in range(5, 9)
    # An eighth of the resolution reads every byte of a JPEG and so finds one that is cut short.
    _decode(image, ("L", (1, 1)), "L")
    width, height = reversed(size) if quarter_turned else size
    return PhotoFacts(width, height, _FORMATS[str(image.format)])


def has_location(data: bytes) -> bool:
    """Whether a photo's EXIF data tell where it was taken."""
    try:
        with _QUIET:
            return bool(_open(data).getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except _BROKEN:
        return False


def printable(text: str) -> str:
    """A file name as text; bytes that are no UTF-8 are spelled out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stored_path(sha256: str, photo_format: str) -> str:
    """Path of a photo below the workspace: `photos/ab/abcdef….jpg`."""
    return f"photos/{sha256[:2]}/{sha256}{_SUFFIXES[photo_format]}"


class PhotoStore:
    """Original bytes by digest, below a workspace folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _folder(self) -> Path:
        """Where the photos are, links followed: once, for each step of a path costs a look."""
        return (self.root / "photos").resolve()

    def add(self, data: bytes, facts: PhotoFacts) -> tuple[str, str]:
        """Store a photo's bytes, once; gives their sha256 and the path below the workspace."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = stored_path(sha256, facts.format)
        target = self.root / path
        if not (target.is_file() and target.stat().st_size == len(data)):
            write_bytes(target, data)
        return sha256, path

    def adopt(self, file: Path, sha256: str, facts: PhotoFacts) -> str:
        """Store a photo that lies in a file of this workspace; gives the path below it.

        The file stays where it is, as a second name of the same bytes where the disk can do so.
        `sync` makes sure of the bytes, for many photos at once.
        """
        path = stored_path(sha256, facts.format)
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except FileExistsError:
            if target.stat().st_size != file.stat().st_size:
                write_bytes(target, file.read_bytes())
        except OSError:
            write_bytes(target, file.read_bytes())
        return path

    def has(self, path: str, size: int | None) -> bool:
        """Whether a photo is there, with as many bytes as it should have."""
        file = self.locate(path)
        return file.is_file() and file.stat().st_size == size

    def sync(self, paths: Iterable[str]) -> None:
        """Wait until adopted photos are on the disk.

        Raises
        ------
        CapError
            If the disk does not take them.
        """
        try:
            for path in paths:
                with self.locate(path).open("rb") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            msg = (
                f"could not write a photo: {error.strerror or error}; nothing done so far is lost: "
                "mend this and run the same command again"
            )
            raise CapError(msg) from error

    def locate(self, path: str) -> Path:
        """The file for a `path` of a table.

        Raises
        ------
        PhotoError
            If the path leads out of the store.
        """
        target = (self.root / path).resolve()
        if not target.is_relative_to(self._folder):
            msg = f"path {path!r} leads out of the photo store"
            raise PhotoError(msg)
        return target

    def read(self, path: str, sha256: str) -> bytes:
        """Bytes of a stored photo, verified.

        Raises
        ------
        PhotoError
            If the file is gone or its bytes have changed.
        CapError
            If the store cannot be read: no fault of the photo.
        """
        try:
            data = self.locate(path).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            if isinstance(error, FileNotFoundError) and self._folder.is_dir():
                msg = f"cannot be read from the store: {reason}"
                raise PhotoError(msg) from error
            msg = (
                f"the photos in {self.root / 'photos'} cannot be read ({reason}); once they can, "
                "the same command goes on from here"
            )
            raise CapError(msg) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            msg = "the stored bytes have changed since they were collected"
            raise PhotoError(msg)
        return data
