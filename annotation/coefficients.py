"""How far people agree beyond chance: Cohen's kappa, Fleiss' kappa and Krippendorff's alpha.

Given ratings, a matrix of photos by annotators, gives each coefficient with a bootstrap interval,
or the reason why it is undefined. The coefficients are computed by statsmodels and krippendorff.
These take one table at a time, with which a thousand resamples of many photos would take minutes;
so the resamples follow the same formulas here, all at once over the distinct rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from manifests.metrics import bootstrap_counts

__all__ = [
    "MISSING",
    "Bootstrap",
    "Coefficient",
    "cohen_kappa",
    "confusion",
    "fleiss_kappa",
    "krippendorff_alpha",
    "strength",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MISSING = -1
"""What a matrix of ratings holds where somebody gave no answer; categories count from 0."""

_TWO = 2
"""Answers that a photo needs before anybody can agree, and annotators of Cohen's kappa."""

_ONE_CATEGORY = "all answers are one category"
_NO_PAIR = "no photo has answers of two people"
_NO_INTERVAL = "too many resamples hold one category only for an interval"


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: the number of resamples of photos, and their seed."""

    draws: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of agreement; 1 is perfect, 0 what chance would give.

    Attributes
    ----------
    coefficient
        `cohen_kappa`, `fleiss_kappa` or `krippendorff_alpha`.
    value
        None where it is undefined.
    ci_low, ci_high
        95 % percentile interval over resamples of the photos; None where there is none.
    photos
        Photos that it rests on.
    answers_per_photo
        Where it needs the same number of answers for each photo, that number.
    reason
        Why there is no value, or no interval; else None.
    """

    coefficient: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    photos: int = 0
    answers_per_photo: int | None = None
    reason: str | None = None


def strength(value: float) -> str:
    """A kappa in words, after Landis and Koch, Biometrics 33 (1977), 159-174, table on page 165."""
    if value < 0:
        return "poor"
    steps = {"slight": 0.2, "fair": 0.4, "moderate": 0.6, "substantial": 0.8}
    return next((word for word, bound in steps.items() if value <= bound), "almost perfect")


def _beyond_chance(observed: Floats, expected: Floats) -> Floats:
    """1 - observed / expected disagreement; nan where none can be expected."""
    undefined = np.full_like(expected, np.nan)
    return np.asarray(1 - np.divide(observed, expected, out=undefined, where=expected > 0))


def _with_interval(
    found: Coefficient, resampled: Callable[[Floats], Floats], kinds: Ints, bootstrap: Bootstrap
) -> Coefficient:
    interval = bootstrap_counts(resampled, kinds, draws=bootstrap.draws, seed=bootstrap.seed)
    if interval is None:
        return replace(found, reason=_NO_INTERVAL)
    return replace(found, ci_low=interval[0], ci_high=interval[1])


def _value_counts(ratings: Ints) -> Ints:
    """How many people gave each category that occurs, of shape (photos, categories)."""
    given = ratings != MISSING
    categories, codes = np.unique(ratings[given], return_inverse=True)
    places = np.nonzero(given)[0] * len(categories) + codes
    counts = np.bincount(places, minlength=len(ratings) * len(categories))
    return counts.reshape(len(ratings), len(categories)).astype(np.int64)


def cohen_kappa(ratings: Ints, bootstrap: Bootstrap) -> Coefficient:
    """Cohen's kappa of two annotators, over the photos that both answered.

    Parameters
    ----------
    ratings
        Categories of shape (photos, annotators), `MISSING` where there is no answer. Annotators
        without answers do not count.
    bootstrap
        How the interval is drawn.

    Notes
    -----
    Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
    Measurement 20 (1960), 37-46.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    name = "cohen_kappa"
    people = (ratings != MISSING).any(axis=0)
    if people.sum() != _TWO:
        return Coefficient(name, reason=f"it compares two annotators; {people.sum()} answered")
    pair = ratings[:, people]
    pair = pair[(pair != MISSING).all(axis=1)]
    if not len(pair):
        return Coefficient(name, reason=_NO_PAIR)
    if pair.min() == pair.max():
        return Coefficient(name, photos=len(pair), reason=_ONE_CATEGORY)
    cells, kinds = np.unique(pair, axis=0, return_counts=True)
    size = int(cells.max()) + 1
    table = np.zeros((size, size))
    table[cells[:, 0], cells[:, 1]] = kinds
    first, second = np.eye(size)[cells[:, 0]], np.eye(size)[cells[:, 1]]
    apart = cells[:, 0] != cells[:, 1]

    def resampled(drawn: Floats) -> Floats:
        shares = drawn / len(pair)
        together = ((shares @ first) * (shares @ second)).sum(axis=1)
        return _beyond_chance(shares @ apart, 1 - together)

    found = Coefficient(name, float(cohens_kappa(table, return_results=False)), photos=len(pair))
    return _with_interval(found, resampled, kinds, bootstrap)


def fleiss_kappa(ratings: Ints, bootstrap: Bootstrap) -> Coefficient:
    """Fleiss' kappa, over the photos with the most frequent number of answers of at least two.

    Among equally frequent numbers the larger counts. Parameters are those of `cohen_kappa`.

    Notes
    -----
    Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971),
    378-382. It needs the same number of answers for each photo.
    """
    from statsmodels.stats import inter_rater

    name = "fleiss_kappa"
    answers = (ratings != MISSING).sum(axis=1)
    numbers, frequency = np.unique(answers[answers >= _TWO], return_counts=True)
    if not len(numbers):
        return Coefficient(name, reason=_NO_PAIR)
    raters = int(numbers[frequency == frequency.max()].max())
    counts = _value_counts(ratings[answers == raters])
    basis = Coefficient(name, photos=len(counts), answers_per_photo=raters)
    if counts.shape[1] < _TWO:
        return replace(basis, reason=_ONE_CATEGORY)
    rows, kinds = np.unique(counts, axis=0, return_counts=True)
    agreeing = (rows * (rows - 1)).sum(axis=1) / (raters * (raters - 1))

    def resampled(drawn: Floats) -> Floats:
        shares = drawn / len(counts)
        categories = shares @ rows / raters
        return _beyond_chance(shares @ (1 - agreeing), 1 - (categories**2).sum(axis=1))

    found = replace(basis, value=float(inter_rater.fleiss_kappa(counts)))
    return _with_interval(found, resampled, kinds, bootstrap)


def krippendorff_alpha(ratings: Ints, bootstrap: Bootstrap) -> Coefficient:
    """Krippendorff's alpha for nominal categories, over the photos with at least two answers.

    Parameters are those of `cohen_kappa`.

    Notes
    -----
    Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C: nominal data, any
    number of observers, missing data.
    """
    from krippendorff import alpha

    name = "krippendorff_alpha"
    answers = (ratings != MISSING).sum(axis=1)
    if not (answers >= _TWO).any():
        return Coefficient(name, reason=_NO_PAIR)
    counts = _value_counts(ratings[answers >= _TWO])
    if counts.shape[1] < _TWO:
        return Coefficient(name, photos=len(counts), reason=_ONE_CATEGORY)
    rows, kinds = np.unique(counts, axis=0, return_counts=True)
    raters = rows.sum(axis=1)
    apart = (raters**2 - (rows**2).sum(axis=1)) / (raters - 1)

    def resampled(drawn: Floats) -> Floats:
        pairable = drawn @ raters
        expected = pairable**2 - ((drawn @ rows) ** 2).sum(axis=1)
        return _beyond_chance((pairable - 1) * (drawn @ apart), expected)

    value = alpha(value_counts=counts, level_of_measurement="nominal")
    found = Coefficient(name, float(value), photos=len(counts))
    return _with_interval(found, resampled, kinds, bootstrap)


def confusion(ratings: Ints, categories: int) -> Ints:
    """How often two people gave two categories to one photo, of shape (categories, categories).

    Parameters
    ----------
    ratings
        As in `cohen_kappa`.
    categories
        Number of categories.

    Returns
    -------
    counts
        Symmetric. On the diagonal pairs of people who agree, beside it pairs who do not, each
        pair once in either triangle: a triangle with its diagonal adds up to the pairs of answers.
    """
    given = ratings != MISSING
    places = np.nonzero(given)[0] * categories + ratings[given]
    counts = np.bincount(places, minlength=len(ratings) * categories)
    counts = counts.reshape(len(ratings), categories).astype(np.int64)
    pairs = counts.T @ counts
    np.fill_diagonal(pairs, (counts * (counts - 1) // 2).sum(axis=0))
    return pairs
