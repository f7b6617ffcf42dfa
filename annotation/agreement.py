"""Agreement: how far annotators say the same, what they mix up, and which photos they dispute.

Given `annotations`, measures agreement on the decision (keep or reject) and on the background, over
all photos, per class and per pair of annotators; counts which backgrounds are confused; looks at
suggestions and at the time that people took; and lists the photos that need an adjudication. Only
first answers count for agreement, because who adjudicates has seen them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from annotation.agreement_text import render
from annotation.coefficients import (
    MISSING,
    Bootstrap,
    Coefficient,
    Ints,
    cohen_kappa,
    confusion,
    fleiss_kappa,
    krippendorff_alpha,
)
from annotation.consensus import NONE_FITS, disputed
from annotation.suggestions import (
    Acceptance,
    Anchoring,
    Seconds,
    acceptance,
    anchoring,
    predicted_backgrounds,
    seconds,
    withheld,
)
from manifests import __version__
from manifests.errors import CapError
from manifests.kept import GOING_ON
from manifests.tables import from_rows, write_bytes
from manifests.vocabulary import backgrounds
from manifests.workspace import Outcome

if TYPE_CHECKING:
    from annotation.parameters import AgreementParameters
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["Agreement", "Photo", "Report", "agreement", "measure"]

_DECISIONS = ("keep", "reject")

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Photo:
    """A photo that answers may be about.

    Attributes
    ----------
    sha256
        Digest of its bytes; None where there are none.
    class_name
        The class that it is said to be of.
    kept
        Whether it goes on from dedup.
    """

    sha256: str | None
    class_name: str
    kept: bool = True


@dataclass(frozen=True)
class Agreement:
    """Agreement on one question among some photos.

    Attributes
    ----------
    question
        `decision` (keep or reject; a skip is no answer) or `background` (among photos that
        everybody kept; that none fits is an answer).
    class_name, annotators
        The class or the pair of annotators that it is about; both None for all.
    coefficients
        Each of the three coefficients, undefined ones included.
    """

    question: str
    class_name: str | None
    annotators: tuple[str, str] | None
    coefficients: tuple[Coefficient, ...]


@dataclass(frozen=True)
class Report:
    """All that the annotations tell about agreement.

    Attributes
    ----------
    photos, answers
        Photos with a first answer, and the first answers that are no skips.
    agreement
        For both questions: over all photos, per class, per pair of annotators.
    confusion
        `backgrounds`, and `counts` between two people on one photo; see `confusion`.
    acceptance, anchoring
        What the suggestions do.
    seconds_with_suggestion, seconds_without_suggestion
        Time per photo where one was shown, and where it was withheld.
    seconds
        Time per photo by annotator.
    disputes
        Photos that at least two people decided on and that consensus does not settle, each with
        its answers.
    """

    photos: int
    answers: int
    agreement: tuple[Agreement, ...]
    confusion: dict[str, Any]
    acceptance: Acceptance
    anchoring: Anchoring
    seconds_with_suggestion: Seconds
    seconds_without_suggestion: Seconds
    seconds: dict[str, Seconds]
    disputes: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries, ready for JSON."""
        return asdict(self)


class _Ratings:
    """First answers as matrices of photos by annotators.

    Attributes
    ----------
    photos, people
        What the rows and columns stand for, sorted.
    categories
        Backgrounds in the paper's order, others that occur, and that none fits.
    decision, background
        Categories of shape (photos, annotators), `MISSING` where there is no answer.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        decided = [a for a in answers if a["decision"] != "skip"]
        self.photos = sorted({a["photo_id"] for a in decided})
        self.people = sorted({a["annotator"] for a in decided})
        self.categories = self._categories(decided)
        row = {name: index for index, name in enumerate(self.photos)}
        column = {name: index for index, name in enumerate(self.people)}
        place = {name: index for index, name in enumerate(self.categories)}
        self.decision = np.full((len(row), len(column)), MISSING, dtype=np.int64)
        self.background = self.decision.copy()
        for answer in decided:
            cell = row[answer["photo_id"]], column[answer["annotator"]]
            self.decision[cell] = _DECISIONS.index(answer["decision"])
            if answer["decision"] == "keep":
                self.background[cell] = place[answer["background"] or NONE_FITS]

    @staticmethod
    def _categories(decided: Sequence[Answer]) -> list[str]:
        known = [background.name for background in backgrounds()]
        found = {a["background"] for a in decided if a["background"] is not None}
        return [*known, *sorted(found.difference(known)), NONE_FITS]

    @cached_property
    def kept_by_all(self) -> Ints:
        """The backgrounds of photos that nobody rejected; of the others, no answers."""
        rejected = (self.decision == _DECISIONS.index("reject")).any(axis=1)
        return np.where(rejected[:, None], MISSING, self.background)


def _coefficients(ratings: Ints, bootstrap: Bootstrap) -> tuple[Coefficient, ...]:
    return (
        cohen_kappa(ratings, bootstrap),
        fleiss_kappa(ratings, bootstrap),
        krippendorff_alpha(ratings, bootstrap),
    )


def _all_agreements(
    ratings: _Ratings, class_names: Mapping[str, str], bootstrap: Bootstrap
) -> tuple[Agreement, ...]:
    found = []
    named = np.array([class_names.get(photo, "") for photo in ratings.photos], dtype=object)
    classes = sorted({name for name in named.tolist() if name})
    for question, shared, own in (
        ("decision", ratings.decision, ratings.decision),
        ("background", ratings.kept_by_all, ratings.background),
    ):
        found.append(Agreement(question, None, None, _coefficients(shared, bootstrap)))
        for name in classes:
            rows = shared[named == name]
            found.append(Agreement(question, name, None, _coefficients(rows, bootstrap)))
        for first, second in combinations(range(len(ratings.people)), 2):
            # What a third person rejects, two people may both keep.
            pair = own[:, [first, second]]
            names = ratings.people[first], ratings.people[second]
            found.append(Agreement(question, None, names, _coefficients(pair, bootstrap)))
    return tuple(found)


def _disputes(annotations: pa.Table, class_names: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    said = (
        *("annotator", "round", "decision", "background", "background_second"),
        *("reject_reasons", "note"),
    )
    return tuple(
        {
            "photo_id": photo_id,
            "class_name": class_names.get(photo_id),
            "answers": [{name: answer[name] for name in said} for answer in answers],
        }
        for photo_id, answers in disputed(annotations).items()
    )


def _representatives(photos: Mapping[str, Photo], predicted: Collection[str]) -> dict[str, str]:
    """Of photos of a class with the same bytes, the one that stands for all: photo_id by photo_id.

    One whose background is predicted, else one that dedup kept, else the first.
    """
    copies: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for photo_id, photo in photos.items():
        if photo.sha256 is not None:
            copies[photo.sha256, photo.class_name].append(photo_id)
    first = {
        content: min(ids, key=lambda i: (i not in predicted, not photos[i].kept, i))
        for content, ids in copies.items()
    }
    return {photo_id: first[content] for content, ids in copies.items() for photo_id in ids}


def _told_once(rows: Sequence[Answer], representatives: Mapping[str, str]) -> list[Answer]:
    """What each person said of each content, with the photo that stands for it."""

    def place(row: Answer) -> tuple[bool, str]:
        photo_id = str(row["photo_id"])
        return representatives.get(photo_id, photo_id) != photo_id, photo_id

    told: dict[tuple[Any, ...], Answer] = {}
    for row in sorted(rows, key=place):
        photo_id = representatives.get(row["photo_id"], row["photo_id"])
        key = (photo_id, row["annotator"], row["round"])
        told.setdefault(key, {**row, "photo_id": photo_id})
    return list(told.values())


def measure(
    annotations: pa.Table,
    photos: Mapping[str, Photo],
    run: str | None,
    predicted: Mapping[str, str],
    bootstrap: Bootstrap,
) -> Report:
    """Measure the agreement of a table of annotations.

    Parameters
    ----------
    annotations
        The table, adjudications included. An answer about exact copies counts once.
    photos
        The photos, by photo_id; one that is not there stands for itself.
    run, predicted
        The scoring run that suggested, and the background that it predicts by photo_id.
    bootstrap
        How intervals are drawn.
    """
    rows = _told_once(annotations.to_pylist(), _representatives(photos, predicted))
    class_names = {photo_id: photo.class_name for photo_id, photo in photos.items()}
    first = [row for row in rows if row["round"] == "first"]
    ratings = _Ratings(first)
    counts = confusion(ratings.background, len(ratings.categories))
    people = sorted({row["annotator"] for row in first})
    return Report(
        photos=len({row["photo_id"] for row in first}),
        answers=int((ratings.decision != MISSING).sum()),
        agreement=_all_agreements(ratings, class_names, bootstrap),
        confusion={"backgrounds": ratings.categories, "counts": counts.tolist()},
        acceptance=acceptance(first),
        anchoring=anchoring(first, run, predicted),
        seconds_with_suggestion=seconds(r for r in first if r["suggested_background"] is not None),
        seconds_without_suggestion=seconds(withheld(first)),
        seconds={name: seconds(r for r in first if r["annotator"] == name) for name in people},
        disputes=_disputes(from_rows(rows, annotations.schema), class_names),
    )


def _photos(workspace: Workspace) -> dict[str, Photo]:
    dropped: set[str] = set()
    if workspace.has("duplicates"):
        relations = workspace.read("duplicates").select(["photo_id", "relation"]).to_pylist()
        dropped = {row["photo_id"] for row in relations if row["relation"] not in GOING_ON}
    rows = workspace.read("photos").select(["photo_id", "sha256", "class_name"]).to_pylist()
    return {
        row["photo_id"]: Photo(row["sha256"], row["class_name"], row["photo_id"] not in dropped)
        for row in rows
    }


def agreement(workspace: Workspace, parameters: AgreementParameters, progress: Progress) -> Outcome:
    """Measure the agreement of the annotators, and write it to `results/agreement.json`."""
    del progress
    if parameters.resamples < 1:
        msg = f"--resamples is {parameters.resamples}; an interval needs at least one, better 1000"
        raise CapError(msg)
    run = parameters.suggest
    report = measure(
        workspace.read("annotations"),
        _photos(workspace),
        run,
        predicted_backgrounds(workspace, run) if run is not None else {},
        Bootstrap(parameters.resamples, parameters.seed),
    )
    tables = ["annotations", "photos"]
    tables += ["duplicates"] if workspace.has("duplicates") else []
    tables += [f"predictions/{run}"] if run is not None else []
    facts = {
        "cap_version": __version__,
        "parameters": asdict(parameters),
        "inputs": {table: workspace.digest(table) for table in tables},
        **report.to_dict(),
    }
    path = workspace.root / "results" / "agreement.json"
    write_bytes(path, json.dumps(facts, indent=2, ensure_ascii=False).encode() + b"\n")
    return Outcome("annotate agreement", render(report), facts)
