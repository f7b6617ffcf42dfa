"""Dedup after photos came or went: the table of a dedup from scratch, and nothing hashed twice."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import save_photo

from manifests.errors import CapError
from manifests.kept import check_compared, kept_photos
from manifests.progress import Progress
from manifests.schema import PHOTOS
from manifests.tables import write_table
from manifests.workspace import Run, Workspace
from pipeline.collect import collect
from pipeline.dedup import dedup, hashing, known
from pipeline.parameters import CollectParameters, DedupParameters


class Hashed:
    """Counts the photos that are hashed; may stop at one."""

    def __init__(self) -> None:
        self.count = 0
        self.stop_at: int | None = None
        self._phash = hashing.phash

    def __call__(self, source: bytes | Path) -> int:
        if self.count == self.stop_at:
            self.stop_at = None
            raise KeyboardInterrupt
        self.count += 1
        return self._phash(source)

    def since(self) -> int:
        """How many since this was last asked."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
def hashed(monkeypatch) -> Hashed:
    counter = Hashed()
    monkeypatch.setattr(hashing, "phash", counter)
    return counter


def run(workspace: Workspace, root: Path, **parameters) -> str:
    """Collect a folder and dedup it; gives the digest of the table."""
    collect(workspace, CollectParameters(root=str(root), workers=1), Progress())
    dedup(workspace, DedupParameters(workers=1, **parameters), Progress())
    return workspace.digest("duplicates")


def from_scratch(root: Path, folder: Path, **parameters) -> str:
    """The digest of the table that a workspace without a past makes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "cap.toml").write_text("")
    return run(Workspace(folder), root, **parameters)


def near_copy(photo: Path, target: Path) -> None:
    """The same picture, smaller and packed anew."""
    from PIL import Image

    with Image.open(photo) as image:
        image.resize((240, 180)).save(target, quality=70)


def test_photos_that_came_went_and_changed_give_the_table_of_a_dedup_from_scratch(
    workspace, animals, tmp_path, hashed
):
    scratch = tmp_path / "scratch"
    shutil.copy(animals / "ice bear" / "3.jpg", animals / "otter" / "a bear.jpg")
    assert run(workspace, animals) == from_scratch(animals, scratch)
    # Copies are hashed once.
    assert hashed.since() == 2 * 12
    near_copy(animals / "lion" / "0.jpg", animals / "lion" / "again.jpg")
    shutil.copy(animals / "lion" / "1.jpg", animals / "otter" / "copy.jpg")
    save_photo(animals / "lion" / "new.jpg", seed=77)
    after = run(workspace, animals)
    # The copy's bytes are known.
    assert hashed.since() == 2
    assert after == from_scratch(animals, scratch)
    relations = workspace.read("duplicates")["relation"].to_pylist()
    assert {"near", "exact", "keeper"} <= set(relations)
    hashed.since()
    # What linked the near copy goes, and another photo takes a name that was there.
    (animals / "lion" / "0.jpg").unlink()
    save_photo(animals / "otter" / "2.jpg", seed=78)
    after = run(workspace, animals)
    assert hashed.since() == 1
    assert after == from_scratch(animals, scratch)


def test_a_photo_that_comes_back_and_another_distance_or_reference_hash_nothing(
    workspace, animals, tmp_path, hashed
):
    whole = run(workspace, animals)
    away = animals.parent / "away.jpg"
    (animals / "lion" / "0.jpg").rename(away)
    run(workspace, animals)
    away.rename(animals / "lion" / "0.jpg")
    assert run(workspace, animals) == whole
    wide = run(workspace, animals, distance=30)
    reference = tmp_path / "table.parquet"
    shutil.copy(workspace.table_path("duplicates"), reference)
    against = run(workspace, animals, against=str(reference))
    assert hashed.since() == 12
    assert wide == from_scratch(animals, tmp_path / "scratch", distance=30)
    assert against == from_scratch(animals, tmp_path / "scratch", against=str(reference))
    assert len({whole, wide, against}) == 3


def test_a_photo_with_other_bytes_under_its_name_counts_as_not_compared(workspace, animals):
    shutil.copy(animals / "lion" / "0.jpg", animals / "lion" / "copy.jpg")
    run(workspace, animals)
    assert kept_photos(workspace)[0].num_rows == 12
    duplicates = workspace.read("duplicates")
    shutil.copy(animals / "lion" / "1.jpg", animals / "lion" / "3.jpg")
    rows = {row["photo_id"]: row for row in duplicates.to_pylist()}
    keeper = rows["folder:lion/copy.jpg"]["keeper"].removeprefix("folder:")
    save_photo(animals / keeper, 77)
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    # Another file, the keeper, and the one that repeats what the keeper was.
    with pytest.raises(CapError, match=r"^3 of 13 photos .* run `cap dedup` first"):
        kept_photos(workspace)
    stored = workspace.read("photos")
    for name, ill in (("lion/copy.jpg", True), ("lion/3.jpg", True), ("lion/2.jpg", False)):
        one = stored.filter(pc.equal(stored["photo_id"], f"folder:{name}"))
        with pytest.raises(CapError, match=r"^1 of 1 photos") if ill else nullcontext():
            check_compared(one, stored, duplicates)
    run(workspace, animals)
    assert kept_photos(workspace)[0].num_rows == 12


def test_licences_that_changed_need_no_other_dedup(workspace, animals):
    run(workspace, animals)
    lines = "file_name,license\nlion/0.jpg,cc-by\n"
    (animals / "metadata.csv").write_text(lines)
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    assert kept_photos(workspace)[0].num_rows == 12


def test_files_of_a_reference_folder_are_hashed_once(workspace, animals, tmp_path, hashed):
    reference = tmp_path / "reference"
    shutil.copytree(animals / "lion", reference)
    save_photo(reference / "other.jpg", seed=66)
    (reference / "notes.txt").write_text("no photo")
    first = run(workspace, animals, against=str(reference))
    # The folder is read first, and its lions are the workspace's.
    assert hashed.since() == 6 + 8
    save_photo(reference / "more.jpg", seed=67)
    run(workspace, animals, against=str(reference))
    # A file that is no photo is tried again.
    assert hashed.since() == 1 + 1
    (reference / "more.jpg").unlink()
    assert run(workspace, animals, against=str(reference)) == first
    assert first == from_scratch(animals, tmp_path / "scratch", against=str(reference))


def test_a_run_that_was_stopped_hashes_only_what_it_had_not_saved(
    workspace, animals, tmp_path, hashed, monkeypatch
):
    for number in range(70):
        save_photo(animals / "lion" / f"more-{number}.jpg", seed=100 + number, size=(60, 40))
    hashed.stop_at = 50
    with pytest.raises(KeyboardInterrupt):
        run(workspace, animals)
    # The first batch of 32 is saved; 18 photos of the second were hashed in vain.
    assert hashed.since() == 50
    commit = Run.commit
    monkeypatch.setattr(Run, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dedup(workspace, DedupParameters(workers=1), Progress())
    assert hashed.since() == 82 - 32
    monkeypatch.setattr(Run, "commit", commit)
    # More photos come before the table was ever committed.
    save_photo(animals / "otter" / "late.jpg", seed=99)
    after = run(workspace, animals)
    assert hashed.since() == 1
    assert after == from_scratch(animals, tmp_path / "scratch")


def test_hashes_of_another_method_are_not_used(workspace, animals, hashed, monkeypatch):
    run(workspace, animals)
    monkeypatch.setattr(known, "method", lambda: {**hashing.method(), "pillow": "0.1"})
    save_photo(animals / "lion" / "new.jpg", seed=77)
    run(workspace, animals)
    assert hashed.since() == 12 + 13


@pytest.mark.parametrize("damage", ["removed", "cut", "foreign"])
def test_what_is_known_can_be_lost_and_is_made_again(workspace, animals, tmp_path, hashed, damage):
    run(workspace, animals)
    files = sorted((workspace.cache / "dedup").iterdir())
    assert [file.name for file in files] == ["hashes.parquet", "linked.parquet"]
    for file in files:
        if damage == "removed":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(file.read_bytes()[:100])
        else:
            shutil.copy(workspace.table_path("photos"), file)
    save_photo(animals / "lion" / "new.jpg", seed=77)
    after = run(workspace, animals)
    assert hashed.since() == 12 + 13
    assert after == from_scratch(animals, tmp_path / "scratch")


def test_photos_of_unknown_content_fail_one_by_one(workspace, animals):
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    photos = workspace.read("photos")
    contents = photos["sha256"].to_pylist()
    contents[2] = contents[5] = None
    place = photos.column_names.index("sha256")
    edited = photos.set_column(place, "sha256", pa.array(contents, pa.string()))
    write_table(workspace.table_path("photos"), edited, PHOTOS)
    dedup(workspace, DedupParameters(workers=1), Progress())
    rows = workspace.read("duplicates")
    assert rows["photo_id"].equals(photos["photo_id"])
    failed = [number for number, status in enumerate(rows["status"].to_pylist()) if status != "ok"]
    assert failed == [2, 5]
