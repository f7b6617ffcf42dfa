"""The controlled rule: validation chooses, test tells, and the words say why."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from conftest import cap
from hypothesis import given, settings

from manifests.errors import CapError
from manifests.metrics import newcombe
from manifests.progress import Progress
from manifests.schema import DUPLICATES, LABELS, PAIRS, PHOTOS, PREDICTIONS, TABLES, table_schema
from manifests.tables import chosen_pairs, from_rows, validate, write_table
from pipeline.parameters import SplitParameters
from pipeline.split import split
from pipeline.split.controlled import Rule, choose_controlled, mark_only_its_own, report_pairs

BACKGROUNDS = ("grass", "rock", "sky", "water")


def judged(cells: dict, *, class_index: int = 0, observer=None) -> pa.Table:
    """Photos of a class from {background: (validation right, photos, test right, photos)}."""
    rows = []
    for background, (right, photos, test_right, test_photos) in cells.items():
        for part, good, count in (
            ("validation", right, photos),
            ("test", test_right, test_photos),
        ):
            for number in range(count):
                name = f"{class_index}/{background}/{part}/{number:04d}"
                rows.append(
                    {
                        "photo_id": name,
                        "class_index": class_index,
                        "class_name": f"class {class_index}",
                        "background": background,
                        "creator_id": observer(background, number) if observer else None,
                        "partition": part,
                        "correct": number < good,
                    }
                )
    return pa.Table.from_pylist(
        sorted(rows, key=lambda row: row["photo_id"]),
        schema=pa.schema(
            [
                ("photo_id", pa.string()),
                ("class_index", pa.int32()),
                ("class_name", pa.string()),
                ("background", pa.string()),
                ("creator_id", pa.string()),
                ("partition", pa.string()),
                ("correct", pa.bool_()),
            ]
        ),
    )


STRONG = {"grass": (38, 40, 30, 40), "rock": (30, 40, 28, 40), "sky": (8, 40, 18, 40)}
RULE = Rule(draws=500)


def chosen(cells: dict, rule: Rule = RULE) -> dict:
    (pair,) = choose_controlled(judged(cells), "run", rule)
    validate(from_rows([pair], PAIRS.schema), PAIRS)
    return pair


def test_validation_chooses_and_test_tells_the_honest_drop_with_newcombes_interval():
    pair = chosen(STRONG)
    assert pair["selected"]
    assert pair["reason"] is None
    assert (pair["common_background"], pair["counter_background"]) == ("grass", "sky")
    assert (pair["common_accuracy"], pair["counter_accuracy"]) == (38 / 40, 8 / 40)
    assert pair["drop"] == pytest.approx(30 / 40)
    assert pair["drop_honest"] == pytest.approx(12 / 40)
    low, high = newcombe((np.array(30), np.array(18)), (np.array(40), np.array(40)))
    assert (pair["drop_ci_low"], pair["drop_ci_high"]) == pytest.approx((low, high))
    assert pair["shown"]
    assert (pair["common_test_photos"], pair["counter_test_photos"]) == (40, 40)
    assert (pair["backgrounds"], pair["observers"], pair["draws"]) == (3, 120, 5000)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=25)
def test_what_test_photos_say_changes_no_choice(first, second, third):
    changed = {
        name: (right, photos, test, 40)
        for (name, (right, photos, _, _)), test in zip(
            STRONG.items(), (first, second, third), strict=True
        )
    }
    honest = {"drop_honest", "drop_ci_low", "drop_ci_high", "shown"}
    ignored = honest | {"common_test_accuracy", "counter_test_accuracy"}
    kept = [
        {key: value for key, value in chosen(cells).items() if key not in ignored}
        for cells in (STRONG, changed)
    ]
    assert kept[0] == kept[1]


def test_the_pair_is_the_most_different_for_its_size_not_the_extremes():
    # 21 of 21 over 60 of 120 is a larger drop, but a smaller standardised difference.
    pair = chosen({"grass": (21, 21, 5, 9), "rock": (110, 120, 9, 9), "sky": (60, 120, 5, 9)})
    assert (pair["common_background"], pair["counter_background"]) == ("rock", "sky")


def test_too_few_validation_photos_make_a_background_ineligible_however_many_test_has():
    pair = chosen({"grass": (20, 20, 9, 9), "rock": (10, 20, 9, 9), "sky": (0, 19, 0, 200)})
    assert pair["counter_background"] == "rock"
    assert pair["backgrounds"] == 2


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"grass": (30, 40, 9, 9)}, "all photos are on one background, grass; a pair needs two"),
        (
            {"grass": (30, 40, 9, 9), "sky": (1, 19, 9, 99)},
            "1 of 2 backgrounds have 20 validation photos; a pair needs two",
        ),
        (
            {"grass": (30, 30, 1, 9), "sky": (20, 20, 0, 9)},
            "all 50 photos compared are named correctly, on every background",
        ),
        (
            {"grass": (0, 30, 1, 9), "sky": (0, 20, 0, 9)},
            "all 50 photos compared are named wrongly, on every background",
        ),
    ],
)
def test_a_class_that_cannot_be_compared_says_why(cells, reason):
    pair = chosen(cells)
    assert not pair["selected"]
    assert pair["reason"] == reason


def test_a_difference_that_chance_explains_says_so():
    pair = chosen({"grass": (20, 30, 9, 9), "sky": (19, 30, 9, 9)})
    assert not pair["selected"]
    assert pair["reason"].startswith("chance explains the difference (p = ")


def test_the_drop_must_exceed_the_bar_exactly():
    # 11/20 - 10/20 is above 0.05 in floating point, but not in truth.
    cells = {"grass": (1100, 2000, 9, 9), "sky": (1000, 2000, 9, 9)}
    pair = chosen(cells)
    assert pair["q_value"] <= 0.05
    assert pair["reason"] == "the drop of 5.0 points is not above 5"
    assert chosen(cells, Rule(draws=500, min_drop=0.0499))["selected"]


def test_without_test_photos_there_is_no_honest_drop():
    pair = chosen({"grass": (38, 40, 0, 0), "sky": (8, 40, 3, 10)})
    assert pair["selected"]
    assert pair["drop_honest"] is pair.get("drop_ci_low") is pair.get("shown") is None
    assert pair["common_test_accuracy"] is None
    assert pair["counter_test_accuracy"] == 0.3


def test_q_values_are_benjamini_and_hochbergs_over_the_classes_that_were_tested():
    weak = {"grass": (30, 40, 9, 9), "sky": (22, 40, 9, 9)}
    one_background = {"grass": (30, 40, 9, 9)}
    tables = [judged(STRONG), judged(weak, class_index=1), judged(one_background, class_index=2)]
    pairs = choose_controlled(pa.concat_tables(tables), "run", RULE)
    strong, other, untested = pairs
    assert (untested.get("p_value"), untested.get("q_value")) == (None, None)
    assert strong["q_value"] == pytest.approx(2 * strong["p_value"])
    assert other["q_value"] == pytest.approx(other["p_value"])
    # A class's permutations are its own: alone it has the same p-value.
    (alone,) = choose_controlled(tables[1], "run", RULE)
    assert alone["p_value"] == other["p_value"]


def test_classes_with_a_small_drop_help_no_other_to_be_selected():
    rule = Rule(draws=2000, min_drop=0.2)
    borderline = {"grass": (32, 40, 9, 9), "sky": (22, 40, 9, 9)}
    small = {"grass": (190, 200, 9, 9), "sky": (170, 200, 9, 9)}
    tables = [judged(borderline), judged(small, class_index=1)]
    (alone,) = choose_controlled(tables[0], "run", rule)
    assert 0.025 < alone["p_value"] <= 0.05
    assert alone["selected"]
    first, second = choose_controlled(pa.concat_tables(tables), "run", rule)
    assert second["reason"] == "the drop of 10.0 points is not above 20"
    assert first["q_value"] <= 0.05
    assert not first["selected"]
    assert "among classes whose drop is above 20 points, above 0.05)" in first["reason"]


def test_photos_of_few_observers_count_for_less():
    everyone = chosen({"grass": (32, 40, 32, 40), "sky": (18, 40, 18, 40)})
    cells = {"grass": (32, 40, 32, 40), "sky": (18, 40, 18, 40)}
    few = judged(cells, observer=lambda background, n: f"{background} {n // 8}")
    (pair,) = choose_controlled(few, "run", RULE)
    assert pair["observers"] == 10
    assert pair["p_value"] > everyone["p_value"]


def test_a_model_reported_for_has_its_own_accuracies_on_the_same_pair_and_may_not_show_it():
    other = {"grass": (20, 40, 21, 40), "rock": (30, 40, 28, 40), "sky": (20, 40, 20, 40)}
    pairs = choose_controlled(judged(STRONG), "first", RULE)
    reported = report_pairs(judged(other), "second", pairs)
    (row,) = reported
    validate(from_rows([*pairs, row], PAIRS.schema), PAIRS)
    assert (row["run"], row["chosen_by"]) == ("second", "first")
    assert (row["common_background"], row["counter_background"]) == ("grass", "sky")
    assert row["drop_honest"] == pytest.approx(1 / 40)
    assert row["selected"]
    assert not row["shown"]
    assert mark_only_its_own(pairs, reported)[0]["only_its_own"]
    unmeasured = [{**pair, "drop_honest": None, "shown": None} for pair in reported]
    assert "only_its_own" not in mark_only_its_own(pairs, unmeasured)[0]
    agreeing = report_pairs(judged(STRONG), "third", pairs)
    assert not mark_only_its_own(pairs, [*reported, *agreeing])[0]["only_its_own"]


def put(workspace, accuracies: dict[str, dict[str, float]], photos: int = 80) -> None:
    """A workspace with a class of `photos` photos per background, and runs with accuracies."""
    rng = np.random.default_rng(2)
    ids = [(b, f"folder:cock/{b}/{n}.jpg") for b in BACKGROUNDS for n in range(photos)]
    tables = {
        "photos": [
            {
                "photo_id": name,
                "source": "folder",
                "class_index": 7,
                "class_name": "cock",
                "license": "cc0",
                "status": "ok",
                "sha256": f"{n:064x}",
                "creator_id": f"person {n % 250}",
            }
            for n, (_, name) in enumerate(ids)
        ],
        "duplicates": [{"photo_id": i, "status": "ok", "relation": "unique"} for _, i in ids],
        "labels": [
            {
                "photo_id": name,
                "decision": "keep",
                "background": background,
                "annotators": 1,
                "agreement": 1.0,
                "settled_by": "import",
            }
            for background, name in ids
        ],
    }
    schemas = {"photos": PHOTOS, "duplicates": DUPLICATES, "labels": LABELS}
    for run, by_background in accuracies.items():
        tables[f"predictions/{run}"] = [
            {
                "photo_id": name,
                "status": "ok",
                "label_space": "imagenet1k",
                "predicted_index": 7,
                "correct": bool(rng.random() < by_background[background]),
            }
            for background, name in ids
        ]
        schemas[f"predictions/{run}"] = PREDICTIONS
    for name, rows in tables.items():
        path = workspace.table_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = from_rows(sorted(rows, key=lambda r: r["photo_id"]), schemas[name].schema)
        write_table(path, table, table_schema(name))


LEANING = {"grass": 0.95, "rock": 0.8, "sky": 0.3, "water": 0.8}
EVEN = dict.fromkeys(BACKGROUNDS, 0.8)


def test_the_stage_writes_a_split_with_both_partitions_and_repeats_itself_exactly(workspace):
    put(workspace, {"leaning": LEANING})
    outcome = split(workspace, SplitParameters(draws=500), Progress())
    assert outcome.facts["selected"] == ["cock"]
    assert "on test photos" in outcome.text
    rows = workspace.read("split").to_pylist()
    assert {row["background"] for row in rows} == {"grass", "sky"}
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["creator_id"], set()).add(row["partition"])
    assert all(len(partitions) == 1 for partitions in sides.values())
    (pair,) = workspace.read("pairs").to_pylist()
    for group in ("common", "counter"):
        for partition, column in (("validation", "photos"), ("test", "test_photos")):
            found = sum(r["group"] == group and r["partition"] == partition for r in rows)
            assert pair[f"{group}_{column}"] == found
    digests = [workspace.digest(name) for name in ("groups", "pairs", "split")]
    assert split(workspace, SplitParameters(draws=500), Progress()).fresh
    for name in ("groups", "pairs", "split"):
        workspace.table_path(name).unlink()
    assert not split(workspace, SplitParameters(draws=500), Progress()).fresh
    assert [workspace.digest(name) for name in ("groups", "pairs", "split")] == digests


def test_groups_tell_how_many_of_their_photos_chose(workspace):
    put(workspace, {"leaning": LEANING})
    split(workspace, SplitParameters(draws=100), Progress())
    (pair,) = workspace.read("pairs").to_pylist()
    for row in workspace.read("groups").to_pylist():
        assert row["photos"] == 80
        assert 30 <= row["validation_photos"] <= 50
        if row["background"] == "grass":
            assert row["validation_photos"] == pair["common_photos"]
            share = row["validation_correct"] / row["validation_photos"]
            assert share == pytest.approx(pair["common_accuracy"])


def test_the_share_and_the_seed_decide_who_chooses_and_the_workers_decide_nothing(workspace):
    put(workspace, {"leaning": LEANING})

    def divided(**changes):
        split(workspace, SplitParameters(draws=100, min_photos=5, **changes), Progress())
        rows = workspace.read("split")
        chose = {r["photo_id"] for r in rows.to_pylist() if r["partition"] == "validation"}
        return chose, len(chose) / rows.num_rows, workspace.digest("pairs")

    half, share, pairs = divided()
    assert share == pytest.approx(0.5, abs=0.05)
    assert divided(workers=1)[2] == divided(workers=2)[2] == pairs
    other, _, _ = divided(seed=1)
    assert other != half
    assert divided(validation_share=0.25)[1] == pytest.approx(0.25, abs=0.05)


def test_other_models_are_reported_for_and_a_pair_of_one_model_alone_is_marked(workspace):
    put(workspace, {"leaning": LEANING, "even": EVEN, "same": LEANING})
    only = SplitParameters(model="leaning", report_with=("even",), draws=100)
    outcome = split(workspace, only, Progress())
    assert "no other model shows it" in outcome.text
    pairs = workspace.read("pairs")
    assert pairs["run"].to_pylist() == ["even", "leaning"]
    assert chosen_pairs(pairs)["run"].to_pylist() == ["leaning"]
    assert chosen_pairs(pairs)["only_its_own"].to_pylist() == [True]
    assert workspace.read("split").num_rows == 160
    both = SplitParameters(model="leaning", report_with=("even", "same"), draws=100)
    split(workspace, both, Progress())
    assert chosen_pairs(workspace.read("pairs"))["only_its_own"].to_pylist() == [False]
    assert set(workspace.read("groups")["run"].to_pylist()) == {"even", "leaning", "same"}
    with pytest.raises(CapError, match="leaning chooses the pairs"):
        split(workspace, SplitParameters(model="leaning", report_with=("leaning",)), Progress())


def test_under_the_papers_rule_other_models_are_reported_for_on_all_photos(workspace):
    put(workspace, {"leaning": LEANING, "even": EVEN})
    paper = SplitParameters(rule="paper", model="leaning", report_with=("even",))
    split(workspace, paper, Progress())
    other, own = workspace.read("pairs").to_pylist()
    assert (other["run"], own["run"]) == ("even", "leaning")
    assert other["common_photos"] == own["common_photos"] == 80
    for pair in (other, own):
        assert pair["p_value"] is pair["drop_honest"] is pair["only_its_own"] is None
    assert workspace.read("split")["partition"].null_count == 160


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fdr": 0.0}, "--fdr lies between 0 and 1, not at 0"),
        ({"validation_share": 1.0}, "--validation-share lies between 0 and 1, not at 1"),
        ({"draws": 0}, "--draws is a number from 1"),
        ({"min_photos": 0}, "--min-photos is a number from 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(workspace, wrong, message):
    with pytest.raises(CapError, match=message):
        split(workspace, SplitParameters(**wrong), Progress())


def test_a_pairs_table_from_elsewhere_needs_no_statistics():
    rows = [{"run": "r", "class_index": 0, "class_name": "a", "selected": False}]
    plain = from_rows(rows, PAIRS.schema).drop_columns(sorted(TABLES["pairs"].optional))
    assert chosen_pairs(validate(plain, PAIRS)).num_rows == 1


def test_models_to_report_for_are_given_one_by_one_on_the_command_line(workspace):
    put(workspace, {"leaning": LEANING, "even": EVEN, "same": LEANING})
    others = ["--report-with", "even", "--report-with", "same"]
    done = cap("split", "--model", "leaning", *others, "--draws", "100", cwd=workspace.root)
    assert "1 of 1 classes selected" in done.stdout
    assert set(workspace.read("pairs")["run"].to_pylist()) == {"even", "leaning", "same"}
