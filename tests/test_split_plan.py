"""The plan: enough photos for the power that is aimed at, from counts alone."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from manifests.progress import Progress
from manifests.schema import DUPLICATES, LABELS, PHOTOS, PLAN, table_schema
from manifests.tables import from_rows, validate, write_table
from pipeline.parameters import SplitParameters
from pipeline.split import split
from pipeline.split.inference import Compared, permutation_test
from pipeline.split.plan import Aim, further_photos, plan_rows

AIM = Aim(drop=0.2, power=0.8, fdr=0.05, min_photos=20, validation_share=0.5)
COUNT = st.integers(0, 600)


def test_photos_that_the_plan_asks_for_find_the_drop_as_often_as_it_says():
    # Four backgrounds without a difference beside the two, and the level of the last of a half of
    # all classes to be selected: a p-value of 0.025.
    each = further_photos((0, 0), 6, AIM)[0] // 2
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(6), each)
    accuracy = np.array([0.6, 0.4, 0.5, 0.5, 0.5, 0.5])[group]
    found = 0
    for number in range(150):
        photos = Compared(rng.random(len(group)) < accuracy, group, np.arange(len(group)))
        found += permutation_test(photos, 400, (number,)).p_value <= 0.025
    assert abs(found / 150 - 0.8) < 3 * np.sqrt(0.8 * 0.2 / 150)


@given(COUNT, COUNT, st.integers(2, 14))
@settings(max_examples=50)
def test_once_the_plan_is_carried_out_it_asks_for_no_more(first, second, compared):
    counts = max(first, second), min(first, second)
    more = further_photos(counts, compared, AIM)
    assert min(more) >= 0
    whole = counts[0] + more[0], counts[1] + more[1]
    whole = max(whole), min(whole)
    assert further_photos(whole, compared, AIM) == (0, 0)
    # Whoever has many photos of one background needs fewer of the other.
    assert sum(further_photos((counts[0] + 50, counts[1]), compared, AIM)) <= sum(more)


def test_a_large_background_spares_photos_of_the_small_one():
    assert further_photos((5000, 100), 2, AIM)[0] == 0
    assert further_photos((5000, 100), 2, AIM)[1] < further_photos((100, 100), 2, AIM)[1]


def test_the_two_largest_backgrounds_are_planned_for_and_the_neediest_class_comes_first():
    tagged = Counter(
        {(3, "grass"): 400, (3, "sky"): 390, (3, "rock"): 5, (8, "grass"): 50, (9, "sky"): 700}
    )
    rows = plan_rows(tagged, (3, 8, 9), ("grass", "rock", "sky"), AIM)
    validate(from_rows(rows, PLAN.schema), PLAN)
    needed = {(row["class_index"], row["background"]): row["need"] for row in rows}
    assert needed[3, "grass"] == needed[3, "sky"] == needed[3, "rock"] == 0
    # Class 8 has no second background: the one that other classes have most of is taken.
    assert needed[8, "sky"] > 0
    assert needed[8, "rock"] == 0
    assert needed[9, "sky"] == 0
    assert needed[9, "grass"] > 0
    priority = {row["class_index"]: row["priority"] for row in rows}
    assert priority == {8: 1, 9: 2, 3: 3}


def put(workspace, labels: list[tuple[str | None, str | None]]) -> None:
    """Photos of a class, each with its background and second one, or none where it waits."""
    ids = [f"folder:{n:04d}" for n in range(len(labels))]
    photo = {"source": "folder", "class_index": 7, "class_name": "cock", "license": "cc0"}
    tables = {
        "photos": (
            PHOTOS,
            [
                {**photo, "photo_id": i, "status": "ok", "sha256": f"{n:064x}"}
                for n, i in enumerate(ids)
            ],
        ),
        "duplicates": (
            DUPLICATES,
            [{"photo_id": i, "status": "ok", "relation": "unique"} for i in ids],
        ),
        "labels": (
            LABELS,
            [
                {
                    "photo_id": i,
                    "decision": "keep",
                    "background": background,
                    "background_second": second,
                    "annotators": 1,
                    "agreement": 1.0,
                    "settled_by": "import",
                }
                for i, (background, second) in zip(ids, labels, strict=True)
                if background is not None
            ],
        ),
    }
    for name, (schema, rows) in tables.items():
        path = workspace.table_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, from_rows(rows, schema.schema), table_schema(name))


def test_the_plan_needs_no_scores_and_writes_nothing_else(workspace):
    put(workspace, [("grass", None)] * 30 + [("sky", "rock")] * 10 + [(None, None)] * 7)
    outcome = split(workspace, SplitParameters(plan=True), Progress())
    assert outcome.facts["classes"] == 1
    assert "more on grass (has 30)" in outcome.text
    assert "7 photos wait for an answer" in outcome.text
    rows = {row["background"]: row for row in workspace.read("plan").to_pylist()}
    assert len(rows) == 14
    assert (rows["grass"]["have"], rows["sky"]["have"], rows["rock"]["have"]) == (30, 10, 0)
    assert rows["sky"]["need"] > rows["grass"]["need"] > rows["rock"]["need"] == 0
    assert not workspace.has("pairs")
    assert split(workspace, SplitParameters(plan=True), Progress()).fresh


def test_without_mixed_photos_the_plan_counts_only_the_others(workspace):
    put(workspace, [("grass", None)] * 30 + [("sky", "rock")] * 10)
    split(workspace, SplitParameters(plan=True, exclude_mixed=True), Progress())
    rows = {row["background"]: row for row in workspace.read("plan").to_pylist()}
    assert (rows["grass"]["have"], rows["sky"]["have"]) == (30, 0)


@pytest.mark.parametrize("wrong", [{"plan_drop": 0.0}, {"plan_power": 1.0}])
def test_an_aim_out_of_range_is_refused(workspace, wrong):
    from manifests.errors import CapError

    with pytest.raises(CapError, match="lies between 0 and 1"):
        split(workspace, SplitParameters(plan=True, **wrong), Progress())
