"""Releases for tests: a workspace that is split, and what makes, changes and damages a release."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import save_photo
from PIL import Image

from manifests.progress import Progress
from manifests.schema import PAIRS, SPLIT
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters, ReleaseParameters
from pipeline.release import release

LICENSES = ("cc0", "cc-by", "all-rights-reserved", "unknown")


def split_photos(workspace: Workspace, tmp_path: Path) -> Workspace:
    """Twelve photos of two classes in two groups, each licence three times, one with a location."""
    root = tmp_path / "root"
    lines = ["file_name,license,creator_id"]
    for number in range(12):
        name = f"{'lion' if number % 2 else 'otter'}/{number:02d}.jpg"
        exif = Image.Exif()
        if number == 3:
            exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
        save_photo(root / name, number, exif=exif)
        lines.append(f"{name},{LICENSES[number % 4]},observer-{number % 3}")
    (root / "metadata.csv").write_text("\n".join(lines))
    collect(workspace, CollectParameters(root=str(root), workers=1), Progress())
    photos = workspace.read("photos").to_pylist()
    rows = [
        {
            **row,
            "group": ("common", "counter")[n % 3 == 0],
            "background": ("grass", "sky")[n % 3 == 0],
        }
        for n, row in enumerate(photos)
    ]
    write_table(workspace.table_path("split"), from_rows(rows, SPLIT.schema), SPLIT)
    pairs = [
        {
            "run": "run",
            "class_index": index,
            "class_name": name,
            "common_background": "grass",
            "counter_background": "sky",
            "common_photos": 4,
            "counter_photos": 2,
            "common_accuracy": 1.0,
            "counter_accuracy": 0.5,
            "drop": 0.5,
            "selected": True,
        }
        for index, name in ((291, "lion"), (360, "otter"))
    ]
    write_table(workspace.table_path("pairs"), from_rows(pairs, PAIRS.schema), PAIRS)
    return workspace


def released(workspace: Workspace, out: Path, *licenses: str, **options: str) -> dict:
    """Release; gives the outcome's facts."""
    outcome = release(workspace, ReleaseParameters(str(out), licenses, **options), Progress())
    return {"fresh": outcome.fresh, **outcome.facts}


def change_split(workspace: Workspace, change) -> None:
    rows = change(workspace.read("split").to_pylist())
    write_table(workspace.table_path("split"), from_rows(rows, SPLIT.schema), SPLIT)


def edit(out: Path, **changes) -> None:
    manifest = json.loads((out / "release.json").read_text())
    (out / "release.json").write_text(json.dumps({**manifest, **changes}))
