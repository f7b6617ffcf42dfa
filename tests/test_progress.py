"""What a person is told while photos of several classes come."""

from __future__ import annotations

from collections import Counter

import pytest

from manifests.progress import BarProgress, LineProgress, Progress, Tally, tell_problems

TOTALS = {"ice bear": 2, "lion [sic]": 3}


def follow(progress: Progress) -> None:
    with progress.board("collect", TOTALS, {"lion [sic]": 1}) as count:
        count("ice bear", 1_000_000, None)
        count("ice bear", 0, "not found (404)")
        count("lion [sic]", 500_000, None)
        count("lion [sic]", 0, "not found (404)")


def test_lines_tell_photos_bytes_and_failures_by_reason(capsys):
    follow(LineProgress())
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "collect: going on at 1 of 5 photos, 0.0 MB"
    assert shown[-1].startswith("collect: 5 of 5 photos, 1.5 MB, 2 failed (2 not found (404)) in ")


def test_bars_leave_a_line_for_each_class_that_is_finished(capsys):
    follow(BarProgress())
    shown = capsys.readouterr().err
    assert "ice bear: 2 photos" in shown
    # A name is no markup.
    assert "lion [sic]: 3 photos" in shown
    assert "5/5" in shown
    assert "2 failed: 2 not found (404)" in shown


def test_the_time_left_follows_from_the_pace_of_this_run():
    tally = Tally({"a": 100}, Counter({"a": 50}))
    assert tally.seconds_left is None
    tally.started -= 10
    for _ in range(10):
        tally.count("a", 1, None)
    assert tally.seconds_left == pytest.approx(40, rel=0.01)
    assert ", 40 s left" in str(tally)
    tally.started -= 10_000
    assert " h " in str(tally)


def test_the_most_frequent_reason_comes_first():
    assert tell_problems({"b": 1, "a": 1, "c": 5}) == "5 c, 1 a, 1 b"
