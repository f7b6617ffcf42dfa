"""`cap split` on a million labelled photos of a thousand classes: seconds and peak memory.

The tables of a workspace are made up, half of the classes without dependence on the background;
then the whole command runs in a process of its own. Prints one JSON object.
"""

from __future__ import annotations

import json
import re
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

_LOOK_SECONDS = 0.1


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


def resident_kb(pid: int) -> int:
    """Resident memory of a process and its children, in kB; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except OSError:
        return 0
    own = re.search(r"VmRSS:\s+(\d+) kB", status)
    return (int(own[1]) if own else 0) + sum(resident_kb(int(child)) for child in children)


def measure(workspace: Workspace, *options: str) -> dict[str, Any]:
    """Seconds and gigabytes of `cap split`, workers included, looked at ten times a second."""
    command = [sys.executable, "-m", "pipeline", "--workspace", str(workspace.root), "--quiet"]
    started = time.perf_counter()
    peak = 0
    with subprocess.Popen(
        [*command, "split", *options, "--json"], stdout=subprocess.PIPE, text=True
    ) as running:
        while running.poll() is None:
            peak = max(peak, resident_kb(running.pid))
            time.sleep(_LOOK_SECONDS)
        facts = json.loads(running.communicate()[0])
    return {
        "selected": len(facts["selected"]),
        "seconds": round(time.perf_counter() - started, 1),
        "gb": round(peak / 2**20, 2),
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
