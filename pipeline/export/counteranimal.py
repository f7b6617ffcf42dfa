"""The layout in which CounterAnimal itself is handed out, for code that was written for it.

`10 brambling/common-grass/…`: a folder for each class, named by its index in ImageNet-1K, with a
folder for each group and its background. `imagenet_names.txt` has all 1000 names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from manifests.errors import ReleaseError
from manifests.vocabulary import LabelSpace, label_space
from pipeline.export.layout import Layout, Photo, Task, folder_name

__all__ = ["COUNTERANIMAL"]

_READING = """
As the published CounterAnimal: `<ImageNet index> <name>/common-<background>/` and
`counter-<background>/`, and `imagenet_names.txt` with the names of all 1000 classes. Code that was
written for it reads this folder, and so does `cap evaluate . --model SPEC`.
"""


def _names(labels: LabelSpace) -> str:
    """The names of each class on a line after its index, the one for prompts first."""
    lines = []
    for index, (name, synonyms) in enumerate(zip(labels.names, labels.synonyms, strict=True)):
        lines.append(f"{index}\t{', '.join(dict.fromkeys((name, *synonyms)))}\n")
    return "".join(lines)


def _write(task: Task, photos: Iterable[Photo]) -> Iterator[str]:
    space = task.split.release["label_space"]
    if space != "imagenet1k":
        msg = (
            f"the layout counteranimal is for classes of ImageNet-1K, the release's are {space}; "
            "use another --layout"
        )
        raise ReleaseError(msg)
    task.folder.write("imagenet_names.txt", _names(label_space(space)).encode())
    for photo in photos:
        row = photo.row
        group = f"{row['group']}-{folder_name(row['background'])}"
        folder = f"{row['class_index']} {folder_name(row['class_name'])}"
        yield task.folder.write(f"{folder}/{group}/{photo.file_name}", photo.data)


COUNTERANIMAL = Layout("counteranimal", _write, _READING)
