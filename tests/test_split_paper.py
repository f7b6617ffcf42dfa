"""The paper's split rule, from accuracies per background to the photos of the split."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from manifests.errors import CapError
from manifests.progress import Progress
from manifests.schema import (
    DUPLICATES,
    GROUPS,
    LABELS,
    PAIRS,
    PHOTOS,
    PREDICTIONS,
    SPLIT,
    table_schema,
)
from manifests.tables import from_rows, validate, write_table
from manifests.workspace import Workspace
from pipeline.parameters import SplitParameters
from pipeline.split import split, split_rows
from pipeline.split.groups import group_accuracies, judged_photos, tagged_photos
from pipeline.split.paper import choose_pairs


def group(background: str, correct: int, photos: int, class_index: int = 0) -> dict:
    return {
        "run": "run",
        "class_index": class_index,
        "class_name": f"class {class_index}",
        "background": background,
        "photos": photos,
        "correct": correct,
        "accuracy": correct / photos,
        "ci_low": 0.0,
        "ci_high": 1.0,
    }


def chosen(*groups: dict, min_photos: int = 20, min_drop: float = 0.05) -> dict:
    (pair,) = choose_pairs(list(groups), min_photos, min_drop)
    return pair


def test_common_is_the_highest_and_counter_the_lowest_accuracy():
    pair = chosen(group("grass", 30, 40), group("sky", 10, 40), group("water", 39, 40))
    assert (pair["common_background"], pair["counter_background"]) == ("water", "sky")
    assert pair["drop"] == pytest.approx(29 / 40)
    assert pair["selected"]
    assert pair["reason"] is None


def test_small_backgrounds_are_not_considered():
    pair = chosen(group("grass", 30, 40), group("sky", 0, 19), group("water", 39, 40))
    assert pair["counter_background"] == "grass"


def test_among_equal_accuracies_more_photos_win_then_the_first_name():
    pair = chosen(
        group("rock", 20, 20), group("grass", 40, 40), group("sky", 0, 30), group("earth", 0, 30)
    )
    assert (pair["common_background"], pair["counter_background"]) == ("grass", "earth")


def test_the_drop_must_exceed_the_bar_exactly():
    # 11/20 - 10/20 is above 0.05 in floating point, but not in truth.
    pair = chosen(group("grass", 11, 20), group("sky", 10, 20))
    assert not pair["selected"]
    assert pair["reason"] == "the drop of 5.0 points is not above 5"
    assert chosen(group("grass", 111, 200), group("sky", 100, 200))["selected"]


def test_a_class_with_one_large_background_says_so():
    pair = chosen(group("grass", 30, 40), group("sky", 1, 3))
    assert not pair["selected"]
    assert pair["reason"] == "1 of 2 backgrounds have 20 photos; a pair needs two"


COUNTS = st.tuples(st.integers(1, 60), st.floats(0, 1)).map(lambda c: (round(c[0] * c[1]), c[0]))


@given(st.lists(COUNTS, min_size=1, max_size=8), st.randoms())
def test_a_pair_spans_all_eligible_groups_whatever_their_order(counts, random):
    names = ["grass", "sky", "water", "rock", "sand", "snow", "earth", "tree"]
    groups = [group(n, *c) for n, c in zip(names, counts, strict=False)]
    eligible = [g["accuracy"] for g in groups if g["photos"] >= 20]
    pair = chosen(*groups)
    shuffled = random.sample(groups, len(groups))
    assert chosen(*shuffled) == pair
    if len(eligible) >= 2:
        assert pair["common_accuracy"] == max(eligible)
        assert pair["counter_accuracy"] == min(eligible)
        assert pair["common_background"] != pair["counter_background"]
    validate(from_rows([pair], PAIRS.schema), PAIRS)


def tables(count: int = 6):
    ids = [f"folder:{i}" for i in range(count)]
    photos = from_rows(
        [
            {
                "photo_id": i,
                "source": "folder",
                "class_index": 7,
                "class_name": "cock",
                "license": "cc0",
                "status": "ok",
                "sha256": f"{n:064x}",
            }
            for n, i in enumerate(ids)
        ],
        PHOTOS.schema,
    )
    duplicates = from_rows(
        [{"photo_id": i, "status": "ok", "relation": "unique"} for i in ids], DUPLICATES.schema
    )
    labels = from_rows(
        [
            {
                "photo_id": i,
                "decision": "keep",
                "background": "grass" if n % 2 else "sky",
                "annotators": 1,
                "agreement": 1.0,
                "settled_by": "import",
            }
            for n, i in enumerate(ids)
        ],
        LABELS.schema,
    )
    predictions = from_rows(
        [
            {
                "photo_id": i,
                "status": "ok",
                "label_space": "imagenet1k",
                "predicted_index": 7,
                "correct": bool(n % 2),
            }
            for n, i in enumerate(ids)
        ],
        PREDICTIONS.schema,
    )
    return photos, duplicates, labels, predictions


def judge(photos, duplicates, labels, predictions):
    return judged_photos(tagged_photos(photos, duplicates, labels), predictions)


def change(table, row: int, **cells):
    rows = table.to_pylist()
    rows[row].update(cells)
    return from_rows(rows, table.schema)


def test_only_photos_that_are_kept_tagged_unique_and_scored_are_judged():
    photos, duplicates, labels, predictions = tables()
    assert judge(photos, duplicates, labels, predictions).num_rows == 6
    for changed in (
        (photos, change(duplicates, 0, relation="near"), labels, predictions),
        (photos, duplicates, change(labels, 0, decision="reject", background=None), predictions),
        (photos, duplicates, change(labels, 0, background=None), predictions),
        (photos, duplicates, labels, change(predictions, 0, status="failed", correct=None)),
        (change(photos, 0, class_index=None), duplicates, labels, predictions),
    ):
        judged = judge(*changed)
        assert judged["photo_id"].to_pylist() == [f"folder:{i}" for i in range(1, 6)]


def test_tagged_photos_that_dedup_has_not_seen_are_told():
    photos, duplicates, labels, predictions = tables()
    with pytest.raises(CapError, match=r"^1 of \d+ photos have been collected since duplicates"):
        judge(photos, duplicates.slice(1), labels, predictions)
    gone = change(photos, 0, status="failed")
    repeats = change(duplicates, 1, relation="near", keeper="folder:0")
    with pytest.raises(CapError, match=r"^1 of \d+ photos .* repeat a photo that is gone; run"):
        judge(gone, repeats, labels, predictions)


def put_tables(workspace: Workspace, mixed: set[int]) -> None:
    names = ("photos", "duplicates", "labels", "predictions/run-1")
    for name, table in zip(names, tables(60), strict=True):
        rows = table.to_pylist()
        if name == "labels":
            rows = [
                {**r, "background_second": "rock" if n in mixed else None}
                for n, r in enumerate(rows)
            ]
        path = workspace.table_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, from_rows(rows, table.schema), table_schema(name))


def test_the_split_without_mixed_photos_is_another_job_and_its_receipt_says_so(workspace):
    put_tables(workspace, mixed={0, 1, 10})
    for exclude, count in ((False, 60), (True, 57)):
        parameters = SplitParameters(rule="paper", min_photos=5, exclude_mixed=exclude)
        assert not split(workspace, parameters, Progress()).fresh
        assert split(workspace, parameters, Progress()).fresh
        for table in ("groups", "pairs", "split"):
            assert workspace.receipt(table).parameters["exclude_mixed"] is exclude
        ids = set(workspace.read("split")["photo_id"].to_pylist())
        assert len(ids) == count
    assert not ids & {"folder:0", "folder:1", "folder:10"}


def test_the_split_without_mixed_photos_says_if_none_is_left(workspace):
    put_tables(workspace, mixed=set(range(60)))
    with pytest.raises(CapError, match="every photo that people kept has a second background"):
        split(workspace, SplitParameters(exclude_mixed=True), Progress())


def test_what_could_not_be_split_leaves_a_table_from_elsewhere_as_it_is(workspace):
    put_tables(workspace, mixed=set(range(60)))
    refused = SplitParameters(rule="paper", min_photos=5, exclude_mixed=True)
    with pytest.raises(CapError, match="every photo that people kept has a second background"):
        split(workspace, refused, Progress())
    allowed = SplitParameters(rule="paper", min_photos=5)
    split(workspace, allowed, Progress())
    for name in ("groups", "pairs"):
        workspace.table_path(name).unlink()
        workspace.receipt_path(name).unlink()
    workspace.receipt_path("split").unlink()
    mine = workspace.read("split").slice(0, 7)
    write_table(workspace.table_path("split"), mine, SPLIT)
    # Neither the one that was refused nor those that are refused now have begun anything.
    for parameters in (refused, allowed, allowed):
        assert workspace.state("split") == "external"
        with pytest.raises(CapError):
            split(workspace, parameters, Progress())
    assert workspace.read("split").num_rows == 7
    assert [workspace.state(name) for name in ("groups", "pairs")] == ["missing", "missing"]


def test_a_tagged_photo_without_a_prediction_is_an_error():
    photos, duplicates, labels, predictions = tables()
    with pytest.raises(CapError, match="1 tagged photos were not scored, such as folder:5"):
        judge(photos, duplicates, labels, predictions.slice(0, 5))


def test_predictions_over_another_label_space_are_an_error():
    photos, duplicates, labels, predictions = tables()
    rows = [{**r, "correct": None, "label_space": "backgrounds"} for r in predictions.to_pylist()]
    with pytest.raises(CapError, match="are over backgrounds, which does not hold"):
        judge(photos, duplicates, labels, from_rows(rows, PREDICTIONS.schema))


def test_a_model_that_failed_on_every_photo_is_an_error():
    photos, duplicates, labels, predictions = tables()
    rows = [{**r, "correct": None, "status": "failed"} for r in predictions.to_pylist()]
    with pytest.raises(CapError, match="failed on every tagged photo; `cap status --failures`"):
        judge(photos, duplicates, labels, from_rows(rows, PREDICTIONS.schema))


def test_the_split_holds_the_photos_of_the_selected_pairs_in_their_groups():
    judged = judge(*tables(60))
    groups = group_accuracies(judged, "run")
    validate(from_rows(groups, GROUPS.schema), GROUPS)
    pairs = choose_pairs(groups, 20, 0.05)
    rows = validate(split_rows(judged, pairs), SPLIT).to_pylist()
    assert len(rows) == 60
    assert {(row["group"], row["background"]) for row in rows} == {
        ("common", "grass"),
        ("counter", "sky"),
    }
    pairs[0]["selected"] = False
    assert split_rows(judged, pairs).num_rows == 0
