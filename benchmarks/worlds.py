"""Classes of photos whose true accuracy on each background is known, to try statistics on.

Given a random generator, gives a table of photos as `cap split` judges them, and the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

__all__ = ["World", "clustered_world", "independent_world"]

BACKGROUNDS = (
    *("ground", "water", "earth", "sand", "snow", "grass", "human"),
    *("sky", "road", "rock", "shrub", "indoor", "tree", "outdoor"),
)


@dataclass(frozen=True)
class World:
    """Photos and the truth about them.

    Attributes
    ----------
    photos
        Columns photo_id, class_index, class_name, background, creator_id, correct; by photo_id.
    accuracy
        True accuracy by class index and background.
    null
        Classes whose accuracy is the same on every background.
    """

    photos: pa.Table
    accuracy: dict[tuple[int, str], float]
    null: frozenset[int]


def _table(
    index: np.ndarray, background: np.ndarray, correct: np.ndarray, owner: np.ndarray | None
) -> pa.Table:
    """Photos as a table, numbered in their order."""
    name = pa.array(np.char.add("class ", index.astype(str)))
    return pa.table(
        {
            "photo_id": pa.array(np.char.zfill(np.arange(len(index)).astype(str), 8)),
            "class_index": pa.array(index.astype(np.int32)),
            "class_name": name,
            "background": pa.array(np.array(BACKGROUNDS)[background]),
            "creator_id": pa.nulls(len(index), pa.string())
            if owner is None
            else pa.array(np.char.add("observer ", owner.astype(str))),
            "correct": pa.array(correct),
        }
    )


def independent_world(
    rng: np.random.Generator,
    classes: int,
    null_share: float,
    photos: tuple[int, int] = (20, 120),
    backgrounds: tuple[int, int] = (2, 8),
) -> World:
    """Every photo by its own observer; 20 to 120 photos on each background; accuracy 0.2 to 0.95.

    Parameters
    ----------
    rng
        Source of chance.
    classes
        Number of classes.
    null_share
        Share of them whose accuracy does not depend on the background.
    photos, backgrounds
        Least and most photos of a background, and backgrounds of a class.
    """
    null = frozenset(range(round(classes * null_share)))
    index, background, correct, accuracy = [], [], [], {}
    for number in range(classes):
        kinds = rng.choice(len(BACKGROUNDS), rng.integers(*backgrounds, endpoint=True), False)
        rates = rng.uniform(0.2, 0.95, len(kinds))
        if number in null:
            rates[:] = rates[0]
        for kind, rate in zip(kinds, rates, strict=True):
            count = int(rng.integers(*photos, endpoint=True))
            index.append(np.full(count, number))
            background.append(np.full(count, kind))
            correct.append(rng.random(count) < rate)
            accuracy[number, BACKGROUNDS[kind]] = float(rate)
    columns = (np.concatenate(parts) for parts in (index, background, correct))
    return World(_table(*columns, None), accuracy, null)


def clustered_world(
    rng: np.random.Generator,
    classes: int,
    drop: float = 0.0,
    observers: int = 90,
    backgrounds: int = 4,
    accuracy: float = 0.6,
) -> World:
    """Photos of one person resemble each other, and mostly lie on that person's background.

    An observer has 1, 2, 3 or 8 photos. In half of an observer's photos the same luck decides.

    Parameters
    ----------
    rng
        Source of chance.
    classes
        Number of classes.
    drop
        Accuracy on the first background above that on the others.
    observers, backgrounds
        Of each class.
    accuracy
        On the other backgrounds.
    """
    rates = np.full(backgrounds, accuracy)
    rates[0] += drop
    people = np.arange(classes * observers)
    owner = np.repeat(people, rng.choice([1, 2, 3, 8], len(people)))
    index = owner // observers
    place = rng.integers(0, backgrounds, len(people))[owner]
    away = rng.random(len(owner)) < 0.3
    background = np.where(away, rng.integers(0, backgrounds, len(owner)), place)
    shared, own = rng.random(len(people))[owner], rng.random(len(owner))
    luck = np.where(rng.random(len(owner)) < 0.5, shared, own)
    truth = {
        (number, BACKGROUNDS[kind]): float(rates[kind])
        for number in range(classes)
        for kind in range(backgrounds)
    }
    null = frozenset(range(classes)) if drop == 0 else frozenset()
    return World(_table(index, background, luck < rates[background], owner), truth, null)
