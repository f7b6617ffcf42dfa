"""Folders of classes in folders of groups, for torchvision's `ImageFolder` and for `datasets`.

`common/0010 brambling/…`: folders of classes begin with the class index, so that their order is
that of the classes. `metadata.parquet` in each group's folder has the rows, typed, so that a column
without values in one group is the same column in the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.schema import SPLIT
from manifests.tables import from_rows
from pipeline.export.layout import Layout, Photo, Task, folder_name

__all__ = ["IMAGEFOLDER"]

_DIGITS = 4

_FRONT_MATTER = """---
configs:
- config_name: default
  data_files:
  - split: common
    path: common/**
  - split: counter
    path: counter/**
---
"""

_READING = """
Folders of groups with folders of classes, which begin with the class index. torchvision numbers
classes by the folders that are there, so turn its numbers back:

```python
from torchvision.datasets import ImageFolder

counter = ImageFolder("counter")
class_index = [int(name.split()[0]) for name in counter.classes]
counter.target_transform = class_index.__getitem__
```

`datasets` reads the rows beside the photos:

```python
from datasets import load_dataset

counter = load_dataset(".", split="counter")
counter[0]["image"], counter[0]["class_index"]
```
"""


def _schema() -> pa.Schema:
    """Rows of `split`, and before them the file below the group's folder."""
    # Nothing but types: what else a schema tells, another library might take for its own.
    fields = [pa.field(name, SPLIT.schema.field(name).type) for name in SPLIT.schema.names]
    return pa.schema([pa.field("file_name", pa.string()), *fields])


def _write(task: Task, photos: Iterable[Photo]) -> Iterator[str]:
    digits = max(_DIGITS, len(str(pc.max(task.split.table["class_index"]).as_py())))
    schema = _schema()
    for group, members in itertools.groupby(photos, key=lambda photo: str(photo.row["group"])):
        rows = []
        for photo in members:
            row = photo.row
            folder = f"{row['class_index']:0{digits}d} {folder_name(row['class_name'])}"
            name = f"{folder}/{photo.file_name}"
            rows.append({"file_name": name, **row})
            yield task.folder.write(f"{group}/{name}", photo.data)
        pq.write_table(from_rows(rows, schema), task.folder.place(f"{group}/metadata.parquet"))


IMAGEFOLDER = Layout("imagefolder", _write, _READING, _FRONT_MATTER)
