"""`results/`: what the models that were already scored make of the released photos.

One JSON file for each scoring run over the release's label space, with what `Split.evaluate` gives
for its predictions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.metrics import evaluate_groups
from manifests.schema import PREDICTIONS
from manifests.tables import observer_codes

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = ["scored_runs", "write_results"]

_RESULTS_FOLDER = "results"
_NAMED = ["photo_id", "predicted_index"]
_USED = ["photo_id", "class_index", "class_name", "group", "creator_id", "partition"]


def scored_runs(workspace: Workspace) -> list[str]:
    """The runs that named classes of the workspace's label space, rather than backgrounds."""
    return [run for run in workspace.runs() if _named(workspace, run).num_rows]


def _named(workspace: Workspace, run: str) -> pa.Table:
    """Photos for which a run named a class of the workspace's label space, as that is now."""
    receipt = workspace.receipt(f"predictions/{run}")
    model = (receipt.model if receipt else None) or {}
    own = workspace.label_space.digest
    if model.get("label_space_digest", own) != own:
        return PREDICTIONS.schema.empty_table().select(_NAMED)
    predictions = workspace.read(f"predictions/{run}")
    right = pc.and_(
        pc.equal(predictions["status"], "ok"),
        pc.equal(predictions["label_space"], workspace.label_space.name),
    )
    return predictions.filter(pc.fill_null(right, False)).select(_NAMED)


def write_results(workspace: Workspace, rows: pa.Table, chosen_by: str, folder: Path) -> list[str]:
    """Write the results of each run; gives the names of the runs.

    Where the split has partitions, only photos of `test` count, which had no part in the choice.

    Parameters
    ----------
    workspace
        Where the runs lie.
    rows
        Rows of the release.
    chosen_by
        The run that chose the pairs; its result says so.
    folder
        The release's folder.
    """
    rows = rows.select(_USED)
    tested = rows.filter(pc.fill_null(pc.equal(rows["partition"], "test"), False))
    partition = "test" if tested.num_rows else "all"
    told = []
    for run in workspace.runs():
        found = _result(workspace, tested if tested.num_rows else rows, run)
        if found is None:
            continue
        target = folder / _RESULTS_FOLDER / f"{run}.json"
        target.parent.mkdir(exist_ok=True)
        result = {"run": run, "chose_pairs": run == chosen_by, "partition": partition, **found}
        text = json.dumps(result, indent=2, sort_keys=True, ensure_ascii=False)
        target.write_text(f"{text}\n", "utf-8")
        told.append(run)
    return told


def _result(workspace: Workspace, rows: pa.Table, run: str) -> dict[str, Any] | None:
    """What a run makes of photos; None if it named the class of none of them."""
    scored = (
        rows.join(_named(workspace, run), "photo_id", join_type="inner")
        .sort_by("photo_id")
        .combine_chunks()
    )
    if not scored.num_rows:
        return None
    classes = scored["class_index"].to_numpy().astype(np.int64)
    accuracy = evaluate_groups(
        scored["predicted_index"].to_numpy() == classes,
        classes,
        np.array(scored["group"].to_pylist(), dtype=np.str_),
        observer_codes(scored),
        dict(zip(classes.tolist(), scored["class_name"].to_pylist(), strict=True)),
    )
    receipt = workspace.receipt(f"predictions/{run}")
    return {
        "model": receipt.model if receipt else None,
        "photos": scored.num_rows,
        "photos_without_prediction": rows.num_rows - scored.num_rows,
        **accuracy.to_dict(),
    }
