"""The plan: how many photos more people must tag, of which background, to settle each class.

It looks at counts and at nothing else. Were it to look at accuracies, people would tag on until a
class happens to look significant, and the test's error would no longer be what it says.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.kept import kept_photos
from manifests.schema import PLAN
from manifests.tables import from_rows
from manifests.vocabulary import backgrounds
from manifests.workspace import Job, Outcome

if TYPE_CHECKING:
    from manifests.workspace import Workspace
    from pipeline.parameters import SplitParameters

__all__ = ["Aim", "further_photos", "plan", "plan_rows"]

_VARIANCE = 0.25
"""Of being right at an accuracy of one half, the hardest to tell from another."""

_SELECTED = 0.5
"""Share of the classes that is selected, as a plan supposes: Benjamini and Hochberg then ask of
the last of them a p-value below this share of the false discovery rate."""


@dataclass(frozen=True)
class Aim:
    """What a plan is to make possible.

    Attributes
    ----------
    drop
        Drop that is to be found, as a fraction.
    power
        Chance of finding it.
    fdr
        False discovery rate.
    min_photos
        Validation photos without which a background is not compared.
    validation_share
        Share of the photos that choose.
    """

    drop: float
    power: float
    fdr: float
    min_photos: int
    validation_share: float


def further_photos(counts: tuple[int, int], compared: int, aim: Aim) -> tuple[int, int]:
    """Photos that two backgrounds need beyond those they have, as few as possible together.

    Parameters
    ----------
    counts
        Photos of the two, the larger number first.
    compared
        Backgrounds that the class's test compares, 2 or more.
    aim
        What the photos are to make possible.

    Notes
    -----
    The largest standardised difference of `compared` groups follows the studentised range (over the
    square root of 2) where nothing differs (Tukey; exactly so for groups of equal size), and the
    difference of the two is normal around the drop. So 1/n + 1/m over their validation photos must
    not exceed (drop / (critical value + power's quantile))^2 / variance.
    """
    from scipy import stats

    level = aim.fdr * _SELECTED
    critical = float(stats.studentized_range.isf(level, compared, math.inf)) / math.sqrt(2)
    quantile = critical + float(stats.norm.ppf(aim.power))
    bound = (aim.drop / quantile) ** 2 / _VARIANCE * aim.validation_share
    least = math.ceil(aim.min_photos / aim.validation_share)
    larger, smaller = (max(count, least) for count in counts)
    if 1 / larger + 1 / smaller > bound:
        both = math.ceil(2 / bound)
        larger = max(larger, both)
        smaller = max(smaller, both if larger == both else math.ceil(1 / (bound - 1 / larger)))
    return max(0, larger - counts[0]), max(0, smaller - counts[1])


def plan_rows(
    tagged: Counter[tuple[int, str]], classes: tuple[int, ...], names: tuple[str, ...], aim: Aim
) -> list[dict[str, Any]]:
    """Rows of `plan`, for every class and background.

    The two backgrounds of a class that have most photos are to be compared, since they need fewest
    more; where a class has fewer than two, those that other classes have most of.

    Parameters
    ----------
    tagged
        Photos by class index and background.
    classes, names
        The classes and the backgrounds there are.
    aim
        What the photos are to make possible.
    """
    overall: Counter[str] = Counter()
    for (_, background), count in tagged.items():
        overall[background] += count
    least = math.ceil(aim.min_photos / aim.validation_share)
    needed: dict[tuple[int, str], int] = {}
    total: dict[int, int] = {}
    for index in classes:
        ranked = sorted(names, key=lambda name: (-tagged[index, name], -overall[name], name))
        first, second = ranked[:2]
        compared = max(2, sum(tagged[index, name] >= least for name in names))
        more = further_photos((tagged[index, first], tagged[index, second]), compared, aim)
        needed[index, first], needed[index, second] = more
        total[index] = sum(more)
    order = sorted(classes, key=lambda index: (-total[index], index))
    rank = {index: position for position, index in enumerate(order, start=1)}
    return [
        {
            "class_index": index,
            "background": name,
            "have": tagged[index, name],
            "need": needed.get((index, name), 0),
            "priority": rank[index],
        }
        for index in sorted(classes)
        for name in sorted(names)
    ]


def plan(workspace: Workspace, parameters: SplitParameters) -> Outcome:
    """Write `plan` from the photos and what people have said of them so far."""
    photos, inputs = kept_photos(workspace)
    photos = photos.filter(pc.is_valid(photos["class_index"]))
    if not photos.num_rows:
        msg = "there is no photo of a class to plan for; run `cap collect` first"
        raise CapError(msg)
    aim = Aim(
        drop=parameters.plan_drop,
        power=parameters.plan_power,
        fdr=parameters.fdr,
        min_photos=parameters.min_photos,
        validation_share=parameters.validation_share,
    )
    if workspace.has("labels"):
        inputs = {**inputs, "labels": workspace.digest("labels")}
    run = workspace.begin(
        Job(
            table="plan",
            stage="split --plan",
            parameters={**vars(aim), "exclude_mixed": parameters.exclude_mixed},
            inputs=inputs,
            packages=("pyarrow", "scipy"),
        )
    )
    tagged, open_photos = _counts(workspace, photos, parameters)
    if not run.fresh:
        classes = tuple(sorted(set(photos["class_index"].to_pylist())))
        names = {b.name for b in backgrounds()} | {name for _, name in tagged}
        rows = plan_rows(tagged, classes, tuple(sorted(names)), aim)
        run.commit(from_rows(rows, PLAN.schema))
    return _outcome(workspace, photos, open_photos, fresh=run.fresh)


def _counts(
    workspace: Workspace, photos: pa.Table, parameters: SplitParameters
) -> tuple[Counter[tuple[int, str]], Counter[int]]:
    """Tagged photos by class and background, and photos that wait for an answer by class."""
    labels: dict[str, dict[str, Any]] = {}
    if workspace.has("labels"):
        names = ["photo_id", "background", "background_second"]
        labels = {
            row["photo_id"]: row for row in workspace.read("labels").select(names).to_pylist()
        }
    tagged: Counter[tuple[int, str]] = Counter()
    open_photos: Counter[int] = Counter()
    for row in photos.select(["photo_id", "class_index"]).to_pylist():
        label = labels.get(row["photo_id"])
        if label is None:
            open_photos[row["class_index"]] += 1
        elif label["background"] is not None and not (
            parameters.exclude_mixed and label["background_second"]
        ):
            tagged[row["class_index"], label["background"]] += 1
    return tagged, open_photos


_CLASSES_TOLD = 20


def _outcome(
    workspace: Workspace, photos: pa.Table, open_photos: Counter[int], *, fresh: bool
) -> Outcome:
    rows = workspace.read("plan").to_pylist()
    name_of = dict(
        zip(photos["class_index"].to_pylist(), photos["class_name"].to_pylist(), strict=True)
    )
    needing: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["priority"], -row["have"], row["background"])):
        if row["need"]:
            needing.setdefault(row["class_index"], []).append(row)
    settled = len(name_of) - len(needing)
    total = sum(row["need"] for row in rows)
    text = f"{total} photos more for {len(needing)} classes; {settled} have enough"
    lines = [
        f"  {name_of[index]}: "
        + " and ".join(f"{r['need']} more on {r['background']} (has {r['have']})" for r in wanted)
        + f"; {open_photos[index]} photos wait for an answer"
        for index, wanted in list(needing.items())[:_CLASSES_TOLD]
    ]
    if len(needing) > _CLASSES_TOLD:
        lines.append(f"  and {len(needing) - _CLASSES_TOLD} classes more, in the table plan")
    facts = {"need": total, "classes": len(name_of), "settled": settled}
    return Outcome("plan", "\n".join([text, *lines]), facts, fresh)
