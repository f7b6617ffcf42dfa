"""What is exported comes back: the same answers and the same labels, in every kind of file."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pyarrow.parquet as pq
import pytest
from conftest import cap
from hypothesis import example, given, settings

from annotation.exports import export_tags
from annotation.imports import import_tags, settle_labels
from annotation.parameters import ExportParameters, ImportParameters
from annotation.spreadsheet import guarded, unguarded
from manifests.errors import CapError
from manifests.progress import Progress
from manifests.schema import ANNOTATIONS, PHOTOS
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace

IDS = [f"folder:lion/{number}.jpg" for number in range(6)]

NASTY = (
    'a comma, a "quote", and\na second line\r\nand a third',
    "=HYPERLINK(1)",
    "+1 for grass",
    "- blurred",
    "@ann: look",
    "'=not a formula",
    "''-twice",
    "'quoted'",
    "tab\there",
    "Löwe, 獅子",
    "lone\rreturn",
)


def answer(photo: int, annotator: str, decision: str = "keep", background=None, **more) -> dict:
    return {
        "photo_id": IDS[photo],
        "annotator": annotator,
        "round": "first",
        "decision": decision,
        "background": background,
        "source": "project",
        **more,
    }


ANSWERS = [
    answer(0, "ann", background="grass", background_second="sky", seconds=1.5),
    answer(0, "=bob", background="grass", background_second="sky", note=NASTY[0]),
    answer(1, "ann", "reject", reject_reasons=["clarity", "ambiguity"], note=NASTY[1]),
    answer(1, "=bob", "reject", reject_reasons=["label_noise"]),
    answer(2, "ann", note=NASTY[2]),
    answer(2, "=bob"),
    answer(3, "ann", background="rock", suggested_background="rock", suggestion_accepted=True),
    answer(3, "=bob", background="sand"),
    answer(3, "ann", background="sand", round="adjudication", note=NASTY[5]),
    answer(4, "ann", "skip"),
    answer(4, "=bob", background="water"),
    answer(5, "ann", background="road"),
    answer(5, "=bob", "reject", reject_reasons=["feature_noise"]),
]


def make_workspace(root: Path) -> Workspace:
    root.mkdir()
    (root / "cap.toml").write_text("")
    workspace = Workspace(root)
    photos = [
        {
            "photo_id": photo_id,
            "source": "folder",
            "class_index": 291,
            "class_name": "lion",
            "license": "cc0",
            "status": "ok",
            "sha256": f"{number:064x}",
            "path": f"photos/00/{number:064x}.jpg",
        }
        for number, photo_id in enumerate(IDS)
    ]
    write_table(workspace.table_path("photos"), from_rows(photos, PHOTOS.schema), PHOTOS)
    return workspace


def asked(root: Path, answers: list[dict]) -> Workspace:
    """A workspace in which people have answered."""
    workspace = make_workspace(root)
    rows = from_rows(answers, ANNOTATIONS.schema)
    write_table(workspace.table_path("annotations"), rows, ANNOTATIONS)
    settle_labels(workspace)
    return workspace


def exported(workspace: Workspace, file: Path, what: str) -> Path:
    export_tags(workspace, ExportParameters(file=str(file), what=what), Progress())
    return file


def imported(root: Path, file: Path) -> Workspace:
    workspace = make_workspace(root)
    import_tags(workspace, ImportParameters(file=str(file)), Progress())
    return workspace


def told(workspace: Workspace, table: str, *leave_out: str) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in leave_out}
        for row in workspace.read(table).to_pylist()
    ]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_annotations_come_back_with_the_same_answers_and_labels(tmp_path, suffix):
    before = asked(tmp_path / "before", ANSWERS)
    file = exported(before, tmp_path / f"answers.{suffix}", "annotations")
    after = imported(tmp_path / "after", file)
    own = ("seconds", "created_at", "source", "source_id", "suggested_background")
    leave_out = (*own, "suggestion_accepted")
    assert told(after, "annotations", *leave_out) == told(before, "annotations", *leave_out)
    # A single answer of a file is settled by import.
    assert told(after, "labels", "settled_by") == told(before, "labels", "settled_by")
    assert len(told(after, "labels")) == 5


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_labels_come_back_as_labels(tmp_path, suffix):
    before = asked(tmp_path / "before", ANSWERS)
    file = exported(before, tmp_path / f"labels.{suffix}", "labels")
    after = imported(tmp_path / "after", file)
    people = ("annotators", "agreement", "settled_by")
    assert told(after, "labels", *people) == told(before, "labels", *people)
    assert {row["settled_by"] for row in told(after, "labels")} == {"import"}


NOTES = st.one_of(st.sampled_from(NASTY), st.text(max_size=20), st.text("=+-@'\"\t\r\n,|a"))


@settings(max_examples=25)
@given(st.lists(NOTES, min_size=len(IDS), max_size=len(IDS)), st.sampled_from(["csv", "tsv"]))
@example(["\r", "'", "'\t", "\t=1 ", " '=1", "''"], "csv")
def test_notes_come_back_whatever_they_hold(notes, suffix):
    with tempfile.TemporaryDirectory() as folder:
        answers = [answer(n, "ann", background="sky", note=note) for n, note in enumerate(notes)]
        before = asked(Path(folder) / "before", answers)
        file = exported(before, Path(folder) / f"x.{suffix}", "annotations")
        after = imported(Path(folder) / "after", file)
        found = [row["note"] or "" for row in told(after, "annotations")]
        # Blanks around a cell do not count when it is read.
        assert found == [note.strip() for note in notes]


@given(st.text() | st.text("=+-@'\t\r\n "))
def test_a_guarded_cell_is_no_formula_and_gives_back_what_it_was(text):
    assert guarded(text)[:1] not in {*"=+-@\t\r\n"}
    assert unguarded(guarded(text)) == text


def test_a_file_tells_where_the_photo_is_and_joins_lists(tmp_path):
    workspace = asked(tmp_path / "workspace", ANSWERS)
    file = exported(workspace, tmp_path / "answers.csv", "annotations")
    with file.open(newline="", encoding="utf-8") as handle:
        rows = {(r["photo_id"], r["annotator"], r["round"]): r for r in csv.DictReader(handle)}
    assert len(rows) == len(ANSWERS)
    row = rows[IDS[1], "ann", "first"]
    assert (row["class_name"], row["sha256"]) == ("lion", f"{1:064x}")
    assert row["path"] == f"photos/00/{1:064x}.jpg"
    assert row["reject_reasons"] == "clarity|ambiguity"
    assert row["note"] == "'=HYPERLINK(1)"
    assert (IDS[0], "'=bob", "first") in rows
    table = pq.read_table(exported(workspace, tmp_path / "labels.parquet", "labels"))
    assert table["path"].to_pylist()[0] == f"photos/00/{0:064x}.jpg"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, "name the file to write"),
        ("labels.xlsx", "labels are written to .csv, .tsv and .parquet files"),
        ("there.csv", "is there already; name another file, or move it away"),
    ],
)
def test_an_export_that_cannot_be_is_one_clear_error(tmp_path, file, message):
    workspace = asked(tmp_path / "workspace", ANSWERS)
    (tmp_path / "there.csv").write_text("tagged by hand")
    with pytest.raises(CapError, match=message):
        export_tags(workspace, ExportParameters(file=file and str(tmp_path / file)), Progress())
    assert (tmp_path / "there.csv").read_text() == "tagged by hand"


def test_the_command_says_what_it_wrote(tmp_path):
    workspace = asked(tmp_path / "workspace", ANSWERS)
    done = cap("annotate", "export", "labels.csv", cwd=workspace.root)
    assert done.stdout == "annotate export: 5 labels in labels.csv\n"
    arguments = ("annotate", "export", "all.tsv", "--what", "annotations", "--json")
    facts = json.loads(cap(*arguments, cwd=workspace.root).stdout)
    assert (facts["rows"], facts["what"]) == (len(ANSWERS), "annotations")
