"""Accuracies, intervals and drops: the only place where they are computed.

Everything takes and gives NumPy arrays; fractions run from 0 to 1. Accuracy over several classes
is class-balanced (the mean of the classes' accuracies) unless a name says `plain`, as in the
CounterAnimal paper (appendix B).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bootstrap",
    "Estimate",
    "GroupAccuracy",
    "Line",
    "McNemar",
    "SplitAccuracy",
    "bootstrap_counts",
    "class_shares",
    "drop_interval",
    "evaluate_groups",
    "logit_line",
    "mcnemar",
    "newcombe",
    "wilson",
]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

_ALIKE = 1e-12
"""Influence of a unit on an accuracy that is none."""

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
    observer has one photo it is Newcombe's interval itself. A group that one observer took counts
    as one photo.

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
    people, unit = np.unique(observers, return_inverse=True)
    if len(people) < len(observers):
        photos, right = _effective(correct, groups, unit)
    low, high = newcombe((right[0], right[1]), (photos[0], photos[1]))
    return float(low), float(high)


def _effective(correct: Bools, groups: Bools, unit: Ints) -> tuple[Floats, Floats]:
    """Effective photos and right ones of both groups, where units hold several photos.

    A group counts as one photo at least, and as no more where all of it is of one unit, which tells
    nothing of how units differ.
    """
    photos = groups.sum(axis=0)
    accuracy = (groups & correct[:, None]).sum(axis=0) / photos
    # Linearised: what each unit adds to each group's accuracy, of shape (units, groups).
    shares = groups * (correct[:, None] - accuracy) / photos
    units = int(unit.max()) + 1
    influence, in_group = np.zeros((2, units, groups.shape[1]))
    np.add.at(influence, unit, shares)
    np.add.at(in_group, unit, groups)
    members = (in_group > 0).sum(axis=0)
    # But for rounding, where units with several photos are equally accurate.
    alike = np.abs(influence).max(axis=0) < _ALIKE
    independent = float((accuracy * (1 - accuracy) / photos).sum())
    effective = members.astype(np.float64)
    if independent > 0:
        variances = (influence**2).sum(axis=0) * members / np.maximum(1, members - 1)
        variance = float(variances.sum() - 2 * influence.prod(axis=1).sum())
        student = _Z95 / _quantile(variances, members)
        whole = photos / max(1.0, variance / independent) * student**2
        effective = np.where(alike, np.minimum(whole, members), whole)
    effective = np.where(members > 1, np.maximum(effective, 1), 1)
    return effective, accuracy * effective


def _quantile(variances: Floats, members: Ints) -> float:
    """Student's 97.5 % quantile for a sum of variances, each over so many units.

    Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics
    Bulletin 2 (1946), 110-114.
    """
    from scipy import special

    told = members > 1
    spread = float((variances[told] ** 2 / (members[told] - 1)).sum())
    freedom = float(variances.sum()) ** 2 / spread if spread > 0 else float(members.min()) - 1
    return float(special.stdtrit(max(1.0, freedom), 0.975))


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


def bootstrap_counts(
    statistic: Callable[[Floats], Floats], counts: Ints, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic of photos that come in few kinds.

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


@dataclass(frozen=True)
class Estimate:
    """A share of photos, or a difference of two, with its 95 % interval."""

    photos: int
    value: float
    ci_low: float
    ci_high: float


Sign = Literal[1, -1]
"""1 for shares of right answers, -1 for shares of errors: a drop is always what is lost."""


@dataclass(frozen=True)
class _Stratum:
    """The photos of one class in one group, and how often each of their clusters is drawn."""

    group: str
    rows: Ints
    cluster: Ints
    drawn: NDArray[np.float32]


def _draws(size: int, draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """How often each of `size` clusters is drawn, (1 + draws, size); first, each once."""
    picked = rng.integers(size, size=(draws, size)) + size * np.arange(draws)[:, None]
    counts = np.bincount(picked.ravel(), minlength=draws * size).reshape(draws, size)
    return np.vstack([np.ones((1, size)), counts]).astype(np.float32)


class Bootstrap:
    """Resamples of a split's photos, the same for whatever is measured on them.

    Whole clusters are drawn with replacement within each class of each group; where all photos
    there are of one cluster, which has nothing to vary, they are drawn one by one. Because every
    measure sees the same resamples, the interval of a difference between two models on the same
    photos is that of their photo-wise difference.

    Parameters
    ----------
    classes, groups, clusters
        Per photo, of shape (photos,): the class index, the group, and which photos belong together
        (one observer's).
    photos
        Per photo, of shape (photos,): a number that tells it from the others, and by which they
        are put in order where they are drawn one by one; None takes them as they come.
    draws, seed
        Number of resamples, and the seed they come from.

    Notes
    -----
    Percentile intervals: Efron and Tibshirani, "An introduction to the bootstrap" (1993),
    chapter 13.
    """

    def __init__(
        self,
        classes: Ints,
        groups: NDArray[np.str_],
        clusters: Ints,
        *,
        photos: Ints | None = None,
        draws: int = 1000,
        seed: int = 0,
    ) -> None:
        every = np.arange(len(classes)) if photos is None else photos
        rng = np.random.default_rng(seed)
        self._strata: list[_Stratum] = []
        for group in np.unique(groups):
            for class_index in np.unique(classes[groups == group]):
                rows = np.flatnonzero((groups == group) & (classes == class_index))
                _, cluster = np.unique(clusters[rows], return_inverse=True)
                if not cluster.any():
                    _, cluster = np.unique(every[rows], return_inverse=True)
                drawn = _draws(int(cluster.max()) + 1, draws, rng)
                self._strata.append(_Stratum(str(group), rows, cluster, drawn))
        self._photos = self._sums(np.ones(len(classes)))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that have photos, sorted."""
        return tuple(dict.fromkeys(stratum.group for stratum in self._strata))

    def _sums(self, values: Floats) -> Floats:
        """Sums over each stratum, first over all its photos, then over resamples of them."""
        return np.stack(
            [
                stratum.drawn @ np.bincount(stratum.cluster, values[stratum.rows])
                for stratum in self._strata
            ]
        )

    def balanced(self, values: Floats | Bools, sign: Sign = 1) -> dict[str, Estimate]:
        """Class-balanced means of a value of each photo, by group, and the `drop` between groups.

        Parameters
        ----------
        values
            Per photo, of shape (photos,): whether an answer is right, say, or one model's being
            right minus another's.
        sign
            1 where the drop is `common` minus `counter`, -1 where it is the reverse.

        Returns
        -------
        dict
            By group; `drop` is missing where the split has only one of the two.
        """
        means = self._sums(np.asarray(values, dtype=np.float64)) / self._photos
        return self._estimates(
            {group: means[self._of(group)].mean(axis=0) for group in self.groups}, sign
        )

    def plain(self, values: Floats | Bools, sign: Sign = 1) -> dict[str, Estimate]:
        """As `balanced`, but every photo counts alike."""
        sums = self._sums(np.asarray(values, dtype=np.float64))
        return self._estimates(
            {
                group: sums[self._of(group)].sum(axis=0) / self._photos[self._of(group)].sum(axis=0)
                for group in self.groups
            },
            sign,
        )

    def _of(self, group: str) -> list[int]:
        return [i for i, stratum in enumerate(self._strata) if stratum.group == group]

    def _estimates(self, values: dict[str, Floats], sign: Sign) -> dict[str, Estimate]:
        photos = {g: int(self._photos[self._of(g), 0].sum()) for g in self.groups}
        if "common" in values and "counter" in values:
            values = {**values, "drop": sign * (values["common"] - values["counter"])}
            photos["drop"] = photos["common"] + photos["counter"]
        return {
            group: Estimate(photos[group], float(drawn[0]), *_percentiles(drawn[1:]))
            for group, drawn in values.items()
        }


def class_shares(
    values: Bools, classes: Ints, groups: NDArray[np.str_], clusters: Ints, sign: Sign = 1
) -> dict[int, dict[str, Estimate]]:
    """Shares of photos of each class, by group, and the `drop` where the class has both groups.

    Parameters
    ----------
    values, classes, groups, clusters
        Per photo, of shape (photos,): what is counted, the class index, the group, the observer.
    sign
        As `Bootstrap.balanced` takes it.

    Returns
    -------
    dict
        By class index, then group; with Wilson's intervals, and that of `drop_interval`.
    """
    found: dict[int, dict[str, Estimate]] = {}
    for class_index in np.unique(classes):
        here = classes == class_index
        shares: dict[str, Estimate] = {}
        for group in np.unique(groups[here]):
            counted = values[here & (groups == group)]
            low, high = wilson(np.array(counted.sum()), np.array(len(counted)))
            shares[str(group)] = Estimate(
                len(counted), float(counted.mean()), float(low), float(high)
            )
        if {"common", "counter"} <= shares.keys():
            first, second = ("common", "counter") if sign > 0 else ("counter", "common")
            drop = shares[first].value - shares[second].value
            ends = drop_interval(values[here], groups[here] == first, clusters[here])
            photos = shares[first].photos + shares[second].photos
            shares["drop"] = Estimate(photos, drop, *ends)
        found[int(class_index)] = shares
    return found


@dataclass(frozen=True)
class McNemar:
    """Photos that only one of two models names correctly, and the p-value of no difference."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Bools, second: Bools) -> McNemar:
    """McNemar's exact test of two models' answers on the same photos.

    Parameters
    ----------
    first, second
        Per photo, of shape (photos,): whether each model is right.

    Notes
    -----
    McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947); the p-value is the two-sided binomial one. It takes
    photos as independent, which photos of one observer are not.
    """
    from scipy import stats

    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(second & ~first))
    trials = only_first + only_second
    p_value = float(stats.binomtest(only_first, trials).pvalue) if trials else 1.0
    return McNemar(only_first, only_second, p_value)


@dataclass(frozen=True)
class Line:
    """A line through models on a logit scale: logit(counter) = slope * logit(common) + intercept.

    Attributes
    ----------
    slope, intercept
        Of the line.
    models
        How many it was fitted through.
    """

    slope: float
    intercept: float
    models: int

    def expected(self, common: Floats) -> Floats:
        """Counter accuracy that the line gives for common accuracies within 0..1."""
        with np.errstate(divide="ignore"):
            logit = self.slope * _logit(common) + self.intercept
        return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float64)


def _logit(share: Floats) -> Floats:
    share = np.asarray(share, dtype=np.float64)
    return np.asarray(np.log(share) - np.log1p(-share), dtype=np.float64)


def logit_line(common: Floats, counter: Floats) -> Line | None:
    """The least-squares line through models' accuracies on a logit scale.

    A model's effective robustness is its counter accuracy minus what the line expects.

    Parameters
    ----------
    common, counter
        Accuracies of the models, of shape (models,). Those of 0 or 1 have no logit and are left
        out.

    Returns
    -------
    Line or None
        None with fewer than two models, or two of one common accuracy.

    Notes
    -----
    Taori et al., "Measuring robustness to natural distribution shifts in image classification"
    (NeurIPS 2020), section 3 and appendix on the logit scale.
    """
    inside = (common > 0) & (common < 1) & (counter > 0) & (counter < 1)
    x, y = _logit(common[inside]), _logit(counter[inside])
    if len(np.unique(x)) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    return Line(slope, float(y.mean() - slope * x.mean()), len(x))


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
    bootstrap = Bootstrap(classes, groups, clusters, seed=seed)
    balanced, plain = bootstrap.balanced(correct), bootstrap.plain(correct)
    drop, plain_drop = balanced.get("drop"), plain.get("drop")
    return SplitAccuracy(
        groups={
            group: GroupAccuracy(
                photos=balanced[group].photos,
                classes=len(np.unique(classes[groups == group])),
                accuracy=balanced[group].value,
                ci_low=balanced[group].ci_low,
                ci_high=balanced[group].ci_high,
                plain_accuracy=plain[group].value,
            )
            for group in bootstrap.groups
        },
        drop=drop.value if drop else None,
        drop_ci_low=drop.ci_low if drop else None,
        drop_ci_high=drop.ci_high if drop else None,
        plain_drop=plain_drop.value if plain_drop else None,
        classes={
            names[class_index]: {
                group: float(correct[(classes == class_index) & (groups == group)].mean())
                for group in np.unique(groups[classes == class_index]).tolist()
            }
            for class_index in np.unique(classes).tolist()
        },
    )
