"""The photos whose predictions are to be explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.kept import kept_photos

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = ["ScoredPhotos", "scored_photos"]


@dataclass(frozen=True)
class ScoredPhotos:
    """Kept photos of known class that a run has scored.

    Attributes
    ----------
    run
        Name of the run.
    rows
        Rows of `photos` with `predicted_index` and `correct` of the run, by photo_id.
    inputs
        Digests of the tables that they come from.
    """

    run: str
    rows: pa.Table
    inputs: Mapping[str, str]


def scored_photos(workspace: Workspace, run: str) -> ScoredPhotos:
    """The photos that a run has scored.

    Raises
    ------
    CapError
        If there is none whose class the run could have named.
    """
    photos, inputs = kept_photos(workspace)
    table = f"predictions/{run}"
    said = workspace.read(table)
    judged = said.filter(pc.is_valid(said["correct"]))
    at = pc.index_in(photos["photo_id"], judged["photo_id"].combine_chunks())
    rows = photos.filter(at.is_valid())
    if not rows.num_rows:
        msg = f"{run} has scored no kept photo whose class is among its labels"
        raise CapError(msg)
    for name in ("predicted_index", "correct"):
        rows = rows.append_column(name, judged[name].take(at.drop_null()))
    return ScoredPhotos(run, rows, {**inputs, "predictions": workspace.digest(table)})
