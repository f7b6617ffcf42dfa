"""Killed at any moment, push and pull go on where they were: nothing doubled, nothing lost."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from annotators import Office, kept, rejected
from conftest import open_office, save_photo

from annotation.environment import Environment
from annotation.mirror import Mirror, mirror_folder
from annotation.server import photo_root
from manifests.progress import Progress
from manifests.tables import table_digest
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters

KILLS, SERVER_KILLS = 30, 3
PHOTOS = 2400
ANSWERS = 60


@pytest.fixture(scope="module")
def world(label_studio: Environment, tmp_path_factory) -> Office:
    """An office that serves more photos than are sent at a time."""
    root = tmp_path_factory.mktemp("world") / "workspace"
    for number in range(PHOTOS):
        name = ("ice bear", "lion", "otter")[number % 3]
        save_photo(root / "animals" / name / f"{number}.jpg", number, size=(24, 16))
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n')
    collect(Workspace(root), CollectParameters(root=str(root / "animals")), Progress())
    with open_office(label_studio, root) as office:
        yield office


def start(root: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "--quiet", "annotate", *command],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def push_command(office: Office) -> tuple[str, ...]:
    return ("push", "--photos-at", str(photo_root(office.root)))


def new_workspace(office: Office, folder: Path, name: str) -> Workspace:
    """A workspace with the same photos, which the server knows nothing of yet."""
    root = folder / name
    root.mkdir()
    shutil.copy(office.root / "cap.toml", root)
    for part in ("manifests", "photos"):
        shutil.copytree(office.root / part, root / part)
    return Workspace(root)


class Killer:
    """Runs a command again and again, killed at random moments, until it comes to its end."""

    def __init__(self, seed: int) -> None:
        self.moments = random.Random(seed)
        self.kills = 0

    def run(self, root: Path, duration: float, *command: str, at_most: int) -> None:
        for _ in range(at_most):
            process = start(root, *command)
            try:
                assert process.wait(self.moments.uniform(0, duration)) == 0
                return
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                self.kills += 1
        assert start(root, *command).wait(300) == 0


def kill(office: Office) -> None:
    """Kill the server, as a power cut would."""
    port = office.server.port
    found = subprocess.run(
        ["pkill", "-KILL", "-f", f"label-studio start .*--port {port}"], check=False
    )
    assert found.returncode == 0
    while not office.server.ended:
        time.sleep(0.05)


def sent_once(office: Office, workspace: Workspace) -> None:
    with office.client() as client:
        (project,) = office.projects(workspace)
        digests = [task.data["sha256"] for task in client.tasks(project, None)]
    assert len(digests) == PHOTOS
    assert set(digests) == set(workspace.read("photos")["sha256"].to_pylist())
    mirror = Mirror.load(mirror_folder(workspace), project.mark.uid)
    assert len(mirror.tasks) == PHOTOS


def duration_of(root: Path, *command: str) -> float:
    begun = time.monotonic()
    assert start(root, *command).wait(300) == 0
    return time.monotonic() - begun


def test_thirty_kills_double_and_lose_nothing(world: Office, tmp_path: Path):
    undisturbed = new_workspace(world, tmp_path, "undisturbed")
    push_seconds = duration_of(undisturbed.root, *push_command(world))
    pull_seconds = duration_of(undisturbed.root, "pull")
    killer = Killer(7)
    turn = 0
    ann = world.join("ann@example.com")
    while killer.kills < KILLS:
        workspace = new_workspace(world, tmp_path, f"turn-{turn}")
        killer.run(workspace.root, push_seconds, *push_command(world), at_most=6)
        sent_once(world, workspace)
        task = list(world.tasks(workspace).values())
        chosen = random.Random(turn).sample(task, ANSWERS)
        given = [ann.answer(key, kept("grass")) for key in chosen[: ANSWERS // 2]]

        def work(chosen=chosen, given=given) -> None:
            for key, answer in zip(chosen[ANSWERS // 2 :], given, strict=True):
                ann.answer(key, rejected("clarity"))
                ann.change(answer, kept("water"))
            ann.remove(given[0])

        worker = threading.Thread(target=work)
        worker.start()
        killer.run(workspace.root, pull_seconds, "pull", at_most=6)
        worker.join()
        # What was answered while the last pull ran comes with the next one.
        assert start(workspace.root, "pull").wait(300) == 0
        rows = workspace.read("annotations").to_pylist()
        assert len(rows) == ANSWERS - 1
        assert sum(row["background"] == "water" for row in rows) == ANSWERS // 2 - 1
        incremental = table_digest(workspace.read("annotations"))
        world.pull(workspace, full=True)
        assert table_digest(workspace.read("annotations")) == incremental
        shutil.rmtree(workspace.root)
        turn += 1
    print(f"{killer.kills} kills of push and pull in {turn} turns")


def test_a_killed_server_loses_nothing_either(world: Office, tmp_path: Path):
    moments = random.Random(3)
    workspace = new_workspace(world, tmp_path, "server-killed")
    bob = world.join("bob@example.com")
    answered = set()
    for _ in range(SERVER_KILLS):
        process = start(workspace.root, *push_command(world))
        time.sleep(moments.uniform(1.0, 4.0))
        kill(world)
        assert process.wait(300) in {0, 1}
        world.server.start()
        for photo_id, key in list(world.tasks(workspace).items())[-3:]:
            bob.answer(key, kept("sand"))
            answered.add(photo_id)
    assert start(workspace.root, *push_command(world)).wait(300) == 0
    sent_once(world, workspace)
    world.pull(workspace)
    assert set(workspace.read("annotations")["photo_id"].to_pylist()) == answered
