"""`cap demo` finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import cap

from manifests import load_split
from manifests.errors import CapError
from manifests.progress import Progress
from manifests.workspace import Workspace
from pipeline.demo import render
from pipeline.demo.run import prepare, serving


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


@pytest.mark.parametrize("name", ["cap.toml", "tags.tsv", "label_space.csv", "animals"])
def test_a_demo_is_drawn_over_nothing_that_is_not_its_own(tmp_path, name):
    (tmp_path / name).touch()
    done = cap("demo", tmp_path, cwd=tmp_path, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [tmp_path / name])
    assert f"has a {name} that is of no demo; name a folder" in done.stderr


def test_a_demo_that_was_stopped_while_it_drew_goes_on(tmp_path, monkeypatch):
    write = render.write_table

    def stop_at_the_last(path: Path, columns, rows) -> None:
        write(path, columns, rows)
        if path.name == "label_space.csv":
            raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.demo.run.train", lambda world, folder: None)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.demo.render.write_table", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, 1, "none", Progress())
    assert not (tmp_path / "planted.json").exists()
    for _ in range(2):
        prepare(tmp_path, 1, "none", Progress())
    assert json.loads((tmp_path / "planted.json").read_text())["seed"] == 1
    assert not (tmp_path / ".drawing").exists()


@pytest.mark.parametrize(
    ("recipe", "missing"),
    [("", "source"), ('[collect]\nsource = "inaturalist"\n', "api_url")],
)
def test_a_demo_whose_recipe_tells_no_source_is_one_line(tmp_path, recipe, missing):
    (tmp_path / "cap.toml").write_text(recipe)
    with (
        pytest.raises(CapError, match=rf"cap\.toml has no {missing} under \[collect\]"),
        serving(tmp_path, "inaturalist", Progress()),
    ):
        pass


@pytest.mark.parametrize(("plant", "seed"), [("cake", "0"), ("none", "-1")])
def test_what_cannot_be_planted_is_one_line(tmp_path, plant, seed):
    done = cap("demo", "--plant", plant, "--seed", seed, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "choose" in done.stderr
    assert "Traceback" not in done.stderr
