"""The whole job on real photos with a real pretrained network, and what must come out of it."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from conftest import cap, papers_split, weights
from timm.data.transforms_factory import create_transform

from manifests import load_split
from manifests.photos import open_upright
from manifests.robustness import effective_robustness
from manifests.schema import RESULTS
from manifests.tables import read_table
from manifests.vocabulary import label_space
from manifests.workspace import Workspace
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.preprocessing import Preprocessing
from pipeline.models.registry import DECODE_MARGIN


def test_every_photo_is_collected_and_named(finished: Workspace, shared: Path):
    photos = finished.read("photos").to_pylist()
    with (shared / "photos.tsv").open(encoding="utf-8") as handle:
        known = {row["file"]: row for row in csv.DictReader(handle, delimiter="\t")}
    assert len(photos) == len(known) == 775
    for row in photos:
        truth = known[row["photo_id"].removeprefix("folder:")]
        assert row["status"] == "ok"
        assert row["sha256"] == truth["sha256"]
    assert len({row["class_index"] for row in photos}) == 13


def test_the_known_copies_are_found_within_six_bits(finished: Workspace, shared: Path):
    rows = {
        r["photo_id"].removeprefix("folder:"): r for r in finished.read("duplicates").to_pylist()
    }
    with (shared / "duplicates.tsv").open(encoding="utf-8") as handle:
        pairs = list(csv.DictReader(handle, delimiter="\t"))
    for pair in pairs:
        first, second = rows[pair["file_a"]], rows[pair["file_b"]]
        same = first["keeper"] == second["keeper"] and first["keeper"] is not None
        within = pair["kind"] == "exact" or int(pair["phash_dist"]) <= 6
        assert same == within, pair
        if pair["kind"] == "exact":
            assert "exact" in {first["relation"], second["relation"]}


def test_the_network_names_nine_photos_in_ten(finished: Workspace):
    (run,) = finished.runs()
    correct = finished.read(f"predictions/{run}")["correct"].to_pylist()
    assert len(correct) >= 755
    assert sum(correct) / len(correct) > 0.88


def test_reduced_decoding_keeps_to_the_tolerance_that_the_docs_state(shared: Path):
    spec = ModelSpec.parse(f"timm:tf_efficientnet_lite0:{weights()}")
    model = load_model(spec, label_space("imagenet1k"), ModelOptions(device="cpu"))
    # Half of the model's usual side: the photos of 500 pixels then stand for photos of 1,000.
    side = 112
    transform = create_transform(
        (3, side, side), is_training=False, interpolation="bicubic", crop_pct=0.875
    )
    resized_to = transform.transforms[0].size
    seen = []
    for smallest in (None, DECODE_MARGIN * resized_to):
        preprocess = Preprocessing(transform, fast=smallest is not None)
        images = [
            preprocess.pixels(open_upright(file, smallest=smallest))
            for file in sorted((shared / "photos").rglob("*.jpg"))
        ]
        parts = [model.score(preprocess.numbers(part)) for part in torch.stack(images).split(32)]
        seen.append([np.concatenate(found) for found in zip(*parts, strict=True)])
    (full, embeddings), (reduced, others) = seen
    cosines = (embeddings * others).sum(axis=1)
    assert cosines.mean() > 0.999
    assert np.quantile(cosines, 0.01) > 0.99
    assert (full.argmax(axis=1) == reduced.argmax(axis=1)).mean() > 0.99


def test_pelican_is_water_over_sky_and_otter_water_over_grass(finished: Workspace):
    pairs = {row["class_name"]: row for row in finished.read("pairs").to_pylist()}
    for name, common, counter in (("pelican", "water", "sky"), ("otter", "water", "grass")):
        assert pairs[name]["selected"]
        assert pairs[name]["common_background"] == common
        assert pairs[name]["counter_background"] == counter
    assert all(pair["selected"] or pair["reason"] for pair in pairs.values())


def test_the_papers_rule_on_few_photos_finds_more_pairs_with_larger_drops(
    finished: Workspace, tmp_path
):
    copy = papers_split(finished, tmp_path / "paper")
    paper = {row["class_name"] for row in copy.read("pairs").to_pylist() if row["selected"]}
    assert paper == {"Nile crocodile", "flamingo", "pelican", "otter", "African bush elephant"}
    pairs = [row for row in finished.read("pairs").to_pylist() if row["selected"]]
    assert len(pairs) < len(paper)
    # What chose the pairs overstates them: photos apart show less.
    assert all(pair["drop_honest"] < pair["drop"] for pair in pairs)


def test_the_loader_returns_every_photo_with_the_source_files_bytes(
    finished: Workspace, shared: Path
):
    split = load_split(finished.root / "release")
    assert len(split) == finished.read("split").num_rows > 100
    for index in range(len(split)):
        image, label, record = split[index]
        source = shared / "photos" / record["photo_id"].removeprefix("folder:")
        assert split.read_bytes(index) == source.read_bytes()
        assert hashlib.sha256(source.read_bytes()).hexdigest() == record["sha256"]
        assert image.width > 0
        assert label == record["class_index"]


@pytest.mark.parametrize(("partition", "column"), [("validation", ""), ("test", "test_")])
def test_evaluating_the_runs_own_predictions_gives_the_accuracies_of_the_pairs(
    finished: Workspace, partition, column
):
    (run,) = finished.runs()
    split = load_split(finished.root / "release").partition(partition)
    predictions = finished.read(f"predictions/{run}").to_pylist()
    inside = set(split.table["photo_id"].to_pylist())
    found = split.evaluate(
        {r["photo_id"]: r["predicted_index"] for r in predictions if r["photo_id"] in inside}
    )
    pairs = [row for row in finished.read("pairs").to_pylist() if row["selected"]]
    for pair in pairs:
        for group in ("common", "counter"):
            assert found.classes[pair["class_name"]][group] == pytest.approx(
                pair[f"{group}_{column}accuracy"]
            )
    drops = [pair["drop_honest" if column else "drop"] for pair in pairs]
    assert found.drop == pytest.approx(sum(drops) / len(drops))
    assert found.drop_ci_low < found.drop < found.drop_ci_high


def test_evaluating_the_release_gives_the_drops_of_the_pairs_and_says_who_chose_them(
    finished: Workspace, tmp_path
):
    command = ["evaluate", finished.root / "release", "--cache", tmp_path / "cache"]
    command += ["--model", f"timm:tf_efficientnet_lite0:{weights()}"]
    done = cap(*command, cwd=tmp_path)
    assert "chose this release's pairs" in done.stderr
    assert "the test photos show its honest drop" in done.stderr
    assert "confusions within the family" in done.stdout
    assert "the paper's line through ImageNet models" in done.stdout
    for options in (
        ("--partition", "validation"),
        ("--label-space", "confusing20"),
        ("--label-space", "classes"),
    ):
        cap(*command, *options, cwd=tmp_path)
    found = {}
    for file in (tmp_path / "results" / "evaluations").iterdir():
        evaluation = json.loads(file.read_text())
        key = (evaluation["label_space"]["name"], evaluation["parameters"]["partition"])
        found[key] = evaluation
    # What chose them, and the honest drop with its interval, as `cap split` has them.
    pairs = {p["class_name"]: p for p in finished.read("pairs").to_pylist() if p["selected"]}
    for partition, column in (("validation", "drop"), ("test", "drop_honest")):
        classes = found["imagenet1k", partition]["classes"]
        assert classes.keys() == pairs.keys()
        for name, measured in classes.items():
            assert measured["accuracy"]["drop"]["value"] == pytest.approx(pairs[name][column])
    for name, measured in found["imagenet1k", "test"]["classes"].items():
        for end in ("ci_low", "ci_high"):
            assert measured["accuracy"]["drop"][end] == pytest.approx(pairs[name][f"drop_{end}"])
    # The fewer labels compete, the fewer answers are wrong.
    for group in ("common", "counter"):
        accuracies = [
            found[space, "all"]["measures"]["accuracy"][group]["value"]
            for space in ("imagenet1k", "confusing20", "classes")
        ]
        assert accuracies == sorted(accuracies)
    lost = {n: m["drop"]["value"] for n, m in found["imagenet1k", "all"]["measures"].items()}
    assert lost["error_same_family"] + lost["error_other_family"] == pytest.approx(lost["accuracy"])
    told = json.loads(cap(*command, "--json", cwd=tmp_path).stdout)
    results = read_table(tmp_path / "results" / "results.parquet", RESULTS)
    own = effective_robustness(results.filter(pc.equal(results["partition"], "all")))
    distance = own.points.to_pylist()[-1]["distance"]
    assert told["evaluations"][0]["effective_robustness"] == distance


def test_running_again_does_nothing(finished: Workspace):
    done = cap("run", cwd=finished.root)
    assert done.stdout.count("up to date, skipped") == 7


def test_photos_of_a_reference_folder_are_removed_on_request(
    finished: Workspace, shared: Path, tmp_path
):
    (tmp_path / "cap.toml").write_text("")
    cap("collect", "--root", shared / "photos", "--classes", "beaver,lion", cwd=tmp_path)
    reference = tmp_path / "test-set"
    reference.mkdir()
    for file in sorted((shared / "photos" / "beaver").iterdir())[:5]:
        shutil.copy(file, reference)
    cap("dedup", "--against", reference, cwd=tmp_path)
    rows = Workspace(tmp_path).read("duplicates").to_pylist()
    found = [row for row in rows if (row["keeper"] or "").startswith("against:")]
    assert len(found) == 5
    assert {row["relation"] for row in found} == {"exact"}
    # Another workspace's table serves as well; it knows hashes, not bytes.
    table = finished.table_path("duplicates")
    cap("dedup", "--against", table, cwd=tmp_path)
    rows = Workspace(tmp_path).read("duplicates").to_pylist()
    assert {row["relation"] for row in rows} <= {"near"}
