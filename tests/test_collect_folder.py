"""Collecting from a folder: every file a row, every failure with a reason, nothing outside ROOT."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from conftest import commit_interrupted, save_photo

from manifests.errors import CapError, UnknownNameError
from manifests.photos import has_location, inspect_photo, open_image, open_upright
from manifests.progress import Progress
from manifests.schema import table_schema
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.dedup.hashing import phash
from pipeline.parameters import CollectParameters


class Notes(Progress):
    """Remembers what a person was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def collected(workspace: Workspace, root: Path, **options) -> dict[str, dict]:
    collect(workspace, CollectParameters(root=str(root), workers=1, **options), Progress())
    rows = workspace.read("photos").to_pylist()
    return {row["photo_id"].removeprefix("folder:"): row for row in rows}


def test_photos_are_stored_as_their_original_bytes_under_their_digest(workspace, animals):
    rows = collected(workspace, animals)
    assert len(rows) == 12
    for name, row in rows.items():
        data = (animals / name).read_bytes()
        assert row["status"] == "ok"
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (workspace.root / row["path"]).read_bytes() == data
        assert row["path"] == f"photos/{row['sha256'][:2]}/{row['sha256']}.jpg"
        assert (row["width"], row["height"], row["format"]) == (96, 72, "jpeg")
    assert rows["ice bear/0.jpg"]["class_name"] == "polar bear"
    assert rows["ice bear/0.jpg"]["class_index"] == 296


@pytest.mark.parametrize(
    ("folder", "index"),
    [
        ("polar bear", 296),
        ("polar_bear", 296),
        ("ICE-BEAR", 296),
        ("n02134084", 296),
        ("otter", 360),
    ],
)
def test_class_folders_may_carry_the_name_snake_case_synonym_or_wordnet_id(
    workspace, tmp_path, folder, index
):
    save_photo(tmp_path / "root" / folder / "1.jpg", 1)
    (row,) = collected(workspace, tmp_path / "root").values()
    assert row["class_index"] == index


def test_an_unknown_class_is_an_error_with_the_nearest_names(workspace, animals):
    (animals / "polr bear").mkdir()
    with pytest.raises(UnknownNameError, match=r"no class 'polr bear' .* nearest: polar bear"):
        collected(workspace, animals)
    assert not workspace.has("photos")


def test_only_the_classes_asked_for_are_collected(workspace, animals):
    (animals / "no such animal").mkdir()
    rows = collected(workspace, animals, classes=("lion", "polar bear"), per_class=2)
    assert sorted(rows) == ["ice bear/0.jpg", "ice bear/1.jpg", "lion/0.jpg", "lion/1.jpg"]
    with pytest.raises(CapError, match="no folder for the class 'tiger'"):
        collected(workspace, animals, classes=("tiger",))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, without the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def test_every_kind_of_bad_file_becomes_a_failed_row_with_its_reason(workspace, tmp_path):
    lions = tmp_path / "root" / "lion"
    good = save_photo(lions / "good.jpg", 1, size=(400, 300)).read_bytes()
    (lions / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (lions / "empty.jpg").write_bytes(b"")
    (lions / "text.jpg").write_text("<html>not found</html>")
    (lions / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (lions / "huge.png").write_bytes(png_header(20_000, 5_001))
    (lions / "bomb.png").write_bytes(png_header(60_000, 60_000))
    save_photo(lions / "drawing.gif", 2)
    save_photo(tmp_path / "elsewhere.jpg", 3)
    (lions / "outside.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (lions / "gone.jpg").symlink_to(lions / "nothing.jpg")
    (lions / "ring.jpg").symlink_to(lions / "ring.jpg")
    os.mkfifo(lions / "pipe.jpg")
    (lions / ".DS_Store").write_text("")
    rows = collected(workspace, tmp_path / "root")
    errors = {name.removeprefix("lion/"): row["error"] for name, row in rows.items()}
    expected = {
        "truncated.jpg": "cannot be decoded: image file is truncated",
        "empty.jpg": "empty file",
        "text.jpg": "not an image",
        "pointer.jpg": "Git LFS pointer",
        "huge.png": "too large: 100 megapixels",
        "bomb.png": "too large",
        "drawing.gif": "format GIF is not accepted",
        "outside.jpg": "leads out of the root folder",
        "gone.jpg": "cannot be read: No such file",
        "ring.jpg": "a link that leads to itself",
        "pipe.jpg": "no regular file",
    }
    assert errors.pop("good.jpg") is None
    assert errors.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in errors[name], name
        assert rows[f"lion/{name}"]["status"] == "failed"
        assert rows[f"lion/{name}"]["path"] is None
    stored = [path for path in (workspace.root / "photos").rglob("*") if path.is_file()]
    assert len(stored) == 1


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp"])
def test_a_photo_with_broken_exif_data_is_read_as_it_lies(workspace, tmp_path, name):
    file = save_photo(tmp_path / "root" / "lion" / name, 1, dpi=(72, 72), exif=b"Exif\0\0garbage!")
    (row,) = collected(workspace, tmp_path / "root").values()
    assert (row["status"], row["width"], row["height"]) == ("ok", 96, 72)
    assert not has_location(file.read_bytes())
    assert open_upright(file).size == open_image(file).size == (96, 72)
    assert phash(file) == phash(save_photo(tmp_path / name, 1))


@pytest.fixture
def nobody(tmp_path):
    """A context in which this process may read what others may read, and no more."""

    @contextmanager
    def become():
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o711)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    if os.geteuid():
        return nullcontext
    return become


def test_what_may_not_be_read_is_told_and_tried_again(workspace, animals, nobody):
    locked, shut = animals / "lion" / "0.jpg", animals / "ice bear" / "shut"
    save_photo(shut / "a.jpg", 1)
    locked.chmod(0)
    shut.chmod(0)
    for folder in (workspace.root, *(p for p in workspace.root.rglob("*") if p.is_dir())):
        folder.chmod(0o777)
    with nobody():
        rows = collected(workspace, animals)
    assert rows["lion/0.jpg"]["error"] == "cannot be read: Permission denied"
    assert rows["ice bear/shut"]["error"] == "a folder that cannot be listed: Permission denied"
    assert sum(row["status"] == "ok" for row in rows.values()) == 11
    shut.chmod(0o755)
    rows = collected(workspace, animals)
    assert rows["ice bear/shut/a.jpg"]["status"] == "ok"


def test_only_what_failed_for_a_reason_that_may_pass_is_read_again(
    workspace, animals, nobody, monkeypatch
):
    locked = animals / "lion" / "0.jpg"
    (animals / "lion" / "text.jpg").write_text("no photo")
    locked.chmod(0)
    for folder in (workspace.root, *(p for p in workspace.root.rglob("*") if p.is_dir())):
        folder.chmod(0o777)
    with nobody():
        collected(workspace, animals)
    locked.chmod(0o644)
    read = []
    monkeypatch.setattr(
        "pipeline.collect.folder.inspect_photo",
        lambda data: read.append(data) or inspect_photo(data),
    )
    rows = collected(workspace, animals)
    assert read == [locked.read_bytes()]
    assert sum(row["status"] == "ok" for row in rows.values()) == 12
    assert collect(workspace, CollectParameters(root=str(animals), workers=1), Progress()).fresh


@pytest.mark.parametrize("interrupted", ["first", "again"])
@pytest.mark.parametrize("point", ["receipt", "batches"])
def test_a_commit_that_was_interrupted_is_made_good_by_the_same_command(
    workspace, animals, nobody, monkeypatch, interrupted, point
):
    locked = animals / "lion" / "0.jpg"
    locked.chmod(0)
    for folder in (workspace.root, *(p for p in workspace.root.rglob("*") if p.is_dir())):
        folder.chmod(0o777)

    def when(command):
        interrupting = command == interrupted
        return commit_interrupted(point, monkeypatch) if interrupting else nullcontext()

    with nobody(), when("first"):
        collected(workspace, animals)
    locked.chmod(0o644)
    with when("again"):
        collected(workspace, animals)
    rows = collected(workspace, animals)
    assert [row["status"] for row in rows.values()] == ["ok"] * 12
    assert collect(workspace, CollectParameters(root=str(animals), workers=1), Progress()).fresh


def test_a_class_folder_that_links_elsewhere_is_not_followed(workspace, animals, tmp_path):
    save_photo(tmp_path / "private" / "secret.jpg", 5)
    (animals / "tiger").symlink_to(tmp_path / "private")
    rows = collected(workspace, animals)
    assert "leads out of the root" in rows["tiger"]["error"]
    assert not any("secret" in name for name in rows)


def test_the_real_bad_files_fail_and_the_real_odd_ones_are_read(workspace, tmp_path, shared):
    lions = tmp_path / "root" / "lion"
    lions.mkdir(parents=True)
    for file in (shared / "edge").glob("*.*"):
        if file.suffix != ".tsv":
            shutil.copy(file, lions)
    rows = collected(workspace, tmp_path / "root")
    failed = {name.removeprefix("lion/") for name, row in rows.items() if row["status"] == "failed"}
    assert failed == {"truncated_tiger5.jpg", "lfs_pointer_flamingo.jpg", "gif_P_ant_0.gif"}
    formats = {row["format"] for row in rows.values() if row["status"] == "ok"}
    assert formats == {"jpeg", "png", "webp"}


def test_a_turned_photo_has_the_size_that_a_person_sees(workspace, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    save_photo(tmp_path / "root" / "lion" / "turned.jpg", 4, size=(120, 80), exif=exif)
    (row,) = collected(workspace, tmp_path / "root").values()
    assert (row["width"], row["height"]) == (80, 120)


def test_metadata_beside_the_photos_goes_into_their_rows(workspace, animals):
    (animals / "metadata.csv").write_text(
        "file_name,license,creator,creator_id,attribution,observed_at\n"
        "lion/0.jpg,CC BY,Ann,7,Ann (CC-BY),2024-05-01\n"
    )
    rows = collected(workspace, animals)
    lion = rows["lion/0.jpg"]
    assert (lion["license"], lion["creator"], lion["creator_id"]) == ("cc-by", "Ann", "7")
    assert lion["observed_at"].isoformat() == "2024-05-01T00:00:00+00:00"
    assert rows["lion/1.jpg"]["license"] == "unknown"


@pytest.mark.parametrize(
    "name", ["lion\\réglisse.jpg", "./lion/réglisse.jpg", "lion/re\u0301glisse.jpg"]
)
@pytest.mark.parametrize("file", ["réglisse.jpg", "re\u0301glisse.jpg"])
def test_metadata_may_spell_a_path_as_other_systems_do(workspace, animals, name, file):
    save_photo(animals / "lion" / file, 9)
    text = f"file_name,license\n{name},cc-by\n"
    (animals / "metadata.csv").write_text(text, encoding="utf-8")
    rows = collected(workspace, animals)
    assert rows[f"lion/{file}"]["license"] == "cc-by"


def test_rows_of_the_metadata_that_name_no_file_are_said(workspace, animals):
    (animals / "metadata.csv").write_text(
        'file_name,license\nlion/0.jpg,cc-by\nlion/9.jpg,cc0\n"lion/3.jpg",cc0\n3.jpg,cc0\n'
    )
    notes = Notes()
    parameters = CollectParameters(root=str(animals), workers=1, per_class=2)
    collect(workspace, parameters, notes)
    assert notes.told == [
        "metadata.csv: 2 rows name no file in a class folder, the first names 'lion/9.jpg'; "
        "what they say is used for no photo"
    ]


def test_a_creator_known_by_name_only_is_one_person(workspace, animals):
    (animals / "metadata.csv").write_text(
        "file_name,creator,creator_id\nlion/0.jpg,Ann,\nlion/1.jpg,Ann,\nlion/2.jpg,Bo,7\n"
        "lion/3.jpg,Unknown,\n"
    )
    rows = collected(workspace, animals)
    assert [rows[f"lion/{n}.jpg"]["creator_id"] for n in range(4)] == ["Ann", "Ann", "7", None]


def test_what_a_link_leads_to_is_looked_at_again_when_it_changes(workspace, animals):
    target = animals / ".annex" / "object"
    (animals / "lion" / "linked.jpg").symlink_to(target)
    assert collected(workspace, animals)["lion/linked.jpg"]["status"] == "failed"
    for seed in (50, 51):
        data = save_photo(target, seed, format="JPEG").read_bytes()
        os.utime(target, (seed, seed))
        row = collected(workspace, animals)["lion/linked.jpg"]
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
    target.unlink()
    assert collected(workspace, animals)["lion/linked.jpg"]["status"] == "failed"


@pytest.mark.parametrize("shut", [".", "metadata.csv"])
def test_a_root_or_metadata_that_may_not_be_read_is_one_line(workspace, animals, nobody, shut):
    (animals / "metadata.csv").write_text("file_name,license\n")
    (animals / shut).chmod(0)
    with nobody(), pytest.raises(CapError, match="cannot be read: Permission denied"):
        collected(workspace, animals)
    (animals / shut).chmod(0o755)


def test_the_outcome_tells_of_the_folders_photos_only(workspace, animals):
    spec = table_schema("photos")
    other = {"photo_id": "inaturalist:1", "source": "inaturalist", "class_name": "lion"}
    failed = {**other, "license": "cc0", "status": "failed", "error": "gone"}
    rows = from_rows([failed], spec.schema)
    write_table(workspace.table_path("photos"), rows, spec)
    parameters = CollectParameters(root=str(animals), workers=1)
    for _ in range(2):
        outcome = collect(workspace, parameters, Progress())
        assert (outcome.text, outcome.facts) == ("12 photos", {"total": 12, "ok": 12})
    assert outcome.fresh


def test_a_wrong_licence_in_the_metadata_names_its_line(workspace, animals):
    (animals / "metadata.csv").write_text("file_name,license\nlion/0.jpg,cc-by\nlion/1.jpg,mine\n")
    with pytest.raises(CapError, match=r"metadata\.csv, line 3: no licence 'mine'"):
        collected(workspace, animals)


def test_metadata_in_another_encoding_is_one_line(workspace, animals):
    (animals / "metadata.csv").write_bytes(
        "file_name,creator\nlion/0.jpg,Müller\n".encode("cp1252")
    )
    with pytest.raises(CapError, match=r"metadata.csv is no text table in UTF-8"):
        collected(workspace, animals)


def test_a_stored_file_that_was_cut_short_is_replaced(workspace, animals):
    file = animals / "lion" / "0.jpg"
    store, data = workspace.photos, file.read_bytes()
    facts = inspect_photo(data)
    sha256 = hashlib.sha256(data).hexdigest()
    target = workspace.root / store.adopt(file, sha256, facts)
    target.unlink()
    target.write_bytes(data[:50])
    store.adopt(file, sha256, facts)
    assert target.read_bytes() == data


def test_the_table_is_fresh_until_a_file_changes(workspace, animals):
    parameters = CollectParameters(root=str(animals), workers=1)
    assert not collect(workspace, parameters, Progress()).fresh
    assert collect(workspace, parameters, Progress()).fresh
    save_photo(animals / "lion" / "new.jpg", 99)
    assert not collect(workspace, parameters, Progress()).fresh
    assert workspace.read("photos").num_rows == 13


def test_a_file_name_that_is_no_utf8_still_gets_a_row(workspace, animals):
    os.rename(animals / "lion" / "0.jpg", os.fsencode(animals / "lion") + b"/\xff.jpg")
    rows = collected(workspace, animals)
    assert rows["lion/\\xff.jpg"]["status"] == "ok"


def test_a_path_from_a_table_cannot_lead_out_of_the_store(workspace):
    from manifests.errors import PhotoError

    for path in ("photos/../cap.toml", "/etc/passwd", "../x.jpg"):
        with pytest.raises(PhotoError, match="leads out of the photo store"):
            workspace.photos.locate(path)
