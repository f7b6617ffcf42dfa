"""Never more bytes than the budget allows, in any window, whatever is asked and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.collect.budget import ByteBudget

HOUR, DAY = 3600, 86400


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def fetch(budget: ByteBudget, size: int, clock: Clock) -> None:
    """Wait for room as a downloader does, and spend it."""
    while wait := budget.wait_for(size):
        clock.sleep(wait)
    budget.spend(size)
    budget.release(size)


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "bytes.sqlite"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(0, 3000)), min_size=1, max_size=25),
    st.integers(100, 400),
    st.integers(400, 1500),
)
def test_no_window_holds_more_than_its_limit(tmp_path_factory, photos, per_hour, per_day):
    clock, spent = Clock(), []
    folder = tmp_path_factory.mktemp("ledger")
    budget = ByteBudget(
        folder / "bytes.sqlite", "host", {HOUR: per_hour, DAY: per_day}, clock=clock
    )
    for size, pause in photos:
        clock.sleep(pause)
        fetch(budget, size, clock)
        spent.append((clock.now, size))
    budget.close()
    for window, limit in ((HOUR, per_hour), (DAY, per_day)):
        for moment, _ in spent:
            inside = sum(size for when, size in spent if moment <= when < moment + window)
            assert inside <= max(limit, *(size for _, size in spent))


def test_what_is_under_way_counts_and_what_did_not_come_does_not(ledger):
    clock = Clock()
    budget = ByteBudget(ledger, "host", {HOUR: 100}, clock=clock)
    assert budget.wait_for(60) == 0
    assert budget.wait_for(60) > 0
    budget.release(60)
    assert budget.wait_for(60) == 0
    budget.close()


def test_a_photo_larger_than_the_budget_gets_its_turn_alone(ledger):
    budget = ByteBudget(ledger, "host", {HOUR: 100}, clock=Clock())
    assert budget.wait_for(5000) == 0
    assert budget.wait_for(1) > 0
    budget.close()


def test_another_process_and_the_next_one_count_on(ledger):
    clock = Clock()
    first = ByteBudget(ledger, "host", {HOUR: 100}, clock=clock)
    first.spend(80)
    first.close()
    second = ByteBudget(ledger, "host", {HOUR: 100}, clock=clock)
    other = ByteBudget(ledger, "elsewhere", {HOUR: 100}, clock=clock)
    wait = second.wait_for(50)
    assert HOUR - 60 <= wait <= HOUR + 60
    assert other.wait_for(50) == 0
    clock.sleep(wait)
    assert second.wait_for(50) == 0
    second.close()
    other.close()


def test_waiting_goes_on_until_there_is_room_and_no_longer(ledger):
    clock = Clock()
    budget = ByteBudget(ledger, "host", {HOUR: 100}, clock=clock)
    moments = []
    for _ in range(6):
        fetch(budget, 50, clock)
        moments.append(clock.now)
    budget.close()
    # Two photos an hour: the third waits for the first to be an hour old, and so on.
    for early, late in pairwise(moments[::2]):
        assert HOUR <= late - early <= HOUR + 120
