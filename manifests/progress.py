"""How a long stage says how far it is: bars on a terminal, plain lines in a pipe, or nothing.

Stages are given a `Progress` and open one task per loop; which kind it is, the command decides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import click

__all__ = ["BarProgress", "LineProgress", "Progress"]

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Says nothing; the others tell on standard error."""

    @contextlib.contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Follow a loop over `total` items of which `done` were done before.

        Yields a function to call with the number of items just finished.
        """
        del label, total, done
        yield lambda count: None

    def note(self, text: str) -> None:
        """Tell one thing that a person should know while the stage goes on."""


class LineProgress(Progress):
    """A line at the start, at most one every five seconds, and one at the end."""

    def note(self, text: str) -> None:
        """Print the line."""
        click.echo(text, err=True)

    @contextlib.contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Follow a loop, in lines."""
        started = last = time.monotonic()
        finished = done
        if done:
            self.note(f"{label}: going on at {done} of {total}")

        def advance(count: int) -> None:
            nonlocal finished, last
            finished += count
            if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                self.note(f"{label}: {finished} of {total}")

        yield advance
        seconds = time.monotonic() - started
        self.note(f"{label}: {finished} of {total} in {seconds:.1f} s")


class BarProgress(LineProgress):
    """A bar with the time left."""

    @contextlib.contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Follow a loop, as a bar."""
        import sys

        with click.progressbar(
            length=total, label=label, file=sys.stderr, show_pos=True, width=30
        ) as bar:
            bar.update(done)
            yield bar.update
