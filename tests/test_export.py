"""A release in another layout is read by what people have for it, photo by photo the same."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
from conftest import cap
from PIL import Image

from manifests import Split, load_split
from manifests.errors import CapError, ReleaseError
from manifests.photos import inspect_photo
from manifests.progress import Progress
from manifests.schema import PAIRS, PHOTOS, SPLIT
from manifests.tables import from_rows, write_table
from manifests.vocabulary import label_space
from manifests.workspace import Workspace
from pipeline.evaluate.folder import is_counteranimal, open_counteranimal
from pipeline.export import LAYOUTS, export
from pipeline.export.layout import ExportFolder, Photo, folder_name
from pipeline.parameters import ExportReleaseParameters, ReleaseParameters
from pipeline.release import release


@dataclass(frozen=True)
class Given:
    """A photo to release."""

    photo_id: str
    class_index: int
    group: str
    kind: str = "JPEG"
    creator: str | None = None


GIVEN = (
    Given("folder:a/b.jpg", 9, "common", creator="=Ada"),
    Given("folder:a-b.jpg", 9, "common"),
    Given("folder:A-b.jpg", 9, "common"),
    Given("folder:train/test.png", 9, "counter", "PNG"),
    Given("inaturalist:12", 21, "common", "WEBP"),
    Given(f"folder:{'long/' * 80}photo.jpg", 21, "counter"),
    Given("folder:ÄÖ ../../etc/passwd", 151, "common"),
    Given("2020-01-01", 151, "common"),
)
"""Ids that are no file names, or that differ little; class 151 has no counter photos."""


def image_bytes(seed: int, kind: str) -> bytes:
    """A small photo in a file of the kind."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def release_of(folder: Path, given: Sequence[Given], space: str = "imagenet1k") -> Path:
    """A release of photos as they are given."""
    root = folder / "workspace"
    root.mkdir()
    (root / "cap.toml").write_text(f'label_space = "{space}"\n')
    labels = label_space(space, folder)
    if space != "imagenet1k":
        shutil.copy(folder / space, root)
    workspace = Workspace(root)
    rows = []
    for number, photo in enumerate(given):
        data = image_bytes(number, photo.kind)
        facts = inspect_photo(data)
        sha256, path = workspace.photos.add(data, facts)
        rows.append(
            {
                "photo_id": photo.photo_id,
                "class_index": photo.class_index,
                "class_name": labels.names[photo.class_index],
                "group": photo.group,
                "background": {"common": "ground", "counter": "human"}[photo.group],
                "creator": photo.creator,
                "license": "cc-by",
                "source": "folder",
                "status": "ok",
                "sha256": sha256,
                "path": path,
                "bytes": len(data),
                "width": facts.width,
                "height": facts.height,
                "format": facts.format,
            }
        )
    rows.sort(key=lambda row: row["photo_id"])
    write_table(workspace.table_path("photos"), from_rows(rows, PHOTOS.schema), PHOTOS)
    write_table(workspace.table_path("split"), from_rows(rows, SPLIT.schema), SPLIT)
    pairs = [
        {
            "run": "run",
            "class_index": index,
            "class_name": labels.names[index],
            "common_background": "ground",
            "counter_background": "human",
            "common_photos": 1,
            "counter_photos": 1,
            "common_accuracy": 1.0,
            "counter_accuracy": 0.0,
            "drop": 1.0,
            "selected": True,
        }
        for index in sorted({photo.class_index for photo in given})
    ]
    write_table(workspace.table_path("pairs"), from_rows(pairs, PAIRS.schema), PAIRS)
    release(workspace, ReleaseParameters(str(folder / "release")), Progress())
    return folder / "release"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A release of eight photos with awkward ids."""
    return release_of(tmp_path, GIVEN)


def exported(place: Path, layout: str, **options) -> Path:
    """The release in a layout."""
    out = place.parent / f"as-{layout}"
    export(ExportReleaseParameters(str(place), str(out), layout, **options), Progress())
    return out


def facts_of(split: Split) -> dict[str, dict]:
    """Every row with the photo's bytes, by id."""
    return {
        row["photo_id"]: {**row, "data": split.read_bytes(index)}
        for index, row in enumerate(split.table.to_pylist())
    }


def attributed(out: Path) -> list[dict[str, str]]:
    with (out / "ATTRIBUTION.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def check_counteranimal(place: Path) -> None:
    out = exported(place, "counteranimal")
    assert is_counteranimal(out)
    found = {}
    photos = open_counteranimal(str(out))
    for row, photo in zip(photos.rows.to_pylist(), photos.photos, strict=True):
        assert hashlib.sha256(photo.content()).hexdigest() == row["sha256"]
        found[row["photo_id"].removeprefix("folder:")] = row
    known = facts_of(load_split(place))
    told = {line["file"]: line["photo_id"] for line in attributed(out)}
    assert len(found) == len(known)
    for file, row in found.items():
        same = ("class_index", "class_name", "group", "background", "sha256")
        assert {name: known[told[file]][name] for name in same} == {n: row[n] for n in same}


def test_counteranimals_layout_comes_back_as_the_same_photos_in_the_same_groups(released):
    check_counteranimal(released)
    out = released.parent / "as-counteranimal"
    folders = {path.relative_to(out).as_posix() for path in out.glob("*/*/")}
    assert "9 ostrich/counter-human" in folders
    assert "21 kite (bird of prey)/common-ground" in folders
    lines = (out / "imagenet_names.txt").read_text("utf-8").splitlines()
    assert len(lines) == 1000
    names = label_space("imagenet1k").names
    for index, line in enumerate(lines):
        number, _, listed = line.partition("\t")
        assert int(number) == index
        assert listed.split(", ")[0] == names[index]


def test_the_real_release_in_counteranimals_layout_is_the_same(finished, tmp_path):
    shutil.copytree(finished.root / "release", tmp_path / "release")
    check_counteranimal(tmp_path / "release")


def test_webdataset_reads_every_sample_with_its_bytes_label_and_facts(released):
    import webdataset

    out = exported(released, "webdataset", shard_mb=0.003)
    known = facts_of(load_split(released))
    for group in ("common", "counter"):
        shards = sorted(map(str, out.glob(f"{group}-*.tar")))
        assert len(shards) > 1
        samples = list(webdataset.WebDataset(shards, shardshuffle=False))
        ids = []
        for sample in samples:
            record = json.loads(sample["json"])
            row = known[record["photo_id"]]
            ids.append(record["photo_id"])
            (kind,) = sample.keys() & {"jpg", "png", "webp"}
            assert sample[kind] == row["data"]
            assert int(sample["cls"]) == row["class_index"]
            assert record == {name: row[name] for name in SPLIT.schema.names}
            assert Image.open(io.BytesIO(sample[kind])).format.lower()[:2] == kind[:2]
        assert ids == sorted(i for i, row in known.items() if row["group"] == group)
        decoded = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
        for image, label, record in decoded.to_tuple("jpg;png;webp", "cls", "json"):
            assert image.size == (32, 24)
            assert label == record["class_index"]


def test_an_archive_is_no_larger_than_asked_unless_one_photo_is(released):
    out = exported(released, "webdataset", shard_mb=0.003)
    known = facts_of(load_split(released))
    shards: dict[str, list[int]] = {}
    for line in attributed(out):
        shard = line["file"].partition("/")[0]
        shards.setdefault(shard, []).append(len(known[line["photo_id"]]["data"]))
    assert shards.keys() == {file.name for file in out.glob("*.tar")}
    assert all(sum(sizes) <= 3000 or len(sizes) == 1 for sizes in shards.values())
    assert max(map(len, shards.values())) > 1
    shutil.rmtree(out)
    whole = exported(released, "webdataset")
    assert sorted(p.name for p in whole.glob("*.tar")) == [
        "common-000000.tar",
        "counter-000000.tar",
    ]


def test_torchvisions_image_folder_finds_the_classes_in_their_order(released):
    from torchvision.datasets import ImageFolder

    out = exported(released, "imagefolder")
    known = facts_of(load_split(released))
    told = {line["file"]: line["photo_id"] for line in attributed(out)}
    for group, classes in (("common", [9, 21, 151]), ("counter", [9, 21])):
        dataset = ImageFolder(str(out / group))
        class_index = [int(name.split()[0]) for name in dataset.classes]
        assert class_index == classes
        assert len(dataset) == sum(row["group"] == group for row in known.values())
        for file, target in dataset.samples:
            row = known[told[Path(file).relative_to(out).as_posix()]]
            assert class_index[target] == row["class_index"]
            assert Path(file).read_bytes() == row["data"]


@pytest.fixture
def offline_datasets(monkeypatch):
    """The `datasets` library, which must ask nobody."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


def check_datasets(loaded, known: dict[str, dict]) -> None:
    assert set(loaded) == {"common", "counter"}
    for group, part in loaded.items():
        assert len(part) == sum(row["group"] == group for row in known.values())
        for record in part.cast_column("image", type(part.features["image"])(decode=False)):
            row = known[record["photo_id"]]
            data = record["image"]["bytes"] or Path(record["image"]["path"]).read_bytes()
            assert data == row["data"]
            for name in SPLIT.schema.names:
                assert record[name] == row[name]


def test_datasets_reads_both_groups_with_the_facts_of_each_photo(
    released, offline_datasets, tmp_path
):
    out = exported(released, "imagefolder")
    known = facts_of(load_split(released))
    cache = str(tmp_path / "cache")
    check_datasets(offline_datasets.load_dataset(str(out), cache_dir=cache), known)
    files = {group: str(out / group / "**") for group in ("common", "counter")}
    loaded = offline_datasets.load_dataset("imagefolder", data_files=files, cache_dir=cache)
    check_datasets(loaded, known)
    image = loaded["counter"][0]["image"]
    assert image.size == (32, 24)


def test_fiftyones_labels_name_each_photo_as_its_guide_says(released):
    out = exported(released, "fiftyone")
    content = json.loads((out / "labels.json").read_text("utf-8"))
    known = facts_of(load_split(released))
    # FiftyOne finds a photo by its name without the ending.
    files = {file.stem: file for file in (out / "data").iterdir()}
    assert files.keys() == content["labels"].keys()
    assert len(files) == len(known)
    for stem, label in content["labels"].items():
        row = known[label["attributes"]["photo_id"]]
        assert files[stem].read_bytes() == row["data"]
        assert content["classes"][label["label"]] == row["class_name"]
        assert label["attributes"]["group"] == row["group"]
        assert label["attributes"]["background"] == row["background"]
        assert None not in label["attributes"].values()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_is_attributed_and_the_licences_are_told(released, layout):
    out = exported(released, layout)
    known = facts_of(load_split(released))
    lines = attributed(out)
    assert {line["photo_id"] for line in lines} == known.keys()
    for line in lines:
        row = known[line["photo_id"]]
        assert line["license"] == row["license"]
        assert line["sha256"] == row["sha256"]
        place = out / line["file"]
        assert place.is_file() or place.parent.is_file()
    names = {line["creator"] for line in lines}
    assert "'=Ada" in names
    page = (out / "README.md").read_text("utf-8")
    assert "- cc-by <https://creativecommons.org/licenses/by/4.0/>: 8 photos" in page
    assert "Not for redistribution" not in page
    assert "the release release, version 1.0.0" in page


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_release_gives_the_same_bytes(released, layout):
    first = exported(released, layout)
    kept = first.rename(first.with_name("first"))
    second = exported(released, layout)
    files = sorted(p.relative_to(kept) for p in kept.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    for file in files:
        assert (kept / file).read_bytes() == (second / file).read_bytes()


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"counteranimal"}))
def test_names_of_classes_that_lead_elsewhere_stay_inside(tmp_path, layout):
    (tmp_path / "space.csv").write_text("name\n../../up\n..\na/b\na_b\n")
    given = [Given(f"folder:{n}", n, "common") for n in range(4)]
    place = release_of(tmp_path, given, "space.csv")
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    out = exported(place, layout)
    new = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert all(p.is_relative_to(out) and not p.is_symlink() for p in new)
    assert {line["photo_id"] for line in attributed(out)} == {photo.photo_id for photo in given}
    if layout == "imagefolder":
        folders = sorted(path.name for path in out.glob("common/*/"))
        assert folders == ["0000 _.._up", "0001 _", "0002 a_b", "0003 a_b"]


def test_classes_that_the_release_does_not_hold_are_named_by_what_it_has(tmp_path):
    (tmp_path / "space.csv").write_text("name\nlynx\nelk\nboar\n")
    place = release_of(tmp_path, [Given("folder:1", 2, "common")], "space.csv")
    (place / "label_space.csv").unlink()
    content = json.loads((exported(place, "fiftyone") / "labels.json").read_text("utf-8"))
    assert content["classes"] == ["0", "1", "boar"]


def test_a_file_is_never_written_outside_or_twice(tmp_path):
    folder = ExportFolder(tmp_path / "out")
    folder.write("a/b.jpg", b"1")
    for name in ("a/b.jpg", "../b.jpg", str(tmp_path / "b.jpg"), "a/../../b.jpg"):
        with pytest.raises(ReleaseError, match="outside, or there already"):
            folder.write(name, b"2")
    assert (tmp_path / "out/a/b.jpg").read_bytes() == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert folder_name("...") == folder_name("") == folder_name("/") == "_"
    with pytest.raises(ReleaseError, match="photo x is no JPEG, PNG or WebP"):
        Photo.of({"photo_id": "x"}, b"GIF89a")


def test_counteranimals_layout_is_for_imagenets_classes_only(tmp_path):
    (tmp_path / "space.csv").write_text("name\nlynx\n")
    place = release_of(tmp_path, [Given("folder:1", 0, "common")], "space.csv")
    with pytest.raises(ReleaseError, match="for classes of ImageNet-1K, the release's are space"):
        exported(place, "counteranimal")
    assert {p.name for p in tmp_path.iterdir()} == {"release", "space.csv", "workspace"}


def test_a_photo_that_is_not_to_be_had_leaves_nothing(released, tmp_path, monkeypatch):
    read = Split.read_bytes
    read_ids = []

    def sometimes(split: Split, index: int) -> bytes:
        photo_id = split.table["photo_id"][index].as_py()
        read_ids.append(photo_id)
        if photo_id.startswith("folder:a"):
            msg = f"photo {photo_id} is gone"
            raise ReleaseError(msg)
        return read(split, index)

    monkeypatch.setattr(Split, "read_bytes", sometimes)
    for layout in LAYOUTS:
        read_ids.clear()
        with pytest.raises(
            ReleaseError,
            match=r"2 of 8 photos could not be had, and nothing was exported: folder:a-b.jpg, "
            r"folder:a/b.jpg; of the first, photo folder:a-b.jpg is gone",
        ):
            exported(released, layout)
        assert len(read_ids) == 8
        assert {p.name for p in tmp_path.iterdir()} == {"release", "workspace"}


def test_photos_are_read_in_the_order_of_the_files(released, monkeypatch):
    read_rows = []
    read = Split.read_bytes

    def noted(split: Split, index: int) -> bytes:
        read_rows.append(
            tuple(split.table.slice(index, 1).select(["group", "photo_id"]).to_pylist()[0].values())
        )
        return read(split, index)

    monkeypatch.setattr(Split, "read_bytes", noted)
    exported(released, "fiftyone")
    assert read_rows == sorted(read_rows)
    assert len(read_rows) == 8


def test_a_folder_that_holds_something_is_never_written_into(released, tmp_path):
    (tmp_path / "as-fiftyone").mkdir()
    exported(released, "fiftyone")
    (tmp_path / "as-imagefolder").mkdir()
    (tmp_path / "as-imagefolder" / "thesis.txt").write_text("mine")
    (tmp_path / "as-webdataset").write_text("mine")
    for layout in ("fiftyone", "imagefolder", "webdataset"):
        with pytest.raises(CapError, match=f"as-{layout} exists and is not empty; name another"):
            exported(released, layout)
    assert [p.name for p in (tmp_path / "as-imagefolder").iterdir()] == ["thesis.txt"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_a_killed_export_left_does_not_come_into_the_next(released, tmp_path):
    (tmp_path / ".as-fiftyone.partial" / "data").mkdir(parents=True)
    (tmp_path / ".as-fiftyone.partial" / "data" / "half.jpg").write_bytes(b"half")
    assert not (exported(released, "fiftyone") / "data" / "half.jpg").exists()


def test_every_layout_can_be_asked_for():
    (field,) = (f for f in fields(ExportReleaseParameters) if f.name == "layout")
    assert field.metadata["choices"] == tuple(LAYOUTS)


def test_the_command_needs_no_workspace_and_says_what_it_wrote(released, tmp_path):
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    done = cap("export", released, "out", "--layout", "imagefolder", cwd=empty)
    place = empty / "out"
    assert done.stdout == f"export: 8 photos (6 common, 2 counter) as imagefolder in {place}\n"
    again = cap("export", released, "out", "--layout", "fiftyone", cwd=empty, check=False)
    assert again.returncode == 1
    assert "Error: out exists and is not empty" in again.stderr
    unsaid = cap("export", released, "other", cwd=empty, check=False)
    assert unsaid.returncode == 1
    layouts = "counteranimal|webdataset|imagefolder|fiftyone"
    assert f"`cap export RELEASE OUT --layout {layouts}`" in unsaid.stderr
    told = cap("export", released, "b", "--layout", "webdataset", "--json", cwd=empty).stdout
    assert json.loads(told)["groups"] == {"common": 6, "counter": 2}
