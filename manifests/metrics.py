"""Accuracies, intervals and drops: the only place where they are computed.

Everything takes and gives NumPy arrays; fractions run from 0 to 1. Accuracy over several classes
is class-balanced (the mean of the classes' accuracies) unless a name says `plain`, as in the
CounterAnimal paper (appendix B).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GroupAccuracy",
    "SplitAccuracy",
    "bootstrap_counts",
    "bootstrap_interval",
    "drop_interval",
    "evaluate_groups",
    "newcombe",
    "wilson",
]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

_UNDEFINED_AT_MOST = 0.05
"""Share of resamples that may be undefined: beyond it, they may hold a whole tail."""


def wilson(correct: Ints | Floats, photos: Ints | Floats) -> tuple[Floats, Floats]:
    """Wilson's 95 % score interval of a proportion.

    Parameters
    ----------
    correct, photos
        Successes and trials, of the same shape; trials are positive, and may be effective ones.

    Returns
    -------
    low, high
        Ends of the interval, within 0..1.

    Notes
    -----
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    n = np.asarray(photos, dtype=np.float64)
    p = np.asarray(correct, dtype=np.float64) / n
    z2 = _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    # At 0 and 1 the ends are exactly 0 and 1; rounding must not push them past the accuracy.
    return np.clip(np.minimum(centre - half, p), 0, 1), np.clip(np.maximum(centre + half, p), 0, 1)


def newcombe(
    correct: tuple[Ints | Floats, Ints | Floats], photos: tuple[Ints | Floats, Ints | Floats]
) -> tuple[Floats, Floats]:
    """Newcombe's 95 % interval of the difference between two independent proportions.

    Parameters
    ----------
    correct, photos
        Successes and trials of the first and of the second proportion, all of the same shape;
        trials are positive.

    Returns
    -------
    low, high
        Ends of the interval of the first minus the second, within -1..1.

    Notes
    -----
    Method 10 (square and add, from Wilson's intervals) of Newcombe, "Interval estimation for the
    difference between independent proportions", Statistics in Medicine 17 (1998), 873-890.
    """
    first, second = (
        np.asarray(right, dtype=np.float64) / np.asarray(trials, dtype=np.float64)
        for right, trials in zip(correct, photos, strict=True)
    )
    (low_1, high_1), (low_2, high_2) = map(wilson, correct, photos)
    difference = first - second
    low = difference - np.hypot(first - low_1, high_2 - second)
    high = difference + np.hypot(high_1 - first, second - low_2)
    return np.clip(low, -1, 1), np.clip(high, -1, 1)


def drop_interval(correct: Bools, common: Bools, observers: Ints) -> tuple[float, float]:
    """95 % interval of the drop between two groups whose photos come from observers.

    Newcombe's interval, with the numbers of photos replaced by effective ones: divided by the
    design effect, which is the drop's variance over observers by that of independent photos, and
    by what Student's t asks beyond the normal quantile where observers are few. Where every
    observer has one photo it is Newcombe's interval itself.

    Parameters
    ----------
    correct, common
        Per photo, of shape (photos,): whether the prediction is right, and whether the photo is in
        the common group. Both groups have photos.
    observers
        Integer label of each photo's observer, of shape (photos,).

    Returns
    -------
    low, high
        Ends of the interval of accuracy in common minus that in counter, within -1..1.

    Notes
    -----
    Effective sample size with degrees of freedom: Korn and Graubard, "Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data", Survey
    Methodology 24 (1998), 193-201. A percentile bootstrap over observers covers less: it is empty
    where a small group is all right (see `benchmarks/inference.py`).
    """
    groups = np.stack([common, ~common], axis=1)
    photos = groups.sum(axis=0)
    right = (groups & correct[:, None]).sum(axis=0)
    if len(np.unique(observers)) < len(observers):
        _, unit = np.unique(observers, return_inverse=True)
        photos, right = _effective(correct, groups, unit)
    low, high = newcombe((right[0], right[1]), (photos[0], photos[1]))
    return float(low), float(high)


def _effective(correct: Bools, groups: Bools, unit: Ints) -> tuple[Floats, Floats]:
    """Effective photos and right ones of both groups, where units hold several photos."""
    from scipy import special

    photos = groups.sum(axis=0)
    accuracy = (groups & correct[:, None]).sum(axis=0) / photos
    units = int(unit.max()) + 1
    in_group = np.zeros((units, 2))
    np.add.at(in_group, unit, groups)
    members = (in_group > 0).sum(axis=0)
    independent = float((accuracy * (1 - accuracy) / photos).sum())
    if independent == 0:
        return members.astype(np.float64), accuracy * members
    # Linearised: what each unit adds to the drop.
    shares = groups * (correct[:, None] - accuracy) / photos
    influence = np.bincount(unit, weights=shares[:, 0] - shares[:, 1], minlength=units)
    freedom = max(1, int(members.sum()) - 2)
    variance = float((influence**2).sum()) * units / max(1, units - 1)
    design_effect = max(1.0, variance / independent)
    quantile = float(special.stdtrit(freedom, 0.975))
    effective = photos / design_effect * (_Z95 / quantile) ** 2
    return effective, accuracy * effective


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy in one group of a split.

    `accuracy` is class-balanced, `plain_accuracy` counts every photo alike; `ci_low` and `ci_high`
    belong to `accuracy`.
    """

    photos: int
    classes: int
    accuracy: float
    ci_low: float
    ci_high: float
    plain_accuracy: float


@dataclass(frozen=True)
class SplitAccuracy:
    """Accuracy of one model on a split.

    Attributes
    ----------
    groups
        By group name.
    drop, drop_ci_low, drop_ci_high
        Class-balanced accuracy in `common` minus that in `counter`, with a 95 % interval; None
        where the split has only one of the two.
    plain_drop
        The same without class balance.
    classes
        Accuracy by class name, then group name.
    """

    groups: dict[str, GroupAccuracy]
    drop: float | None
    drop_ci_low: float | None
    drop_ci_high: float | None
    plain_drop: float | None
    classes: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, object]:
        """Nested dictionaries, ready for JSON."""
        return asdict(self)


def _class_means(correct: Bools, classes: Ints, weights: Floats) -> Floats:
    """Weighted accuracy of each class, (weightings, classes); nan where a class has no weight."""
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) != 0])
    drawn = weights[:, order]
    totals = np.add.reduceat(drawn, starts, axis=1)
    right = np.add.reduceat(drawn * correct[order], starts, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(right / totals, dtype=np.float64)


def _cluster_weights(strata: Ints, clusters: Ints, draws: int, rng: np.random.Generator) -> Floats:
    """How often each photo is drawn, (draws, photos), as whole clusters within each stratum."""
    weights = np.empty((draws, len(strata)))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        _, member = np.unique(clusters[rows], return_inverse=True)
        size = int(member.max()) + 1
        weights[:, rows] = rng.multinomial(size, np.full(size, 1 / size), size=draws)[:, member]
    return weights


def bootstrap_interval(
    statistic: Callable[[Floats], Floats],
    strata: Ints,
    clusters: Ints,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval, by drawing whole clusters with replacement within strata.

    Parameters
    ----------
    statistic
        From weights of shape (draws, photos) to values of shape (draws,).
    strata, clusters
        Integer labels of shape (photos,); clusters may be single photos.
    draws, seed
        Number of resamples, and the seed they come from.

    Notes
    -----
    Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13.
    """
    rng = np.random.default_rng(seed)
    values = [
        statistic(_cluster_weights(strata, clusters, min(100, draws - start), rng))
        for start in range(0, draws, 100)
    ]
    return _percentiles(np.concatenate(values))


def bootstrap_counts(
    statistic: Callable[[Floats], Floats], counts: Ints, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval over photos that come in few kinds, as `bootstrap_interval` gives.

    Photos of a kind are alike to the statistic, so that a resample is how many of each kind it
    holds. It takes as long as there are kinds, however many photos.

    Parameters
    ----------
    statistic
        From counts of shape (draws, kinds) to values of shape (draws,), nan where undefined.
    counts
        Photos of each kind, of shape (kinds,).
    draws, seed
        Number of resamples, and the seed they come from.

    Returns
    -------
    low, high
        Ends of the interval; None if the statistic is undefined in over 5 % of the resamples.
    """
    rng = np.random.default_rng(seed)
    shares = counts / counts.sum()
    values = np.concatenate(
        [
            statistic(
                rng.multinomial(counts.sum(), shares, size=min(100, draws - start)).astype(
                    np.float64
                )
            )
            for start in range(0, draws, 100)
        ]
    )
    if np.isnan(values).mean() > _UNDEFINED_AT_MOST:
        return None
    return _percentiles(values)


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def _balanced(correct: Bools, classes: Ints, rows: Bools) -> Callable[[Floats], Floats]:
    """Class-balanced accuracy over `rows`, as a function of weights over all photos."""

    def accuracy(weights: Floats) -> Floats:
        means = _class_means(correct[rows], classes[rows], weights[:, rows])
        return np.asarray(np.nanmean(means, axis=1), dtype=np.float64)

    return accuracy


def evaluate_groups(
    correct: Bools,
    classes: Ints,
    groups: NDArray[np.str_],
    clusters: Ints,
    names: dict[int, str],
    *,
    seed: int = 0,
) -> SplitAccuracy:
    """Accuracy per group, the drop between `common` and `counter`, and accuracy per class.

    Parameters
    ----------
    correct, classes, groups, clusters
        Per photo, of shape (photos,): whether the prediction is right, the class index, the group,
        and which photos belong together (one observer's) and are resampled together.
    names
        Class names by class index.
    seed
        Seed of the bootstrap, which resamples clusters within class and group.
    """
    present = sorted(set(groups.tolist()))
    _, group_code = np.unique(groups, return_inverse=True)
    strata = classes * (len(present) + 1) + group_code
    ones = np.ones((1, len(correct)))
    accuracy = {g: _balanced(correct, classes, groups == g) for g in present}
    by_group = {}
    for group in present:
        rows = groups == group
        low, high = bootstrap_interval(accuracy[group], strata, clusters, seed=seed)
        by_group[group] = GroupAccuracy(
            photos=int(rows.sum()),
            classes=len(np.unique(classes[rows])),
            accuracy=float(accuracy[group](ones)[0]),
            ci_low=low,
            ci_high=high,
            plain_accuracy=float(correct[rows].mean()),
        )
    both = "common" in by_group and "counter" in by_group
    drop_interval: tuple[float | None, float | None] = (None, None)
    if both:
        drop_interval = bootstrap_interval(
            lambda w: accuracy["common"](w) - accuracy["counter"](w), strata, clusters, seed=seed
        )
    common, counter = by_group.get("common"), by_group.get("counter")
    return SplitAccuracy(
        groups=by_group,
        drop=common.accuracy - counter.accuracy if common and counter else None,
        drop_ci_low=drop_interval[0],
        drop_ci_high=drop_interval[1],
        plain_drop=common.plain_accuracy - counter.plain_accuracy if common and counter else None,
        classes={
            names[c]: {
                g: float(correct[(classes == c) & (groups == g)].mean())
                for g in present
                if ((classes == c) & (groups == g)).any()
            }
            for c in sorted(set(classes.tolist()))
        },
    )
