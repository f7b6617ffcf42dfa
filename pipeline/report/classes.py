"""What the model does with each class: its pair of groups, its drop, and every background.

Given `groups`, `pairs`, the split and predictions, gives the facts that the report tells of each
class. Under a rule with partitions, the photos that chose a pair and those that did not are kept
apart; under a rule without, all photos chose it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.metrics import SplitAccuracy, evaluate_groups, wilson
from manifests.tables import observer_codes
from manifests.vocabulary import backgrounds

__all__ = [
    "ClassFacts",
    "HeatMap",
    "Interval",
    "Measured",
    "Share",
    "Side",
    "accuracy_on_split",
    "class_facts",
    "heat_map",
    "members",
]

_MISTAKES = 3

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """Photos of which something holds, of how many, with Wilson's 95 % interval."""

    count: int
    photos: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, photos: int) -> Share:
        """The share of `count` among `photos`, of which there is at least one."""
        low, high = wilson(np.asarray(count), np.asarray(photos))
        return cls(count, photos, count / photos, float(low), float(high))


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval, where it has one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Side:
    """One of the two groups of a class.

    Attributes
    ----------
    group, background
        `common` or `counter`, and the background that makes it.
    chosen_on
        Accuracy in the photos that chose the pair.
    fresh
        Accuracy in photos that did not, where the rule has kept some apart.
    mistakes
        What the model says instead, the most frequent first, with the number of photos.
    photo_ids
        All photos of the group.
    """

    group: str
    background: str
    chosen_on: Share
    fresh: Share | None
    mistakes: tuple[tuple[str, int], ...]
    photo_ids: tuple[str, ...]

    @property
    def shown(self) -> Share:
        """The accuracy to believe: in fresh photos, where there are any."""
        return self.fresh or self.chosen_on


@dataclass(frozen=True)
class ClassFacts:
    """One class: its pair, or why it has none.

    Attributes
    ----------
    sides
        Common and counter; empty where no two backgrounds could be compared.
    drop
        Naive drop: in the photos that chose the pair.
    honest
        Drop in photos that did not; None where there are none.
    others
        The pair's drop for other models, by run.
    """

    class_index: int
    class_name: str
    selected: bool
    reason: str | None
    sides: tuple[Side, ...]
    drop: float | None
    honest: Interval | None
    p_value: float | None
    q_value: float | None
    only_its_own: bool | None
    others: Mapping[str, Interval]

    @property
    def drop_shown(self) -> float:
        """The drop to believe; classes without one come last."""
        if self.honest is not None:
            return self.honest.value
        return -np.inf if self.drop is None else self.drop


@dataclass(frozen=True)
class HeatMap:
    """Accuracy by class and background: class index, name, and rows of `groups`."""

    backgrounds: tuple[str, ...]
    rows: tuple[tuple[int, str, tuple[Row | None, ...]], ...]


def members(
    photos: pa.Table, labels: pa.Table | None, split: pa.Table | None
) -> dict[tuple[int, str], list[str]]:
    """Photos by class index and background: those of the split, and of other groups by label."""
    found: dict[tuple[int, str], list[str]] = {}
    if split is not None:
        for row in split.select(["photo_id", "class_index", "background"]).to_pylist():
            place = row["class_index"], row["background"]
            found.setdefault(place, []).append(row["photo_id"])
    in_split = set(found)
    if labels is not None:
        ids, indices = photos["photo_id"].to_pylist(), photos["class_index"].to_pylist()
        class_of = dict(zip(ids, indices, strict=True))
        for row in labels.select(["photo_id", "decision", "background"]).to_pylist():
            place = class_of.get(row["photo_id"]), row["background"]
            if row["decision"] == "keep" and None not in place and place not in in_split:
                found.setdefault(place, []).append(row["photo_id"])
    return found


def _mistakes(ids: Iterable[str], predictions: Mapping[str, Row]) -> tuple[tuple[str, int], ...]:
    said = (predictions[i] for i in ids if i in predictions)
    wrong = Counter(row["predicted_name"] for row in said if row["correct"] is False)
    return tuple(sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_MISTAKES])


def _accuracy(pair: Row, group: str, part: str = "") -> Share | None:
    """Accuracy of a group in one part of the photos, if it has any there."""
    photos, share = (pair.get(f"{group}_{part}{name}") for name in ("photos", "accuracy"))
    return Share.of(round(photos * share), photos) if photos and share is not None else None


def _sides(
    pair: Row,
    photo_ids: Mapping[tuple[int, str], list[str]],
    predictions: Mapping[str, Row],
) -> tuple[Side, ...]:
    sides = []
    for group in ("common", "counter"):
        background, chosen_on = pair[f"{group}_background"], _accuracy(pair, group)
        if background is None or chosen_on is None:
            return ()
        place = pair["class_index"], background
        ids = tuple(i for i in photo_ids.get(place, ()) if i in predictions)
        sides.append(
            Side(
                group=group,
                background=background,
                chosen_on=chosen_on,
                fresh=_accuracy(pair, group, "test_"),
                mistakes=_mistakes(ids, predictions),
                photo_ids=ids,
            )
        )
    return tuple(sides)


def _honest(pair: Row) -> Interval | None:
    if pair["drop_honest"] is None:
        return None
    return Interval(pair["drop_honest"], pair["drop_ci_low"], pair["drop_ci_high"])


def _drop(pair: Row) -> Interval | None:
    naive = pair["drop"]
    return _honest(pair) or (None if naive is None else Interval(naive, None, None))


def class_facts(
    run: str,
    pairs: Sequence[Row],
    photo_ids: Mapping[tuple[int, str], list[str]],
    predictions: Mapping[str, Row],
) -> tuple[ClassFacts, ...]:
    """Facts of every class for a run: selected ones first, the largest drop first.

    Parameters
    ----------
    run
        The run whose numbers are told.
    pairs
        Rows of the table, of all runs.
    photo_ids
        As `members` gives them.
    predictions
        Scored rows of the run, by photo_id.
    """
    others: dict[int, dict[str, Interval]] = {}
    for pair in pairs:
        drop = _drop(pair)
        if pair["run"] != run and drop is not None:
            others.setdefault(pair["class_index"], {})[pair["run"]] = drop
    found = [
        ClassFacts(
            class_index=pair["class_index"],
            class_name=pair["class_name"],
            selected=pair["selected"],
            reason=pair["reason"],
            sides=_sides(pair, photo_ids, predictions),
            drop=pair["drop"],
            honest=_honest(pair),
            p_value=pair["p_value"],
            q_value=pair["q_value"],
            only_its_own=pair.get("only_its_own"),
            others=others.get(pair["class_index"], {}),
        )
        for pair in pairs
        if pair["run"] == run
    ]
    return tuple(sorted(found, key=lambda c: (not c.selected, -c.drop_shown, c.class_name)))


def heat_map(run: str, groups: Sequence[Row]) -> HeatMap:
    """Accuracy of a run by class and background, for the classes and backgrounds that occur."""
    own = [group for group in groups if group["run"] == run]
    used = {group["background"] for group in own}
    known = [b.name for b in backgrounds() if b.name in used]
    columns = (*known, *sorted(used.difference(known)))
    rows: dict[tuple[str, int], dict[str, Row]] = {}
    for group in own:
        place = group["class_name"], group["class_index"]
        rows.setdefault(place, {})[group["background"]] = group
    return HeatMap(
        columns,
        tuple(
            (index, name, tuple(rows[name, index].get(column) for column in columns))
            for name, index in sorted(rows)
        ),
    )


@dataclass(frozen=True)
class Measured:
    """The photos of a split that the accuracies over all classes are of.

    Attributes
    ----------
    photos
        Rows of `split`.
    partition
        `test` where the photos chose no pair; None where all photos of the split are taken.
    classes
        Names of the classes that have photos here.
    halves
        Names of those that have photos of one group only: the groups then are of different classes.
    """

    photos: pa.Table
    partition: str | None
    classes: tuple[str, ...]
    halves: tuple[str, ...]

    @classmethod
    def of(cls, split: pa.Table) -> Measured:
        """The photos that chose no pair where there are some, else all."""
        test = split.filter(pc.equal(split["partition"], "test"))
        photos = test if test.num_rows else split
        groups: dict[str, set[str]] = {}
        for row in photos.select(["class_name", "group"]).to_pylist():
            groups.setdefault(row["class_name"], set()).add(row["group"])
        both = set().union(*groups.values())
        return cls(
            photos=photos,
            partition="test" if test.num_rows else None,
            classes=tuple(sorted(groups)),
            halves=tuple(sorted(name for name, found in groups.items() if found != both)),
        )


def accuracy_on_split(photos: pa.Table, predictions: Mapping[str, Row]) -> SplitAccuracy | None:
    """A run's accuracy in the two groups, in photos of the split.

    None where there are no photos, or one was not scored.
    """
    rows = photos.to_pylist()
    if not rows or any(row["photo_id"] not in predictions for row in rows):
        return None
    return evaluate_groups(
        np.array([predictions[row["photo_id"]]["correct"] for row in rows], dtype=np.bool_),
        np.array([row["class_index"] for row in rows], dtype=np.int64),
        np.array([row["group"] for row in rows], dtype=np.str_),
        observer_codes(photos),
        {row["class_index"]: row["class_name"] for row in rows},
    )
