"""The tools that people use read the same release of the real photos as our loader does."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from manifests import load_split
from manifests.loader import Split
from manifests.schema import RELEASE
from manifests.workspace import Workspace

COLUMNS = [name for name in RELEASE.schema.names if name != "image"]
Rows = dict[str, tuple[dict, str]]


@pytest.fixture(scope="module")
def release(finished: Workspace) -> Path:
    """The release of the shared photos, whatever their licence."""
    return finished.root / "release"


@pytest.fixture(scope="module")
def ours(release: Path) -> Rows:
    """By photo: its row, and the sha256 of the bytes that the loader gives."""
    split = load_split(release)
    return {
        row["photo_id"]: (row, hashlib.sha256(split.read_bytes(index)).hexdigest())
        for index, row in enumerate(split.table.to_pylist())
    }


def agree(found: Rows, ours: Rows) -> None:
    assert found.keys() == ours.keys()
    for photo_id, (row, sha256) in ours.items():
        assert found[photo_id] == (row, sha256)
        assert sha256 == row["sha256"]


def row_of(record: dict) -> dict:
    return {name: record[name] for name in COLUMNS}


@pytest.mark.parametrize("way", ["folder", "parquet"])
def test_datasets_decodes_the_photos_by_itself_and_agrees(release, ours, way, tmp_path):
    script = f"""
import hashlib, json
import datasets, numpy as np
from datasets import Image, load_dataset
datasets.disable_progress_bars()
if {way!r} == "folder":
    groups = load_dataset({str(release)!r}, cache_dir={str(tmp_path / "cache")!r})
else:
    files = {{g: {str(release)!r} + "/data/" + g + "-*.parquet" for g in ("common", "counter")}}
    groups = load_dataset("parquet", data_files=files, cache_dir={str(tmp_path / "cache")!r})
for group, photos in groups.items():
    raw = photos.cast_column("image", Image(decode=False))
    for photo, encoded in zip(photos, raw):
        image = photo.pop("image")
        assert photo["group"] == group
        photo["pixels"] = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
        photo["bytes"] = hashlib.sha256(encoded["image"]["bytes"]).hexdigest()
        print(json.dumps(photo))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    agree({r["photo_id"]: (row_of(r), r["bytes"]) for r in records}, ours)
    split = load_split(release)
    position = {photo_id: n for n, photo_id in enumerate(split.table["photo_id"].to_pylist())}
    for record in records:
        pixels = split.read_array(position[record["photo_id"]])
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == record["pixels"]


def test_pandas_agrees(release, ours):
    import pandas as pd

    frame = pd.read_parquet(release / "data")
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    agree(
        {
            r["photo_id"]: (row_of(r), hashlib.sha256(r["image"]["bytes"]).hexdigest())
            for r in records
        },
        ours,
    )


def test_duckdb_agrees(release, ours):
    import duckdb

    query = f"select *, sha256(image.bytes) as digest from '{release}/data/*.parquet'"
    with duckdb.connect() as connection:
        records = connection.sql(query).to_arrow_table().to_pylist()
    agree({r["photo_id"]: (row_of(r), r["digest"]) for r in records}, ours)


@pytest.fixture
def quiet():
    """Keeps mlcroissant's log out of other tests."""
    level = logging.getLogger("absl").level
    yield
    logging.getLogger("absl").setLevel(level)


# mlcroissant uses what rdflib and pandas have deprecated.
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword:pandas.errors.Pandas4Warning")
def test_mlcroissant_validates_the_release_and_a_hundred_records_agree(release, ours, quiet):
    import mlcroissant as mlc
    import pandas as pd

    dataset = mlc.Dataset(jsonld=str(release / "croissant.json"))
    assert not dataset.metadata.issues.errors
    done = subprocess.run(
        ["mlcroissant", "validate", "--jsonld", release / "croissant.json"],
        executable=Path(sys.executable).with_name("mlcroissant"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Rows = {}
    for record in dataset.records("photos"):
        plain = {name.partition("/")[2]: value for name, value in record.items()}
        image = plain.pop("image")
        row = {k: v.decode() if isinstance(v, bytes) else v for k, v in plain.items()}
        row = {k: None if pd.isna(v) else v for k, v in row.items()}
        # Pillow has not decoded it yet, so that its file is the record's bytes.
        digest = hashlib.sha256(image.fp.getvalue()).hexdigest()
        found[row["photo_id"]] = (row, digest)
    assert found.keys() == ours.keys()
    drawn = random.Random(0).sample(sorted(ours), 100)
    agree({name: found[name] for name in drawn}, {name: ours[name] for name in drawn})


def test_croissant_describes_the_files_and_how_the_photos_were_gathered(release):
    told = json.loads((release / "croissant.json").read_text("utf-8"))
    split = load_split(release)
    files = {f["@id"]: f for f in told["distribution"] if f["@type"] == "cr:FileObject"}
    for shard in split.release["shards"]:
        assert files[shard["file"]]["sha256"] == shard["sha256"]
    assert "http://mlcommons.org/croissant/RAI/1.0" in told["conformsTo"]
    assert told["version"] == split.release["version"]
    assert {"rai:dataCollection", "rai:dataBiases", "rai:dataLimitations"} <= told.keys()
    assert "187 photos from a folder" in told["rai:dataCollection"]
    assert [f["name"] for f in told["recordSet"][0]["field"]] == RELEASE.schema.names


def test_the_card_s_head_names_splits_features_and_licence(release):
    import yaml

    head = yaml.safe_load((release / "README.md").read_text("utf-8").split("---\n")[1])
    split = load_split(release)
    assert {s["name"]: s["num_examples"] for s in head["dataset_info"]["splits"]} == {
        "common": len(split.group("common")),
        "counter": len(split.group("counter")),
    }
    assert head["dataset_info"]["features"][-1] == {"name": "image", "dtype": "image"}
    assert head["license"] == "other"
    assert head["license_link"] == "ATTRIBUTION.csv"


def test_the_results_of_the_run_are_those_that_the_loader_computes(finished, release):
    split = load_split(release).partition("test")
    (run,) = finished.runs()
    told = json.loads((release / "results" / f"{run}.json").read_text("utf-8"))
    predictions = finished.read(f"predictions/{run}")
    mine = pc.is_in(predictions["photo_id"], split.table["photo_id"].combine_chunks())
    found = split.evaluate(predictions.filter(mine)).to_dict()
    assert {key: told[key] for key in found} == json.loads(json.dumps(found))
    assert told["partition"] == "test"
    assert told["chose_pairs"]
    assert told["photos"] == len(split)


def test_row_groups_are_small_and_pages_are_indexed(release):
    for file in (release / "data").iterdir():
        metadata = pq.read_metadata(file)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            assert group.num_rows <= 64
            columns = [group.column(c) for c in range(group.num_columns)]
            assert all(c.has_offset_index and c.has_column_index for c in columns[:3])
            (images,) = (c for c in columns if c.path_in_schema == "image.bytes")
            assert images.compression == "UNCOMPRESSED"


def test_arrays_are_the_pixels_of_the_images(release):
    split: Split = load_split(release)
    for index in range(0, len(split), 9):
        image, _, _ = split[index]
        assert np.array_equal(split.read_array(index), np.asarray(image))
