"""Takes the pictures of the labelling page and of the report in `docs/images`, from toy animals.

`make demo`, then `python docs/screenshots.py demo/shortcut-0`: it copies the workspace, runs a real
Label Studio over it, and presses the keys that an annotator would press, in Debian's Chromium.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

from annotation.client import Address, connect
from annotation.environment import Environment
from annotation.mirror import workspace_id
from annotation.server import Owner, Server
from manifests.progress import LineProgress
from manifests.workspace import Workspace

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1280, "height": 720}
COLOURS = 256
MARGIN = 16


def cap(root: Path, *arguments: str) -> str:
    """What a `cap` command prints."""
    command = [sys.executable, "-m", "pipeline", "--quiet", "--workspace", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def copied(demo: Path, folder: Path) -> Path:
    """The demo's workspace without what people said in it."""
    root = folder / "toys"
    shutil.copytree(demo, root)
    for table in ("annotations", "labels"):
        for suffix in ("parquet", "json"):
            (root / "manifests" / f"{table}.{suffix}").unlink()
    return root


def take(page: Page, name: str, clip: FloatRect | None = None) -> None:
    """Save what the page shows, or a part of it, in few colours."""
    page.wait_for_timeout(700)
    file = IMAGES / f"{name}.png"
    page.screenshot(path=file, clip=clip)
    with Image.open(file) as image:
        image.convert("RGB").quantize(COLOURS).save(file, optimize=True)


def take_report(browser: Browser, workspace: Path, name: str, section: str) -> None:
    """Save a section of a workspace's report down to the end of its first article."""
    page = browser.new_page(viewport=SIZE, color_scheme="light")
    page.goto((workspace / "reports" / "report.html").resolve().as_uri())
    article = page.locator(f"section[aria-labelledby={section}] article").first
    # Photos further down the page are loaded, and take their place, when they come into view.
    article.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    page.evaluate("scrollTo(0, 0)")
    top, end = page.locator(f"h2#{section}").bounding_box(), article.bounding_box()
    if top is None or end is None:
        message = "the report shows no class; take one of a demo with a shortcut"
        raise click.ClickException(message)
    height = end["y"] + end["height"] + MARGIN
    page.set_viewport_size({**SIZE, "height": int(height)})
    clip: FloatRect = {"x": 0, "y": top["y"], "width": SIZE["width"], "height": height - top["y"]}
    take(page, name, clip)


def discovered(demo: Path, folder: Path) -> Path:
    """A copy of the demo's workspace with what the model leans on in its report."""
    root = folder / "discovered"
    shutil.copytree(demo, root)
    cap(root, "discover", "--embed", "pool")
    cap(root, "report")
    return root


def sign_in(page: Page, url: str, owner: Owner) -> None:
    """Sign in to Label Studio."""
    page.goto(f"{url}/user/login/")
    page.fill("input[name=email]", owner.email)
    page.fill("input[name=password]", owner.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda address: "/user/login" not in address)


def walk_labelling(page: Page, url: str, project: int) -> None:
    """Go through the states of the labelling page."""
    page.goto(f"{url}/projects/{project}/data?labeling=1")
    page.get_by_text("Labeling Instructions").wait_for()
    take(page, "screen-instructions")
    page.keyboard.press("Escape")
    take(page, "screen-suggestion")
    page.keyboard.press("d")
    take(page, "screen-definitions")
    page.keyboard.press("d")
    page.keyboard.press("x")
    page.keyboard.press("4")
    take(page, "screen-reject")


def walk_discovery(page: Page, url: str, project: int) -> None:
    """See the page of a discovery."""
    page.goto(f"{url}/projects/{project}/data?labeling=1")
    page.get_by_text("Labeling Instructions").wait_for()
    page.keyboard.press("Escape")
    take(page, "screen-discovery")


def project_of(server: Server, owner: Owner, root: Path, purpose: str) -> int:
    """The server's number of the workspace's project for a purpose, such as `discovery`."""
    with connect(Address(server.url, owner.token)) as client:
        projects = client.projects(workspace_id(Workspace(root)))
    return next(project.id for project in projects if project.mark.round == purpose)


@click.command()
@click.argument("demo", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(demo: Path) -> None:
    """Take the pictures from the workspace DEMO."""
    environment = Environment.of_user()
    environment.prepare(LineProgress())
    IMAGES.mkdir(exist_ok=True)
    owner = Owner("ann@example.com", secrets.token_urlsafe(12), secrets.token_hex(20))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        root = copied(demo, Path(folder))
        scored = cap(root, "score", "--label-space", "backgrounds", "--json")
        run = json.loads(scored)["run"]
        server = Server(root, port, environment)
        server.set_up(owner)
        with server, sync_playwright() as playwright:
            os.environ |= {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": owner.token}
            cap(root, "annotate", "push", "--suggest", run, "--without-suggestion", "0")
            (first, *_) = json.loads(cap(root, "discover", "--embed", "pool", "--json"))["kept"]
            cap(root, "annotate", "push", "--from-discovery", str(first["cluster"]))
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport=SIZE)
            sign_in(page, server.url, owner)
            walk_labelling(page, server.url, project_of(server, owner, root, "first"))
            walk_discovery(page, server.url, project_of(server, owner, root, "discovery"))
            take_report(browser, demo, "report", "classes")
            found = discovered(demo, Path(folder))
            take_report(browser, found, "discovery", "discoveries")
            browser.close()


if __name__ == "__main__":
    main()
