"""Effective robustness is the distance from a line through a family, on the paper's figures too."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pyarrow as pa
import pytest

from manifests.errors import CapError
from manifests.metrics import Bootstrap
from manifests.robustness import backdrop, effective_robustness
from manifests.schema import RESULTS
from manifests.tables import from_rows
from manifests.vocabulary import read_reference

CHECKPOINTS = {
    "laion400m_vit_b_16": ("ViT/B/16", "LAION400M"),
    "laion400m_vit_b_32": ("ViT/B/32", "LAION400M"),
    "laion400m_vit_l_14": ("ViT/L/14", "LAION400M"),
    "laion2b_vit_b_32": ("ViT/B/32", "LAION2B"),
    "openai_vit_b_32": ("ViT/B/32", "OpenAI"),
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_our_aggregation_of_the_papers_classes_gives_its_table_3(checkpoint):
    """To 0.2 points: the paper's own tables differ by up to 0.15."""
    rows = read_reference("counteranimal_classes")
    # A thousand photos of each class in each group, as many of them right as the paper says.
    photos = 1000
    right = [
        np.arange(photos) < round(photos * float(row[f"{checkpoint}_{group}"]))
        for group in ("common", "counter")
        for row in rows
    ]
    classes = np.tile(np.repeat([int(row["class_index"]) for row in rows], photos), 2)
    groups = np.repeat(["common", "counter"], len(rows) * photos)
    clusters = np.zeros(len(groups), dtype=np.int64)
    found = Bootstrap(classes, groups, clusters, draws=1).balanced(np.concatenate(right))
    (published,) = (
        row
        for row in read_reference("counteranimal_results")
        if row["table"] == "3" and (row["backbone"], row["pretrained"]) == CHECKPOINTS[checkpoint]
    )
    for group in ("common", "counter", "drop"):
        assert found[group].value == pytest.approx(float(published[group]), abs=0.002)


def test_the_backdrop_is_the_papers_28_clip_and_15_imagenet_models():
    for label_space in ("imagenet1k", "confusing20"):
        families = backdrop(label_space)["family"].to_pylist()
        assert (families.count("clip"), families.count("imagenet")) == (28, 15)
    assert backdrop("classes").num_rows == 0
    points = backdrop().to_pylist()
    (reference,) = (p for p in points if p["model"] == "ViT/B/32 LAION400M")
    assert (reference["common"], reference["counter"]) == (0.6713, 0.3695)


def test_clip_models_lie_below_the_imagenet_line_of_the_paper():
    found = effective_robustness()
    assert found.line.models == 15
    by_family: dict[str, list[float]] = {"clip": [], "imagenet": []}
    for point in found.points.to_pylist():
        by_family[point["family"]].append(point["distance"])
        logit = np.log(point["common"] / (1 - point["common"]))
        expected = 1 / (1 + np.exp(-(found.line.slope * logit + found.line.intercept)))
        assert point["expected"] == pytest.approx(expected)
        assert point["distance"] == pytest.approx(point["counter"] - expected)
    # "CLIPs are not more robust than ImageNet models", the paper's finding.
    assert abs(fmean(by_family["imagenet"])) < 0.005
    assert fmean(by_family["clip"]) < -0.02
    slope, intercept = np.polyfit(
        *(
            [np.log(p[g] / (1 - p[g])) for p in backdrop().to_pylist() if p["family"] == "imagenet"]
            for g in ("common", "counter")
        ),
        1,
    )
    assert (found.line.slope, found.line.intercept) == pytest.approx((slope, intercept))


def results(accuracies: dict[str, tuple[float, float]], **changes) -> pa.Table:
    rows = [
        {
            "evaluation": model,
            "class_name": "*",
            "measure": "accuracy",
            "group": group,
            "photos": 10,
            "value": value,
            "ci_low": value,
            "ci_high": value,
            "model": model,
            "model_digest": model,
            "family": "timm",
            "release": "mine",
            "release_digest": "1",
            "label_space": "imagenet1k",
            "label_space_digest": "1",
            "partition": "all",
            "chose_pairs": False,
            "resamples": 10,
            "seed": 0,
            **changes,
        }
        for model, (common, counter) in accuracies.items()
        for group, value in (
            ("common", common),
            ("counter", counter),
            ("drop", common - counter),
        )
    ]
    return from_rows(rows, RESULTS.schema)


def test_a_users_models_stand_before_the_backdrop_and_may_be_the_baseline_themselves():
    own = results({"a": (0.6, 0.4), "b": (0.8, 0.7), "c": (0.7, 0.6), "d": (1.0, 0.9)})
    found = effective_robustness(own)
    assert found.points.num_rows == 28 + 15 + 4
    mine = {p["model"]: p for p in found.points.to_pylist() if p["source"] == "results"}
    assert mine["c"]["distance"] == pytest.approx(0.6 - mine["c"]["expected"])
    assert mine["d"]["distance"] is None
    assert found.line == effective_robustness().line
    alone = effective_robustness(own, baseline="timm", paper=False)
    assert alone.line.models == 3
    assert alone.points.num_rows == 4


def test_without_a_line_there_is_no_distance():
    found = effective_robustness(results({"a": (0.6, 0.4)}), baseline="timm")
    assert found.line is None
    assert set(found.points["distance"].to_pylist()) == {None}
    assert effective_robustness(paper=False).points.num_rows == 0


def test_models_on_other_photos_or_over_other_labels_are_not_mixed():
    own = results({"a": (0.6, 0.4)})
    other = results({"b": (0.6, 0.4)}, release_digest="2")
    with pytest.raises(CapError, match="the results are of 2 releases and partitions"):
        effective_robustness(pa.concat_tables([own, other]))
    other = results({"b": (0.6, 0.4)}, label_space="confusing20")
    found = effective_robustness(pa.concat_tables([own, other]), paper=False)
    assert found.points["model"].to_pylist() == ["a"]
