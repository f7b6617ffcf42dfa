"""What is measured of one model's answers, and of two models' on the same photos.

Pure functions from tables and arrays to numbers; the numbers come from `manifests.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.metrics import Bootstrap, class_shares, mcnemar
from manifests.tables import observer_codes, photo_codes

if TYPE_CHECKING:
    import pyarrow as pa

    from manifests.metrics import Sign
    from pipeline.evaluate.choices import Choices

__all__ = ["Answers", "Photos", "compare", "measure"]

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Photos:
    """What the measures need to know of the photos, with one set of resamples for all of them."""

    def __init__(self, rows: pa.Table, *, resamples: int, seed: int) -> None:
        self.classes: Ints = rows["class_index"].to_numpy().astype(np.int64)
        self.groups = np.array(rows["group"].to_pylist(), dtype=np.str_)
        self.names: dict[int, str] = dict(
            zip(self.classes.tolist(), rows["class_name"].to_pylist(), strict=True)
        )
        self.observers = observer_codes(rows)
        self.bootstrap = Bootstrap(
            self.classes,
            self.groups,
            self.observers,
            photos=photo_codes(rows),
            draws=resamples,
            seed=seed,
        )


@dataclass(frozen=True)
class Answers:
    """One model's answers as shares are taken of them, per photo.

    Attributes
    ----------
    correct
        Whether the answer is the photo's class.
    also_correct
        Whether it is that, or names the animal rightly too; None where that is not known.
    same_family
        Whether it is wrong and of the class's family; None where families are not known.
    """

    correct: Bools
    also_correct: Bools | None
    same_family: Bools | None

    @classmethod
    def of(cls, predicted: Ints, photos: Photos, choices: Choices) -> Answers:
        """The answers that predictions over the label space are."""
        targets = choices.target_of(photos.classes)
        correct = predicted == targets
        also = choices.also_correct(targets, predicted)
        family = choices.same_family(targets, predicted)
        if also is None or family is None:
            return cls(correct, None, None)
        return cls(correct, correct | also, ~correct & (family | also))

    def shares(self) -> dict[str, tuple[Bools, Sign]]:
        """What class-balanced shares are taken of, by measure, and which way it drops."""
        found: dict[str, tuple[Bools, Sign]] = {"accuracy": (self.correct, 1)}
        if self.also_correct is not None:
            found["accuracy_also_correct"] = (self.also_correct, 1)
        if self.same_family is not None:
            found["error_same_family"] = (self.same_family, -1)
            found["error_other_family"] = (~self.correct & ~self.same_family, -1)
        return found


def measure(answers: Answers, photos: Photos) -> dict[str, Any]:
    """Shares of a model's answers by measure and group, for all classes and for each.

    Returns
    -------
    dict
        `measures`: measure, group, then `photos`, `value`, `ci_low` and `ci_high`; `classes`: the
        same by class name.
    """
    overall = {"plain_accuracy": photos.bootstrap.plain(answers.correct)}
    classes: dict[str, dict[str, Any]] = {name: {} for name in photos.names.values()}
    for name, (values, sign) in answers.shares().items():
        overall[name] = photos.bootstrap.balanced(values, sign)
        for class_index, shares in class_shares(
            values, photos.classes, photos.groups, photos.observers, sign
        ).items():
            classes[photos.names[class_index]][name] = _plain(shares)
    return {"measures": {n: _plain(found) for n, found in overall.items()}, "classes": classes}


def _plain(estimates: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {group: asdict(estimate) for group, estimate in estimates.items()}


def compare(first: Answers, second: Answers, photos: Photos) -> list[dict[str, Any]]:
    """Differences between two models' answers to the same photos, the first minus the second.

    Returns
    -------
    list of dict
        The columns of `comparisons` that follow from the answers.
    """
    apart = first.correct.astype(np.float64) - second.correct
    differences = {"plain_accuracy": photos.bootstrap.plain(apart)}
    others = second.shares()
    for name, (values, sign) in first.shares().items():
        differences[name] = photos.bootstrap.balanced(
            values.astype(np.float64) - others[name][0], sign
        )
    rows = []
    for name, estimates in differences.items():
        for group, found in estimates.items():
            row = {
                "measure": name,
                "group": group,
                "photos": found.photos,
                "difference": found.value,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
            }
            if name == "plain_accuracy" and group != "drop":
                here = photos.groups == group
                row |= asdict(mcnemar(first.correct[here], second.correct[here]))
            rows.append(row)
    return rows
