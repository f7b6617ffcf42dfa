"""From `annotations` to `labels`, and what is to be kept in mind where several sources meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from annotation.consensus import disputed, settle
from manifests.errors import CapError
from manifests.kept import kept_photos
from manifests.schema import ANNOTATIONS, LABELS
from manifests.tables import from_rows
from manifests.workspace import Job

if TYPE_CHECKING:
    import pyarrow as pa

    from manifests.workspace import Workspace

__all__ = ["Unsettled", "refuse_doubled", "settle_labels", "unsettled"]


def settle_labels(workspace: Workspace) -> bool:
    """Write `labels` from all annotations; gives whether they were up to date already."""
    job = Job(
        table="labels",
        stage="annotate",
        parameters={},
        inputs={"annotations": workspace.digest("annotations")},
    )
    run = workspace.begin(job)
    if not run.fresh:
        run.commit(from_rows(settle(workspace.read("annotations")), LABELS.schema))
    return run.fresh


def refuse_doubled(workspace: Workspace, annotations: pa.Table, source: str, advice: str) -> None:
    """Refuse answers that another source has already, by the same annotator.

    Parameters
    ----------
    annotations
        The answers that are to come in.
    source
        Where they come from.
    advice
        What to do about it, as the end of the sentence.

    Raises
    ------
    CapError
        If there is one; it is named.
    """
    if not workspace.has("annotations"):
        return
    key = list(ANNOTATIONS.key)
    standing = workspace.read("annotations").select([*key, "source"]).to_pylist()
    others = {tuple(r[k] for k in key): r["source"] for r in standing if r["source"] != source}
    if not others:
        return
    for row in annotations.select(key).to_pylist():
        other = others.get(tuple(row[k] for k in key))
        if other is not None:
            msg = f"{row['annotator']} has tagged {row['photo_id']} in {other} already; {advice}"
            raise CapError(msg)


@dataclass(frozen=True)
class Unsettled:
    """Photos that a split would miss: how many have no label yet, and how many are in dispute."""

    waiting: int
    disputed: int


def unsettled(workspace: Workspace) -> Unsettled:
    """Count the photos that go on and have a class, but no label."""
    photos, _ = kept_photos(workspace)
    asked = set(photos.filter(pc.is_valid(photos["class_index"]))["photo_id"].to_pylist())
    if workspace.has("labels"):
        asked -= set(workspace.read("labels")["photo_id"].to_pylist())
    in_dispute: set[str] = set()
    if workspace.has("annotations"):
        in_dispute = asked & set(disputed(workspace.read("annotations")))
    return Unsettled(len(asked - in_dispute), len(in_dispute))
