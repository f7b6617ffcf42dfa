"""A release holds the photos' own bytes, and the loader gives back what was put in."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, cap
from releases import change_split, edit, released

from manifests import load_split
from manifests.errors import CapError, ReleaseError
from manifests.progress import Progress
from manifests.schema import DUPLICATES, LABELS, PHOTOS, PREDICTIONS, SPLIT
from manifests.tables import from_rows, write_table
from manifests.workspace import Job, Workspace
from pipeline.parameters import ReleaseParameters
from pipeline.release import release
from pipeline.release.checksums import verify


def test_every_photo_comes_back_with_the_bytes_that_were_collected(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    split = load_split(tmp_path / "out")
    collected = {r["photo_id"]: r for r in split_workspace.read("photos").to_pylist()}
    assert len(split) == 12
    for index in range(len(split)):
        image, label, record = split[index]
        row = collected[record["photo_id"]]
        assert hashlib.sha256(split.read_bytes(index)).hexdigest() == row["sha256"]
        assert label == row["class_index"]
        assert image.mode == "RGB"
        assert image.size == (row["width"], row["height"])
    assert split.table["photo_id"].to_pylist() == sorted(collected)


def test_only_photos_whose_licence_allows_sharing_are_released(split_workspace, tmp_path):
    facts = released(split_workspace, tmp_path / "out")
    assert facts["licenses"] == {"cc-by": 3, "cc0": 3}
    assert facts["left_out"] == {"all-rights-reserved": 3, "unknown": 3}
    assert "Not for redistribution" not in (tmp_path / "out" / "README.md").read_text()
    facts = released(split_workspace, tmp_path / "local", "any")
    assert facts["photos"] == 12
    assert "Not for redistribution" in (tmp_path / "local" / "README.md").read_text()
    with pytest.raises(CapError, match="no licence 'beer'"):
        released(split_workspace, tmp_path / "x", "beer")
    with pytest.raises(CapError, match="no photo of the split has a licence"):
        released(split_workspace, tmp_path / "x", "cc-by-sa")


class Notes(Progress):
    """Keeps what a stage notes."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def test_classes_that_lose_a_group_to_licences_are_told(split_workspace, tmp_path):
    def license_of(row):
        gone = row["class_name"] == "lion" and row["group"] == "counter"
        return "all-rights-reserved" if gone else "cc0"

    for table, spec in (("photos", PHOTOS), ("split", SPLIT)):
        chosen = {row["photo_id"]: row for row in split_workspace.read("split").to_pylist()}
        rows = [
            {**row, "license": license_of(chosen[row["photo_id"]])}
            for row in split_workspace.read(table).to_pylist()
        ]
        write_table(split_workspace.table_path(table), from_rows(rows, spec.schema), spec)
    notes = Notes()
    parameters = ReleaseParameters(str(tmp_path / "out"))
    left = release(split_workspace, parameters, notes).facts["left_out"]
    told = "1 of 2 classes have photos of one group only (lion), so that the drop is not between"
    assert any(told in note for note in notes.told)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{left['all-rights-reserved']} photos of the split could not be released." in card
    assert "1 class of 2 with photos of one group only: lion." in card


def test_classes_that_are_left_out_do_not_count(split_workspace, tmp_path):
    # Every photo of a lion is under cc-by or has no licence.
    released(split_workspace, tmp_path / "out", "cc0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "3 photos of 1 animal class," in " ".join(card.split())
    assert "9 photos of the split could not be released, among them all of 1 class." in card


def test_the_same_split_gives_the_same_bytes(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "a" / "out", "any")
    released(split_workspace, tmp_path / "b" / "out", "any")
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_every_photo_is_attributed_and_no_name_is_a_formula(split_workspace, tmp_path):
    rows = split_workspace.read("split").to_pylist()
    rows[0] |= {
        "creator": '=HYPERLINK("http://evil","x")',
        "attribution": "© Zoë, some rights reserved",
        "url": "https://example.org/1.jpg",
    }
    write_table(split_workspace.table_path("split"), from_rows(rows, SPLIT.schema), SPLIT)
    released(split_workspace, tmp_path / "out", "any")
    with (tmp_path / "out" / "ATTRIBUTION.csv").open(encoding="utf-8", newline="") as handle:
        told = {line["photo_id"]: line for line in csv.DictReader(handle)}
    assert set(told) == {row["photo_id"] for row in rows}
    line = told[rows[0]["photo_id"]]
    assert line["creator"] == '\'=HYPERLINK("http://evil","x")'
    assert line["attribution"] == "© Zoë, some rights reserved"
    assert line["url"] == "https://example.org/1.jpg"
    assert line["sha256"] == rows[0]["sha256"]
    for row in rows:
        assert told[row["photo_id"]]["license"] == row["license"]
        creative = row["license"].startswith("cc")
        assert ("creativecommons.org" in told[row["photo_id"]]["license_url"]) == creative


def test_every_file_has_its_digest_as_sha256sum_reads_it(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "checksums.sha256"],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert {line.split(":")[0] for line in done.stdout.splitlines()} == files - {"checksums.sha256"}


def test_a_release_is_verified_without_a_workspace(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    done = cap("release", "--verify", "out", cwd=tmp_path)
    assert done.stdout == "verify: 7 files and 12 photos of out are as they were released\n"


@pytest.mark.parametrize("name", ["README.md", "ATTRIBUTION.csv", "data/common-00000-of-00001"])
def test_a_changed_byte_anywhere_is_found(split_workspace, tmp_path, name):
    out = tmp_path / "out"
    released(split_workspace, out, "any")
    file = out / name if (out / name).is_file() else out / f"{name}.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ReleaseError, match=f"not as it was released: {name}.* has changed"):
        verify(str(out), Progress())


def test_a_file_of_another_version_among_the_photos_is_found(split_workspace, tmp_path):
    out = tmp_path / "out"
    released(split_workspace, out, "any")
    (out / "data" / ".DS_Store").write_bytes(b"")
    assert verify(str(out), Progress()).facts["photos"] == 12
    shard = next((out / "data").glob("common-*.parquet"))
    for name in ("common-00001-of-00002.parquet", "old/counter.parquet"):
        stray = out / "data" / name
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(shard.read_bytes())
        with pytest.raises(ReleaseError, match=f"data/{name} is no file of it; fetch it again"):
            verify(str(out), Progress())
        stray.unlink()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0" * 64 + "  ../secret", "line 1: '../secret' lies outside the release"),
        ("0" * 64 + "  /etc/passwd", "line 1: '/etc/passwd' lies outside the release"),
        ("0" * 63 + "  README.md", "line 1: this is no digest and file name"),
        ("0" * 64 + "  gone.txt", "gone.txt is missing"),
    ],
)
def test_a_list_of_digests_that_cannot_be_trusted_is_refused(
    split_workspace, tmp_path, line, message
):
    released(split_workspace, tmp_path / "out", "any")
    (tmp_path / "out" / "checksums.sha256").write_text(f"{line}\n")
    with pytest.raises(ReleaseError, match=message):
        verify(str(tmp_path / "out"), Progress())
    (tmp_path / "out" / "checksums.sha256").unlink()
    with pytest.raises(ReleaseError, match="cannot be read; fetch the release again"):
        verify(str(tmp_path / "out"), Progress())


def test_versions_tell_whether_results_can_still_be_compared(split_workspace, tmp_path):
    out = tmp_path / "out"
    everything = split_workspace.read("split").to_pylist()
    change_split(split_workspace, lambda rows: rows[:10])
    steps = [
        (lambda _: everything[:10], "1.0.0", "First release, 10 photos"),
        (lambda _: everything, "1.1.0", "2 photos added"),
        (lambda rows: rows[1:], "2.0.0", "1 photo removed"),
        (
            lambda rows: [{**rows[0], "group": "counter"}, *rows[1:]],
            "3.0.0",
            "1 photo with another",
        ),
        (lambda rows: [{**rows[0], "creator": "Ada"}, *rows[1:]], "3.0.1", "described anew"),
    ]
    for change, version, told in steps:
        change_split(split_workspace, change)
        released(split_workspace, out, "any")
        assert load_split(out).release["version"] == version
        changes = (out / "CHANGES.md").read_text()
        assert changes.startswith(f"# Changes\n\n## {version}\n\n- ")
        assert told in changes.partition("## ")[2].partition("## ")[0]
    assert changes.count("## ") == len(steps)
    assert "Version 3.0.1." in (out / "README.md").read_text()


def test_a_stop_while_a_release_is_replaced_loses_no_version(split_workspace, tmp_path):
    out = tmp_path / "out"
    released(split_workspace, out, "any")
    change_split(split_workspace, lambda rows: rows[1:])
    # The old release had been moved aside, and the new one was not there yet.
    out.rename(tmp_path / ".out.old")
    released(split_workspace, out, "any")
    assert load_split(out).release["version"] == "2.0.0"
    assert not (tmp_path / ".out.old").exists()


def test_a_damaged_release_is_not_replaced_without_a_word(split_workspace, tmp_path):
    out = tmp_path / "out"
    released(split_workspace, out, "any")
    next((out / "data").iterdir()).unlink()
    change_split(split_workspace, lambda rows: rows[1:])
    with pytest.raises(ReleaseError, match=r"is damaged.*lacks data/.*remove it, or name another"):
        released(split_workspace, out, "any")


def test_a_release_that_is_there_is_fresh_and_another_folder_is_never_overwritten(
    split_workspace, tmp_path
):
    assert not released(split_workspace, tmp_path / "out")["fresh"]
    assert released(split_workspace, tmp_path / "out")["fresh"]
    assert not released(split_workspace, tmp_path / "out", "cc0")["fresh"]
    assert load_split(tmp_path / "out").table.num_rows == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ReleaseError, match="exists and is no release"):
        released(split_workspace, tmp_path / "mine")
    leftovers = [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")]
    assert leftovers == []


def test_photos_that_tell_where_they_were_taken_are_counted(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    manifest = json.loads((tmp_path / "out" / "release.json").read_text())
    assert manifest["photos_with_location"] == 1


def test_a_photo_changed_in_the_store_is_not_released(split_workspace, tmp_path):
    row = split_workspace.read("photos").to_pylist()[0]
    (split_workspace.root / row["path"]).write_bytes(b"other")
    with pytest.raises(CapError, match="have changed since they were collected"):
        released(split_workspace, tmp_path / "out", "any")
    assert not (tmp_path / "out").exists()


def test_groups_classes_and_backgrounds_are_views(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    split = load_split(tmp_path / "out")
    counter = split.group("counter")
    assert set(counter.table["group"].to_pylist()) == {"counter"}
    assert len(counter) + len(split.group("common")) == len(split)
    assert len(split.class_name("lion").background("grass")) == 4
    assert split.to_pandas()["class_name"].value_counts().to_dict() == {"lion": 6, "otter": 6}
    with pytest.raises(ReleaseError, match="no group 'hard'; it has common, counter"):
        split.group("hard")
    with pytest.raises(IndexError, match="out of range"):
        counter[len(counter)]
    assert counter[-1][2] == counter[len(counter) - 1][2]


def test_a_torch_loader_with_workers_gives_every_photo_once(split_workspace, tmp_path):
    import torch.utils.data

    released(split_workspace, tmp_path / "out", "any")
    split = load_split(tmp_path / "out")
    dataset = split.torch(lambda image: np.asarray(image).mean())
    pickle.loads(pickle.dumps(split))
    loader = torch.utils.data.DataLoader(
        split.torch(Brightness()), batch_size=5, num_workers=2, multiprocessing_context="spawn"
    )
    ids = [photo_id for _, _, names in loader for photo_id in names]
    assert ids == split.table["photo_id"].to_pylist()
    assert len(dataset) == len(split)


class Brightness:
    """A transform that can be sent to a worker."""

    def __call__(self, image):
        return float(np.asarray(image).mean())


def test_evaluate_gives_the_accuracy_of_each_group_and_the_drop(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    split = load_split(tmp_path / "out")
    rows = split.table.to_pylist()
    right_on_common = {
        r["photo_id"]: r["class_index"] if r["group"] == "common" else 0 for r in rows
    }
    found = split.evaluate(right_on_common)
    assert found.groups["common"].accuracy == 1.0
    assert found.drop == 1.0
    table = pa.table(
        {"photo_id": list(right_on_common), "predicted_index": list(right_on_common.values())}
    )
    assert split.evaluate(table) == found
    assert split.evaluate(table.to_pandas()) == found


def test_missing_extra_and_doubled_predictions_are_errors(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    split = load_split(tmp_path / "out")
    whole = dict.fromkeys(split.table["photo_id"].to_pylist(), 1)
    first = next(iter(whole))
    with pytest.raises(ReleaseError, match=f"1 photos have no prediction, such as {first}"):
        split.evaluate({k: v for k, v in whole.items() if k != first})
    with pytest.raises(ReleaseError, match="1 predictions are for photos outside"):
        split.evaluate({**whole, "folder:other": 1})
    doubled = pa.table({"photo_id": [*whole, first], "predicted_index": [1] * 13})
    with pytest.raises(ReleaseError, match="has more than one prediction"):
        split.evaluate(doubled)


def test_predictions_count_only_as_whole_numbers(split_workspace, tmp_path):
    import pandas as pd
    import torch

    released(split_workspace, tmp_path / "out", "any")
    split = load_split(tmp_path / "out")
    right = dict(
        zip(*(split.table[c].to_pylist() for c in ("photo_id", "class_index")), strict=True)
    )
    first = next(iter(right))

    def frame(values: object) -> pd.DataFrame:
        return pd.DataFrame({"photo_id": list(right), "predicted_index": values})

    numbers = np.array(list(right.values()))
    for kind in (np.int16, np.uint64, np.float64):
        for given in (
            dict(zip(right, numbers.astype(kind), strict=True)),
            frame(numbers.astype(kind)),
        ):
            assert split.evaluate(given).groups["common"].accuracy == 1.0
    tensors = dict(zip(right, torch.from_numpy(numbers), strict=True))
    assert split.evaluate(tensors).groups["common"].accuracy == 1.0

    gap = np.where(np.arange(len(right)) == 0, np.nan, numbers)
    nullable = pd.array([None, *numbers[1:].tolist()], "Int64")
    for given in (frame(gap), frame(nullable), dict(zip(right, gap, strict=True))):
        with pytest.raises(ReleaseError, match=f"1 photos have no prediction, such as {first}"):
            split.evaluate(given)

    texts = [str(number) for number in numbers]
    for given in (
        dict(zip(right, texts, strict=True)),
        frame(texts),
        frame(numbers + 0.5),
        frame(numbers > 300),
        {**right, first: np.inf},
    ):
        with pytest.raises(ReleaseError, match=f"photo {first} is .*, which is no whole number"):
            split.evaluate(given)
    with pytest.raises(ReleaseError, match="a column of several kinds of values"):
        split.evaluate(frame([*numbers[1:], "lion"]))


def test_a_damaged_release_is_one_clear_error(split_workspace, tmp_path):
    released(split_workspace, out := tmp_path / "out", "any")
    manifest = json.loads((out / "release.json").read_text())
    shard = out / manifest["shards"][0]["file"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(ReleaseError, match="is not a whole Parquet file"):
        load_split(out)
    shard.unlink()
    with pytest.raises(ReleaseError, match="the release lacks data/common"):
        load_split(out)
    for path in ("../secret.parquet", "/etc/passwd"):
        edit(out, shards=[{"file": path}])
        with pytest.raises(ReleaseError, match="lies outside the release"):
            load_split(out)
    edit(out, schema_version=99)
    with pytest.raises(ReleaseError, match="schema version 99"):
        load_split(out)
    with pytest.raises(ReleaseError, match="is no release"):
        load_split(tmp_path / "nowhere")


def test_a_photo_changed_after_release_is_found_when_it_is_read(split_workspace, tmp_path):
    released(split_workspace, out := tmp_path / "out", "any")
    file = next((out / "data").glob("common-*"))
    table = pq.read_table(file)
    images = table["image"].to_pylist()
    images[0]["bytes"] = images[1]["bytes"]
    changed = table.set_column(
        table.schema.get_field_index("image"), table.schema.field("image"), pa.array(images)
    )
    pq.write_table(changed, file)
    split = load_split(out).group("common")
    with pytest.raises(ReleaseError, match="has changed since the release"):
        split[0]


def test_loading_imports_neither_torch_nor_the_pipeline(split_workspace, tmp_path):
    import subprocess
    import sys

    released(split_workspace, tmp_path / "out", "any")
    script = (
        "import sys; from manifests import load_split; "
        f"split = load_split({str(tmp_path / 'out')!r}); split[0]; "
        "heavy = {'torch', 'scipy', 'pandas', 'pipeline', 'annotation'}; "
        "heavy |= {'requests', 'fsspec', 'tenacity', 'platformdirs'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_pandas_reads_a_shard_without_this_package(split_workspace, tmp_path):
    import pandas as pd

    released(split_workspace, tmp_path / "out", "any")
    frame = pd.read_parquet(tmp_path / "out" / "data")
    assert len(frame) == 12
    assert all(
        hashlib.sha256(image["bytes"]).hexdigest() == sha256
        for image, sha256 in zip(frame["image"], frame["sha256"], strict=True)
    )


def test_an_empty_split_is_refused_with_the_way_on(split_workspace, tmp_path):
    change_split(split_workspace, lambda _: [])
    with pytest.raises(CapError, match="the split is empty: no class was selected"):
        released(split_workspace, tmp_path / "out")


def test_a_split_of_photos_that_are_no_longer_there_is_refused(split_workspace, tmp_path):
    change_split(split_workspace, lambda rows: [*rows, {**rows[0], "photo_id": "folder:other"}])
    with pytest.raises(CapError, match="photo folder:other of the split is not in the table"):
        released(split_workspace, tmp_path / "out", "any")


@pytest.mark.parametrize("images", ["embed", "link", "mixed"])
def test_a_licence_that_is_not_in_the_vocabulary_is_told_before_anything_is_written(
    split_workspace, tmp_path, images
):
    for table, spec in (("photos", PHOTOS), ("split", SPLIT)):
        rows = split_workspace.read(table).to_pylist()
        rows = [{**rows[0], "license": "Beer"}, {**rows[1], "license": "CC BY"}, *rows[2:]]
        write_table(split_workspace.table_path(table), from_rows(rows, spec.schema), spec)
    with pytest.raises(CapError, match=r"does not know \(Beer, CC BY\).* run `cap split` again"):
        released(split_workspace, tmp_path / "out", "any", images=images)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda row: {"status": "failed", "error": "gone", "path": None},
        lambda row: {"license": "cc-by" if row["license"] == "cc0" else "cc0"},
        lambda row: {"sha256": "0" * 64},
    ],
    ids=["gone", "relicensed", "other bytes"],
)
def test_photos_that_were_taken_back_or_changed_are_not_released(split_workspace, tmp_path, change):
    released(split_workspace, tmp_path / "out", "any")
    chosen = split_workspace.read("split")["photo_id"][0].as_py()
    rows = split_workspace.read("photos").to_pylist()
    (row,) = [row for row in rows if row["photo_id"] == chosen]
    row |= change(row)
    path = split_workspace.table_path("photos")
    write_table(path, from_rows(rows, PHOTOS.schema), PHOTOS)
    for out in ("out", "another"):
        with pytest.raises(CapError, match=r"^1 photos of the split are gone, or have another"):
            released(split_workspace, tmp_path / out, "any")


def decide(workspace: Workspace, changes=lambda _: {}) -> None:
    """Tables `labels` and `duplicates` that the split follows from, but for one photo."""
    rows = workspace.read("split").to_pylist()
    decided = [
        {
            "photo_id": row["photo_id"],
            "decision": "keep",
            "background": row["background"],
            "annotators": 1,
            "agreement": 1.0,
            "settled_by": "single",
            "status": "ok",
            "relation": "unique",
            **(changes(row) if number == 4 else {}),
        }
        for number, row in enumerate(rows)
    ]
    for spec in (LABELS, DUPLICATES):
        kept = [row for row in decided if spec is DUPLICATES or row["decision"]]
        write_table(workspace.table_path(spec.name), from_rows(kept, spec.schema), spec)


@pytest.mark.parametrize(
    "changes",
    [
        lambda _: {"decision": "reject", "background": None},
        lambda row: {"background": "snow" if row["background"] != "snow" else "sky"},
        lambda row: {"relation": "exact", "keeper": row["photo_id"]},
        lambda row: {"relation": "near", "keeper": row["photo_id"]},
    ],
    ids=["rejected", "another background", "exact", "near"],
)
def test_photos_that_were_decided_otherwise_since_the_split_are_not_released(
    split_workspace, tmp_path, changes
):
    decide(split_workspace)
    released(split_workspace, tmp_path / "out", "any")
    decide(split_workspace, changes)
    chosen = split_workspace.read("split")["photo_id"][4]
    for out in ("out", "another"):
        with pytest.raises(
            CapError, match=f"^1 photos of the split, such as {chosen}, .*cap split"
        ):
            released(split_workspace, tmp_path / out, "any")
    # What is decided of other photos does not matter.
    change_split(split_workspace, lambda rows: [*rows[:4], *rows[5:]])
    assert released(split_workspace, tmp_path / "out", "any")["photos"] == 11


def test_a_photo_that_lost_its_label_is_released_only_where_the_split_came_from_elsewhere(
    split_workspace, tmp_path
):
    decide(split_workspace)
    decide(split_workspace, lambda _: {"decision": None})
    released(split_workspace, tmp_path / "out", "any")
    job = Job(table="split", stage="split", parameters={}, inputs={})
    rows = split_workspace.read("split")
    split_workspace.table_path("split").unlink()
    split_workspace.begin(job).commit(rows)
    with pytest.raises(
        CapError, match=r"^1 photos of the split, such as .*; run `cap split` again"
    ):
        released(split_workspace, tmp_path / "another", "any")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["otter", "zebra", "lion"], r"class 1 of the split is 'lion', and .* calls it 'zebra'"),
        (["otter"], r"class 1 of the split is 'lion', and the label space mine has no such class"),
    ],
    ids=["inserted", "taken out"],
)
def test_a_split_over_another_label_space_is_not_released(
    split_workspace, tmp_path, names, message
):
    (split_workspace.root / "mine.csv").write_text("name\notter\nlion\n")
    (split_workspace.root / "cap.toml").write_text('label_space = "mine.csv"\n')
    own = {"otter": 0, "lion": 1}
    change_split(
        split_workspace,
        lambda rows: [{**row, "class_index": own[row["class_name"]]} for row in rows],
    )
    released(Workspace(split_workspace.root), tmp_path / "out", "any")
    (split_workspace.root / "mine.csv").write_text("\n".join(["name", *names, ""]))
    with pytest.raises(CapError, match=f"{message}; run `cap collect` and the later stages again"):
        released(Workspace(split_workspace.root), tmp_path / "out", "any")
    assert load_split(tmp_path / "out").label_space.names == ("otter", "lion")


def test_tables_without_receipts_are_enough_to_split_and_release(split_workspace, tmp_path):
    ws = split_workspace
    ids = ws.read("photos")["photo_id"].to_pylist()
    (ws.table_path("split")).unlink()
    (ws.table_path("pairs")).unlink()
    rows = [{"photo_id": i, "status": "ok", "relation": "unique"} for i in ids]
    write_table(ws.table_path("duplicates"), from_rows(rows, DUPLICATES.schema), DUPLICATES)
    rows = [
        {
            "photo_id": i,
            "decision": "keep",
            "background": "grass" if n % 4 < 2 else "sky",
            "annotators": 1,
            "agreement": 1.0,
            "settled_by": "import",
        }
        for n, i in enumerate(sorted(ids))
    ]
    write_table(ws.table_path("labels"), from_rows(rows, LABELS.schema), LABELS)
    rows = [
        {
            "photo_id": i,
            "status": "ok",
            "label_space": "imagenet1k",
            "predicted_index": 0,
            "correct": n % 4 < 2,
        }
        for n, i in enumerate(sorted(ids))
    ]
    write_table(ws.table_path("predictions/mine"), from_rows(rows, PREDICTIONS.schema), PREDICTIONS)
    cap("split", "--rule", "paper", "--model", "mine", "--min-photos", "2", cwd=ws.root)
    cap("release", tmp_path / "out", "--licenses", "any", cwd=ws.root)
    assert len(load_split(tmp_path / "out")) == 12
