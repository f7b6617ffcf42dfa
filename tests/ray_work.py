"""Functions and work that Ray's workers import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from manifests.errors import PhotoError


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def refuse_seven(number: int) -> int:
    """The number, if it is not 7."""
    if number == 7:
        msg = "seven is refused"
        raise PhotoError(msg)
    return number


def break_at_seven(number: int) -> int:
    """One by the number less 7."""
    return 1 // (number - 7)


def die_at_seven(number: int) -> int:
    """The number, unless it is 7, which ends the process."""
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def squares(numbers: Sequence[int], threads: int) -> list[int]:
    """The squares of numbers."""
    assert threads >= 1
    return [number**2 for number in numbers]


class Sums:
    """Work that adds each number to its square, and notes in a folder which process did it."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self._folder = folder
        self._seconds = seconds

    @property
    def device(self) -> str:
        """Where it computes."""
        return "cpu"

    def move(self, device: str) -> None:
        """It computes nowhere else."""
        assert device == "cpu"

    def __call__(
        self, items: Sequence[int], prepared: Sequence[int], tell: Callable[[str], None]
    ) -> list[int]:
        """The sums."""
        (self._folder / f"{items[0]}-{os.getpid()}").touch()
        time.sleep(self._seconds)
        if items[0] == 0:
            tell("begun")
        return [item + other for item, other in zip(items, prepared, strict=True)]
