"""Answers belong to the bytes and the class that people were asked about, and to no others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from annotators import choice, kept

from annotation.client import ClusterMark, Project, ProjectMark
from annotation.confirming import seal
from annotation.hearing import CONFIRMATION, LABEL, Heard, hear
from annotation.mirror import Mirror, MirroredTask

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


def heard(tasks: list[MirroredTask], photos: dict[str, dict[str, str]], mark=MARK) -> Heard:
    project = Project(id=1, title="study", config="", mark=mark)
    mirror = Mirror(Path("mirror.json"), tasks=dict(enumerate(tasks, start=1)))
    kind = LABEL if mark.about is None else CONFIRMATION
    return hear([(project, mirror)], photos, {1: "ann"}, kind)


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
