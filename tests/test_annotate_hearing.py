"""Answers belong to the bytes and the class that people were asked about, and to no others.

What is a photo's class, and whether it was asked about already, depends on what names mean.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from annotators import choice, kept

from annotation.assignment import Asked, meaning
from annotation.client import ClusterMark, Project, ProjectMark
from annotation.confirming import seal
from annotation.hearing import CONFIRMATION, LABEL, Heard, hear
from annotation.mirror import Mirror, MirroredTask
from annotation.parameters import PushParameters
from annotation.questions import labelling
from manifests.errors import CapError
from manifests.progress import Progress
from manifests.vocabulary import LabelSpace
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters

OLD, NEW = "0" * 64, "1" * 64
MARK = ProjectMark("workspace", "uid", "screen", "first", "everyone")
ABOUT = dataclasses.replace(MARK, round="discovery", about=ClusterMark("run", 0, "digest"))
TIME = "2026-01-01T00:00:00Z"


def task(photo_id: str, sha256: str, class_name: str = "lion", **more) -> MirroredTask:
    return MirroredTask(sha256, photo_id, class_name, None, **more)


def said(result: list[dict]) -> dict:
    """An answer as the server gives it."""
    return {
        "id": 1,
        "completed_by": 1,
        "result": result,
        "was_cancelled": False,
        "lead_time": 4.0,
        "created_at": TIME,
        "updated_at": TIME,
    }


SNOW = said(kept("snow"))


MEANT = meaning(
    LabelSpace(
        "animals",
        ("polar bear", "lion", "missile", "missile"),
        ids=("n02134084", "n02129165", "n1", "n2"),
        synonyms=(("ice bear", "Ursus maritimus"), (), (), ()),
    )
)


def heard(tasks: list[MirroredTask], photos: dict[str, dict[str, str]], mark=MARK) -> Heard:
    project = Project(id=1, title="study", config="", mark=mark)
    mirror = Mirror(Path("mirror.json"), tasks=dict(enumerate(tasks, start=1)))
    kind = LABEL if mark.about is None else CONFIRMATION
    return hear([(project, mirror)], photos, {1: "ann"}, kind, MEANT)


def test_answers_about_a_photo_that_was_replaced_say_nothing_of_the_new_one():
    found = heard([task("a", OLD, answers=[SNOW])], {NEW: {"a": "lion"}})
    assert found.rows == []
    assert found.replaced == {"a"}
    assert not found.unknown
    # What an earlier pull took for the photo's goes too.
    assert found.live == {("uid", "a")}


def test_answers_about_photos_that_were_renumbered_follow_their_bytes():
    tasks = [task("a", OLD, answers=[SNOW]), task("b", NEW)]
    found = heard(tasks, {NEW: {"a": "lion"}, OLD: {"b": "lion"}})
    assert [row["photo_id"] for row in found.rows] == ["b"]
    assert not found.replaced


def test_answers_about_a_photo_that_left_are_kept_under_its_id():
    found = heard([task("a", OLD, answers=[SNOW])], {NEW: {"b": "lion"}})
    assert [row["photo_id"] for row in found.rows] == ["a"]
    assert (found.unknown, found.replaced) == ({"a"}, set())


def test_answers_about_discoveries_do_not_go_over_to_other_bytes_either():
    sealed = seal("workspace", OLD, in_cluster=True)
    answer = said([choice("shows", "yes")])
    asked = task("a", OLD, "", sealed=sealed, answers=[answer])
    assert [row["photo_id"] for row in heard([asked], {}, ABOUT).rows] == ["a"]
    found = heard([asked], {NEW: {"a": "lion"}}, ABOUT)
    assert (found.rows, found.replaced) == ([], {"a"})


def test_a_photo_is_asked_about_again_until_its_new_question_stands():
    before = task("a", OLD, "polar bear", answers=[SNOW])
    found = heard([before], {OLD: {"a": "lion"}})
    assert (found.moved, found.unasked) == ({"a"}, {"a"})
    found = heard([before, task("a", OLD)], {OLD: {"a": "lion"}})
    assert (found.moved, found.unasked) == ({"a"}, set())
    found = heard([before, task("a", NEW)], {NEW: {"a": "lion"}})
    assert (found.replaced, found.unasked) == ({"a"}, set())


@pytest.mark.parametrize("photos", [{OLD: {"a": "lion"}}, {NEW: {"a": "lion"}}])
def test_questions_that_nobody_answered_are_no_loss(photos):
    found = heard([task("a", OLD, "polar bear")], photos)
    assert not found.moved | found.replaced | found.unasked
    assert found.live == {("uid", "a")}


def test_unanswered_questions_about_other_classes_or_bytes_are_known():
    tasks = [
        task("a", OLD, "polar bear"),
        task("a", OLD, "Lion"),
        task("a", OLD, "polar bear", answers=[SNOW]),
        task("gone", NEW, "polar bear"),
        task("a", OLD, ""),
        task("a", "", "polar bear"),
    ]
    mirror = Mirror(Path("mirror.json"), tasks=dict(enumerate(tasks, start=1)))
    assert mirror.superseded({OLD: {"a": "lion"}}, MEANT) == [1]
    assert mirror.superseded({OLD: {"a": "lion", "b": "polar bear"}}, MEANT) == []
    assert mirror.superseded({"2" * 64: {"a": "lion"}}, MEANT) == [1, 2, 5]


def test_tasks_that_somebody_else_added_are_neither_doubled_nor_said_to_be_kept():
    tasks = [task("", "", ""), task("", "", "", answers=[SNOW]), task("", "", "")]
    mirror = Mirror(Path("mirror.json"), tasks=dict(enumerate(tasks, start=1)))
    assert mirror.doubled(MEANT) == []
    found = heard(tasks, {OLD: {"a": "lion"}})
    assert (found.rows, found.unknown) == ([], set())
    assert found.nameless == {f"task {key} of 'study'" for key in (1, 2, 3)}


@pytest.mark.parametrize("spelled", ["polar bear", "Polar Bear", "ice_bear", "Ursus maritimus"])
def test_a_class_that_was_only_spelled_otherwise_is_the_same(spelled):
    found = heard([task("a", OLD, spelled, answers=[SNOW])], {OLD: {"a": "polar bear"}})
    assert [row["photo_id"] for row in found.rows] == ["a"]
    assert not found.moved


@pytest.mark.parametrize(("asked", "now"), [("lion", "polar bear"), ("Missile", "missile")])
def test_another_class_is_another_and_an_ambiguous_name_stands_for_itself(asked, now):
    found = heard([task("a", OLD, asked, answers=[SNOW])], {OLD: {"a": now}})
    assert (found.rows, found.moved) == ([], {"a"})


def test_a_photo_is_not_asked_about_again_because_its_class_is_spelled_otherwise():
    mirror = Mirror(Path("mirror.json"), tasks={1: task("a", OLD, "Ice Bear")})
    assert mirror.asked(MEANT) == {Asked(OLD, "polar bear")}
    mirror.add(2, task("a", OLD, "polar bear"))
    assert mirror.doubled(MEANT) == [2]


@pytest.fixture
def animals_file(workspace: Workspace, animals: Path) -> Path:
    """The file of the label space of a workspace with photos."""
    file = workspace.root / "animals.csv"
    (workspace.root / "cap.toml").write_text('label_space = "animals.csv"\n')
    file.write_text("name,synonyms,definition\nice bear,,white\nlion,,yellow\notter,,brown\n")
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    return file


def test_people_read_the_present_name_of_a_class_with_its_definition(workspace, animals_file):
    animals_file.write_text(
        "name,synonyms,definition\nPolar Bear,ice bear,white\nLion,,yellow\notter,,brown\n"
    )
    questions = labelling(Workspace(workspace.root), PushParameters()).questions
    read = {(q.shown["class_name"], q.shown["class_definition"]) for q in questions}
    assert read == {("Polar Bear", "white"), ("Lion", "yellow"), ("otter", "brown")}
    assert {q.candidate.class_name for q in questions} == {"Polar Bear", "Lion", "otter"}


@pytest.mark.parametrize(
    "rows", ["wolf,,grey\nice bear,,white\nlion,,yellow\notter,,brown\n", "ice bear,,white\n"]
)
def test_no_definition_of_another_class_is_shown(workspace, animals_file, rows):
    animals_file.write_text("name,synonyms,definition\n" + rows)
    with pytest.raises(CapError, match=r"collected as class .* Run `cap collect` first"):
        labelling(Workspace(workspace.root), PushParameters())
