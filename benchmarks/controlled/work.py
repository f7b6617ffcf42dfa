"""Settings side by side, in processes that compute with a thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from .settings import Setting

__all__ = ["each"]

Row = dict[str, Any]


def each(work: Callable[[Setting], Row], every: list[Setting], workers: int) -> Iterator[Row]:
    """The row of each setting, in order."""
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        yield from pool.map(work, every)


def _one_thread() -> None:
    """Processes that compute with several threads each would wait for one another."""
    torch.set_num_threads(1)
    threadpool_limits(1)
