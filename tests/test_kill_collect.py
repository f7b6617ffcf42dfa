"""Killed at any moment, a collect goes on where it was: nothing is lost, no photo comes twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from catalogues import make_space, photo_catalogue

from manifests.tables import table_digest
from manifests.workspace import Workspace
from pipeline.collect.download import Wanted
from pipeline.demo.server import LocalINaturalist, ServerSettings

KILLS = 30
PHOTOS = 600
CONNECTIONS = 8


def make_workspace(root: Path) -> Workspace:
    root.mkdir()
    make_space(root)
    return Workspace(root)


def start(workspace: Workspace, server: LocalINaturalist) -> subprocess.Popen:
    options = {
        "--source": "inaturalist",
        "--classes": "toad",
        "--per-class": PHOTOS,
        "--api-url": server.api_url,
        "--requests-per-minute": 60_000,
        "--connections": CONNECTIONS,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "--quiet", "collect", *words],
        cwd=workspace.root,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def arrived(workspace: Workspace, keys: dict[str, int]) -> set[int]:
    """Photos whose bytes wait to be taken."""
    waiting = workspace.parts_folder("photos").rglob("arrived/*")
    return {keys[file.name] for file in waiting if file.name in keys}


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(requests_per_minute=1_000_000, latency=0.04)
    with LocalINaturalist(photo_catalogue(PHOTOS), settings) as running:
        yield running


def test_thirty_kills_at_random_moments_lose_nothing_and_fetch_no_photo_twice(tmp_path, server):
    undisturbed = make_workspace(tmp_path / "undisturbed")
    begun = time.monotonic()
    assert start(undisturbed, server).wait(600) == 0
    duration = time.monotonic() - begun
    digest = table_digest(undisturbed.read("photos"))
    keys = {
        Wanted(f"inaturalist:{n}", server.photo_url(n, "large")).key: n
        for n in range(1, PHOTOS + 1)
    }
    moments = random.Random(11)
    kills = midway = rounds = repeated = 0
    while kills < KILLS:
        rounds += 1
        workspace = make_workspace(tmp_path / f"disturbed-{rounds}")
        first = len(server.log.records)
        settled: dict[int, int] = {}
        while True:
            process = start(workspace, server)
            try:
                assert process.wait(moments.uniform(0, duration)) == 0
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            kills += 1
            there = arrived(workspace, keys)
            midway += bool(there)
            # What is there when the command is killed is not asked for again.
            asked_then = Counter(r.photo_id for r in server.log.records[first:])
            settled |= {number: asked_then[number] for number in there}
        asked = Counter(r.photo_id for r in server.log.records[first:] if r.photo_id)
        assert {number: asked[number] for number in settled} == settled
        repeated += sum(asked.values()) - PHOTOS
        assert table_digest(workspace.read("photos")) == digest
    print(f"{kills} kills, {midway} with photos waiting; {repeated} of {rounds * PHOTOS} repeated")
    assert midway >= kills / 3
    assert repeated <= kills * CONNECTIONS
