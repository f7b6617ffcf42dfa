"""Whether `cap demo` finds what was planted for any seed, and by how much.

Runs the demo for seeds 0 to N-1, with a shortcut and without, each in a folder of its own. The
margin of a planted class is the distance from its common background's accuracy to the next best,
or from its counter background's to the next worst, whichever is smaller, in points: the demo fails
where one falls to 0. Where nothing is planted, the largest drop must stay below the rule's bar of 5
points.
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

from manifests.workspace import Workspace


def margin(accuracies: dict[str, float], common: str, counter: str) -> float:
    """Points by which a planted pair is the extreme pair."""
    others = [value for name, value in accuracies.items() if name not in {common, counter}]
    return 100 * min(accuracies[common] - max(others), min(others) - accuracies[counter])


def measure(case: tuple[str, int], folder: Path) -> tuple[bool, float]:
    """Whether one demo passed, and its smallest margin or its largest drop, in points."""
    plant, seed = case
    root = folder / f"{plant}-{seed}"
    arguments = ["demo", root, "--seed", str(seed), "--plant", plant]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--quiet", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    workspace = Workspace(root)
    planted = json.loads((root / "planted.json").read_text("utf-8"))["pairs"]
    accuracies: dict[str, dict[str, float]] = {}
    for row in workspace.read("groups").to_pylist():
        accuracies.setdefault(row["class_name"], {})[row["background"]] = row["accuracy"]
    if planted:
        return done.returncode == 0, min(margin(accuracies[k], **v) for k, v in planted.items())
    drops = [max(found.values()) - min(found.values()) for found in accuracies.values()]
    return done.returncode == 0, 100 * max(drops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    cases = list(product(("shortcut", "none"), range(parser.parse_args().seeds)))
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        found = dict(zip(cases, pool.map(lambda c: measure(c, Path(folder)), cases), strict=True))
    for (plant, seed), (passed, points) in found.items():
        print(f"{plant:9}{seed:4}  {'passed' if passed else 'FAILED'}  {points:6.1f} points")
    for plant, extreme in (("shortcut", min), ("none", max)):
        own = [value for (kind, _), value in found.items() if kind == plant]
        what = "smallest margin" if plant == "shortcut" else "largest drop"
        print(
            f"{plant}: {sum(passed for passed, _ in own)} of {len(own)} passed; "
            f"{what} {extreme(points for _, points in own):.1f} points"
        )


if __name__ == "__main__":
    main()
