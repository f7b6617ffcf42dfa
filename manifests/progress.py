"""How a long stage says how far it is: bars on a terminal, plain lines in a pipe, or nothing.

Stages are given a `Progress` and open one task per loop; which kind it is, the command decides.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import click

__all__ = ["BarProgress", "LineProgress", "Progress", "Tally", "reason_of", "tell_problems"]

_SECONDS_BETWEEN_LINES = 5.0


def reason_of(error: str) -> str:
    """The kind of a failure: the `error` of its row up to the details."""
    return error.partition(":")[0]


def tell_problems(problems: Mapping[str, int]) -> str:
    """Counts of failures by reason, the most frequent first, as part of a sentence."""
    most = sorted(problems.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in most)


@dataclass
class Tally:
    """How far a loop over photos in several classes is.

    Attributes
    ----------
    totals
        Photos by class.
    done
        Photos finished by class, failures included.
    problems
        Photos that failed, by reason.
    bytes
        Bytes that have arrived.
    """

    totals: Mapping[str, int]
    done: Counter[str]
    problems: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._before = self.done.total()

    def count(self, name: str, size: int, problem: str | None) -> None:
        """Count a photo of the class `name`: its bytes, or why it failed."""
        self.done[name] += 1
        self.bytes += size
        if problem is not None:
            self.problems[problem] += 1

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before the first photo."""
        lately = self.done.total() - self._before
        if not lately:
            return None
        left = sum(self.totals.values()) - self.done.total()
        return (time.monotonic() - self.started) * left / lately

    def __str__(self) -> str:
        parts = [f"{self.done.total()} of {sum(self.totals.values())} photos"]
        parts.append(f"{self.bytes / 1e6:.1f} MB")
        if self.problems:
            parts.append(f"{self.problems.total()} failed ({tell_problems(self.problems)})")
        if self.seconds_left:
            parts.append(f"{_duration(self.seconds_left)} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class Progress:
    """Says nothing; the others tell on standard error."""

    @contextlib.contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Follow a loop over `total` items of which `done` were done before.

        Yields a function to call with the number of items just finished.
        """
        del label, total, done
        yield lambda count: None

    @contextlib.contextmanager
    def board(
        self, label: str, totals: Mapping[str, int], done: Mapping[str, int]
    ) -> Iterator[Callable[[str, int, str | None], None]]:
        """Follow a loop over photos of several classes, of which some were done before.

        Yields a function to call for each photo with its class, its bytes, and why it failed.
        """
        del label
        yield Tally(totals, Counter(done)).count

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

    @contextlib.contextmanager
    def board(
        self, label: str, totals: Mapping[str, int], done: Mapping[str, int]
    ) -> Iterator[Callable[[str, int, str | None], None]]:
        """Follow a loop over photos of several classes, in lines."""
        tally = Tally(totals, Counter(done))
        last = time.monotonic()
        if tally.done.total():
            self.note(f"{label}: going on at {tally}")

        def count(name: str, size: int, problem: str | None) -> None:
            nonlocal last
            tally.count(name, size, problem)
            if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                self.note(f"{label}: {tally}; {name} {tally.done[name]} of {totals[name]}")

        yield count
        seconds = time.monotonic() - tally.started
        self.note(f"{label}: {tally} in {seconds:.1f} s")


class BarProgress(LineProgress):
    """A bar with the time left."""

    @contextlib.contextmanager
    def board(
        self, label: str, totals: Mapping[str, int], done: Mapping[str, int]
    ) -> Iterator[Callable[[str, int, str | None], None]]:
        """Follow a loop over photos of several classes: a bar for all, and one for each class.

        A class that is finished leaves a line behind instead of its bar.
        """
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        tally = Tally(totals, Counter(done))
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[more]}", markup=False),
        )
        with Progress(*columns, console=console) as bars:
            overall = bars.add_task(
                label, total=sum(totals.values()), completed=tally.done.total(), more=""
            )
            own = {}

            def count(name: str, size: int, problem: str | None) -> None:
                tally.count(name, size, problem)
                more = f"{tally.bytes / 1e6:.1f} MB"
                if tally.problems:
                    more += f", {tally.problems.total()} failed: {tell_problems(tally.problems)}"
                bars.update(overall, completed=tally.done.total(), more=more)
                if name not in own:
                    own[name] = bars.add_task(name, total=totals[name], more="")
                bars.update(own[name], completed=tally.done[name])
                if tally.done[name] == totals[name]:
                    bars.remove_task(own[name])
                    bars.console.print(
                        f"{name}: {totals[name]} photos", markup=False, highlight=False
                    )

            yield count

    @contextlib.contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Follow a loop, as a bar."""
        import sys

        with click.progressbar(
            length=total, label=label, file=sys.stderr, show_pos=True, width=30
        ) as bar:
            bar.update(done)
            yield bar.update
