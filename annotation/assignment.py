"""Who is asked about which photo, and in which order: decided from tables alone.

A class comes first as long as it needs most: as many photos as the plan of `cap split --plan` asks
for, or else as two of its backgrounds lack of what a split wants at least. Within a class the order
is seeded-random, or by suggested background; it never depends on whether a model was right. What is
decided for a photo depends on its digest and the seed only, so that pushing again decides the same.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from manifests.errors import UnknownNameError

if TYPE_CHECKING:
    from manifests.vocabulary import LabelSpace

__all__ = [
    "EVERYONE",
    "TWICE",
    "Asked",
    "Candidate",
    "Plan",
    "assign",
    "draw",
    "in_order",
    "meaning",
    "planned",
    "still_needed",
]

EVERYONE = "everyone"
TWICE = "twice"
"""Batches that are no single annotator's: the project for all, and that of the doubled share."""

_GROUPS = 2
"""A split compares two backgrounds of a class."""


class Asked(NamedTuple):
    """A question: a photo's digest, and the class that it is said to be of.

    Where a photo has moved to another class, what was said of it there is no answer. Classes are
    compared by what their names mean, so that a name that was only spelled otherwise is the same.
    """

    sha256: str
    class_name: str


def meaning(space: LabelSpace) -> Callable[[str], str]:
    """A function from a class's name, whatever its spelling, to the name that `space` has for it.

    A name that the label space does not know, or that may mean several classes, stays as it is.
    """

    @functools.cache
    def meant(name: str) -> str:
        try:
            return space.names[space.index_of(name)]
        except UnknownNameError:
            return name

    return meant


@dataclass(frozen=True)
class Candidate:
    """A photo that people may be asked about.

    Attributes
    ----------
    class_name
        The class that they are asked about; empty where the question is about none.
    suggested
        Background to suggest, or None.
    predicted
        Background that a model predicts, whether it is shown or withheld.
    """

    photo_id: str
    sha256: str
    path: str
    class_index: int
    class_name: str = ""
    suggested: str | None = None
    predicted: str | None = None

    @property
    def asked(self) -> Asked:
        """What is asked: about this photo, as one of its class."""
        return Asked(self.sha256, self.class_name)


@dataclass(frozen=True)
class Plan:
    """How photos are shared out.

    Attributes
    ----------
    annotators
        People with a project of their own; none for one project that everyone works in.
    overlap
        People asked about each photo.
    share
        Share of the photos that two people are asked about where `overlap` is 1, 0 to 1.
    order
        `random` or `suggestion`.
    seed
        Seed of the draws.
    """

    annotators: tuple[str, ...] = ()
    overlap: int = 1
    share: float = 0.0
    order: str = "random"
    seed: int = 0

    def people(self, sha256: str) -> int:
        """How many people are asked about a photo."""
        if self.overlap == 1 and draw(self.seed, "share", sha256) < self.share:
            return 2
        return self.overlap


def draw(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed, the purpose and the name.

    The name of a photo is its sha256.
    """
    digest = hashlib.sha256(f"{seed}:{purpose}:{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def still_needed(
    backgrounds: Iterable[tuple[int, str]], classes: Collection[int], min_photos: int
) -> dict[int, int]:
    """Photos that each class needs until two of its backgrounds have `min_photos`.

    Parameters
    ----------
    backgrounds
        Class index and background of every photo that is kept already.
    classes
        The classes asked about.
    min_photos
        Photos that a background needs.
    """
    have: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for index, background in backgrounds:
        have[index][background] += 1
    needed = {}
    for index in classes:
        most = [count for _, count in have[index].most_common(_GROUPS)]
        most += [0] * (_GROUPS - len(most))
        needed[index] = sum(max(0, min_photos - count) for count in most)
    return needed


def planned(
    rows: Iterable[Mapping[str, Any]], backgrounds: Iterable[tuple[int, str]]
) -> dict[tuple[int, str], int]:
    """Photos that a class still needs of a background, by a plan that may be older than the tags.

    Parameters
    ----------
    rows
        Rows of the table `plan`.
    backgrounds
        Class index and background of every photo that is kept by now.
    """
    have = Counter(backgrounds)
    return {
        (row["class_index"], row["background"]): max(
            0, row["have"] + row["need"] - have[row["class_index"], row["background"]]
        )
        for row in rows
        if row["need"]
    }


def in_order(
    candidates: Sequence[Candidate],
    needed: Mapping[int, int],
    plan: Plan,
    wanted: Mapping[tuple[int, str], int] = MappingProxyType({}),
) -> list[Candidate]:
    """Candidates in the order in which people should see them.

    The class that needs most is next; each photo queued lowers its need by one, so that classes in
    equal need take turns. By suggestion, the backgrounds that a class wants most photos of come
    first.

    Parameters
    ----------
    candidates
        The photos.
    needed
        Photos that each class needs.
    plan
        How photos are shared out.
    wanted
        Photos wanted of a class on a background.
    """

    def place(candidate: Candidate) -> tuple[int, str, float]:
        chance = draw(plan.seed, "order", candidate.sha256)
        if plan.order != "suggestion":
            return 0, "", chance
        # By what is withheld too, which would else come first or last.
        suggested = candidate.predicted or candidate.suggested or ""
        return -wanted.get((candidate.class_index, suggested), 0), suggested, chance

    waiting: defaultdict[int, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=place, reverse=True):
        waiting[candidate.class_index].append(candidate)
    heap = [(-needed.get(index, 0), 0, index) for index in waiting]
    heapq.heapify(heap)
    ordered = []
    while heap:
        need, queued, index = heap[0]
        ordered.append(waiting[index].pop())
        if waiting[index]:
            heapq.heapreplace(heap, (need + 1, queued + 1, index))
        else:
            heapq.heappop(heap)
    return ordered


def assign(
    ordered: Sequence[Candidate], asked: Mapping[str, Collection[Asked]], plan: Plan
) -> dict[str, list[Candidate]]:
    """Which photos each batch gets, beyond those it has.

    Parameters
    ----------
    ordered
        As `in_order` gives them.
    asked
        For each batch, what is asked in it.
    plan
        How photos are shared out.

    Returns
    -------
    dict
        Photos by batch, in order. A photo that stands in a batch of no single annotator is not
        given to anybody else.
    """
    batches_of: defaultdict[Asked, set[str]] = defaultdict(set)
    for batch, questions in asked.items():
        for question in questions:
            batches_of[question].add(batch)
    load = {name: len(asked.get(name, ())) for name in plan.annotators}
    given: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in ordered:
        standing = batches_of[candidate.asked]
        if standing & {EVERYONE, TWICE}:
            continue
        people = plan.people(candidate.sha256)
        if not plan.annotators:
            if not standing:
                twice = people > plan.overlap
                given[TWICE if twice else EVERYONE].append(candidate)
            continue
        free = sorted(set(plan.annotators) - standing, key=lambda name: (load[name], name))
        for name in free[: max(0, people - len(standing))]:
            given[name].append(candidate)
            load[name] += 1
    return dict(given)
