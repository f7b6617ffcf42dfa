"""Run the blocks of one page of the docs, in order, in the current folder.

Given on stdin as JSON: the page's name and its blocks (language, line, code). Python blocks share a
namespace; each sh block is a shell of its own, which starts in the folder where the last one ended.
What each block printed goes to the file named by the argument, as a JSON list.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def run_shell(code: str) -> str:
    """Run a block in bash, and go where it went; gives what it printed."""
    with tempfile.NamedTemporaryFile("r") as place:
        script = f"set -eu\n{code}\npwd > {place.name}\n"
        done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
        os.chdir(place.read().strip())
    return done.stdout


def run_python(code: str, page: str, line: int, namespace: dict[str, object]) -> str:
    """Run a block; a traceback then names the line of the page."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + code, page, "exec"), namespace)
    return printed.getvalue()


def main() -> None:
    given = json.load(sys.stdin)
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = []
    try:
        for block in given["blocks"]:
            code, line = block["code"], block["line"]
            if block["language"] == "python":
                printed.append(run_python(code, given["page"], line, namespace))
            else:
                printed.append(run_shell(code))
    finally:
        Path(sys.argv[1]).write_text(json.dumps(printed), "utf-8")


if __name__ == "__main__":
    main()
