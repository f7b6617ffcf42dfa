"""The labels that are most like each released class, by the scores of the model that chose.

Per class, the 20 labels with the highest mean score over all its photos in the release, both groups
together. The class itself is always among them: where 20 others beat it, it takes the last place.

Source: "A Sober Look at the Robustness of CLIPs to Spurious Features" (NeurIPS 2024), the 1 vs. 20
setup of appendix B.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.schema import CONFUSING
from manifests.tables import chosen_pairs, from_rows, validate

if TYPE_CHECKING:
    from pathlib import Path

    from manifests.vocabulary import LabelSpace
    from manifests.workspace import Workspace

__all__ = ["Reference", "choosing_run", "confusing_rows", "most_like", "write_confusing"]

_LABELS = 20


@dataclass(frozen=True)
class Reference:
    """The run that chose the pairs, and its model's description, where a receipt has it."""

    run: str
    model: dict[str, Any] | None

    @classmethod
    def of(cls, workspace: Workspace, run: str) -> Reference:
        """The run's description from its receipt."""
        receipt = workspace.receipt(f"predictions/{run}")
        return cls(run, receipt.model if receipt else None)


def choosing_run(pairs: pa.Table) -> str:
    """Name of the run whose predictions chose the pairs."""
    return str(chosen_pairs(pairs)["run"][0])


def most_like(
    class_index: int, mean_scores: NDArray[np.float64], labels: LabelSpace
) -> list[dict[str, Any]]:
    """Rows of `confusing` for one class.

    Parameters
    ----------
    class_index
        Position of the class in the label space.
    mean_scores
        Mean score of each label over the photos of the class, of shape (labels,).
    labels
        The label space. Among equal scores the lower index comes first.
    """
    order = np.argsort(-mean_scores, kind="stable")[:_LABELS]
    replaced = class_index not in order
    if replaced:
        order[-1] = class_index
    return [
        {
            "class_index": class_index,
            "class_name": labels.names[class_index],
            "rank": rank,
            "label_index": int(label),
            "label_name": labels.names[label],
            "mean_score": float(mean_scores[label]),
            "replaced": replaced and rank == len(order),
        }
        for rank, label in enumerate(order, start=1)
    ]


def confusing_rows(
    workspace: Workspace, released: pa.Table, reference: Reference
) -> pa.Table | None:
    """Rows of `confusing` for the released classes.

    None where the run kept no scores, or scored over another label space.
    """
    labels, table = workspace.label_space, f"predictions/{reference.run}"
    if not workspace.has(table):
        return None
    predictions = workspace.read(table)
    if "scores" not in predictions.column_names:
        return None
    wanted = released.select(["photo_id", "class_index"])
    here = pc.is_in(predictions["photo_id"], wanted["photo_id"].combine_chunks())
    scored = predictions.filter(here).select(["photo_id", "label_space", "scores"])
    lengths = pc.list_value_length(scored["scores"]).fill_null(0)
    if not pc.all(
        pc.and_(pc.equal(lengths, len(labels)), pc.equal(scored["label_space"], labels.name))
    ).as_py():
        return None
    class_of = dict(zip(*(wanted[name].to_pylist() for name in wanted.column_names), strict=True))
    classes = np.array([class_of[photo_id] for photo_id in scored["photo_id"].to_pylist()])
    rows: list[dict[str, Any]] = []
    for class_index in np.unique(classes).tolist():
        own = scored["scores"].take(np.flatnonzero(classes == class_index)).combine_chunks()
        scores = own.flatten().to_numpy().reshape(len(own), len(labels))
        rows += most_like(class_index, scores.mean(axis=0, dtype=np.float64), labels)
    return from_rows(rows, CONFUSING.schema)


def write_confusing(file: Path, rows: pa.Table, reference: Reference) -> None:
    """Write `confusing.parquet`, with the run, model and prompts in its metadata."""
    model = reference.model or {}
    metadata = {
        **CONFUSING.metadata(),
        b"cap.run": reference.run.encode(),
        b"cap.model": json.dumps(reference.model, sort_keys=True).encode(),
        b"cap.prompts": json.dumps(model.get("prompts")).encode(),
    }
    table = validate(rows, CONFUSING).replace_schema_metadata(metadata)
    pq.write_table(table, file, compression="zstd")
