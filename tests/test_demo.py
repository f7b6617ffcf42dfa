"""`cap demo` finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import json

import pytest
from conftest import cap

from manifests import load_split
from manifests.workspace import Workspace


def test_the_demo_finds_the_planted_pairs_and_releases_them(tmp_path):
    done = cap("demo", "--seed", "3", cwd=tmp_path)
    assert "DIFFERS" not in done.stdout
    workspace = Workspace(tmp_path / "demo" / "shortcut-3")
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
    again = cap("demo", "--seed", "3", cwd=tmp_path)
    assert again.stdout.count("up to date, skipped") == 6
    with_other_seed = cap("demo", workspace.root, "--seed", "4", cwd=tmp_path, check=False)
    assert with_other_seed.returncode == 1
    assert "holds the demo of seed 3" in with_other_seed.stderr


def test_the_demo_without_a_shortcut_selects_no_class(tmp_path):
    done = cap("demo", "--seed", "1", "--plant", "none", cwd=tmp_path)
    assert "DIFFERS" not in done.stdout
    pairs = Workspace(tmp_path / "demo" / "none-1").read("pairs").to_pylist()
    assert not any(pair["selected"] for pair in pairs)
    assert max(pair["drop"] for pair in pairs) <= 0.05


@pytest.mark.parametrize(("plant", "seed"), [("cake", "0"), ("none", "-1")])
def test_what_cannot_be_planted_is_one_line(tmp_path, plant, seed):
    done = cap("demo", "--plant", plant, "--seed", seed, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "choose" in done.stderr
    assert "Traceback" not in done.stderr
