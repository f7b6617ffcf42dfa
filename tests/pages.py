"""The pages of the docs: their blocks, and what they print when they run."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import REPOSITORY
from markdown_it import MarkdownIt
from markdown_it.token import Token

DOCS = REPOSITORY / "docs"


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its fence, and `shows` the ```text block right after it."""

    language: str
    line: int
    code: str
    shows: str | None


def blocks(page: Path) -> list[Block]:
    found = tokens(page)
    return [
        Block(
            language=token.info,
            line=token.map[0] + 1,
            code=token.content,
            shows=following.content if following and following.info == "text" else None,
        )
        for token, following in zip(found, [*found[1:], None], strict=True)
        if token.type == "fence"
    ]


def as_it_says(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; `…` is anything, and line ends may have blanks."""
    want, got = (
        "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
        for text in (shown.replace("…", doctest.ELLIPSIS_MARKER), printed)
    )
    return doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS)


def to_run(page: Path) -> list[Block]:
    """The blocks of a page that a reader runs."""
    return [block for block in blocks(page) if block.language in {"python", "sh"}]


def run(name: str, chosen: Sequence[Block], folder: Path, **variables: str) -> None:
    """Run blocks of a page in a folder; each must print what the page shows."""
    given = {"page": name, "blocks": [vars(block) for block in chosen]}
    printed_to = folder / ".printed"
    done = subprocess.run(
        [sys.executable, "-W", "error", REPOSITORY / "tests" / "run_page.py", printed_to],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            **variables,
        },
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    printed = json.loads(printed_to.read_text("utf-8"))
    for block, text in zip(chosen, printed, strict=False):
        if block.shows is not None:
            assert as_it_says(block.shows, text), f"{name}:{block.line} printed\n{text}"
    assert done.returncode == 0, done.stderr
