"""The docs say what is so: their blocks run, their commands exist, their links lead somewhere."""

from __future__ import annotations

import functools
import http.server
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from conftest import REPOSITORY
from markdown.extensions.toc import slugify
from pages import DOCS, run, to_run, tokens

from manifests.workspace import Workspace
from pipeline.cli import cap

EXECUTED = (
    "building.md",
    "discovering.md",
    "evaluating.md",
    "mitigating.md",
    "training.md",
    "loading.md",
)
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.glob("**/*.md")])
PAGE_NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]


@pytest.mark.parametrize("name", EXECUTED)
def test_a_page_runs_from_top_to_bottom_and_prints_what_it_shows(name, demo: Workspace, tmp_path):
    folder = tmp_path / "reader"
    shutil.copytree(demo.root, folder / "demo" / demo.root.name, symlinks=True)
    run(name, to_run(DOCS / name), folder)


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each `cap` command on a page, in blocks and within the text."""
    for token in tokens(page):
        if token.type == "fence" and token.info in {"sh", "console"}:
            code = token.content.replace("\\\n", " ")
            if token.info == "console":
                lines = [line.removeprefix("$ ") for line in code.splitlines() if line[:2] == "$ "]
            else:
                lines = code.splitlines()
        else:
            spans = [child.content for child in token.children or () if child.type == "code_inline"]
            # A name such as COMMAND, or `…`, leaves open what stands there.
            lines = [s for s in spans if s.startswith("cap ") and not re.search("…|COMMAND", s)]
        for line in lines:
            yield from cap_commands(line)


def cap_commands(line: str) -> Iterator[list[str]]:
    """The arguments of each `cap` in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            if command[:1] == ["cap"]:
                yield command[1:]
            command = []
        elif command or not re.fullmatch(r"\w+=.*", word):
            command.append(word)


def every_command(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from every_command(command)
        else:
            yield command


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_cap_command_on_a_page_exists_with_its_options(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for command in every_command(cap):
        monkeypatch.setattr(command, "callback", lambda **_: None)
    for arguments in commands(REPOSITORY / name):
        try:
            cap.main(list(arguments), prog_name="cap", standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError:
            continue  # the name of a group of commands
        except click.UsageError as error:
            pytest.fail(f"{name}: cap {shlex.join(arguments)}: {error.format_message()}")


def test_the_commands_of_a_page_are_found_and_a_wrong_option_is_seen():
    line = "export A=1; B=2 cap annotate pull && cap split --no-such  # cap nothing"
    assert list(cap_commands(line)) == [["annotate", "pull"], ["split", "--no-such"]]
    with pytest.raises(click.UsageError, match="--no-such"):
        cap.main(["split", "--no-such"], standalone_mode=False)
    assert len(list(commands(DOCS / "annotating.md"))) >= 15


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        for child in token.children or ():
            if child.type in {"link_open", "image"}:
                yield str(child.attrs.get("href") or child.attrs.get("src"))


def anchors(page: Path) -> set[str]:
    found = tokens(page)
    return {
        slugify(title.content, "-")
        for heading, title in itertools.pairwise(found)
        if heading.type == "heading_open"
    }


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_relative_link_on_a_page_leads_to_a_file_and_a_heading(name):
    page = REPOSITORY / name
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.is_relative_to(REPOSITORY), link
        assert target.is_file(), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does, where no server can be reached."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


class _Loads(HTMLParser):
    """What a page loads by itself, whoever reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [given[name] or "" for name in ("src", "srcset", "data") if name in given]
        if tag == "link" and given.get("rel") not in {"next", "prev", "canonical"}:
            self.found.append(given["href"] or "")


def is_elsewhere(url: str) -> bool:
    return bool(re.match(r"\s*(https?:)?//", url))


def test_the_site_is_built_strictly_and_its_pages_name_nothing_from_outside(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(EXECUTED)
    assert not list(site.rglob("*.py"))
    loaded = 0
    for page in pages:
        parser = _Loads()
        parser.feed(page.read_text("utf-8"))
        assert not [url for url in parser.found if is_elsewhere(url)], page
        loaded += len(parser.found)
    assert loaded > len(pages)
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import\s)\s*[\"']?([^\"')]+)", sheet.read_text("utf-8"))
        assert not [url for url in urls if is_elsewhere(url)], sheet


def test_the_site_in_a_browser_asks_no_other_host(site, browser):
    handler = functools.partial(_Silent, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for path in ("", "building/", "annotating/", "reference/loader/"):
            page.goto(address + path, wait_until="networkidle")
        page.close()
        server.shutdown()
    assert any("search_index" in url or url.endswith(".js") for url in asked)
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""
