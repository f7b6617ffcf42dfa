"""FiftyOne's own layout of classified photos, to look at them in its app.

The photos lie in `data/`; `labels.json` has the classes and for each photo its class and, as
attributes, the other facts of its row. The form is that of `FiftyOneImageClassificationDataset` in
FiftyOne's user guide.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from manifests import Split
from pipeline.export.layout import Layout, Photo, Task

__all__ = ["FIFTYONE"]

_READING = """
FiftyOne's layout of classified photos; group, background and the rest are attributes of the label:

```python
import fiftyone

photos = fiftyone.Dataset.from_dir(
    dataset_dir=".", dataset_type=fiftyone.types.FiftyOneImageClassificationDataset
)
fiftyone.launch_app(photos)
```
"""


def _classes(split: Split) -> list[str]:
    """Class names by class index; where the release tells only its own, indices for the others."""
    if split.label_space is not None:
        return list(split.label_space.names)
    indices = split.table["class_index"].to_pylist()
    named = dict(zip(indices, split.table["class_name"].to_pylist(), strict=True))
    return [named.get(index, str(index)) for index in range(max(indices) + 1)]


def _write(task: Task, photos: Iterable[Photo]) -> Iterator[str]:
    labels = {}
    for photo in photos:
        facts = {name: value for name, value in photo.row.items() if value is not None}
        labels[photo.stem] = {"label": facts["class_index"], "attributes": facts}
        yield task.folder.write(f"data/{photo.file_name}", photo.data)
    content = {"classes": _classes(task.split), "labels": labels}
    text = json.dumps(content, ensure_ascii=False, indent=1)
    task.folder.write("labels.json", f"{text}\n".encode())


FIFTYONE = Layout("fiftyone", _write, _READING)
