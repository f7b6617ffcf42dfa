"""`cap split` on a million labelled photos of a thousand classes: seconds and peak memory.

The tables of a workspace are made up, half of the classes without dependence on the background;
then the whole command runs in a process of its own. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from worlds import independent_world

from manifests.schema import DUPLICATES, LABELS, PHOTOS, PREDICTIONS
from manifests.tables import write_table
from manifests.workspace import Workspace

TARGET_SECONDS, TARGET_GB = 60.0, 3.0

_PEAK = """
import os, resource, sys
from pipeline.cli import main
try:
    main()
finally:
    own, workers = (resource.getrusage(who).ru_maxrss for who in (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak {own} {workers}", file=sys.stderr)
"""


def _column(value: str, rows: int) -> pa.Array:
    return pa.array([value] * rows, pa.string())


def make_workspace(root: Path, classes: int, per_class: int, observers: int | None) -> Workspace:
    """Tables as if the photos had been collected, tagged and scored; `observers` of each class."""
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n')
    workspace = Workspace(root)
    rng = np.random.default_rng(0)
    each = per_class // 10
    world = independent_world(rng, classes, 0.5, photos=(each, each), backgrounds=(10, 10))
    rows = world.photos.num_rows
    photo_id = pa.array([f"folder:{i}" for i in world.photos["photo_id"].to_pylist()])
    digests = pa.array([f"{number:064x}" for number in range(rows)])
    creators = pa.nulls(rows, pa.string())
    if observers is not None:
        # Most photos of a class come from people who have several.
        own = rng.integers(0, observers, rows)
        index = world.photos["class_index"].to_numpy()
        creators = pa.array([f"observer {i} {n}" for i, n in zip(index, own, strict=True)])
    given: dict[str, tuple[Any, dict[str, pa.Array]]] = {
        "photos": (
            PHOTOS,
            {
                "source": _column("folder", rows),
                "class_index": world.photos["class_index"],
                "class_name": world.photos["class_name"],
                "license": _column("cc0", rows),
                "status": _column("ok", rows),
                "sha256": digests,
                "creator_id": creators,
            },
        ),
        "duplicates": (
            DUPLICATES,
            {"status": _column("ok", rows), "relation": _column("unique", rows)},
        ),
        "labels": (
            LABELS,
            {
                "decision": _column("keep", rows),
                "background": world.photos["background"],
                "annotators": pa.array(np.ones(rows, np.int32)),
                "agreement": pa.array(np.ones(rows)),
                "settled_by": _column("import", rows),
            },
        ),
        "predictions/run-1": (
            PREDICTIONS,
            {
                "status": _column("ok", rows),
                "label_space": _column("imagenet1k", rows),
                "correct": world.photos["correct"],
            },
        ),
    }
    for name, (spec, columns) in given.items():
        fields = [field for field in spec.schema if field.name not in spec.optional]
        filled = {"photo_id": photo_id, **columns}
        table = pa.table(
            {f.name: filled.get(f.name, pa.nulls(rows, f.type)) for f in fields},
            schema=pa.schema(fields),
        )
        path = workspace.table_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, table, spec)
    return workspace


def measure(workspace: Workspace, *options: str) -> dict[str, Any]:
    """Seconds and gigabytes of `cap split`; memory is that of the process and its largest child."""
    command = [sys.executable, "-c", _PEAK, "--workspace", str(workspace.root), "--quiet", "split"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, *options, "--json"], capture_output=True, text=True, check=True, env=os.environ
    )
    seconds = time.perf_counter() - started
    own, child = (int(kb) for kb in done.stderr.rpartition("peak ")[2].split())
    workers = len(os.sched_getaffinity(0))
    facts = json.loads(done.stdout)
    return {
        "selected": len(facts["selected"]),
        "seconds": round(seconds, 1),
        "gb": round((own + workers * child) / 2**20, 2),
        "target_seconds": TARGET_SECONDS,
        "target_gb": TARGET_GB,
    }


@click.command(help=__doc__)
@click.option("--classes", default=1000, show_default=True)
@click.option("--per-class", default=1000, show_default=True)
def main(classes: int, per_class: int) -> None:
    found: dict[str, Any] = {"photos": classes * per_class, "classes": classes}
    for name, observers in (("unknown_observers", None), ("observers", int(per_class * 0.6))):
        with tempfile.TemporaryDirectory() as folder:
            workspace = make_workspace(Path(folder), classes, per_class, observers)
            found[name] = measure(workspace)
            found[f"{name}_paper"] = measure(workspace, "--rule", "paper")
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
