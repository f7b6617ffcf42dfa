"""The embeddings of a scoring run, for photos by their content: `cap dedup --embeddings RUN`.

A run holds the photos that were kept when it was made. What it says of a content is remembered, so
that a photo that dedup removes for its embedding stays removed when the others are scored again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.tables import whole
from pipeline.dedup.similarity import Embeddings
from pipeline.runs import scorer

if TYPE_CHECKING:
    from manifests.workspace import Workspace
    from pipeline.dedup.known import Known
    from pipeline.parameters import DedupParameters

__all__ = ["read_embeddings"]


def read_embeddings(
    workspace: Workspace, parameters: DedupParameters, stored: pa.Table, known: Known
) -> Embeddings | None:
    """Embeddings of the stored photos, as far as the run ever had them.

    Raises
    ------
    CapError
        If there is no such run, it kept no embeddings, or the similarity is no cosine of near
        photos.
    """
    run = parameters.embeddings
    if run is None:
        return None
    if not 0 < parameters.similarity <= 1:
        msg = (
            f"a similarity of {parameters.similarity:g} makes no sense for near photos; "
            "choose above 0, to 1"
        )
        raise CapError(msg)
    if run not in workspace.runs():
        runs = ", ".join(workspace.runs())
        hint = f"name one of: {runs}" if runs else "run dedup without, then `cap score` makes one"
        msg = f"--embeddings: there is no run {run}; {hint}"
        raise CapError(msg)
    receipt = scorer(workspace, run)
    table = workspace.read(f"predictions/{run}")
    if "embedding" not in table.column_names:
        model = receipt.parameters["model"]
        msg = (
            f"{run} kept no embeddings; run `cap score --model {model} --save-embeddings`, "
            "then this again"
        )
        raise CapError(msg)
    model = f"{receipt.parameters['digest']} {receipt.parameters['precision']}"
    # Of other photos than the present ones, an id may have had other bytes.
    if receipt.inputs["photos"] == workspace.digest("photos"):
        known.add_embeddings(run, model, _by_content(table, stored))
    rows = known.embeddings(run, model)
    rows = rows.filter(pc.is_in(rows["sha256"], whole(stored["sha256"]))).sort_by("sha256")
    vectors = whole(rows["embedding"]).flatten().to_numpy().astype(np.float32)
    vectors = vectors.reshape(rows.num_rows, rows["embedding"].type.list_size)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return Embeddings(run, model, whole(rows["sha256"]), vectors)


def _by_content(table: pa.Table, stored: pa.Table) -> pa.Table:
    """Columns sha256, each once, and embedding of the photos that have one."""
    table = table.filter(pc.is_valid(table["embedding"]))
    positions = pc.index_in(table["photo_id"], value_set=whole(stored["photo_id"]))
    contents = whole(stored["sha256"].take(positions))
    _, first = np.unique(contents.to_numpy(zero_copy_only=False).astype(str), return_index=True)
    rows = pa.table({"sha256": contents, "embedding": table["embedding"]})
    return rows.take(first)
