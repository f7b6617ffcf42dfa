"""Sending to and reading from Label Studio: `cap annotate` beside the server's own limit.

A real Label Studio with SQLite, on loopback. The limit is the time that the server needs to take
the same tasks with the same predictions when they are ready and are sent one lot after the other,
and to give the changed tasks when they are asked for by their time. Both are measured in the same
run, the limit first, in a project of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from PIL import Image

from annotation.assignment import Candidate
from annotation.client import Address, ProjectMark, connect, new_uid
from annotation.environment import Environment
from annotation.mirror import workspace_id
from annotation.parameters import PullParameters
from annotation.pull import pull
from annotation.push import LOT
from annotation.questions import labelling_question, task_of
from annotation.screen import labelling_screen
from annotation.server import Owner, Server
from manifests.progress import LineProgress, Progress
from manifests.schema import PREDICTIONS
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters

PUSH_SECONDS, PULL_SECONDS = 60.0, 3.0
RUN = "guess-00000000"


def make_workspace(root: Path, photos: int) -> Workspace:
    """A workspace with as many tiny photos, and a run over backgrounds that suggests one each."""
    shutil.rmtree(root, ignore_errors=True)
    rng = np.random.default_rng(0)
    for number in range(photos):
        file = root / "animals" / ("ice bear", "lion", "otter")[number % 3] / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(file)
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n')
    workspace = Workspace(root)
    collect(workspace, CollectParameters(root=str(root / "animals")), Progress())
    rows = [
        {
            "photo_id": photo_id,
            "status": "ok",
            "label_space": "backgrounds",
            "predicted_index": 5,
            "predicted_name": "grass",
        }
        for photo_id in workspace.read("photos")["photo_id"].to_pylist()
    ]
    path = workspace.table_path(f"predictions/{RUN}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, from_rows(rows, PREDICTIONS.schema), PREDICTIONS)
    return workspace


def command(root: Path, *arguments: str) -> float:
    """Seconds that a `cap annotate` command takes, start-up included."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline", "--quiet", "--workspace", root, "annotate", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def limit_of_push(workspace: Workspace, address: Address) -> float:
    """Seconds that the server takes for the same tasks, ready to send."""
    tasks = [
        task_of(labelling_question(Candidate(**row, suggested="grass"), "an animal"))
        for row in workspace.read("photos")
        .select(["photo_id", "sha256", "path", "class_index", "class_name"])
        .to_pylist()
    ]
    screen = labelling_screen()
    mark = ProjectMark("nobody", new_uid(), screen.version, "first", "limit")
    with connect(address) as client:
        project = client.create_project("limit", mark, screen, 1)
        started = time.perf_counter()
        for start in range(0, len(tasks), LOT):
            client.import_tasks(project, tasks[start : start + LOT])
        return time.perf_counter() - started


def answer_some(workspace: Workspace, address: Address, count: int) -> float:
    """Answer photos over HTTP; gives the seconds that listing the changed ones takes at least."""
    header = {"Authorization": f"Token {address.key}"}
    result = [
        {
            "from_name": name,
            "to_name": "photo",
            "type": "choices",
            "value": {"choices": [value]},
        }
        for name, value in (("decision", "keep"), ("background", "grass"))
    ]
    with connect(address) as client, httpx.Client(base_url=address.url, headers=header) as http:
        (project,) = client.projects(workspace_id(workspace))
        keys = sorted(task.id for task in client.tasks(project, None))
        since = client.clock()
        for key in keys[:: max(1, len(keys) // count)][:count]:
            http.post(
                f"/api/tasks/{key}/annotations/", json={"result": result, "lead_time": 3.0}
            ).raise_for_status()
        started = time.perf_counter()
        found = client.answers(project, since, skips=False)
        assert len(found) == count
        return time.perf_counter() - started


def measure(photos: int, changed: int) -> dict[str, Any]:
    """Seconds of push and pull, beside the server's own."""
    environment = Environment.of_user()
    environment.prepare(LineProgress())
    root = Path("build/annotation")
    workspace = make_workspace(root, photos)
    owner = Owner("owner@example.com", secrets.token_urlsafe(12), secrets.token_hex(20))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(workspace.root, port, environment)
    server.set_up(owner)
    with server:
        address = Address(server.url, owner.token)
        os.environ |= {"LABEL_STUDIO_URL": address.url, "LABEL_STUDIO_API_KEY": address.key}
        push_limit = limit_of_push(workspace, address)
        push = command(root, "push", "--suggest", RUN, "--without-suggestion", "0")
        pull_limit = answer_some(workspace, address, changed)
        pulled = command(root, "pull")
        assert workspace.read("annotations").num_rows == changed
        answer_some(workspace, address, changed)
        later = command(root, "pull")
        answer_some(workspace, address, changed)
        started = time.perf_counter()
        pull(workspace, PullParameters(), Progress())
        inside = time.perf_counter() - started
        again = command(root, "push", "--suggest", RUN)
    return {
        "photos": photos,
        "push_seconds": round(push, 1),
        "push_limit_seconds": round(push_limit, 1),
        "push_again_seconds": round(again, 1),
        "changed": changed,
        "first_pull_seconds": round(pulled, 2),
        "pull_seconds": round(later, 2),
        "pull_seconds_without_start_up": round(inside, 2),
        "pull_limit_seconds": round(pull_limit, 2),
    }


@click.command()
@click.option("--photos", default=20_000, show_default=True)
@click.option("--changed", default=200, show_default=True)
def main(photos: int, changed: int) -> None:
    """Print the figures; exit with 1 below a bar."""
    found = measure(photos, changed)
    print(json.dumps(found, indent=2))
    pulls = (found["first_pull_seconds"], found["pull_seconds"])
    if found["push_seconds"] > PUSH_SECONDS or max(pulls) > PULL_SECONDS:
        sys.exit(1)


if __name__ == "__main__":
    main()
