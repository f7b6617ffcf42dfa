"""`cap annotate serve` starts a real Label Studio, tells how to get in, and takes it down again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import cap, free_port

from annotation.environment import VERSION, Environment, clean_variables


@pytest.fixture
def cache(label_studio: Environment, tmp_path: Path) -> dict[str, str]:
    """Variables under which Label Studio is installed already, and nothing else is known."""
    folder = tmp_path / "cache" / "cap"
    folder.mkdir(parents=True)
    (folder / label_studio.folder.name).symlink_to(label_studio.folder)
    return {"XDG_CACHE_HOME": str(folder.parent)}


def start(root: Path, port: int, *options: str, **variables: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LABEL_STUDIO_")}
    command = ["annotate", "serve", "--port", str(port), "--no-browser", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command],
        cwd=root,
        env={**clean, **variables},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> str:
    """What the command says until people can sign in."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "LABEL_STUDIO_API_KEY" in line:
            break
    return "".join(lines)


def whoami(url: str, token: str) -> httpx.Response:
    return httpx.get(f"{url}/api/current-user/whoami", headers={"Authorization": f"Token {token}"})


def sign_in(url: str, email: str, password: str) -> int:
    with httpx.Client(base_url=url, timeout=30) as page:
        page.get("/user/login/")
        token = page.cookies["csrftoken"]
        form = {"email": email, "password": password, "csrfmiddlewaretoken": token}
        return page.post("/user/login/", data=form).status_code


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """Variables under which a program is installed that makes owners, and never starts."""
    folder = Environment(tmp_path / "cache" / "cap" / f"label-studio-{VERSION}")
    folder.executable.parent.mkdir(parents=True)
    folder.executable.write_text('#!/bin/sh\ntest "$1" = init\n')
    folder.executable.chmod(0o755)
    folder.database.mkdir()
    (folder.folder / "ready").touch()
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_no_owner_is_made_where_the_port_is_taken(workspace, broken):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        process = start(workspace.root, taken.getsockname()[1], **broken)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is taken, perhaps by another Label Studio" in said
    assert not (workspace.root / "label-studio").exists()


def test_secrets_are_told_also_where_the_first_start_fails(workspace, broken):
    # An empty variable names no password: one is made up.
    process = start(workspace.root, free_port(), **broken, LABEL_STUDIO_PASSWORD="")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Label Studio did not start" in said
    assert re.search(r"the password of owner@localhost.localdomain is \S{16}\n", said)
    assert re.search(r"the token of owner@localhost.localdomain is \w{40}\n", said)
    # It has its owner by now, and the next start does not tell of secrets that it does not know.
    again = start(workspace.root, free_port(), **broken)
    _, said = again.communicate(timeout=60)
    assert "the password of" not in said
    assert "the token of" not in said


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_tells_a_password_and_a_token_once_and_stops_cleanly(workspace, cache, ending):
    port = free_port()
    process = start(workspace.root, port, **cache)
    try:
        said = told(process)
        url = f"http://127.0.0.1:{port}"
        assert f"Label Studio is at {url}" in said
        password = re.search(r"with the password (\S+)", said)[1]
        token = re.search(r"LABEL_STUDIO_API_KEY=(\w{40})", said)[1]
        assert whoami(url, token).json()["email"] == "owner@localhost.localdomain"
        assert sign_in(url, "owner@localhost.localdomain", password) == 302
        # Loopback only: another address of this machine does not answer.
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex(("127.0.0.2", port)) != 0
        # Photos are sent and answers fetched while it runs: it holds no lock.
        done = cap("annotate", "push", cwd=workspace.root, check=False, LABEL_STUDIO_API_KEY="")
        assert "is being written by" not in done.stderr
        second = start(workspace.root, port, **cache)
        assert second.wait(60) == 1
        assert "is taken, perhaps by another Label Studio" in second.stderr.read()
        second.stderr.close()
    finally:
        process.send_signal(ending)
        code = process.wait(30)
        rest = process.stderr.read()
        process.stderr.close()
    assert code == 0, rest
    assert "stopped" in rest
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    for file in workspace.root.rglob("*"):
        if file.is_file() and "data" not in file.relative_to(workspace.root).parts:
            content = file.read_bytes()
            assert password.encode() not in content
            assert token.encode() not in content


def test_the_owner_comes_from_the_environment_and_is_not_repeated(workspace, cache):
    port = free_port()
    secrets = {
        "LABEL_STUDIO_USERNAME": "ann@example.com",
        "LABEL_STUDIO_PASSWORD": "my-own-password",
        "LABEL_STUDIO_API_KEY": "ab" * 20,
    }
    process = start(workspace.root, port, **cache, **secrets)
    try:
        said = told(process)
        assert "sign in as ann@example.com with your LABEL_STUDIO_PASSWORD" in said
        assert "my-own-password" not in said
        assert "ab" * 20 not in said
        url = f"http://127.0.0.1:{port}"
        assert whoami(url, "ab" * 20).json()["email"] == "ann@example.com"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stderr.close()
    # A later start knows the owner, and can replace a forgotten password.
    process = start(workspace.root, port, "--new-password", **cache)
    try:
        said = told(process)
        password = re.search(r"as ann@example.com with the password (\S+)", said)[1]
        assert sign_in(url, "ann@example.com", password) == 302
        assert sign_in(url, "ann@example.com", "my-own-password") == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stderr.close()


def test_a_new_password_may_begin_with_a_dash(workspace, cache):
    port = free_port()
    first = start(workspace.root, port, **cache)
    told(first)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    secrets = {"LABEL_STUDIO_PASSWORD": "-begins-with-a-dash"}
    process = start(workspace.root, port, "--new-password", **cache, **secrets)
    try:
        assert "with your LABEL_STUDIO_PASSWORD" in told(process)
        url = f"http://127.0.0.1:{port}"
        assert sign_in(url, "owner@localhost.localdomain", "-begins-with-a-dash") == 302
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_a_server_that_dies_ends_the_command_with_its_log_named(workspace, cache):
    process = start(workspace.root, free_port(), **cache)
    told(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    begun = time.monotonic()
    assert process.wait(30) == 1
    assert time.monotonic() - begun < 20
    rest = process.stderr.read()
    process.stderr.close()
    assert "has stopped by itself; see" in rest
    assert "server.log" in rest


def test_label_studio_is_started_without_calls_home_or_stray_settings(monkeypatch):
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("LABEL_STUDIO_HOST", "example.org")
    monkeypatch.setenv("PASSWORD", "stray")
    variables = clean_variables()
    assert not {"HOST", "LABEL_STUDIO_HOST", "PASSWORD"} & set(variables)
    assert variables["LABEL_STUDIO_COLLECT_ANALYTICS"] == "false"
    assert variables["LABEL_STUDIO_LATEST_VERSION_CHECK"] == "false"
    assert variables["LABEL_STUDIO_SENTRY_DSN"] == ""
    assert variables["LABEL_STUDIO_FRONTEND_SENTRY_DSN"] == ""
