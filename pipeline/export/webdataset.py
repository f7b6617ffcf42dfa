"""Tar archives that WebDataset streams, for training on many machines or from a bucket.

`common-000000.tar`, `counter-000000.tar` and so on. A sample is the photo, its class index (`cls`)
and its row as JSON.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pipeline.export.layout import ExportFolder, Layout, Photo, Task

if TYPE_CHECKING:
    from webdataset import TarWriter

__all__ = ["WEBDATASET"]

_READING = """
Tar archives of samples with a photo (`jpg`, `png` or `webp`), its class index (`cls`) and what else
is known of it (`json`):

```python
import glob, webdataset

counter = webdataset.WebDataset(sorted(glob.glob("counter-*.tar")), shardshuffle=False)
for image, label, record in counter.decode("pil").to_tuple("jpg;png;webp", "cls", "json"):
    ...
```
"""


def _sample(photo: Photo) -> dict[str, Any]:
    return {
        "__key__": photo.stem,
        photo.suffix: photo.data,
        "cls": str(photo.row["class_index"]).encode(),
        "json": json.dumps(photo.row, ensure_ascii=False).encode(),
    }


class _Shards:
    """The archives of one group, each begun when the one before is full.

    Their bytes follow from the samples alone.
    """

    def __init__(self, folder: ExportFolder, group: str, most_bytes: int) -> None:
        self._folder = folder
        self._names = (f"{group}-{number:06d}.tar" for number in itertools.count())
        self._most_bytes = most_bytes
        self._open = contextlib.ExitStack()
        self._begin()

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _begin(self) -> None:
        from webdataset import TarWriter

        self._open.close()
        self._name = next(self._names)
        self._bytes = 0
        file = self._open.enter_context(self._folder.place(self._name).open("wb"))
        self._tar: TarWriter = self._open.enter_context(
            TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False)
        )

    def add(self, photo: Photo) -> str:
        """Write a sample; gives the archive and the photo's name in it."""
        if self._bytes and self._bytes + len(photo.data) > self._most_bytes:
            self._begin()
        self._tar.write(_sample(photo))
        self._bytes += len(photo.data)
        return f"{self._name}/{photo.file_name}"


def _write(task: Task, photos: Iterable[Photo]) -> Iterator[str]:
    for group, members in itertools.groupby(photos, key=lambda photo: str(photo.row["group"])):
        with _Shards(task.folder, group, task.shard_bytes) as shards:
            for photo in members:
                yield shards.add(photo)


WEBDATASET = Layout("webdataset", _write, _READING)
