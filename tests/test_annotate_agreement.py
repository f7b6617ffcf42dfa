"""Agreement: the published coefficients, what they are measured on, and what suggestions do."""

from __future__ import annotations

import json
from unittest import mock

import hypothesis.strategies as st
import krippendorff
import numpy as np
import pytest
from conftest import cap
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from annotation.agreement import Photo, Report, agreement, measure
from annotation.agreement_text import render
from annotation.coefficients import (
    MISSING,
    Bootstrap,
    Coefficient,
    cohen_kappa,
    confusion,
    fleiss_kappa,
    krippendorff_alpha,
    strength,
)
from annotation.parameters import AgreementParameters
from manifests.errors import CapError
from manifests.progress import Progress
from manifests.schema import ANNOTATIONS, DUPLICATES, PHOTOS, PREDICTIONS
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace

FEW = Bootstrap(draws=50)
COEFFICIENTS = (cohen_kappa, fleiss_kappa, krippendorff_alpha)

# Fleiss, "Measuring nominal scale agreement among many raters" (1971), table 1: the diagnoses of 30
# patients by 6 psychiatrists (depression, personality disorder, schizophrenia, neurosis, other).
FLEISS_1971 = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006
10050 11040 03300 10050 02031 00501 30012 51000 02040 10203
00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""

# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C.
KRIPPENDORFF_2011 = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def ratings_of_counts(rows: list[list[int]]) -> np.ndarray:
    """A matrix of photos by annotators in which each category is given as often as counted."""
    return np.array([np.repeat(np.arange(len(row)), row) for row in rows])


def ratings_of_text(text: str) -> np.ndarray:
    lines = [line.split() for line in text.strip().splitlines()]
    return np.array([[MISSING if c == "." else int(c) for c in line] for line in lines]).T


def test_fleiss_kappa_of_the_psychiatric_diagnoses_is_0_430():
    ratings = ratings_of_counts([[int(c) for c in row] for row in FLEISS_1971.split()])
    assert ratings.shape == (30, 6)
    shares = np.bincount(ratings.ravel()) / ratings.size
    assert shares == pytest.approx([0.144, 0.144, 0.167, 0.306, 0.239], abs=5e-4)
    found = fleiss_kappa(ratings, FEW)
    assert found.value == pytest.approx(0.430, abs=5e-4)
    assert (found.photos, found.answers_per_photo) == (30, 6)


def test_krippendorffs_alpha_of_his_example_with_missing_data_is_0_743():
    found = krippendorff_alpha(ratings_of_text(KRIPPENDORFF_2011), FEW)
    assert found.value == pytest.approx(0.743, abs=5e-4)
    # The twelfth unit has one value only.
    assert found.photos == 11


def test_cohens_kappa_of_the_classic_table_is_0_40():
    cells = {(0, 0): 20, (0, 1): 5, (1, 0): 10, (1, 1): 15}
    ratings = np.array([cell for cell, count in cells.items() for _ in range(count)])
    found = cohen_kappa(ratings, Bootstrap())
    assert found.value == pytest.approx(0.40)
    # The standard error of Fleiss, Cohen and Everitt (1969) is 0.1291 here.
    assert found.ci_low == pytest.approx(0.40 - 1.96 * 0.1291, abs=0.04)
    assert found.ci_high == pytest.approx(0.40 + 1.96 * 0.1291, abs=0.04)


def test_the_words_are_those_of_landis_and_koch():
    values = (-0.1, 0.0, 0.2, 0.21, 0.4, 0.6, 0.8, 0.81, 1.0)
    words = [strength(value) for value in values]
    assert words[:4] == ["poor", "slight", "slight", "fair"]
    assert words[4:7] == ["fair", "moderate", "substantial"]
    assert words[7:] == ["almost perfect", "almost perfect"]


RATINGS = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(MISSING, 3))
)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@given(ratings=RATINGS, seed=st.integers(0, 99))
def test_neither_order_nor_names_matter(coefficient, ratings, seed):
    rng = np.random.default_rng(seed)
    found = coefficient(ratings, FEW)
    shuffled = rng.permutation(rng.permutation(ratings, axis=0), axis=1)
    again = coefficient(shuffled, FEW)
    assert again.photos == found.photos
    assert again.value == pytest.approx(found.value)
    # What is drawn are kinds of photos, in an order of their own; only Cohen's tells people apart.
    if coefficient is not cohen_kappa:
        assert (again.ci_low, again.ci_high) == pytest.approx((found.ci_low, found.ci_high))
    names = np.append(rng.permutation(4) + 7, MISSING)
    renamed = coefficient(names[ratings], FEW)
    assert renamed.value == pytest.approx(found.value)
    assert renamed.reason == found.reason or None in (renamed.ci_low, found.ci_low)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@given(
    answers=arrays(np.int64, st.integers(2, 12), elements=st.integers(0, 3)),
    people=st.integers(2, 4),
)
def test_perfect_agreement_is_1_unless_all_is_one_category(coefficient, answers, people):
    people = 2 if coefficient is cohen_kappa else people
    found = coefficient(np.repeat(answers[:, None], people, axis=1), FEW)
    if len(np.unique(answers)) == 1:
        assert found.value is None
        assert found.reason == "all answers are one category"
    else:
        assert found.value == pytest.approx(1.0)
        assert found.ci_low is None or found.ci_low == pytest.approx(1.0)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@given(ratings=RATINGS)
def test_what_is_undefined_says_why_and_what_is_defined_is_at_most_1(coefficient, ratings):
    found = coefficient(ratings, FEW)
    if found.value is None:
        assert found.reason
        assert found.ci_low is None
    else:
        assert found.value <= 1
        assert found.photos >= 1
        assert (found.ci_low is None) == (found.ci_high is None) == (found.reason is not None)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@given(ratings=RATINGS)
def test_a_resample_that_is_the_sample_has_the_value_of_the_library(coefficient, ratings):
    with mock.patch("annotation.coefficients.bootstrap_counts", return_value=None) as bootstrap:
        found = coefficient(ratings, FEW)
    if found.value is not None:
        resampled, kinds = bootstrap.call_args.args
        assert kinds.sum() == found.photos
        assert resampled(kinds[None].astype(float)) == pytest.approx([found.value])


def test_the_interval_is_that_of_drawing_photos_and_asking_the_library():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 80)
    ratings = np.where(rng.random((80, 3)) < 0.7, truth[:, None], rng.integers(0, 3, (80, 3)))
    ratings[rng.random((80, 3)) < 0.1] = MISSING
    pairable = ratings[(ratings != MISSING).sum(axis=1) > 1]
    counts = (pairable[:, :, None] == np.arange(3)).sum(axis=1)
    drawn = [
        krippendorff.alpha(
            value_counts=counts[rng.integers(0, len(counts), len(counts))],
            level_of_measurement="nominal",
        )
        for _ in range(1000)
    ]
    found = krippendorff_alpha(ratings, Bootstrap(draws=5000))
    assert (found.ci_low, found.ci_high) == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02
    )


def test_fleiss_kappa_rests_on_the_photos_with_the_most_frequent_number_of_answers():
    three = [[0, 0, 0], [1, 1, 1], [0, 1, 0]]
    two = [[0, 1, MISSING], [1, MISSING, 0]]
    one = [[0, MISSING, MISSING]] * 9
    found = fleiss_kappa(np.array(three + two + one), FEW)
    assert (found.photos, found.answers_per_photo) == (3, 3)
    assert found.value == pytest.approx(fleiss_kappa(np.array(three), FEW).value)
    # Of two equally frequent numbers the larger counts.
    assert fleiss_kappa(np.array(three[:2] + two), FEW).answers_per_photo == 3


@given(RATINGS)
def test_confusions_add_up_to_the_pairs_of_answers(ratings):
    counts = confusion(ratings, 4)
    answers = (ratings != MISSING).sum(axis=1)
    assert np.triu(counts).sum() == (answers * (answers - 1) // 2).sum()
    assert (counts == counts.T).all()
    for category in range(4):
        same = (ratings == category).sum(axis=1)
        assert counts[category, category] == (same * (same - 1) // 2).sum()


def answer(photo: str, annotator: str, said: str | None, **more) -> dict:
    """An answer: a background, None for none fits, `reject` or `skip`."""
    decision = said if said in {"reject", "skip"} else "keep"
    return {
        "photo_id": photo,
        "annotator": annotator,
        "round": "first",
        "decision": decision,
        "background": said if decision == "keep" else None,
        "source": "project",
        **more,
    }


def measured(answers: list[dict], classes=None, run=None, predicted=None, photos=None) -> Report:
    table = from_rows(answers, ANNOTATIONS.schema)
    of_class = {photo: Photo(None, name) for photo, name in (classes or {}).items()}
    return measure(table, photos or of_class, run, predicted or {}, FEW)


def found_in(report: Report, question: str, **scope) -> dict[str, Coefficient]:
    scope = {"class_name": None, "annotators": None, **scope}
    (one,) = (
        a
        for a in report.agreement
        if (a.question, a.class_name, a.annotators)
        == (question, scope["class_name"], scope["annotators"])
    )
    return {c.coefficient: c for c in one.coefficients}


def three_people() -> list[dict]:
    said = {
        "a": ("grass", "grass", "grass"),
        "b": ("sky", "sky", "reject"),
        "c": ("reject", "reject", "reject"),
        "d": (None, None, "skip"),
        "e": ("grass", "sky", "grass"),
        "f": ("skip", "sky", "sky"),
    }
    return [
        answer(photo, who, what)
        for photo, answers in said.items()
        for who, what in zip(("ann", "bob", "cyd"), answers, strict=True)
    ]


def test_skips_are_missing_and_backgrounds_count_where_everybody_kept():
    report = measured(three_people())
    assert (report.photos, report.answers) == (6, 16)
    decision = found_in(report, "decision")["krippendorff_alpha"]
    assert decision.photos == 6
    values = [[3, 0], [2, 1], [0, 3], [2, 0], [3, 0], [2, 0]]  # keep, reject
    assert decision.value == pytest.approx(
        krippendorff.alpha(value_counts=values, level_of_measurement="nominal")
    )
    background = found_in(report, "background")
    # Not b and c, which somebody rejected.
    assert background["krippendorff_alpha"].photos == 4
    counts = [[3, 0, 0], [0, 0, 2], [2, 1, 0], [0, 2, 0]]  # grass, sky, none fits
    assert background["krippendorff_alpha"].value == pytest.approx(
        krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
    )
    # Two photos have two answers, and two have three.
    assert background["fleiss_kappa"].answers_per_photo == 3
    assert background["cohen_kappa"].reason == "it compares two annotators; 3 answered"
    # What cyd rejects, ann and bob both keep.
    pair = found_in(report, "background", annotators=("ann", "bob"))["cohen_kappa"]
    assert pair.photos == 4


def test_adjudications_do_not_count_for_agreement():
    answers = three_people()
    judged = answer("e", "dan", "sky", round="adjudication")
    assert measured([*answers, judged]).agreement == measured(answers).agreement
    own = answer("e", "ann", "sky", round="adjudication")
    assert measured([*answers, own]).agreement == measured(answers).agreement


def test_each_class_is_measured_on_its_own_photos():
    classes = {"a": "lion", "b": "lion", "c": "lion", "d": "otter", "e": "otter", "f": "otter"}
    report = measured(three_people(), classes)
    lions = [row for row in three_people() if classes[row["photo_id"]] == "lion"]
    assert found_in(report, "decision", class_name="lion") == found_in(measured(lions), "decision")
    otters = found_in(report, "decision", class_name="otter")
    assert {c.value for c in otters.values()} == {None}
    assert otters["krippendorff_alpha"].reason == "all answers are one category"


def test_one_annotator_is_not_enough_and_is_told_so():
    report = measured([answer("a", "ann", "grass"), answer("b", "ann", "sky")])
    for question in ("decision", "background"):
        found = found_in(report, question)
        assert found["cohen_kappa"].reason == "it compares two annotators; 1 answered"
        assert found["fleiss_kappa"].reason == "no photo has answers of two people"
        assert found["krippendorff_alpha"].reason == "no photo has answers of two people"
    assert "no photo has answers of two people" in render(report)
    assert "NaN" not in json.dumps(report.to_dict())


def test_no_answers_at_all_are_a_report_too():
    assert "1 photos, 1 annotators, 0 answers" in render(measured([answer("a", "ann", "skip")]))


def test_confusions_are_counted_between_pairs_and_none_fits_is_a_category():
    report = measured(three_people())
    names = report.confusion["backgrounds"]
    counts = np.array(report.confusion["counts"])
    assert (len(names), names[-1]) == (15, "none fits")
    place = {name: names.index(name) for name in ("grass", "sky", "none fits")}
    assert counts[place["grass"], place["grass"]] == 4
    assert counts[place["grass"], place["sky"]] == counts[place["sky"], place["grass"]] == 2
    assert counts[place["sky"], place["sky"]] == 2
    assert counts[place["none fits"], place["none fits"]] == 1
    assert np.triu(counts).sum() == 9


def test_disputes_are_what_two_people_decided_and_nobody_settled():
    answers = [
        answer("agreed", "ann", "grass"),
        answer("agreed", "bob", "grass"),
        answer("apart", "ann", "grass"),
        answer("apart", "bob", "sky", note="a hill?"),
        answer("half", "ann", "grass"),
        answer("half", "bob", "reject", reject_reasons=["clarity"]),
        answer("alone", "ann", "grass"),
        answer("alone", "bob", "skip"),
        answer("judged", "ann", "grass"),
        answer("judged", "bob", "sky"),
        answer("judged", "cyd", "sky", round="adjudication"),
    ]
    report = measured(answers, {"apart": "lion"})
    assert [dispute["photo_id"] for dispute in report.disputes] == ["apart", "half"]
    apart = report.disputes[0]
    assert apart["class_name"] == "lion"
    assert [(a["annotator"], a["background"]) for a in apart["answers"]] == [
        ("ann", "grass"),
        ("bob", "sky"),
    ]
    assert apart["answers"][1]["note"] == "a hill?"
    assert "ann: grass, bob: reject" in render(report)


COPIES = {photo: Photo("0" * 64, "lion") for photo in ("copy", "photo")}


def test_an_answer_about_copies_of_a_photo_counts_once():
    both = [
        answer(photo, person, said, source_id=f"uid/{person}")
        for photo in ("copy", "photo")
        for person, said in (("ann", "grass"), ("bob", "sky"))
    ]
    other = [answer("other", "ann", "sky", source_id="uid/3")]
    report = measured([*both, *other], photos=COPIES)
    assert (report.photos, report.answers) == (2, 3)
    assert [dispute["photo_id"] for dispute in report.disputes] == ["copy"]
    # What went out to a file and came back has a line of its own for each copy.
    lines = [{**row, "source_id": str(line)} for line, row in enumerate(both)]
    assert measured(lines, photos=COPIES).answers == 2


def test_copies_in_two_classes_are_two_questions():
    photos = COPIES | {"copy": Photo("0" * 64, "otter")}
    answers = [answer(photo, "ann", "grass", source_id="uid/1") for photo in ("copy", "photo")]
    assert measured(answers, photos=photos).answers == 2


def test_people_who_were_told_of_different_copies_of_a_photo_are_compared():
    ann = [answer(photo, "ann", "grass", source_id="uid/1") for photo in ("copy", "photo")]
    bob = answer("photo", "bob", "sky", source="import:bob.csv", source_id="2")
    report = measured([*ann, bob], photos=COPIES | {"copy": Photo("0" * 64, "lion", kept=False)})
    assert (report.photos, report.answers) == (1, 2)
    assert found_in(report, "background")["krippendorff_alpha"].photos == 1
    assert [dispute["photo_id"] for dispute in report.disputes] == ["photo"]


def test_anchoring_looks_at_the_copy_that_the_run_has_scored():
    said = {"a": "grass", "photo": "sky", "b": "grass"}
    answers = [
        answer(photo, "ann", what, source_id=f"uid/{what}", suggested_background="grass")
        for photo, what in said.items()
    ]
    answers += [{**answers[1], "photo_id": "copy"}]
    hidden = answer("c", "ann", "grass", source_id="uid/4")
    predicted = dict.fromkeys(("a", "b", "c", "photo"), "grass")
    found = measured([*answers, hidden], run="r", predicted=predicted, photos=COPIES).anchoring
    assert (found.from_other_run, found.shown.same, found.shown.answers) == (0, 2, 3)


def suggested(number: int, shown: bool, said: str | None, **more) -> dict:
    """An answer to a photo for which the model would suggest grass."""
    given = {"suggested_background": "grass", "suggestion_accepted": said == "grass"}
    return answer(f"p{number}", "ann", said, **(given if shown else {}), **more)


def test_anchoring_is_the_share_that_equals_the_model_shown_minus_withheld():
    shown = [suggested(n, True, "grass" if n < 56 else "sky") for n in range(70)]
    hidden = [suggested(100 + n, False, "grass" if n < 48 else None) for n in range(80)]
    beside = [
        suggested(200, True, "reject"),
        suggested(201, False, "skip"),
        # From a file or a project that suggests nothing: nothing was withheld.
        suggested(202, False, "grass", source="import:tags.csv"),
        suggested(204, False, "grass", source_id="other/1"),
        # Suggested by another run.
        answer("p203", "bob", "sky", suggested_background="sky", suggestion_accepted=True),
    ]
    predicted = {f"p{n}": "grass" for n in range(300)}
    report = measured([*shown, *hidden, *beside], run="clip-1", predicted=predicted)
    found = report.anchoring
    assert (found.shown.same, found.shown.answers) == (56, 70)
    assert (found.withheld.same, found.withheld.answers) == (48, 80)
    assert found.from_other_run == 1
    # Newcombe (1998), table II, example (a).
    assert found.difference == pytest.approx(0.2)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    taken = report.acceptance
    assert (taken.overall.same, taken.overall.answers) == (57, 71)
    assert taken.by_annotator["bob"].share == 1
    assert "Shown minus withheld: +20.0 points (+5.2 to +33.4)" in render(report)


@pytest.mark.parametrize(
    ("answers", "run", "reason"),
    [
        ([suggested(1, False, "grass")], "r", "no suggestion was shown"),
        ([suggested(1, True, "grass")], None, "name the scoring run"),
        ([suggested(1, True, "grass")], "r", "withheld from no kept photo that r has scored"),
        (
            [answer("p1", "ann", "sky", suggested_background="sky"), suggested(2, False, "sky")],
            "r",
            "no suggestion that was shown is what r predicts",
        ),
    ],
)
def test_where_anchoring_cannot_be_told_the_reason_is(answers, run, reason):
    found = measured(answers, run=run, predicted={"p1": "grass", "p2": "grass"}).anchoring
    assert found.difference is None
    assert reason in found.reason


def test_seconds_are_told_by_annotator_and_with_and_without_a_suggestion():
    answers = [
        *(suggested(n, True, "grass", seconds=float(n)) for n in range(1, 6)),
        *(suggested(10 + n, False, "sky", seconds=10.0 * n) for n in range(1, 4)),
        answer("p20", "bob", "skip", seconds=7.0),
        answer("p21", "bob", "sky", round="adjudication", seconds=99.0),
        answer("p22", "cyd", "sky", source="import:tags.csv"),
    ]
    report = measured(answers)
    with_one, without = report.seconds_with_suggestion, report.seconds_without_suggestion
    assert (with_one.answers, with_one.median) == (5, 3.0)
    assert (with_one.lower_quartile, with_one.upper_quartile) == (2.0, 4.0)
    assert (without.answers, without.median) == (4, 15.0)
    assert (report.seconds["bob"].answers, report.seconds["bob"].median) == (1, 7.0)
    assert report.seconds["cyd"].median is None


def put(workspace: Workspace, answers: list[dict], space: str = "backgrounds") -> None:
    """The tables of a workspace in which people answered and a model suggested grass."""
    ids = sorted({row["photo_id"] for row in answers})
    photo = {"source": "folder", "class_name": "lion", "license": "cc0", "status": "ok"}
    said = {"status": "ok", "label_space": space, "predicted_index": 5, "predicted_name": "grass"}
    tables = {
        "photos": ([{"photo_id": i, **photo} for i in ids], PHOTOS),
        "annotations": (answers, ANNOTATIONS),
        "predictions/clip-1": ([{"photo_id": i, **said} for i in ids], PREDICTIONS),
    }
    for name, (rows, spec) in tables.items():
        path = workspace.table_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, from_rows(rows, spec.schema), spec)


def test_the_copy_that_dedup_kept_stands_for_all(workspace):
    answers = [
        answer(photo, person, said, source_id=f"uid/{person}")
        for photo in ("copy", "photo")
        for person, said in (("ann", "grass"), ("bob", "sky"))
    ]
    put(workspace, answers)
    copies = [row | {"sha256": "0" * 64} for row in workspace.read("photos").to_pylist()]
    relations = [
        {"photo_id": "copy", "keeper": "photo", "relation": "exact", "status": "ok"},
        {"photo_id": "photo", "keeper": "photo", "relation": "keeper", "status": "ok"},
    ]
    for name, rows, spec in (("photos", copies, PHOTOS), ("duplicates", relations, DUPLICATES)):
        write_table(workspace.table_path(name), from_rows(rows, spec.schema), spec)
    facts = agreement(workspace, AgreementParameters(resamples=10), Progress()).facts
    assert [dispute["photo_id"] for dispute in facts["disputes"]] == ["photo"]
    assert set(facts["inputs"]) == {"annotations", "photos", "duplicates"}


def test_the_command_prints_tables_and_writes_the_same_facts_as_json(workspace):
    shown = [suggested(n, True, "grass") for n in range(3)]
    unsuggested = [{**row, "source": "import:tags.csv"} for row in three_people()]
    put(workspace, [*unsuggested, *shown, suggested(9, False, "sky")])
    text = cap("annotate", "agreement", "--suggest", "clip-1", cwd=workspace.root).stdout
    assert text.startswith("annotate agreement: 10 photos, 3 annotators, 20 answers that decide; ")
    assert "Krippendorff's alpha" in text
    assert "Shown minus withheld: +100.0 points" in text
    arguments = ("annotate", "agreement", "--suggest", "clip-1", "--resamples", "20", "--json")
    facts = json.loads(cap(*arguments, cwd=workspace.root).stdout)
    written = json.loads((workspace.root / "results" / "agreement.json").read_text())
    assert {"stage": "annotate agreement", "fresh": False, **written} == facts
    assert facts["parameters"] == {"suggest": "clip-1", "resamples": 20, "seed": 0}
    assert set(facts["inputs"]) == {"annotations", "photos", "predictions/clip-1"}


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others(workspace):
    rng = np.random.default_rng(0)
    names = ("grass", "sky", "rock")
    truth = rng.integers(0, 3, 60)
    answers = [
        answer(f"p{n}", who, names[truth[n] if rng.random() < 0.7 else rng.integers(3)])
        for who in ("ann", "bob")
        for n in range(60)
    ]
    put(workspace, answers)

    def intervals(seed: int) -> str:
        parameters = AgreementParameters(resamples=100, seed=seed)
        return json.dumps(agreement(workspace, parameters, Progress()).facts["agreement"])

    assert intervals(1) == intervals(1) != intervals(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suggest": "clip-2"}, r"no scoring run 'clip-2' \(there are: clip-1\)"),
        ({"suggest": "clip-1"}, "the run clip-1 chose from imagenet1k"),
        ({"resamples": 0}, "--resamples is 0"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_error(workspace, options, message):
    put(workspace, three_people(), space="imagenet1k")
    with pytest.raises(CapError, match=message):
        agreement(workspace, AgreementParameters(**options), Progress())


@settings(max_examples=20)
@given(st.permutations(three_people()))
def test_the_order_of_the_rows_changes_nothing(answers):
    assert measured(list(answers)).to_dict() == measured(three_people()).to_dict()
