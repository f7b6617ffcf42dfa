"""Killed at any moment, `cap run` goes on where it was and ends in the same tables."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import tiny_clip
from conftest import cap, save_photo

from manifests.tables import table_digest
from manifests.workspace import Workspace

KILLS = 20
PHOTOS = 1300
CLASSES = ("ant", "bee", "cat")
TABLES = ("photos", "duplicates", "annotations", "labels", "groups", "pairs", "split")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Photos, tags, a label space and a tiny model; workspaces are made beside them."""
    folder = tmp_path_factory.mktemp("study")
    tags = ["path,background"]
    for number in range(PHOTOS):
        name = f"{CLASSES[number % 3]}/{number:04d}.jpg"
        save_photo(folder / "animals" / name, number, size=(800, 600), quality=85)
        tags.append(f"{name},{('grass', 'sky')[number % 2]}")
    (folder / "tags.csv").write_text("\n".join(tags))
    (folder / "space.csv").write_text("name\n" + "\n".join(CLASSES))
    tiny_clip(folder / "tiny.json", folder / "tiny.safetensors", image_size=32)
    return folder


def make_workspace(study: Path, name: str) -> Path:
    root = study / name
    root.mkdir()
    (root / "cap.toml").write_text("""
label_space = "../space.csv"
[collect]
root = "../animals"
[score]
model = "open_clip:../tiny.json:../tiny.safetensors"
batch_size = 16
workers = 0
[annotate.import]
file = "../tags.csv"
[split]
rule = "paper"
min_drop = -1
[release]
out = "release"
licenses = ["any"]
""")
    return root


def start(root: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "--quiet", "run"],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def content(root: Path) -> dict[str, str]:
    """Digests of every table, and the release's files."""
    workspace = Workspace(root)
    names = [*TABLES, *(f"predictions/{run}" for run in workspace.runs())]
    tables = {name: table_digest(workspace.read(name)) for name in names}
    files = {p.name: str(hash(p.read_bytes())) for p in (root / "release" / "data").iterdir()}
    return tables | files


def committed_parts(root: Path) -> int:
    return len(list((root / ".cap" / "parts").rglob("[0-9]*.parquet")))


def test_twenty_kills_at_random_moments_end_in_the_same_tables(study: Path):
    undisturbed = make_workspace(study, "undisturbed")
    begun = time.monotonic()
    assert start(undisturbed).wait(600) == 0
    duration = time.monotonic() - begun
    moments = random.Random(5)
    kills = partly = 0
    totals = {"batches": 0, "batches_started": 0, "attempts": 0}
    study_number = 0
    while kills < KILLS:
        study_number += 1
        root = make_workspace(study, f"disturbed-{study_number}")
        while True:
            process = start(root)
            try:
                code = process.wait(moments.uniform(0, duration))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                partly += committed_parts(root) > 0
                continue
            assert code == 0
            break
        assert content(root) == content(undisturbed)
        workspace = Workspace(root)
        (run,) = workspace.runs()
        for table in ("photos", "duplicates", f"predictions/{run}"):
            work = workspace.receipt(table).work
            # A batch is begun again only if a kill caught it in flight.
            assert work["batches_started"] - work["batches"] <= work["attempts"] - 1
            for name in totals:
                totals[name] += work[name]
    print(f"{kills} kills, {partly} with rows partly committed; {totals}")
    assert partly >= kills / 2
    assert totals["batches_started"] - totals["batches"] <= kills


def test_a_half_written_table_from_elsewhere_does_not_stop_its_stage(study: Path):
    root = make_workspace(study, "torn")
    cap("collect", cwd=root)
    table = root / "manifests" / "photos.parquet"
    table.write_bytes(table.read_bytes()[:1000])
    done = cap("dedup", cwd=root, check=False)
    assert done.returncode == 1
    assert "is not a whole Parquet file" in done.stderr
    assert "remove it and run its stage again" in done.stderr
    table.unlink()
    cap("collect", cwd=root)
    assert Workspace(root).read("photos").num_rows == PHOTOS
