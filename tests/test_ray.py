"""The engine on Ray: the same tables as on one machine, and nothing lost when workers die."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import REPOSITORY, cap, free_port
from ray_work import Sums, break_at_seven, die_at_seven, double, refuse_seven, squares

from manifests.errors import CapError, PhotoError
from manifests.workspace import Workspace
from pipeline.ray_engine import RayEngine

pytestmark = pytest.mark.filterwarnings(
    # Ray's settings warn of their own old names.
    "ignore::DeprecationWarning:ray.data.context"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster of one node with two cores, in processes of its own; its address."""
    port = free_port()
    ray = Path(sys.executable).with_name("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]))
        start = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--block"]
        with subprocess.Popen(
            [*start, "--include-dashboard=false"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        ) as head:
            assert head.stdout is not None
            assert any("Ray runtime started" in line for line in head.stdout)
            yield f"127.0.0.1:{port}"
            # Not `ray stop`, which would end every cluster of the machine.
            head.terminate()
            head.communicate(timeout=60)


@pytest.fixture(scope="module")
def engine(cluster: str) -> Iterator[RayEngine]:
    told: list[str] = []
    with RayEngine(address=cluster, tell=told.append) as connected:
        yield connected


def test_results_come_in_the_order_of_the_items(engine):
    for count in (0, 1, 64, 65, 1000):
        assert list(engine.map(double, range(count))) == [2 * number for number in range(count)]


def test_batches_are_prepared_and_worked_on_in_order(engine, tmp_path):
    for count, size in ((0, 8), (1, 8), (100, 7)):
        batches = list(engine.map_batches(squares, Sums(tmp_path), range(count), size))
        assert [len(batch) for batch in batches] == [
            min(size, count - start) for start in range(0, count, size)
        ]
        assert [one for batch in batches for one in batch] == [n + n**2 for n in range(count)]


def test_an_error_of_the_stage_comes_as_it_was_raised(engine):
    with pytest.raises(PhotoError, match=r"^seven is refused$"):
        list(engine.map(refuse_seven, range(200)))


def test_another_error_is_told_in_one_line(engine):
    with pytest.raises(CapError, match="the Ray cluster gave up: ZeroDivisionError: ") as caught:
        list(engine.map(break_at_seven, range(200)))
    assert "\n" not in str(caught.value)


def test_a_batch_whose_worker_is_killed_is_done_again_and_counted_once(engine, tmp_path):
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 2:
            for file in sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime)[-1:]:
                pid = int(file.name.rpartition("-")[2])
                if pid not in killed:
                    time.sleep(0.2)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    work = Sums(tmp_path, seconds=0.5)
    results = [one for batch in engine.map_batches(squares, work, range(60), 4) for one in batch]
    killer.join(timeout=60)
    assert len(killed) == 2
    assert results == [n + n**2 for n in range(60)]
    begun = [int(file.name.partition("-")[0]) for file in tmp_path.iterdir()]
    assert len(begun) > len(set(begun)) == 15


def test_items_that_end_one_worker_after_another_are_told(engine):
    died = "8 workers .* died one after another on the same 64 items, of which the first is 0;"
    with pytest.raises(CapError, match=died):
        list(engine.map(die_at_seven, range(200)))


def test_a_node_that_does_not_see_the_folder_is_told_at_once(demo, cluster):
    done = cap(
        *("score", "--engine", "ray", "--ray-address", cluster, "--photos-at", "nowhere"),
        cwd=demo.root,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"does not see .*/nowhere; share it .* --photos-at\n$", done.stderr)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "cannot be reached: Connection refused"),
        ("ray://127.0.0.1:1", "is no address of a Ray cluster; write HOST:PORT"),
        ("nowhere", "is no address of a Ray cluster; write HOST:PORT"),
        ("127.0.0.1:x", "is no address of a Ray cluster; write HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(demo, address, reason):
    begun = time.monotonic()
    done = cap("score", "--engine", "ray", "--ray-address", address, cwd=demo.root, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert reason in line
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cdua"])
def test_a_device_that_the_cluster_lacks_is_refused(engine, device):
    assert engine.computing_on("auto") == engine.computing_on("cpu") == "cpu"
    with pytest.raises(CapError, match=f"the device '{device}' is not to be had on the Ray"):
        engine.computing_on(device)


@pytest.fixture(scope="module")
def both(demo, cluster, tmp_path_factory) -> tuple[Workspace, Workspace]:
    """Some of the demo's photos, two of them spoilt, through the stages with either engine."""
    found = []
    for engine in ("local", "ray"):
        root = tmp_path_factory.mktemp(engine) / "demo"
        root.mkdir()
        for file in ("cap.toml", "label_space.csv", "toy.json", "toy.safetensors"):
            shutil.copy(demo.root / file, root)
        cap("collect", "--root", demo.root / "animals", "--per-class", "40", cwd=root)
        rows = Workspace(root).read("photos")
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        (root / rows["path"][40].as_py()).write_bytes(b"no photo")
        options = ["--engine", engine, *(["--ray-address", cluster] if engine == "ray" else [])]
        cap("dedup", *options, cwd=root)
        # One more that dedup has found whole.
        (root / rows["path"][7].as_py()).write_bytes(b"no photo")
        cap("score", "--save-scores", "--save-embeddings", *options, cwd=root)
        # As on a cluster whose nodes share no folder.
        options += ["--photos-at", (root / "photos").as_uri()] if engine == "ray" else []
        cap("discover", "--draws", "500", *options, cwd=root)
        found.append(Workspace(root))
    return found[0], found[1]


def test_both_engines_find_the_same_duplicates(both):
    local, ray = (workspace.read("duplicates") for workspace in both)
    assert local.equals(ray)
    assert pc.sum(pc.equal(local["status"], "failed")).as_py() == 1


def test_both_engines_give_the_same_scores(both):
    (run,) = both[0].runs()
    local, ray = (workspace.read(f"predictions/{run}") for workspace in both)
    assert_same(local, ray)
    assert pc.sum(pc.equal(local["status"], "failed")).as_py() == 1


def test_a_command_whose_worker_is_killed_gives_the_same_scores(both, cluster, tmp_path):
    root = tmp_path / "killed"
    shutil.copytree(both[1].root, root)
    for kept in ("manifests/predictions", ".cap/cache/vectors"):
        shutil.rmtree(root / kept)
    options = ("--save-scores", "--save-embeddings", "--batch-size", "4", "--device", "cpu")
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "score", *options, "--engine", "ray"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": cluster},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        killed = kill_a_worker(process)
        _, said = process.communicate(timeout=300)
    assert killed
    assert process.returncode == 0
    assert "core_worker" not in said
    (run,) = both[0].runs()
    assert_same(*(w.read(f"predictions/{run}") for w in (both[0], Workspace(root))))


def kill_a_worker(command: subprocess.Popen) -> bool:
    """Kill the first actor that is seen at work for a command; whether there was one."""
    while command.poll() is None:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if re.match(r"ray::MapWorker\(MapBatches\(_Worker\)\)\.", file.read_text()):
                    os.kill(int(file.parent.name), signal.SIGKILL)
                    return True
    return False


def test_both_engines_discover_the_same(both):
    (run,) = both[0].runs()
    local, ray = (workspace.read(f"regions/{run}") for workspace in both)
    assert_same(local, ray)
    first, second = (workspace.read(f"discoveries/{run}") for workspace in both)
    assert_same(first, second)


def assert_same(one: pa.Table, other: pa.Table) -> None:
    """Equal in all but numbers that a model computes, which are equal to 1e-5, or as float16."""
    assert one.schema == other.schema
    for field in one.schema:
        left, right = one[field.name], other[field.name]
        kind = field.type.value_type if pa.types.is_nested(field.type) else field.type
        if not pa.types.is_floating(kind):
            assert left.equals(right), field.name
            continue
        assert left.is_null().equals(right.is_null()), field.name
        numbers = [np.array(column.drop_null().to_pylist(), float) for column in (left, right)]
        atol = 1e-3 if pa.types.is_float16(kind) else 1e-5
        np.testing.assert_allclose(*numbers, rtol=0, atol=atol, err_msg=field.name)


LOCAL_CLUSTER = """
import time
from pipeline.ray_engine import RayEngine
with RayEngine() as engine:
    assert list(engine.map(abs, range(-100, 0))) == list(range(100, 0, -1))
    print("ready", flush=True)
    list(engine.map(time.sleep, [300.0]))
"""


def processes_below(pid: int) -> list[int]:
    """Ids of the processes that one has started, and those have."""
    pairs = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            above = int(stat.read_text().rpartition(")")[2].split()[1])
            pairs.append((int(stat.parent.name), above))
    found = [pid]
    for parent in found:
        found += [child for child, above in pairs if above == parent]
    return found[1:]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_of_this_machine_ends_with_its_command(ending):
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LOCAL_CLUSTER],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # Ray's own agents take two minutes to see that nobody is left.
        started = [pid for pid in processes_below(process.pid) if "Agent" not in command(pid)]
        assert started
        process.send_signal(ending)
        process.wait(timeout=60)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and any(map(alive, started)):
            time.sleep(0.2)
        assert not any(map(alive, started))


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
