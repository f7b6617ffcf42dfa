"""A split as torch takes it: a map-style dataset, and a stream that processes and workers divide.

Where a loader has no workers, the photos of a batch are decoded by as many threads as torch has;
transforms run one after the other, in the order of the photos.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed
import torch.utils.data
from numpy.typing import NDArray

from manifests.photos import open_upright

if TYPE_CHECKING:
    from manifests.loader import Split

__all__ = ["PhotoDataset", "PhotoStream"]

_MOST_THREADS = 8
_BLOCK = 32
"""Photos of a stream that are decoded together where there are no workers."""


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of this process; a forked one makes its own."""
    del process
    return ThreadPoolExecutor(min(torch.get_num_threads(), _MOST_THREADS))


class _Items:
    """Rows of a split as (transformed image, class index, photo_id)."""

    def __init__(
        self, split: Split, transform: Callable[[Any], Any] | None, *, arrays: bool
    ) -> None:
        self._split = split
        self._transform = transform
        self._arrays = arrays
        self._labels = split.table["class_index"].to_numpy()
        self._photo_ids = split.table["photo_id"].combine_chunks()

    def _image(self, index: int) -> Any:
        if self._arrays:
            return self._split.read_array(index)
        return open_upright(self._split.read_bytes(index))

    def _item(self, index: int, image: Any) -> tuple[Any, int, str]:
        transformed = image if self._transform is None else self._transform(image)
        return transformed, int(self._labels[index]), self._photo_ids[index].as_py()

    def _items(self, indices: Sequence[int]) -> Iterator[tuple[Any, int, str]]:
        in_worker = torch.utils.data.get_worker_info() is not None
        if in_worker or len(indices) == 1:
            images: Iterator[Any] = map(self._image, indices)
        else:
            images = _threads(os.getpid()).map(self._image, indices)
        return map(self._item, indices, images)


class PhotoDataset(_Items, torch.utils.data.Dataset[tuple[Any, int, str]]):
    """A split as a map-style dataset; safe in worker processes."""

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        return self._item(index, self._image(index))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int, str]]:
        """Items of a batch; a `DataLoader` asks for them in this way."""
        return list(self._items(indices))


class PhotoStream(_Items, torch.utils.data.IterableDataset[tuple[Any, int, str]]):
    """A split as an iterable dataset, of which each process and worker reads its own part.

    Its length is that of this process's part; parts differ by one photo at most.
    """

    def __init__(
        self,
        split: Split,
        transform: Callable[[Any], Any] | None,
        *,
        arrays: bool,
        shuffle: bool,
        seed: int,
    ) -> None:
        super().__init__(split, transform, arrays=arrays)
        self._shuffle = shuffle
        self._seed = seed
        self._epoch = 0
        # Workers cannot ask: they are in no process group.
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._rank = torch.distributed.get_rank() if grouped else 0
        self._processes = torch.distributed.get_world_size() if grouped else 1

    def set_epoch(self, epoch: int) -> None:
        """Draw another order, if it is shuffled; to be called in every process before an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(_part(np.arange(len(self._split)), self._rank, self._processes))

    def __iter__(self) -> Iterator[tuple[Any, int, str]]:
        mine = _part(self._order(), self._rank, self._processes)
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            mine = _part(mine, worker.id, worker.num_workers)
        for start in range(0, len(mine), _BLOCK):
            yield from self._items(mine[start : start + _BLOCK].tolist())

    def _order(self) -> NDArray[np.int64]:
        """Indices of all photos, row group by row group."""
        order, groups = self._split.file_order
        if not (self._shuffle and len(order)):
            return order
        rng = np.random.default_rng([self._seed, self._epoch])
        parts = np.split(order, np.flatnonzero(np.diff(groups)) + 1)
        drawn = [parts[number] for number in rng.permutation(len(parts))]
        pairs = [np.concatenate(drawn[start : start + 2]) for start in range(0, len(drawn), 2)]
        return np.concatenate([rng.permutation(pair) for pair in pairs])


def _part(rows: NDArray[np.int64], number: int, of: int) -> NDArray[np.int64]:
    """One of `of` parts of about equal length, of rows that follow each other."""
    return np.array_split(rows, of)[number]
