"""How the released photos came to be, as counts: for the card and the Croissant file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.tables import count_by

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = ["classes_of", "construction", "split_day"]


def construction(workspace: Workspace, rows: pa.Table) -> dict[str, Any]:
    """Sources, observers, dates, backgrounds and partitions of the rows; tags, where there are any.

    Parameters
    ----------
    workspace
        Where the tables lie that the split was made from.
    rows
        Rows of the release, with `source` and `observed_at`.
    """
    seen = pc.min_max(rows["observed_at"])
    days = [moment.date().isoformat() for moment in seen.as_py().values() if moment is not None]
    return {
        "sources": count_by(rows, "source"),
        "observers": pc.count_distinct(rows["creator_id"]).as_py(),
        "photos_without_observer": rows["creator_id"].null_count,
        "observed": days or None,
        "backgrounds": count_by(rows, "background"),
        "partitions": count_by(rows.select(["partition"]).drop_null(), "partition"),
        "deduplicated": workspace.has("duplicates"),
        "labels": _labels(workspace, rows["photo_id"].combine_chunks()),
    }


def classes_of(rows: pa.Table) -> tuple[int, list[str]]:
    """How many classes the rows are of, and the names of those with photos of one group only."""
    classes = rows.group_by(["class_index", "class_name"]).aggregate([("group", "count_distinct")])
    halves = classes.filter(pc.less(classes["group_count_distinct"], 2))
    return classes.num_rows, sorted(halves["class_name"].to_pylist())


def _labels(workspace: Workspace, ids: pa.Array) -> dict[str, Any] | None:
    """How the backgrounds were settled, and by how many people."""
    if not workspace.has("labels"):
        return None
    labels = workspace.read("labels")
    labels = labels.filter(pc.is_in(labels["photo_id"], ids))
    if not labels.num_rows:
        return None
    return {
        "settled_by": count_by(labels, "settled_by"),
        "annotators_per_photo": round(pc.mean(labels["annotators"]).as_py(), 2),
    }


def split_day(workspace: Workspace) -> str | None:
    """The day on which `cap split` made the split; None where that is not known."""
    receipt = workspace.receipt("split")
    return receipt.ended_at[:10] if receipt else None
