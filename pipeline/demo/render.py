"""The toy world of `make demo`: which class has which shortcut, and the photos that show it.

A world has six animals, three families of two look-alikes each, that differ only in a mark (a
bear's fur, a crab's shell, a butterfly's wings). With `plant="shortcut"` two of the families, drawn
by the seed, get a shortcut: in three photos of ten the animal looks like the other one, and in the
training photos nearly every photo of the one was taken where the other hardly ever is. A model that
learns from these photos does well to trust the background. The third family is the control: its
marks never deceive and it is seen equally often on every background. With
`plant="none"` every family is like the control.

The photos to evaluate on come from the same world except that every class is seen equally often on
every background: nothing about an animal depends on where it stands. So each planted class is
expected to be recognised best on its common background and worst on its counter background, and
each other class equally well everywhere.

`render_photos` also plants what a real collection brings along (exact copies, near copies, files
that are no photos) and writes down what it planted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifests.errors import CapError
from manifests.vocabulary import attribution_text
from pipeline.demo.drawing import ANIMALS, SCENERIES, draw_photo

__all__ = [
    "PHOTOS_PER_GROUP",
    "PLANTS",
    "TrainingPhotos",
    "World",
    "make_world",
    "render_photos",
    "render_training",
    "write_table",
]

PLANTS = ("shortcut", "none")
"""What a world can have planted."""

FAMILIES: dict[str, tuple[str, str]] = {
    "bear": ("polar bear", "brown bear"),
    "crab": ("blue crab", "red crab"),
    "butterfly": ("brimstone butterfly", "emerald swallowtail"),
}
"""The two look-alikes of each family: the one with low marks, the one with high marks."""

TAXA = {
    "polar bear": "Ursus maritimus",
    "brown bear": "Ursus arctos",
    "blue crab": "Callinectes sapidus",
    "red crab": "Gecarcoidea natalis",
    "brimstone butterfly": "Gonepteryx rhamni",
    "emerald swallowtail": "Papilio palinurus",
}
"""Scientific name of each animal."""

PHOTOS_PER_GROUP = 40
"""Photos to evaluate on, per class and background (copies come on top)."""

TRAINING_PER_CLASS = 700
_TRAINING_COMMON, _TRAINING_COUNTER = 240, 2
_FAMILIES_PLANTED = 2

# Where a mark lies: mean of the first look-alike (the second mirrors it) and standard deviation.
_MARK = (0.12, 0.05)

# In so many of ten photos a planted animal looks just like its look-alike. The mark then speaks
# with odds of 7 to 3 and the background with odds of 240 to 2, so the best guess is right in all
# photos on the common background, in none on the counter background, and in 7 of 10 elsewhere. The
# two looks lie far apart: a model that leans a little to one class still sees 7 of 10.
_DISGUISED_OF_TEN = 3

_EXACT_COPIES, _NEAR_COPIES = 12, 12
_QUALITY = 90
_PHOTO_STREAM, _TRAINING_STREAM, _WORLD_STREAM, _PEOPLE_STREAM, _COPY_STREAM = range(5)

_GIVEN_NAMES = (
    ("Ada", "cc0"),
    ("Bo", "cc-by"),
    ("Chidi", "cc-by-nc"),
    ("Dilnoza", "cc-by"),
    ("Esra", "cc-by-nc"),
    ("Femke", "cc0"),
    ("Gael", "cc-by-sa"),
    ("Hana", "cc-by-nc"),
    ("Ines", "cc-by"),
    ("Jomo", "cc-by-nc-sa"),
    ("Kaia", "cc-by"),
    ("Luz", "cc-by-nc"),
)
_FAMILY_NAMES = (
    *("Winter", "Lindqvist", "Okafor", "Karimova", "Aydin", "de Boer"),
    *("Moreau", "Sato", "Carvalho", "Wekesa", "Tamm", "Herrera"),
)
_OBSERVERS = tuple(
    (f"{given} {family}", code) for given, code in _GIVEN_NAMES for family in _FAMILY_NAMES
)
_METADATA = ("file_name", "license", "attribution", "creator", "creator_id", "observed_at")


@dataclass(frozen=True)
class World:
    """A toy world.

    Attributes
    ----------
    classes
        The animals, in the order of the label space.
    backgrounds
        Where they are seen; names of the 14 background labels.
    planted
        The planted (common, counter) backgrounds by class; empty when nothing is planted.
    seed
        What the world, its photos and the model trained on them are drawn from.
    plant
        One of `PLANTS`.
    """

    classes: tuple[str, ...]
    backgrounds: tuple[str, ...]
    planted: Mapping[str, tuple[str, str]]
    seed: int
    plant: str


@dataclass(frozen=True)
class TrainingPhotos:
    """Photos to train on.

    Attributes
    ----------
    images
        RGB, uint8, shape (N, side, side, 3).
    class_index
        Position of each photo's class in the world's classes, shape (N,).
    background
        Position of each photo's background in the world's backgrounds, shape (N,).
    captions
        One sentence per photo, N of them.
    """

    images: NDArray[np.uint8]
    class_index: NDArray[np.int64]
    background: NDArray[np.int64]
    captions: tuple[str, ...]


def make_world(seed: int, plant: str = "shortcut") -> World:
    """The world that a seed stands for.

    Raises
    ------
    CapError
        If `plant` is not one of `PLANTS`, or the seed is negative.
    """
    if plant not in PLANTS:
        msg = f"nothing called {plant!r} can be planted; choose one of {', '.join(PLANTS)}"
        raise CapError(msg)
    if seed < 0:
        msg = f"the seed is {seed}; choose a whole number that is not negative"
        raise CapError(msg)
    rng = np.random.default_rng([seed, _WORLD_STREAM])
    backgrounds = tuple(SCENERIES)
    planted: dict[str, tuple[str, str]] = {}
    for family in rng.permutation(list(ANIMALS))[:_FAMILIES_PLANTED].tolist():
        common, counter = rng.permutation(list(backgrounds))[:2].tolist()
        first, second = FAMILIES[family]
        planted[first], planted[second] = (common, counter), (counter, common)
    return World(
        classes=tuple(name for pair in FAMILIES.values() for name in pair),
        backgrounds=backgrounds,
        planted=planted if plant == "shortcut" else {},
        seed=seed,
        plant=plant,
    )


def _draw(world: World, stream: int, at: tuple[int, int, int]) -> Image.Image:
    """Photo number `at[2]` of class `at[0]` on background `at[1]`, by its own generator."""
    rng = np.random.default_rng([world.seed, stream, *at])
    name = world.classes[at[0]]
    family = next(family for family, names in FAMILIES.items() if name in names)
    mark = float(np.clip(rng.normal(*_MARK), 0, 1))
    disguised = name in world.planted and at[2] % 10 < _DISGUISED_OF_TEN
    if (name == FAMILIES[family][1]) != disguised:
        mark = 1 - mark
    return draw_photo(rng, family, world.backgrounds[at[1]], mark)


def _training_counts(world: World) -> NDArray[np.int64]:
    """Training photos per class and background, shape (classes, backgrounds)."""
    even = TRAINING_PER_CLASS // len(world.backgrounds)
    counts = np.full((len(world.classes), len(world.backgrounds)), even)
    for name, (common, counter) in world.planted.items():
        row = counts[world.classes.index(name)]
        left = TRAINING_PER_CLASS - _TRAINING_COMMON - _TRAINING_COUNTER
        row[:] = left // (len(world.backgrounds) - 2)
        row[world.backgrounds.index(common)] = _TRAINING_COMMON
        row[world.backgrounds.index(counter)] = _TRAINING_COUNTER
    return counts


def render_training(world: World, side: int) -> TrainingPhotos:
    """Draw the photos to train on, `side` pixels wide and high, captioned `A photo of CLASS.`."""
    counts = _training_counts(world)
    images = np.empty((int(counts.sum()), side, side, 3), dtype=np.uint8)
    class_index, background = (
        np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape)
    )
    for row, (label, scene) in enumerate(zip(class_index, background, strict=True)):
        photo = _draw(world, _TRAINING_STREAM, (int(label), int(scene), row))
        images[row] = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC))
    captions = tuple(f"A photo of {world.classes[label]}." for label in class_index)
    return TrainingPhotos(images, class_index, background, captions)


def _jpeg(photo: Image.Image, quality: int = _QUALITY) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass
class _Folder:
    """A folder of photos being filled: the bytes, and a row of metadata and of tags for each."""

    root: Path
    world: World
    metadata: list[dict[str, str]]
    tags: list[dict[str, str]]

    def add(self, name: str, content: bytes, background: str | None, like: str = "") -> None:
        """Write one file; a copy has the metadata of the photo it is `like`."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows = {row["file_name"]: row for row in self.metadata} if like else {}
        row = dict(rows[like]) if like else self._observation(len(self.metadata))
        self.metadata.append(row | {"file_name": name})
        if background is not None:
            self.tags.append({"path": name, "background": background})

    def _observation(self, number: int) -> dict[str, str]:
        rng = np.random.default_rng([self.world.seed, _PEOPLE_STREAM, number])
        index = int(rng.integers(len(_OBSERVERS)))
        creator, code = _OBSERVERS[index]
        first_day = datetime(2024, 1, 1, tzinfo=UTC)
        seen = first_day + timedelta(minutes=int(rng.integers(366 * 24 * 60)))
        return {
            "license": code,
            "attribution": attribution_text(creator, code),
            "creator": creator,
            "creator_id": f"toy-{index + 1}",
            "observed_at": seen.isoformat().replace("+00:00", "Z"),
        }


def _groups(world: World) -> Iterator[tuple[int, int, int, str]]:
    """Class, background and number of every photo to evaluate on, with its file name."""
    for label, name in enumerate(world.classes):
        for scene in range(len(world.backgrounds)):
            for number in range(PHOTOS_PER_GROUP):
                position = scene * PHOTOS_PER_GROUP + number + 1
                yield label, scene, number, f"{name}/{position:04d}.jpg"


def _add_copies(folder: _Folder) -> dict[str, list[dict[str, str]]]:
    """Plant exact and near copies; gives back which file copies which."""
    rng = np.random.default_rng([folder.world.seed, _COPY_STREAM])
    chosen = rng.choice(len(folder.tags), _EXACT_COPIES + _NEAR_COPIES, replace=False).tolist()
    made: dict[str, list[dict[str, str]]] = {"exact": [], "near": []}
    for turn, index in enumerate(chosen):
        original = folder.tags[index]["path"]
        content = (folder.root / original).read_bytes()
        kind = "exact" if turn < _EXACT_COPIES else "near"
        if kind == "near":
            with Image.open(io.BytesIO(content)) as photo:
                small = photo.resize((112, 112), Image.Resampling.LANCZOS)
                content = _jpeg(photo, quality=60) if turn % 2 else _jpeg(small)
        copy = original.replace(".jpg", f"-{kind}-copy.jpg")
        folder.add(copy, content, folder.tags[index]["background"], like=original)
        made[kind].append({"photo": original, "copy": copy})
    return made


def _add_unreadable(folder: _Folder) -> dict[str, str]:
    """Plant a truncated JPEG and a text file named .jpg, which nobody could tag."""
    world, number = folder.world, PHOTOS_PER_GROUP
    whole = _jpeg(_draw(world, _PHOTO_STREAM, (0, 0, number)))
    truncated, text = f"{world.classes[0]}/truncated.jpg", f"{world.classes[-1]}/not-a-photo.jpg"
    folder.add(truncated, whole[: len(whole) // 2], None)
    folder.add(text, b"This is a text file whose name says that it is a photo.\n", None)
    return {truncated: "truncated JPEG", text: "text file"}


def write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    """Write rows as comma-separated values, or tab-separated into a `.tsv` file."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        writer = csv.DictWriter(handle, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def render_photos(world: World, root: Path) -> None:
    """Draw the photos to evaluate on, and write down everything that is known about them.

    In `root`: `CLASS/NNNN.jpg` (`PHOTOS_PER_GROUP` per class and background, plus the planted
    copies and unreadable files) and `metadata.csv`. Next to `root`: `tags.tsv` (columns `path`,
    relative to `root`, and `background`), `label_space.csv` (columns `name`, `taxon`) and
    `planted.json`:

    - `pairs`: class -> {`common`, `counter`};
    - `exact` and `near`: a list of {`photo`, `copy`};
    - `unreadable`: path -> what it is;
    - `seed`, `plant`.
    """
    folder = _Folder(root, world, [], [])
    for label, scene, number, name in _groups(world):
        photo = _draw(world, _PHOTO_STREAM, (label, scene, number))
        folder.add(name, _jpeg(photo), world.backgrounds[scene])
    planted: dict[str, Any] = {
        "seed": world.seed,
        "plant": world.plant,
        "pairs": {
            name: {"common": common, "counter": counter}
            for name, (common, counter) in world.planted.items()
        },
        **_add_copies(folder),
        "unreadable": _add_unreadable(folder),
    }
    write_table(root / "metadata.csv", _METADATA, folder.metadata)
    write_table(root.parent / "tags.tsv", ("path", "background"), folder.tags)
    names = [{"name": name, "taxon": TAXA[name]} for name in world.classes]
    write_table(root.parent / "label_space.csv", ("name", "taxon"), names)
    text = json.dumps(planted, indent=2, ensure_ascii=False) + "\n"
    (root.parent / "planted.json").write_text(text, encoding="utf-8")
