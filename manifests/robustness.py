"""Effective robustness: how far a model lies above or below the line through a baseline family.

Given the table `results`, and the paper's models from `manifests/reference/` as a backdrop, gives
each model's common and counter accuracy, the line through one family on a logit scale, and each
model's distance from it. The paper's figures are of CounterAnimal's own photos: beside models that
were evaluated on other photos they are a picture, no measurement.

Source: Taori et al., "Measuring robustness to natural distribution shifts in image classification"
(NeurIPS 2020), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.metrics import Line, logit_line
from manifests.vocabulary import read_reference

__all__ = ["Robustness", "backdrop", "effective_robustness"]

_TABLES = {"imagenet1k": ("3", "4"), "confusing20": ("13", "14")}
"""The paper's tables of class-balanced accuracies, by label space: CLIP and ImageNet models."""

_POINTS = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("family", pa.string()),
        pa.field("model", pa.string()),
        pa.field("common", pa.float64()),
        pa.field("counter", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Robustness:
    """Models beside the line through a baseline family.

    Attributes
    ----------
    points
        A row per model: source (`paper` or `results`), family (`clip`, `imagenet`; of results, the
        model's own family), model, common and counter accuracy, `expected` (the counter accuracy
        that the line gives) and `distance` (counter minus expected, the effective robustness).
        Both are null where there is no line, or the common accuracy is 0 or 1.
    baseline
        The family that the line goes through.
    line
        None where the baseline has too few models.
    """

    points: pa.Table
    baseline: str
    line: Line | None


def backdrop(label_space: str = "imagenet1k") -> pa.Table:
    """The paper's 28 CLIP and 15 ImageNet models as points.

    Parameters
    ----------
    label_space
        `imagenet1k` (1 vs. 1000) or `confusing20` (1 vs. 20); no other was used in the paper, and
        there are no points for it.
    """
    rows = [
        {
            "source": "paper",
            "family": row["family"],
            "model": f"{row['backbone']} {row['pretrained']}",
            "common": float(row["common"]),
            "counter": float(row["counter"]),
        }
        for row in read_reference("counteranimal_results")
        if row["table"] in _TABLES.get(label_space, ())
    ]
    return pa.Table.from_pylist(rows, _POINTS)


def effective_robustness(
    results: pa.Table | None = None,
    *,
    label_space: str = "imagenet1k",
    baseline: str = "imagenet",
    paper: bool = True,
) -> Robustness:
    """Each model's distance from the line through a family.

    Parameters
    ----------
    results
        Rows of `results`: of one release and one partition, since others have other photos. Models
        over other label spaces are left out.
    label_space
        Name of the label space.
    baseline
        Family that the line goes through: `imagenet` or `clip` of the paper, or one of `results`.
    paper
        Whether the paper's models are there too.

    Raises
    ------
    CapError
        If the results are of several releases or partitions.
    """
    parts = [backdrop(label_space)] if paper else []
    if results is not None:
        parts.append(_own_points(results, label_space))
    points = pa.concat_tables(parts) if parts else _POINTS.empty_table()
    common, counter = (points[name].to_numpy() for name in ("common", "counter"))
    inside = pc.equal(points["family"], baseline).to_numpy().astype(bool)
    line = logit_line(common[inside], counter[inside])
    expected = np.full(len(common), np.nan)
    if line is not None:
        defined = (common > 0) & (common < 1)
        expected[defined] = line.expected(common[defined])
    for name, values in (("expected", expected), ("distance", counter - expected)):
        points = points.append_column(name, pa.array(values, mask=np.isnan(values)))
    return Robustness(points, baseline, line)


def _own_points(results: pa.Table, label_space: str) -> pa.Table:
    rows = results.filter(pc.equal(results["label_space"], label_space)).to_pylist()
    sets = {(row["release_digest"], row["partition"]) for row in rows}
    if len(sets) > 1:
        msg = (
            f"the results are of {len(sets)} releases and partitions; choose the rows of one, "
            "since models on other photos are not to be compared"
        )
        raise CapError(msg)
    accuracies: dict[str, dict[str, float]] = {}
    about = {}
    for row in rows:
        if (row["class_name"], row["measure"]) == ("*", "accuracy"):
            accuracies.setdefault(row["evaluation"], {})[row["group"]] = row["value"]
            about[row["evaluation"]] = {"family": row["family"], "model": row["model"]}
    points = [
        {"source": "results", **about[name], "common": of["common"], "counter": of["counter"]}
        for name, of in accuracies.items()
        if {"common", "counter"} <= of.keys()
    ]
    return pa.Table.from_pylist(points, _POINTS)
