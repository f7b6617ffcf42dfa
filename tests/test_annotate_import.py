"""Tags from files become annotations, and annotations one label per photo."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from annotation.consensus import settle
from annotation.imports import import_tags
from annotation.parameters import ImportParameters
from manifests.errors import CapError
from manifests.progress import Progress
from manifests.schema import ANNOTATIONS, LABELS, PHOTOS
from manifests.tables import from_rows, validate, write_table
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters


@pytest.fixture
def collected(workspace: Workspace, animals: Path) -> Workspace:
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    return workspace


def tagged(workspace: Workspace, path: Path, text: str | None = None, **options) -> dict[str, dict]:
    if text is not None:
        path.write_text(text)
    import_tags(workspace, ImportParameters(file=str(path), **options), Progress())
    return {row["photo_id"]: row for row in workspace.read("labels").to_pylist()}


def test_photos_are_found_by_path_id_or_digest(collected, tmp_path):
    row = collected.read("photos").to_pylist()[0]
    for column, value in (
        ("path", "ice bear/0.jpg"),
        ("path", row["path"]),
        ("photo_id", row["photo_id"]),
        ("sha256", row["sha256"]),
    ):
        labels = tagged(collected, tmp_path / "tags.csv", f"{column},background\n{value},snow\n")
        assert labels[row["photo_id"]]["background"] == "snow"
        assert labels[row["photo_id"]]["settled_by"] == "import"


def test_csv_tsv_and_parquet_say_the_same(collected, tmp_path):
    table = {"path": ["lion/0.jpg", "otter/1.jpg"], "background": ["grass", "water"]}
    (tmp_path / "a").mkdir()
    pq.write_table(pa.table(table), tmp_path / "a" / "tags.parquet")
    from_parquet = tagged(collected, tmp_path / "a" / "tags.parquet")
    lines = list(zip(*table.values(), strict=True))
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        text = "\n".join(mark.join(cells) for cells in [list(table), *lines])
        labels = tagged(collected, tmp_path / f"tags.{suffix}", text, annotator=suffix)
        assert {k: v["background"] for k, v in labels.items()} == {
            k: v["background"] for k, v in from_parquet.items()
        }


def test_a_blank_background_is_a_skip_unless_a_decision_says_more(collected, tmp_path):
    labels = tagged(
        collected,
        tmp_path / "tags.csv",
        "path,background,decision,reject_reasons\n"
        "lion/0.jpg,,,\n"
        "lion/1.jpg,,keep,\n"
        "lion/2.jpg,,reject,clarity|ambiguity\n"
        "lion/3.jpg,hand,,\n",
    )
    assert "folder:lion/0.jpg" not in labels
    assert labels["folder:lion/1.jpg"]["decision"] == "keep"
    assert labels["folder:lion/1.jpg"]["background"] is None
    assert labels["folder:lion/2.jpg"]["decision"] == "reject"
    assert labels["folder:lion/3.jpg"]["background"] == "human"
    rejected = collected.read("annotations").to_pylist()[2]
    assert rejected["reject_reasons"] == ["clarity", "ambiguity"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,background\nlion/9.jpg,grass\n", "1 photos that the workspace does not have"),
        ("path,background\nlion/0.jpg,gras\n", "line 2: no background 'gras'; nearest: grass"),
        ("path,tag\nlion/0.jpg,grass\n", "needs a column 'background'"),
        ("name,background\nlion/0.jpg,grass\n", "one of photo_id, path, sha256"),
        ("path,background,decision\nlion/0.jpg,grass,yes\n", "line 2: no decision 'yes'"),
        ("path,background,round\nlion/0.jpg,grass,2\n", "line 2: no round '2'; it is first or"),
        (
            "path,background\nlion/0.jpg,grass\nlion/0.jpg,rock\n",
            "line 3: tags tagged folder:lion/0.jpg differently in line 2",
        ),
        ("path,background\n", "has no rows"),
        ("path,background\nlion/0.jpg,grass,extra\n", "line 2: more cells than the header"),
    ],
)
def test_a_wrong_tags_file_is_one_clear_error_and_changes_nothing(
    collected, tmp_path, text, message
):
    with pytest.raises(CapError, match=message):
        tagged(collected, tmp_path / "tags.csv", text)
    assert not collected.has("annotations")


def test_tags_of_unknown_photos_can_be_left_out_on_request(collected, tmp_path):
    text = "path,background\nlion/9.jpg,grass\nlion/0.jpg,grass\n"
    labels = tagged(collected, tmp_path / "tags.csv", text, skip_unknown=True)
    assert list(labels) == ["folder:lion/0.jpg"]


def test_two_files_are_two_annotators_and_a_new_file_of_one_replaces_its_tags(collected, tmp_path):
    ann, bob = tmp_path / "ann.csv", tmp_path / "bob.csv"
    tagged(collected, ann, "path,background\nlion/0.jpg,grass\nlion/1.jpg,rock\n")
    labels = tagged(collected, bob, "path,background\nlion/0.jpg,grass\nlion/1.jpg,sand\n")
    assert labels["folder:lion/0.jpg"]["settled_by"] == "majority"
    assert labels["folder:lion/0.jpg"]["annotators"] == 2
    assert "folder:lion/1.jpg" not in labels
    labels = tagged(collected, bob, "path,background\nlion/0.jpg,grass\n")
    assert labels["folder:lion/1.jpg"]["background"] == "rock"
    other = tmp_path / "other.csv"
    with pytest.raises(CapError, match=r"ann has tagged folder:lion/0.jpg in import:ann.csv"):
        tagged(collected, other, "path,background\nlion/0.jpg,rock\n", annotator="ann")


def test_a_file_of_the_same_name_does_not_take_the_place_of_another_persons(collected, tmp_path):
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
    tags = "path,background\nlion/0.jpg,grass\n"
    tagged(collected, tmp_path / "ann" / "tags.csv", tags, annotator="ann")
    other = tmp_path / "bob" / "tags.csv"
    message = r"an earlier tags.csv has the answers of ann, which these of bob would replace"
    with pytest.raises(CapError, match=message):
        tagged(collected, other, tags.replace("grass", "rock"), annotator="bob")
    # The same answers are ann's own, under another name.
    tagged(collected, other, tags, annotator="Ann")
    assert collected.read("annotations")["annotator"].to_pylist() == ["Ann"]


def test_a_file_that_lacks_a_person_is_another_unless_it_has_answers_of_the_earlier_one(
    collected, tmp_path
):
    tags = tmp_path / "tags.csv"
    head, ann, bob = (
        "path,background,annotator\n",
        "lion/0.jpg,grass,ann\n",
        "lion/1.jpg,rock,bob\n",
    )
    tagged(collected, tags, head + ann + bob)
    with pytest.raises(CapError, match=r"an earlier tags.csv has the answers of bob, which"):
        tagged(collected, tags, head + "lion/2.jpg,sky,ann\n")
    assert collected.read("annotations")["annotator"].to_pylist() == ["ann", "bob"]
    # Bob has taken his answers back.
    tags.write_text(head + ann)
    said = import_tags(collected, ImportParameters(file=str(tags)), Progress()).text
    assert said.endswith("; of the earlier answers 1 fall away and 0 change")
    assert collected.read("annotations")["annotator"].to_pylist() == ["ann"]


def test_tags_without_a_name_are_not_taken_for_those_of_another_folder(collected, tmp_path):
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
    tagged(collected, tmp_path / "ann" / "tags.csv", "path,background\nlion/0.jpg,grass\n")
    other = tmp_path / "bob" / "tags.csv"
    with pytest.raises(CapError, match=r"an earlier tags.csv has tags of 1 other photos"):
        tagged(collected, other, "path,background\nlion/1.jpg,rock\n")
    assert collected.read("annotations")["photo_id"].to_pylist() == ["folder:lion/0.jpg"]


def test_a_file_that_has_grown_or_was_corrected_replaces_itself_and_says_what_changes(
    collected, tmp_path
):
    path = tmp_path / "tags.csv"
    head = "path,background\n"

    def told(text: str) -> str:
        path.write_text(head + text)
        return import_tags(collected, ImportParameters(file=str(path)), Progress()).text

    assert "earlier" not in told("lion/0.jpg,grass\nlion/1.jpg,rock\n")
    assert "earlier" not in told("lion/0.jpg,grass\nlion/1.jpg,rock\nlion/2.jpg,sky\n")
    said = told("lion/0.jpg,grass\nlion/1.jpg,sand\n")
    assert said.endswith("; of the earlier answers 1 fall away and 1 change")
    # Photos that have left the workspace hold no file back.
    photos = collected.read("photos")
    collected.receipt_path("photos").unlink()
    left = photos.filter(pc.starts_with(photos["photo_id"], "folder:otter"))
    write_table(collected.table_path("photos"), left, PHOTOS)
    assert "earlier" not in told("otter/0.jpg,water\n")


def answer(annotator: str, background: str | None, decision: str = "keep", **more) -> dict:
    return {
        "photo_id": "a",
        "annotator": annotator,
        "round": "first",
        "decision": decision,
        "background": background if decision == "keep" else None,
        "source": "project",
        **more,
    }


ANSWERS = st.lists(
    st.builds(
        answer,
        st.sampled_from("abcdef"),
        st.sampled_from(["grass", "sky", None]),
        st.sampled_from(["keep", "reject", "skip"]),
    ),
    unique_by=lambda row: row["annotator"],
    max_size=6,
)


@given(ANSWERS)
def test_a_label_is_what_more_than_half_of_those_who_decided_say(answers):
    rows = settle(from_rows(answers, ANNOTATIONS.schema))
    decided = [a for a in answers if a["decision"] != "skip"]
    for label in rows:
        agreeing = [a for a in decided if a["decision"] == label["decision"]]
        assert 2 * len(agreeing) > len(decided)
        same = [a for a in agreeing if a["background"] == label["background"]]
        assert 2 * len(same) > len(agreeing)
        assert label["agreement"] == len(same) / len(decided)
        assert label["annotators"] == len(decided)
    validate(from_rows(rows, LABELS.schema), LABELS)


def test_an_adjudication_wins_over_the_first_answers():
    first = [answer("a", "grass"), answer("b", "grass"), answer("c", "sky")]
    last = answer("d", "sky", round="adjudication")
    (label,) = settle(from_rows([*first, last], ANNOTATIONS.schema))
    assert label["background"] == "sky"
    assert label["settled_by"] == "adjudication"
    assert label["agreement"] == pytest.approx(1 / 3)


def test_an_adjudicator_who_skips_leaves_it_to_the_first_answers():
    first = [answer("a", "grass"), answer("b", "grass")]
    skipped = answer("d", None, "skip", round="adjudication")
    (label,) = settle(from_rows([*first, skipped], ANNOTATIONS.schema))
    assert (label["background"], label["settled_by"]) == ("grass", "majority")
