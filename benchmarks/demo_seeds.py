"""Whether `cap demo` finds what was planted for any seed, and by how much.

Runs the demo for seeds 0 to N-1, with a shortcut and without, each in a folder of its own. The
margin of a planted class is the distance from its common background's accuracy to the next best,
or from its counter background's to the next worst, whichever is smaller, in points: the demo fails
where one falls to 0. Where nothing is planted, the largest drop must stay below the rule's bar of 5
points. Then the same model suggests backgrounds; the share of photos for which it suggests the
planted one must reach 80 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pyarrow.compute as pc

from manifests.workspace import Workspace


def margin(accuracies: dict[str, float], common: str, counter: str) -> float:
    """Points by which a planted pair is the extreme pair."""
    others = [value for name, value in accuracies.items() if name not in {common, counter}]
    return 100 * min(accuracies[common] - max(others), min(others) - accuracies[counter])


def cap(*arguments: str | Path) -> bool:
    """Whether a `cap` command, on one thread, ended well."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--quiet", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def agreement(workspace: Workspace) -> float:
    """Share of the photos whose suggested background is the planted one."""
    before = workspace.runs()
    if not cap("--workspace", workspace.root, "score", "--label-space", "backgrounds"):
        return 0.0
    (run,) = set(workspace.runs()) - set(before)
    suggested = workspace.read(f"predictions/{run}").select(["photo_id", "predicted_name"])
    both = suggested.join(workspace.read("labels").select(["photo_id", "background"]), "photo_id")
    return float(pc.mean(pc.equal(both["predicted_name"], both["background"])).as_py())


def measure(case: tuple[str, int], folder: Path) -> tuple[bool, float, float]:
    """Whether one demo passed, its smallest margin or largest drop in points, and agreement."""
    plant, seed = case
    root = folder / f"{plant}-{seed}"
    passed = cap("demo", root, "--seed", str(seed), "--plant", plant)
    workspace = Workspace(root)
    agreed = agreement(workspace)
    planted = json.loads((root / "planted.json").read_text("utf-8"))["pairs"]
    accuracies: dict[str, dict[str, float]] = {}
    for row in workspace.read("groups").to_pylist():
        accuracies.setdefault(row["class_name"], {})[row["background"]] = row["accuracy"]
    if planted:
        return passed, min(margin(accuracies[k], **v) for k, v in planted.items()), agreed
    drops = [max(found.values()) - min(found.values()) for found in accuracies.values()]
    return passed, 100 * max(drops), agreed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    cases = list(product(("shortcut", "none"), range(parser.parse_args().seeds)))
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        found = dict(zip(cases, pool.map(lambda c: measure(c, Path(folder)), cases), strict=True))
    for (plant, seed), (passed, points, agreed) in found.items():
        verdict = "passed" if passed else "FAILED"
        print(f"{plant:9}{seed:4}  {verdict}  {points:6.1f} points  {agreed:.1%} agreement")
    for plant, extreme in (("shortcut", min), ("none", max)):
        own = [value for (kind, _), value in found.items() if kind == plant]
        what = "smallest margin" if plant == "shortcut" else "largest drop"
        print(
            f"{plant}: {sum(passed for passed, _, _ in own)} of {len(own)} passed; "
            f"{what} {extreme(points for _, points, _ in own):.1f} points; "
            f"smallest agreement {min(agreed for _, _, agreed in own):.1%}"
        )


if __name__ == "__main__":
    main()
