"""What people say of a cluster: how many photos show what its regions have in common.

Given rows of `confirmations` about one clustering, settles each photo by majority. Exact copies are
one photo: an answer about it has a row for each of them. Photos on which people are even, or which
everybody skipped, are left out and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.classes import Share

__all__ = ["Confirmed", "confirmed"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Confirmed:
    """What people say of a cluster; a share is None where it would be of no photo.

    Attributes
    ----------
    people
        How many looked.
    inside, outside
        Photos that show what the regions have in common: of those with the cluster, and of those
        without.
    ties, skipped
        Photos left out: as many people say yes as no, or nobody says either.
    showing, others
        Of the tied class's photos that show it by people's answers, and of those that do not: how
        many the model names correctly.
    """

    people: int
    inside: Share | None
    outside: Share | None
    ties: int
    skipped: int
    showing: Share | None
    others: Share | None


def confirmed(
    answers: Iterable[Row],
    class_index: int | None,
    photos: Mapping[str, Row],
    predictions: Mapping[str, Row],
) -> Confirmed | None:
    """What people say of a cluster; None where nobody was asked.

    Parameters
    ----------
    answers
        Rows of `confirmations` about it, and about no other clustering.
    class_index
        The class that the model has tied it to.
    photos, predictions
        Rows of `photos` and of the run's predictions, by photo_id.
    """
    ids: defaultdict[str, set[str]] = defaultdict(set)
    given: defaultdict[str, set[tuple[str, bool | None]]] = defaultdict(set)
    inside = set()
    for answer in answers:
        content = _content(answer["photo_id"], photos)
        ids[content].add(answer["photo_id"])
        given[content].add((answer["annotator"], answer["shows"]))
        if answer["in_cluster"]:
            inside.add(content)
    if not given:
        return None
    people = {annotator for said in given.values() for annotator, _ in said}
    votes = {content: Counter(shows for _, shows in said) for content, said in given.items()}
    skipped = {photo for photo, said in votes.items() if not said[True] + said[False]}
    ties = {photo for photo, said in votes.items() if said[True] == said[False]} - skipped
    shows = {
        photo: said[True] > said[False]
        for photo, said in votes.items()
        if photo not in ties | skipped
    }
    right: dict[bool, list[bool]] = {True: [], False: []}
    for content, said in shows.items():
        own = [
            photo
            for photo in sorted(ids[content] & photos.keys() & predictions.keys())
            if photos[photo]["class_index"] == class_index
        ]
        right[said] += [predictions[photo]["correct"] for photo in own[:1]]
    return Confirmed(
        people=len(people),
        inside=_share([said for photo, said in shows.items() if photo in inside]),
        outside=_share([said for photo, said in shows.items() if photo not in inside]),
        ties=len(ties),
        skipped=len(skipped),
        showing=_share(right[True]),
        others=_share(right[False]),
    )


def _content(photo_id: str, photos: Mapping[str, Row]) -> str:
    """What copies of a photo have in common: its digest, else only its id."""
    return (photos[photo_id]["sha256"] if photo_id in photos else None) or photo_id


def _share(holds: list[bool]) -> Share | None:
    return Share.of(sum(holds), len(holds)) if holds else None
