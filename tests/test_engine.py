"""The engine: results in order, errors told, and no worker that outlives its parent."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import REPOSITORY

from manifests.cores import usable_cores
from manifests.errors import CapError
from pipeline.engine import LocalEngine, map_ordered, prepared_batches

# A program whose two workers name themselves and then sleep far longer than the test waits.
SLEEPERS = """
import os, time
from pipeline.engine import LocalEngine

def sleep(seconds):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(seconds)

if __name__ == "__main__":
    with LocalEngine(2, patience=0) as engine:
        list(engine.map(sleep, [300, 300]))
"""


def double_slowly(number: int) -> int:
    time.sleep(0.02 if number % 7 == 0 else 0.0)
    return 2 * number


def refuse_three(number: int) -> int:
    if number == 3:
        msg = "three is refused"
        raise ValueError(msg)
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


# A program with two processes that prepare batches, which name themselves and then sleep.
PREPARERS = """
import os, time
from pipeline.engine import prepared_batches

def sleep(items, threads):
    if items[0] >= 2:
        os.write(1, f"{os.getpid()}\\n".encode())
        time.sleep(300)
    return items

if __name__ == "__main__":
    list(prepared_batches(sleep, range(8), 1, 2, device="cpu"))
"""


def prepare_to_die(numbers: Sequence[int], threads: int) -> list[int]:
    assert threads == 1
    return [die_at_three(number) for number in numbers]


def process_id(_: object) -> int:
    time.sleep(0.01)
    return os.getpid()


def ended(pid: int) -> bool:
    """Whether a process is gone, or dead and only waiting for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def end_within(seconds: float, pids: list[int]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(ended(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(params=[SLEEPERS, PREPARERS], ids=["map", "map_batches"])
def sleepers(request, tmp_path):
    """A process with two workers asleep in their work: the process and the workers' ids."""
    script = tmp_path / "sleepers.py"
    script.write_text(request.param)
    with subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        yield process, [int(process.stdout.readline()) for _ in range(2)]
        process.kill()


@pytest.mark.parametrize(("workers", "patience"), [(1, 0.5), (2, 0.5), (2, 0.0), (2, 0.05)])
def test_results_come_in_the_order_of_the_items(workers, patience):
    with LocalEngine(workers, patience=patience) as engine:
        for count in (0, 1, 100):
            assert list(engine.map(double_slowly, range(count))) == [
                2 * number for number in range(count)
            ]


def test_map_ordered_gives_what_a_loop_would():
    assert list(map_ordered(double_slowly, iter(range(90)), workers=2)) == list(range(0, 180, 2))


def test_short_work_stays_in_this_process():
    with LocalEngine(2) as engine:
        assert set(engine.map(process_id, range(5))) == {os.getpid()}


def test_long_work_moves_to_workers_that_serve_later_calls_too():
    with LocalEngine(2, patience=0.03) as engine:
        first = list(engine.map(process_id, range(60)))
        later = set(engine.map(process_id, range(60)))
    assert first[0] == os.getpid()
    workers = set(first) - {os.getpid()}
    assert 1 <= len(workers) <= 2
    assert os.getpid() not in later
    assert len(workers | later) <= 2


def test_items_are_taken_a_bounded_number_ahead():
    items = itertools.count()
    with LocalEngine(2, patience=0) as engine:
        results = engine.map(double_slowly, items)
        assert [next(results) for _ in range(10)] == list(range(0, 20, 2))
        assert next(items) < 1000


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_in_the_function_is_raised(workers):
    with (
        LocalEngine(workers, patience=0) as engine,
        pytest.raises(ValueError, match="three is refused"),
    ):
        list(engine.map(refuse_three, range(10)))


def test_a_worker_that_dies_is_told_and_the_engine_works_again():
    with LocalEngine(2, patience=0) as engine:
        with pytest.raises(CapError, match=r"worker process died.*run the same command again"):
            list(engine.map(die_at_three, range(100)))
        assert list(engine.map(double_slowly, range(20))) == list(range(0, 40, 2))


def test_leaving_by_an_exception_does_not_wait_for_the_work_in_hand():
    started = time.monotonic()

    def leave() -> None:
        with LocalEngine(2, patience=0) as engine:
            results = engine.map(time.sleep, [0.0, *[300.0] * 7])
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert time.monotonic() - started < 20


def test_workers_end_when_their_parent_is_killed(sleepers):
    process, workers = sleepers
    assert not any(ended(worker) for worker in workers)
    process.kill()
    assert end_within(10, workers)


def test_an_interrupt_ends_all_processes_with_one_traceback(sleepers):
    process, workers = sleepers
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert end_within(10, workers)
    assert errors.decode().rstrip().endswith("KeyboardInterrupt")
    assert errors.count(b"Traceback") == 1


def prepare(items, threads: int):
    """The process that prepared a batch, the threads that it might have used, and the doubles."""
    if 7 in items:
        msg = "seven is refused"
        raise CapError(msg)
    return os.getpid(), threads, [2 * item for item in items]


def test_on_a_cpu_batches_are_prepared_in_turn_with_the_work():
    cores = min(len(os.sched_getaffinity(0)), 8)
    prepared, taken = [], []

    def note(items, threads):
        prepared.extend(items)
        return prepare(items, threads)

    for batch, found in prepared_batches(note, range(10, 60), 4, None, device="cpu"):
        taken += batch
        assert found == (os.getpid(), cores, [2 * item for item in batch])
        assert prepared == taken
    assert taken == list(range(10, 60))
    assert list(prepared_batches(prepare, (), 4, None, device="cpu")) == []


@pytest.mark.parametrize(
    ("workers", "device", "waits"), [(2, "cpu", False), (None, "mps", False), (None, "cpu", True)]
)
def test_other_batches_are_prepared_by_processes(workers, device, waits):
    found = list(prepared_batches(prepare, range(10, 210), 4, workers, device=device, waits=waits))
    assert [number for _, (_, _, own) in found for number in own] == list(range(20, 420, 2))
    assert len({process for _, (process, _, _) in found} - {os.getpid()}) >= 1


def test_a_process_that_dies_while_it_prepares_is_told():
    batches = prepared_batches(prepare_to_die, [*range(10, 20), 3], 2, 2, device="cpu")
    with pytest.raises(CapError, match=r"a decoding process died, perhaps because .* memory"):
        list(batches)


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_a_batch_that_is_refused_ends_the_others_with_its_reason(workers):
    batches = prepared_batches(prepare, range(90), 2, workers, device="cpu")
    with pytest.raises(CapError, match=r"^seven is refused$"):
        list(batches)


def test_cores_are_counted_where_a_system_does_not_say_which_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
