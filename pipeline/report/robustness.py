"""Where models stand between common and counter accuracy, as the report's figure shows them.

Given the accuracy of this workspace's runs on its split and the results of `cap evaluate`, gives
points beside the paper's models, and how far each lies from the line of the ImageNet models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.metrics import Line, SplitAccuracy
from manifests.robustness import effective_robustness

__all__ = ["Point", "Standing", "standing"]


@dataclass(frozen=True)
class Point:
    """A model and its accuracy in the two groups.

    Attributes
    ----------
    kind
        `here`: a run of this workspace on its split; `evaluated`: by `cap evaluate` on a release;
        `clip` or `imagenet`: of the paper, on its photos.
    photos
        What the accuracies are of, in words.
    distance
        Counter accuracy minus what the line expects; None where there is nothing to expect.
    """

    name: str
    kind: str
    photos: str
    common: float
    counter: float
    distance: float | None


@dataclass(frozen=True)
class Standing:
    """The models, this workspace's first, and the line of the paper's ImageNet models."""

    points: tuple[Point, ...]
    line: Line

    @property
    def own(self) -> bool:
        """Whether there is any model but the paper's."""
        return any(point.kind in {"here", "evaluated"} for point in self.points)


def standing(
    accuracies: Mapping[str, SplitAccuracy], results: pa.Table | None, label_space: str
) -> Standing:
    """The models of a workspace beside the paper's.

    Parameters
    ----------
    accuracies
        Accuracy on the workspace's split, by run.
    results
        The table `results`, if there is one.
    label_space
        Label space of the results that are shown.
    """
    paper = effective_robustness()
    if paper.line is None:
        msg = "the paper's ImageNet models make a line"
        raise AssertionError(msg)
    own = [
        (
            run,
            "here",
            "this page",
            found.groups["common"].accuracy,
            found.groups["counter"].accuracy,
        )
        for run, found in accuracies.items()
        if found.drop is not None
    ]
    if results is not None:
        own += _evaluated(results, label_space)
    published = [
        Point(row["model"], row["family"], "published", *(row[n] for n in _MEASURED))
        for row in paper.points.to_pylist()
    ]
    return Standing((*(_placed(paper.line, *point) for point in own), *published), paper.line)


_MEASURED = ("common", "counter", "distance")


def _placed(line: Line, name: str, kind: str, photos: str, common: float, counter: float) -> Point:
    distance = None
    if 0 < common < 1:
        distance = counter - float(line.expected(np.array([common]))[0])
    return Point(name, kind, photos, common, counter, distance)


def _evaluated(results: pa.Table, label_space: str) -> Iterator[tuple[str, str, str, float, float]]:
    """Evaluations over a label space; of a model's test photos of a release where it has any."""
    rows = results.filter(pc.equal(results["label_space"], label_space))
    for digest in rows["release_digest"].unique().to_pylist():
        release = rows.filter(pc.equal(rows["release_digest"], digest))
        for partition, models in _partitions(release).items():
            own = pc.is_in(release["model_digest"], pa.array(models, pa.string()))
            photos = release.filter(pc.and_(own, pc.equal(release["partition"], partition)))
            found = effective_robustness(photos, label_space=label_space, paper=False)
            place = f"{release['release'][0].as_py()}, {partition}"
            for row in found.points.to_pylist():
                yield row["model"], "evaluated", place, row["common"], row["counter"]


def _partitions(release: pa.Table) -> dict[str, list[str]]:
    """The partitions of a release that are shown, and the models (digests) shown on each."""
    measured: dict[str, set[str]] = {}
    for model, partition in zip(
        *(release[name].to_pylist() for name in ("model_digest", "partition")), strict=True
    ):
        measured.setdefault(model, set()).add(partition)
    shown: dict[str, list[str]] = {}
    for model, there in measured.items():
        shown.setdefault("test" if "test" in there else min(there), []).append(model)
    return dict(sorted(shown.items(), key=lambda item: (item[0] != "test", item[0])))
