"""`cap demo` finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import cap

from manifests import load_split
from manifests.workspace import Workspace


@pytest.fixture
def folder(demo: Workspace) -> Path:
    """The folder in which `cap demo --seed 3` was run."""
    return demo.root.parent.parent


@pytest.fixture
def workspace(demo: Workspace) -> Workspace:
    """The workspace that the demo made."""
    return demo


def test_the_demo_finds_the_planted_pairs_and_releases_them(folder, workspace):
    planted = json.loads((workspace.root / "planted.json").read_text())["pairs"]
    found = {
        row["class_name"]: {
            "common": row["common_background"],
            "counter": row["counter_background"],
        }
        for row in workspace.read("pairs").to_pylist()
        if row["selected"]
    }
    assert found == planted
    assert len(planted) == 4
    split = load_split(workspace.root / "release")
    assert set(split.table["class_name"].to_pylist()) == set(planted)
    page = (workspace.root / "reports" / "report.html").read_text("utf-8")
    assert all(name in page for name in planted)
    again = cap("demo", "--seed", "3", cwd=folder)
    assert again.stdout.count("up to date, skipped") == 7
    with_other_seed = cap("demo", workspace.root, "--seed", "4", cwd=folder, check=False)
    assert with_other_seed.returncode == 1
    assert "holds the demo of seed 3" in with_other_seed.stderr


def test_the_demos_model_suggests_the_planted_backgrounds_too(demo, tmp_path):
    workspace = Workspace(shutil.copytree(demo.root, tmp_path / "demo"))
    model = "open_clip:toy.json:toy.safetensors"
    arguments = ["score", "--model", model, "--label-space", "backgrounds", "--json"]
    run = json.loads(cap(*arguments, cwd=workspace.root).stdout)["run"]
    with (workspace.root / "tags.tsv").open(encoding="utf-8", newline="") as handle:
        planted = {
            f"folder:{row['path']}": row["background"]
            for row in csv.DictReader(handle, delimiter="\t")
        }
    rows = workspace.read(f"predictions/{run}").to_pylist()
    agreed = sum(row["predicted_name"] == planted[row["photo_id"]] for row in rows)
    assert agreed / len(rows) >= 0.8
    assert {(row["label_space"], row["correct"], row["target_rank"]) for row in rows} == {
        ("backgrounds", None, None)
    }
    # A run of suggestions does not stand beside the runs that a split may mean.
    assert "up to date, skipped" in cap("split", cwd=workspace.root).stdout
    assert "up to date, skipped" in cap("split", "--model", model, cwd=workspace.root).stdout


def test_the_demo_without_a_shortcut_selects_no_class(tmp_path):
    done = cap("demo", "--seed", "1", "--plant", "none", cwd=tmp_path)
    assert "DIFFERS" not in done.stdout
    assert "no class was selected, so that there is nothing to release" in done.stdout
    workspace = Workspace(tmp_path / "demo" / "none-1")
    assert not (workspace.root / "release").exists()
    page = (workspace.root / "reports" / "report.html").read_text("utf-8")
    assert "No class was selected" in page
    assert not any(pair["selected"] for pair in workspace.read("pairs").to_pylist())
    accuracies: dict[str, list[float]] = {}
    for group in workspace.read("groups").to_pylist():
        accuracies.setdefault(group["class_name"], []).append(group["accuracy"])
    assert max(max(found) - min(found) for found in accuracies.values()) <= 0.05


@pytest.mark.parametrize(("plant", "seed"), [("cake", "0"), ("none", "-1")])
def test_what_cannot_be_planted_is_one_line(tmp_path, plant, seed):
    done = cap("demo", "--plant", plant, "--seed", seed, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "choose" in done.stderr
    assert "Traceback" not in done.stderr
