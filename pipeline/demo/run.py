"""Make the demo's workspace, and compare what the stages find in it with what was planted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from manifests.errors import CapError
from pipeline.demo.render import make_world, render_photos
from pipeline.demo.train import train
from pipeline.recipes import write_recipe

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["Finding", "compare", "prepare"]


def prepare(folder: Path, seed: int, plant: str, progress: Progress) -> None:
    """Render the photos and train the model, where that is not done already.

    Raises
    ------
    CapError
        If the folder holds another demo.
    """
    world = make_world(seed, plant)
    planted = folder / "planted.json"
    if planted.is_file():
        made = json.loads(planted.read_text("utf-8"))
        if (made["seed"], made["plant"]) != (seed, plant):
            msg = f"{folder} holds the demo of seed {made['seed']}, {made['plant']}; name another"
            raise CapError(msg)
    else:
        progress.note(f"demo: drawing animals into {folder}")
        render_photos(world, folder / "animals")
    if not (folder / "toy.safetensors").is_file():
        progress.note("demo: training a tiny CLIP on the toy world (under a minute)")
        train(world, folder)
    if not (folder / "cap.toml").is_file():
        write_recipe(folder, "demo")


@dataclass(frozen=True)
class Finding:
    """One thing that was planted, what was found of it, and whether they are the same."""

    what: str
    planted: str
    found: str

    @property
    def same(self) -> bool:
        """Whether the stages found what was planted."""
        return self.planted == self.found


def _names(photo_ids: Iterable[str]) -> str:
    return ", ".join(sorted(photo_id.removeprefix("folder:") for photo_id in photo_ids)) or "none"


def compare(workspace: Workspace) -> list[Finding]:
    """Planted against found: the pair of every class, the copies, and the unreadable files."""
    planted: dict[str, Any] = json.loads((workspace.root / "planted.json").read_text("utf-8"))
    pairs = {row["class_name"]: row for row in workspace.read("pairs").to_pylist()}
    findings = []
    for name in workspace.label_space.names:
        pair = planted["pairs"].get(name)
        row = pairs[name]
        found = f"{row['common_background']} > {row['counter_background']}"
        findings.append(
            Finding(
                what=name,
                planted=f"{pair['common']} > {pair['counter']}" if pair else "none",
                found=found if row["selected"] else "none",
            )
        )
    return [*findings, *_compare_files(workspace, planted)]


def _compare_files(workspace: Workspace, planted: dict[str, Any]) -> list[Finding]:
    rows = workspace.read("duplicates").to_pylist()
    keeper = {row["photo_id"].removeprefix("folder:"): row["keeper"] for row in rows}
    copies = [pair for kind in ("exact", "near") for pair in planted[kind]]
    merged = sum(keeper[pair["photo"]] == keeper[pair["copy"]] for pair in copies)
    failed = workspace.read("photos")
    failed = failed.filter(pc.equal(failed["status"], "failed"))
    return [
        Finding("copies", f"{len(copies)} pairs", f"{merged} pairs"),
        Finding(
            "unreadable files",
            _names(f"folder:{name}" for name in planted["unreadable"]),
            _names(failed["photo_id"].to_pylist()),
        ),
    ]
