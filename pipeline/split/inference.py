"""The selection test: does a class's accuracy depend on its background at all?

The null hypothesis is that within the class being right has nothing to do with the background. The
statistic is the largest standardised difference between the accuracies of two backgrounds, so that
the search over all pairs is part of the test. Its distribution under the null comes from random
permutations: of photos where each has its own observer, else of observers and of the photos within
them, because photos of one person resemble each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Compared", "TestResult", "largest_differences", "permutation_test"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MORE_DRAWS = 10
"""Factor of draws where the p-value is near its floor, and how near that is."""

_CELLS = 2**20
"""Photos times draws that are held in memory at once."""

_TIE = 1e-9
"""Statistics nearer to each other than this, relatively, are one value rounded in two ways."""


@dataclass(frozen=True)
class Compared:
    """The photos of one class on the backgrounds that are compared.

    Attributes
    ----------
    correct
        Whether the model was right, of shape (photos,).
    group
        Background of each photo, 0 to groups - 1, of shape (photos,).
    observer
        Integer label of each photo's observer, of shape (photos,).
    """

    correct: Bools
    group: Ints
    observer: Ints

    @property
    def sizes(self) -> Ints:
        """Photos of each group."""
        return np.bincount(self.group)

    @property
    def right(self) -> Ints:
        """Photos of each group that the model names correctly."""
        return np.bincount(self.group[self.correct], minlength=len(self.sizes))


@dataclass(frozen=True)
class TestResult:
    """Outcome of a permutation test.

    Attributes
    ----------
    statistic
        Largest standardised difference of the photos as they are.
    greater, equal
        Draws with a larger statistic, and with the same.
    draws
        Number of draws; 0 where all photos are right or all wrong, and nothing can be drawn.
    """

    statistic: float
    greater: int
    equal: int
    draws: int

    @property
    def p_value(self) -> float:
        """Share of draws at least as extreme, the photos as they are counted among them.

        Source: Phipson and Smyth, "Permutation p-values should never be zero", Statistical
        Applications in Genetics and Molecular Biology 9 (2010), article 39.
        """
        return (1 + self.greater + self.equal) / (1 + self.draws)


def largest_differences(right: Ints, sizes: Ints) -> Floats:
    """Largest standardised difference between the accuracies of two groups.

    Parameters
    ----------
    right
        Correct photos of each group, of shape (draws, groups); each draw has the same sum.
    sizes
        Photos of each group, of shape (groups,).

    Returns
    -------
    ndarray
        For each draw the largest |a_i - a_j| / sqrt(p (1 - p) (1 / n_i + 1 / n_j)), with p the
        accuracy over all groups; 0 where p is 0 or 1.
    """
    pooled = right[0].sum() / sizes.sum()
    largest = np.zeros(len(right))
    if 0 < pooled < 1:
        # A row for each group lets every step run over contiguous memory.
        accuracy = np.ascontiguousarray((right / sizes).T)
        for i in range(len(sizes)):
            for j in range(i):
                deviation = np.sqrt(pooled * (1 - pooled) * (1 / sizes[i] + 1 / sizes[j]))
                np.maximum(largest, np.abs(accuracy[i] - accuracy[j]) / deviation, out=largest)
    return largest


def permutation_test(
    photos: Compared, draws: int = 10_000, seed: tuple[int, ...] = (0,)
) -> TestResult:
    """Test that correctness does not depend on the group.

    Where the p-value of `draws` permutations is within ten times of the smallest that they can
    give, ten times as many are drawn instead, so that many classes can be tested together.

    Parameters
    ----------
    photos
        The photos compared, at least one in each of two groups.
    draws
        Number of permutations.
    seed
        Seed of the permutations.

    Returns
    -------
    TestResult
        Its p-value is 1 where all photos are right or all wrong.
    """
    sizes, right = photos.sizes, photos.right
    statistic = float(largest_differences(right[None, :], sizes)[0])
    if right.sum() in {0, len(photos.correct)}:
        return TestResult(statistic, 0, 0, 0)
    rng = np.random.default_rng(seed)
    permuted = _permuter(photos, rng)
    result = _count(permuted, sizes, statistic, draws)
    if result.p_value <= _MORE_DRAWS / (1 + draws):
        result = _count(permuted, sizes, statistic, _MORE_DRAWS * draws)
    return result


Permuter = Callable[[int], Iterator[Ints]]
"""Gives that many draws of the correct photos of each group, in blocks of (draws, groups)."""


def _count(permuted: Permuter, sizes: Ints, statistic: float, draws: int) -> TestResult:
    greater = equal = 0
    for right in permuted(draws):
        drawn = largest_differences(right, sizes)
        tied = np.abs(drawn - statistic) <= _TIE * statistic
        greater += int(((drawn > statistic) & ~tied).sum())
        equal += int(tied.sum())
    return TestResult(statistic, greater, equal, draws)


def _permuter(photos: Compared, rng: np.random.Generator) -> Permuter:
    """Permutations that keep every group's size and what each observer's photos have in common.

    The groups of whole observers are swapped among observers with equally many photos, and those of
    an observer's photos among these. Photos that are the only one of their observer are so
    permuted freely, and how many correct ones each group gets is multivariate hypergeometric.
    """
    groups = len(photos.sizes)
    _, unit, photos_of = np.unique(photos.observer, return_inverse=True, return_counts=True)
    blocks = []
    for size in np.unique(photos_of):
        rows = np.flatnonzero(photos_of[unit] == size)
        rows = rows[np.argsort(unit[rows], kind="stable")]
        group = photos.group[rows].reshape(-1, size)
        right = photos.correct[rows].reshape(-1, size).sum(axis=1)
        if size == 1:
            blocks.append(_single(rng, np.bincount(group[:, 0], minlength=groups), right.sum()))
        else:
            blocks.append(_several(rng, group, right, groups))
    cells = max(len(photos.correct), groups)

    def permuted(draws: int) -> Iterator[Ints]:
        step = max(1, _CELLS // cells)
        for start in range(0, draws, step):
            count = min(step, draws - start)
            yield sum((block(count) for block in blocks), np.zeros((count, groups), np.int64))

    return permuted


def _single(rng: np.random.Generator, sizes: Ints, right: int) -> Callable[[int], Ints]:
    """Draws for observers with one photo each, from the groups' sizes and the correct photos."""
    return lambda draws: rng.multivariate_hypergeometric(sizes, right, size=draws)


def _several(
    rng: np.random.Generator, group: Ints, right: Ints, groups: int
) -> Callable[[int], Ints]:
    """Draws for observers with equally many photos: groups (observers, photos), correct photos."""
    observers, size = group.shape
    # To count the rarer of right and wrong is less work, and tells the other.
    count_wrong = 2 * right.sum() > group.size
    counted = size - right if count_wrong else right
    observers_with = np.bincount(counted, minlength=size + 1)
    sizes = np.bincount(group.ravel(), minlength=groups)

    def draw(draws: int) -> Ints:
        # Observers stand in a line by how many of their photos count, and are handed groups.
        handed = rng.permuted(np.broadcast_to(np.arange(observers), (draws, observers)), axis=1)
        draw_of = groups * np.arange(draws)[:, None]
        counts = np.zeros(draws * groups, dtype=np.int64)
        last = np.cumsum(observers_with)
        for number in (np.flatnonzero(observers_with[1:]) + 1).tolist():
            rows = handed[:, last[number - 1] : last[number]]
            taken = _some(rng, group, rows, number).reshape(draws, -1)
            counts += np.bincount((taken + draw_of).ravel(), minlength=len(counts))
        drawn = counts.reshape(draws, groups)
        return sizes - drawn if count_wrong else drawn

    return draw


def _some(rng: np.random.Generator, group: Ints, rows: Ints, number: int) -> Ints:
    """Groups of so many photos drawn from each of the rows of `group`."""
    size = group.shape[1]
    if number == 1:
        return group[rows, rng.integers(0, size, rows.shape)]
    if number == size:
        return group[rows]
    return rng.permuted(group[rows], axis=2)[:, :, :number]
