"""What a model may choose from for each photo, and how its choice relates to the truth.

A model scores a photo over a label space. `confusing20` and `classes` allow some of these labels
only: for each class its own twenty, or the classes of the release.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from manifests.errors import CapError, UnknownNameError
from manifests.vocabulary import LabelSpace, animals, label_space

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.evaluate.photos import EvaluationSet

__all__ = ["Choices", "choices_for"]

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Choices:
    """The labels that compete for each class of the photos.

    Attributes
    ----------
    name
        `imagenet1k`, `confusing20`, `classes`, or a file's.
    labels
        The label space that models score over.
    classes
        The classes of the photos, as their rows number them, sorted.
    targets
        Where each of them lies in `labels`, of shape (classes,).
    allowed
        Which labels compete for each class, of shape (classes, labels).
    """

    name: str
    labels: LabelSpace
    classes: Ints
    targets: Ints
    allowed: Bools

    @cached_property
    def digest(self) -> str:
        """sha256 over the labels that compete, of all classes."""
        digest = hashlib.sha256(self.labels.digest.encode())
        digest.update(self.targets.astype("<i8").tobytes())
        digest.update(np.packbits(self.allowed).tobytes())
        return digest.hexdigest()

    @property
    def per_class(self) -> tuple[int, int]:
        """The fewest and the most labels that compete for a class."""
        counts = self.allowed.sum(axis=1)
        return int(counts.min()), int(counts.max())

    def restrict(self, scores: NDArray[np.float32], class_indices: Ints) -> NDArray[np.float32]:
        """Scores with those of labels that do not compete set to minus infinity.

        Parameters
        ----------
        scores, class_indices
            Over `labels`, of shape (photos, labels), and the photos' classes.
        """
        if self.allowed.all():
            return scores
        allowed = self.allowed[np.searchsorted(self.classes, class_indices)]
        return np.where(allowed, scores, np.float32(-np.inf))

    def target_of(self, class_indices: Ints) -> Ints:
        """Where the photos' classes lie in `labels`."""
        targets: Ints = self.targets[np.searchsorted(self.classes, class_indices)]
        return targets

    @cached_property
    def _imagenet(self) -> Ints | None:
        """ImageNet-1K's index of each label, if every label is one of its classes."""
        known = {name: i for i, name in enumerate(label_space("imagenet1k").names)}
        if self.labels.digest == label_space("imagenet1k").digest:
            return np.arange(len(self.labels))
        if not set(self.labels.names) <= known.keys():
            return None
        return np.array([known[name] for name in self.labels.names])

    def also_correct(self, targets: Ints, predicted: Ints) -> Bools | None:
        """Whether a prediction names the animal rightly too, such as the other kind of elephant.

        None where the labels are not ImageNet-1K's, for which alone this is known.
        """
        if self._imagenet is None:
            return None
        known = {i: animal.also_correct for i, animal in animals().items()}
        pairs = zip(self._imagenet[targets], self._imagenet[predicted], strict=True)
        return np.array([guess in known.get(int(truth), ()) for truth, guess in pairs], bool)

    def same_family(self, targets: Ints, predicted: Ints) -> Bools | None:
        """Whether prediction and truth are of one family.

        None where the labels are not ImageNet-1K's, or a photo's class is none of its animals.
        """
        if self._imagenet is None:
            return None
        families = {i: animal.superclass for i, animal in animals().items()}
        truths = [families.get(int(i)) for i in self._imagenet[targets]]
        if None in truths:
            return None
        guesses = [families.get(int(i)) for i in self._imagenet[predicted]]
        return np.array([t == g for t, g in zip(truths, guesses, strict=True)], bool)


def choices_for(name: str | None, photos: EvaluationSet) -> Choices:
    """What a label space's name means for these photos.

    Parameters
    ----------
    name
        `imagenet1k`, `confusing20`, `classes`, a CSV file, or None for the photos' own.
    photos
        What is evaluated.

    Raises
    ------
    CapError
        If the label space is not known, or lacks a class of the photos.
    """
    classes = np.unique(photos.rows["class_index"].to_numpy()).astype(np.int64)
    if name == "confusing20":
        return _confusing(photos, classes)
    if name == "classes":
        return _own_classes(photos, classes)
    if name == "backgrounds":
        msg = "backgrounds are no classes; name another label space with --label-space"
        raise CapError(msg)
    labels = photos.label_space if name is None else label_space(name)
    if labels is None:
        msg = (
            f"{photos.place} does not hold its label space; --label-space classes takes its own "
            "classes, or name one"
        )
        raise CapError(msg)
    if labels.name != "imagenet1k" and not labels.prompts:
        imagenet = label_space("imagenet1k")
        if set(labels.names) <= set(imagenet.names) and labels.digest != imagenet.digest:
            # A classifier of all of ImageNet can choose among some of it.
            allowed = np.isin(imagenet.names, labels.names)
            return _over(labels.name, imagenet, photos, classes, allowed)
    return _over(labels.name, labels, photos, classes, np.ones(len(labels), bool))


def _over(
    name: str, labels: LabelSpace, photos: EvaluationSet, classes: Ints, allowed: Bools
) -> Choices:
    """The same labels for every class."""
    targets = _targets(name, labels, photos, classes)
    lacking = np.flatnonzero(~allowed[targets])
    if len(lacking):
        raise CapError(_lacks(name, labels.names[targets[lacking[0]]]))
    return Choices(name, labels, classes, targets, np.tile(allowed, (len(classes), 1)))


def _lacks(name: str, class_name: str) -> str:
    return (
        f"the label space {name} lacks the class {class_name!r} of the photos; add it, or use "
        "--label-space classes"
    )


def _targets(name: str, labels: LabelSpace, photos: EvaluationSet, classes: Ints) -> Ints:
    own = photos.label_space
    if own is not None and own.digest == labels.digest:
        return _inside(classes, labels, photos)
    names = _class_names(photos.rows)
    found: dict[int, str] = {}
    for class_index in classes.tolist():
        try:
            label = labels.index_of(names[class_index])
        except UnknownNameError as error:
            raise CapError(_lacks(name, names[class_index])) from error
        if label in found:
            msg = (
                f"the label space {name} has one label, {labels.names[label]!r}, for the classes "
                f"{found[label]!r} and {names[class_index]!r} of the photos"
            )
            raise CapError(msg)
        found[label] = names[class_index]
    return np.array(list(found), dtype=np.int64)


def _inside(indices: Ints, labels: LabelSpace, photos: EvaluationSet) -> Ints:
    """Positions, if the label space has them all."""
    if indices.min() < 0 or indices.max() >= len(labels):
        msg = (
            f"{photos.place} speaks of label {indices.max()}, but {labels.name} has {len(labels)} "
            "labels; fetch the release again"
        )
        raise CapError(msg)
    return indices


def _class_names(rows: pa.Table) -> dict[int, str]:
    return dict(zip(*(rows[c].to_pylist() for c in ("class_index", "class_name")), strict=True))


def _own_classes(photos: EvaluationSet, classes: Ints) -> Choices:
    labels = photos.label_space
    if labels is None:
        names = tuple(_class_names(photos.rows)[c] for c in classes.tolist())
        labels = LabelSpace("classes", names, ("",) * len(names), ((),) * len(names))
        everything = np.ones((len(names), len(names)), bool)
        return Choices("classes", labels, classes, np.arange(len(names)), everything)
    allowed = np.isin(np.arange(len(labels)), _inside(classes, labels, photos))
    return Choices("classes", labels, classes, classes, np.tile(allowed, (len(classes), 1)))


def _confusing(photos: EvaluationSet, classes: Ints) -> Choices:
    table, labels = photos.confusing, photos.label_space
    if table is None or labels is None:
        msg = (
            f"{photos.place} does not tell which labels are most like each class; score with "
            "`cap score --save-scores`, then split and release again, or use another label space"
        )
        raise CapError(msg)
    for indices in (classes, table["label_index"].to_numpy()):
        _inside(indices, labels, photos)
    allowed = np.zeros((len(classes), len(labels)), bool)
    for class_index, label in zip(
        *(table[c].to_pylist() for c in ("class_index", "label_index")), strict=True
    ):
        allowed[classes == class_index, label] = True
    for row, class_index in enumerate(classes.tolist()):
        if not allowed[row, class_index]:
            raise CapError(_lacks("confusing20", labels.names[class_index]))
    return Choices("confusing20", labels, classes, classes, allowed)
