"""The controlled rule: pairs that chance does not explain, and drops that were not picked.

Photos in the partition `validation` choose: for each class the selection test, and the pair of
backgrounds that differ most. Photos in `test`, which had no part in that, tell how large the drop
is. The test of every class is corrected for the number of classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.metrics import drop_interval
from manifests.tables import observer_codes
from pipeline.engine import map_ordered
from pipeline.split.inference import Compared, TestResult, permutation_test

if TYPE_CHECKING:
    from manifests.progress import Progress

__all__ = ["Rule", "choose_controlled", "mark_only_its_own", "report_pairs"]

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

Pair = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """What a class must show to be selected.

    Attributes
    ----------
    min_photos
        Validation photos that a background needs to be compared.
    min_drop
        Drop on validation, as a fraction, that must be exceeded.
    fdr
        Bound on the expected share of false classes among those selected (false discovery rate).
    draws
        Permutations for each class.
    seed
        Seed of the permutations.
    """

    min_photos: int = 20
    min_drop: float = 0.05
    fdr: float = 0.05
    draws: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class _Class:
    """The judged photos of one class, as arrays of shape (photos,); `backgrounds` by code."""

    index: int
    name: str
    backgrounds: tuple[str, ...]
    background: Ints
    correct: Bools
    observer: Ints
    validation: Bools

    def counts(self, among: Bools) -> tuple[Ints, Ints]:
        """Photos and correct photos of each background, of shape (backgrounds,)."""
        kinds = len(self.backgrounds)
        photos = np.bincount(self.background[among], minlength=kinds)
        return photos, np.bincount(self.background[among & self.correct], minlength=kinds)


def _classes(judged: pa.Table) -> Iterable[_Class]:
    """The classes by index, their photos by photo_id; undivided photos are all for validation."""
    order = pc.sort_indices(
        judged, sort_keys=[("class_index", "ascending"), ("photo_id", "ascending")]
    )
    if "partition" not in judged.column_names:
        everything = pa.array(["validation"] * judged.num_rows, pa.string())
        judged = judged.append_column("partition", everything)
    names = ["photo_id", "class_index", "class_name", "background", "correct", "creator_id"]
    table = judged.select([*names, "partition"]).take(order).combine_chunks()
    index = table["class_index"].to_numpy()
    background = table["background"].combine_chunks().dictionary_encode()
    backgrounds = np.array(background.dictionary.to_pylist(), dtype=object)
    codes = background.indices.to_numpy().astype(np.int64)
    correct = table["correct"].to_numpy()
    observer = observer_codes(table)
    validation = pc.equal(table["partition"], "validation").to_numpy()
    bounds = np.flatnonzero(np.r_[True, np.diff(index) != 0, True])
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = slice(start, stop)
        kinds, of_photo = np.unique(backgrounds[codes[rows]].astype(str), return_inverse=True)
        yield _Class(
            index=int(index[start]),
            name=table["class_name"][start].as_py(),
            backgrounds=tuple(kinds.tolist()),
            background=of_photo,
            correct=correct[rows],
            observer=observer[rows],
            validation=validation[rows],
        )


def choose_controlled(
    judged: pa.Table,
    run: str,
    rule: Rule,
    progress: Progress | None = None,
    *,
    workers: int | None = None,
) -> list[Pair]:
    """Rows of `pairs`: for each class its pair with test and honest drop, or why it has none.

    Parameters
    ----------
    judged
        As `judged_photos` gives it, with `partition`.
    run
        Name of the scoring run.
    rule
        What a class must show.
    progress
        Told how many classes are tested.
    workers
        Processes; None takes one per core.
    """
    classes = list(_classes(judged))
    enough = [c.counts(c.validation)[0] >= rule.min_photos for c in classes]
    tried = [i for i, eligible in enumerate(enough) if eligible.sum() > 1]
    tasks = [_compared(classes[i], enough[i], rule) for i in tried]
    results = _test(tasks, progress, workers)
    most = [_most_different(classes[i], enough[i]) for i in tried]
    tested = dict(zip(tried, _corrected(results, most, rule), strict=True))
    pairs = []
    for i, photos in enumerate(classes):
        pair: Pair = {
            "run": run,
            "class_index": photos.index,
            "class_name": photos.name,
            "chosen_by": run,
            "backgrounds": int(enough[i].sum()),
        }
        if i in tested:
            pair |= _chosen(photos, enough[i], tested[i], rule)
        else:
            pair |= {"selected": False, "reason": _too_few(photos, int(enough[i].sum()), rule)}
        pairs.append(pair)
    return pairs


@dataclass(frozen=True)
class _Task:
    """A class to test, as it travels to a process."""

    photos: Compared
    draws: int
    seed: tuple[int, ...]


def _run_test(task: _Task) -> TestResult:
    return permutation_test(task.photos, task.draws, task.seed)


def _test(tasks: list[_Task], progress: Progress | None, workers: int | None) -> list[TestResult]:
    results = map_ordered(_run_test, tasks, workers=workers)
    if progress is None:
        return list(results)
    tested = []
    with progress.task("split", len(tasks)) as advance:
        for result in results:
            tested.append(result)
            advance(1)
    return tested


def _compared(photos: _Class, enough: Bools, rule: Rule) -> _Task:
    among = photos.validation & enough[photos.background]
    code = np.cumsum(enough) - 1
    compared = Compared(
        photos.correct[among], code[photos.background[among]], photos.observer[among]
    )
    # A class's permutations do not hang on which other classes there are.
    return _Task(compared, rule.draws, (rule.seed, photos.index))


@dataclass(frozen=True)
class _Most:
    """The pair of a class that differs most: codes of its backgrounds, and the drop exactly."""

    common: int
    counter: int
    drop: Fraction


@dataclass(frozen=True)
class _Tested:
    """A class's pair and test.

    Attributes
    ----------
    q_value
        Corrected for all classes that were tested.
    q_of_large
        Corrected likewise, where a class counts as one of chance if its drop is too small to be
        selected: of those selected by it, the share of false ones is bounded.
    """

    most: _Most
    result: TestResult
    q_value: float
    q_of_large: float


def _corrected(results: list[TestResult], most: list[_Most], rule: Rule) -> list[_Tested]:
    p_values = [result.p_value for result in results]
    # Those that are left out for their drop must not help others to be selected.
    of_large = [
        p_value if _is_large(pair, rule) else 1.0
        for p_value, pair in zip(p_values, most, strict=True)
    ]
    q_values = (_false_discovery(p_values), _false_discovery(of_large))
    return [_Tested(*each) for each in zip(most, results, *q_values, strict=True)]


def _is_large(pair: _Most, rule: Rule) -> bool:
    # In floating point 0.55 - 0.5 exceeds 0.05.
    return pair.drop > Fraction(str(rule.min_drop))


def _false_discovery(p_values: list[float]) -> list[float]:
    """q-values by Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995)."""
    from scipy import stats

    if not p_values:
        return []
    adjusted: list[float] = stats.false_discovery_control(p_values, method="bh").tolist()
    return adjusted


def _too_few(photos: _Class, enough: int, rule: Rule) -> str:
    if len(photos.backgrounds) == 1:
        return f"all photos are on one background, {photos.backgrounds[0]}; a pair needs two"
    return (
        f"{enough} of {len(photos.backgrounds)} backgrounds have {rule.min_photos} validation "
        "photos; a pair needs two"
    )


def _most_different(photos: _Class, enough: Bools) -> _Most:
    """The pair with the largest standardised difference.

    Compared exactly and squared, without the factor that all pairs of a class share. Among equal
    ones the larger drop wins, then more photos, then the names that come first.
    """
    sizes, right = (counts.tolist() for counts in photos.counts(photos.validation))

    def drop(pair: tuple[int, int]) -> Fraction:
        first, second = pair
        return Fraction(right[first], sizes[first]) - Fraction(right[second], sizes[second])

    def rank(pair: tuple[int, int]) -> tuple[Fraction, Fraction, int]:
        first, second = pair
        weight = Fraction(sizes[first] * sizes[second], sizes[first] + sizes[second])
        return drop(pair) ** 2 * weight, abs(drop(pair)), sizes[first] + sizes[second]

    # The first of the best in the order of their names, which codes follow.
    best = max(combinations(np.flatnonzero(enough).tolist(), 2), key=rank)
    common, counter = best if drop(best) >= 0 else (best[1], best[0])
    return _Most(common, counter, drop((common, counter)))


def _chosen(photos: _Class, enough: Bools, tested: _Tested, rule: Rule) -> dict[str, Any]:
    common, counter, result = tested.most.common, tested.most.counter, tested.result
    among = photos.validation & enough[photos.background]
    found = {
        "common_background": photos.backgrounds[common],
        "counter_background": photos.backgrounds[counter],
        **_drops(photos, common, counter),
        "p_value": result.p_value,
        "q_value": tested.q_value,
        "statistic": result.statistic,
        "draws": result.draws,
        "observers": len(np.unique(photos.observer[among])),
    }
    reason = _why_not(tested, rule)
    if not result.draws:
        which = "correctly" if photos.correct[among].any() else "wrongly"
        reason = f"all {int(among.sum())} photos compared are named {which}, on every background"
    return {**found, "selected": reason is None, "reason": reason}


def _why_not(tested: _Tested, rule: Rule) -> str | None:
    """Why a class that was tested is not selected; None where it is."""
    p_value, least = tested.result.p_value, f"{100 * rule.min_drop:g}"
    chance = f"chance explains the difference (p = {p_value:.2g}, q = "
    if tested.q_value > rule.fdr:
        return f"{chance}{tested.q_value:.2g}, above {rule.fdr:g})"
    if not _is_large(tested.most, rule):
        return f"the drop of {100 * float(tested.most.drop):.1f} points is not above {least}"
    if tested.q_of_large > rule.fdr:
        return (
            f"{chance}{tested.q_of_large:.2g} among classes whose drop is above {least} points, "
            f"above {rule.fdr:g})"
        )
    return None


def _drops(photos: _Class, common: int, counter: int) -> dict[str, Any]:
    """Accuracies and drop of a pair on validation, and the honest drop on test."""
    found: dict[str, Any] = {}
    for part, among in (("", photos.validation), ("test_", ~photos.validation)):
        sizes, right = photos.counts(among)
        for group, code in (("common", common), ("counter", counter)):
            found[f"{group}_{part}photos"] = int(sizes[code])
            found[f"{group}_{part}accuracy"] = (
                float(right[code] / sizes[code]) if sizes[code] else None
            )
    for name, part in (("drop", ""), ("drop_honest", "test_")):
        accuracies = [found[f"{group}_{part}accuracy"] for group in ("common", "counter")]
        found[name] = None if None in accuracies else accuracies[0] - accuracies[1]
    if found["drop_honest"] is not None:
        rows = ~photos.validation & np.isin(photos.background, (common, counter))
        low, high = drop_interval(
            photos.correct[rows], photos.background[rows] == common, photos.observer[rows]
        )
        found |= {"drop_ci_low": low, "drop_ci_high": high, "shown": low > 0}
    return found


def report_pairs(judged: pa.Table, run: str, chosen: list[Pair]) -> list[Pair]:
    """Rows of `pairs` for a model that did not choose: its accuracies on another model's pairs.

    Parameters
    ----------
    judged
        As `judged_photos` gives it for the model reported; with `partition`, or undivided.
    run
        Name of its scoring run.
    chosen
        Rows of `pairs` of the run that chose. Classes without a pair have no row here.
    """
    of_class: Mapping[int, Pair] = {pair["class_index"]: pair for pair in chosen}
    reported = []
    for photos in _classes(judged):
        pair = of_class.get(photos.index)
        names = [pair and pair.get(f"{group}_background") for group in ("common", "counter")]
        if pair is None or not set(names) <= set(photos.backgrounds):
            continue
        common, counter = (photos.backgrounds.index(name) for name in names)
        kept = ("class_index", "class_name", "selected", "reason")
        same = (*kept, "common_background", "counter_background")
        reported.append(
            {
                **{name: pair[name] for name in same},
                "run": run,
                "chosen_by": pair["run"],
                **_drops(photos, common, counter),
            }
        )
    return reported


def mark_only_its_own(chosen: list[Pair], reported: list[Pair]) -> list[Pair]:
    """The chosen pairs, each marked where no model reported for shows its drop.

    A model shows a drop where the interval of its honest drop lies above zero. A class whose honest
    drop no such model has is not marked.
    """
    measured = {p["class_index"] for p in reported if p["drop_honest"] is not None}
    shown = {pair["class_index"] for pair in reported if pair.get("shown")}
    return [
        {**pair, "only_its_own": pair["class_index"] not in shown}
        if pair["selected"] and pair["class_index"] in measured
        else pair
        for pair in chosen
    ]
