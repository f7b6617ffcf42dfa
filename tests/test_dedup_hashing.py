"""pHash: imagehash's definition, upright, from a reduced decode that hardly moves it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import imagehash
import numpy as np
import pytest
from conftest import save_photo
from PIL import Image

from manifests.errors import PhotoError
from manifests.photos import open_image
from pipeline.dedup.hashing import phash
from pipeline.dedup.search import near_pairs

if TYPE_CHECKING:
    from pathlib import Path

# For each EXIF orientation, how upright pixels are stored.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def full_hash(source: Path) -> int:
    return int(str(imagehash.phash(open_image(source))), 16)


def encoded(image: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def test_reduced_decode_moves_the_hash_of_no_shared_photo_by_more_than_four_bits(shared):
    moved = []
    for path in sorted([*shared.glob("photos/*/*.jpg"), *shared.glob("edge/*.*")]):
        try:
            exact = full_hash(path)
        except PhotoError:
            continue
        moved.append((phash(path) ^ exact).bit_count())
    assert len(moved) > 800
    assert max(moved) <= 4
    assert np.mean(moved) <= 0.8


def test_listed_near_copies_among_the_shared_photos_are_found(shared):
    with (shared / "duplicates.tsv").open(newline="") as handle:
        rows = [
            row for row in csv.DictReader(handle, delimiter="\t") if row["kind"] != "crop_by_eye"
        ]
    listed = [row for row in rows if int(row["phash_dist"]) <= 2]
    names = sorted({row[column] for row in listed for column in ("file_a", "file_b")})
    hashes = np.array([phash(shared / "photos" / name) for name in names], dtype=np.uint64)
    pairs = {
        frozenset((names[i], names[j]))
        for found in near_pairs(hashes, 6)
        for i, j in zip(found.first, found.second, strict=True)
    }
    assert len(listed) >= 10
    assert {frozenset((row["file_a"], row["file_b"])) for row in listed} <= pairs


def test_formats_without_reduced_decode_hash_exactly_as_imagehash(shared):
    paths = [*shared.glob("edge/*.png"), *shared.glob("edge/*.webp")]
    assert len(paths) >= 2
    assert [phash(path) for path in paths] == [full_hash(path) for path in paths]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("kind", "moved"), [("PNG", 0), ("JPEG", 4)])
def test_a_photo_stored_turned_hashes_as_the_upright_one(tmp_path, orientation, kind, moved):
    with Image.open(save_photo(tmp_path / "upright.png", seed=3, size=(480, 360))) as upright:
        transpose = STORED[orientation]
        stored = upright if transpose is None else upright.transpose(transpose)
        turned = phash(encoded(stored, kind, orientation))
        assert (turned ^ phash(encoded(upright, "PNG", 1))).bit_count() <= moved


def test_a_file_and_its_bytes_have_the_same_hash(tmp_path):
    path = save_photo(tmp_path / "photo.jpg", seed=1)
    assert phash(path) == phash(path.read_bytes())


@pytest.mark.parametrize("name", ["truncated_tiger5.jpg", "lfs_pointer_flamingo.jpg"])
def test_broken_files_raise_a_photo_error(shared, name):
    with pytest.raises(PhotoError):
        phash(shared / "edge" / name)


def test_an_empty_file_raises_a_photo_error():
    with pytest.raises(PhotoError, match="empty"):
        phash(b"")
