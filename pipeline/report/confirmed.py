"""What people say of a cluster: how many photos show what its regions have in common.

Given rows of `confirmations` about one clustering, settles each photo by majority. Photos on which
people are even, or which everybody skipped, are left out and counted.
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
    votes: defaultdict[str, Counter[bool | None]] = defaultdict(Counter)
    inside: dict[str, bool] = {}
    people = set()
    for answer in answers:
        votes[answer["photo_id"]][answer["shows"]] += 1
        inside[answer["photo_id"]] = answer["in_cluster"]
        people.add(answer["annotator"])
    if not votes:
        return None
    skipped = {photo for photo, said in votes.items() if not said[True] + said[False]}
    ties = {photo for photo, said in votes.items() if said[True] == said[False]} - skipped
    shows = {
        photo: said[True] > said[False]
        for photo, said in votes.items()
        if photo not in ties | skipped
    }
    right: dict[bool, list[bool]] = {True: [], False: []}
    for photo, said in shows.items():
        known = photo in photos and photo in predictions
        if known and photos[photo]["class_index"] == class_index:
            right[said].append(predictions[photo]["correct"])
    return Confirmed(
        people=len(people),
        inside=_share([said for photo, said in shows.items() if inside[photo]]),
        outside=_share([said for photo, said in shows.items() if not inside[photo]]),
        ties=len(ties),
        skipped=len(skipped),
        showing=_share(right[True]),
        others=_share(right[False]),
    )


def _share(holds: list[bool]) -> Share | None:
    return Share.of(sum(holds), len(holds)) if holds else None
