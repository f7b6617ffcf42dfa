"""Split: group each class's photos by background, and choose its common and counter group.

Given photos, duplicates, labels and one scoring run, writes `groups`, `pairs` and `split`; or, from
counts alone, the `plan` of what to tag next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.schema import GROUPS, PAIRS, SPLIT
from manifests.tables import from_rows
from manifests.workspace import Job, Outcome, Run
from pipeline.split.controlled import Rule, choose_controlled, mark_only_its_own, report_pairs
from pipeline.split.groups import group_accuracies, judged_photos, tagged_photos
from pipeline.split.paper import choose_pairs
from pipeline.split.partition import divide

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import SplitParameters

__all__ = ["split", "split_rows"]


_REASONS_TOLD = 20


def split(workspace: Workspace, parameters: SplitParameters, progress: Progress) -> Outcome:
    """Choose the pairs and write the split; with `plan`, write what to tag next instead."""
    _check(parameters)
    if parameters.plan:
        from pipeline.split.plan import plan

        return plan(workspace, parameters)
    from pipeline.runs import run_for

    name = run_for(workspace, parameters.model)
    others = tuple(dict.fromkeys(run_for(workspace, model) for model in parameters.report_with))
    if name in others:
        msg = f"{name} chooses the pairs; --report-with takes other models"
        raise CapError(msg)
    stale = [
        job for job in _jobs(workspace, parameters, name, others) if not Run(workspace, job).fresh
    ]
    if stale:
        photos = _photos(workspace, parameters, (name, *others))
        runs = _begin(workspace, stale)
        tables = _tables(photos, parameters, progress)
        for run in runs:
            run.commit(tables[run.job.table])
    return _outcome(workspace, name, fresh=not stale)


def _begin(workspace: Workspace, jobs: Sequence[Job]) -> list[Run]:
    """Set out to make the tables, if none is from elsewhere.

    What is from elsewhere is refused first, before the work on another table is noted: a table that
    is put there later would be taken for a half of that work.
    """
    elsewhere_first = sorted(jobs, key=lambda job: workspace.state(job.table) != "external")
    return [workspace.begin(job) for job in elsewhere_first]


def _check(parameters: SplitParameters) -> None:
    for name in ("fdr", "validation_share", "plan_drop", "plan_power"):
        value = getattr(parameters, name)
        if not 0 < value < 1:
            msg = f"--{name.replace('_', '-')} lies between 0 and 1, not at {value:g}"
            raise CapError(msg)
    for name in ("min_photos", "draws"):
        if getattr(parameters, name) < 1:
            msg = f"--{name.replace('_', '-')} is a number from 1"
            raise CapError(msg)


def _jobs(
    workspace: Workspace, parameters: SplitParameters, run: str, others: tuple[str, ...]
) -> list[Job]:
    predictions = [f"predictions/{name}" for name in (run, *others)]
    inputs = {
        table: workspace.digest(table) for table in ("photos", "duplicates", "labels", *predictions)
    }
    decides = ["rule", "min_photos", "min_drop", "exclude_mixed"]
    if parameters.rule == "controlled":
        decides += ["fdr", "validation_share", "draws", "seed"]
    return [
        Job(
            table=table,
            stage="split",
            parameters={
                "run": run,
                "report_with": others,
                **{name: getattr(parameters, name) for name in decides},
            },
            inputs=inputs,
            seed=parameters.seed if parameters.rule == "controlled" else None,
            packages=("pyarrow", "numpy", "scipy"),
        )
        for table in ("groups", "pairs", "split")
    ]


def _photos(
    workspace: Workspace, parameters: SplitParameters, runs: Sequence[str]
) -> dict[str, pa.Table]:
    """The judged photos of each run.

    Raises
    ------
    CapError
        If there are none, or they are not ready to be judged.
    """
    tagged = tagged_photos(
        workspace.read("photos"), workspace.read("duplicates"), workspace.read("labels")
    )
    if parameters.rule == "controlled":
        tagged = divide(tagged, parameters.validation_share, parameters.seed)
    if parameters.exclude_mixed:
        tagged = tagged.filter(pc.is_null(tagged["background_second"]))
        if not tagged.num_rows:
            msg = "every photo that people kept has a second background"
            raise CapError(msg)
    return {run: judged_photos(tagged, workspace.read(f"predictions/{run}")) for run in runs}


def _tables(
    photos: Mapping[str, pa.Table], parameters: SplitParameters, progress: Progress
) -> dict[str, pa.Table]:
    """The stage's core: `groups`, `pairs` and `split`.

    Parameters
    ----------
    photos
        The judged photos by run, first of the run that chooses.
    parameters
        As the command takes them.
    progress
        Told of each class.
    """
    (chooser, judged), *reported = photos.items()
    groups = [row for run, own in photos.items() for row in group_accuracies(own, run)]
    if parameters.rule == "controlled":
        rule = Rule(
            min_photos=parameters.min_photos,
            min_drop=parameters.min_drop,
            fdr=parameters.fdr,
            draws=parameters.draws,
            seed=parameters.seed,
        )
        pairs = choose_controlled(judged, chooser, rule, progress, workers=parameters.workers)
    else:
        own = [group for group in groups if group["run"] == chooser]
        pairs = choose_pairs(own, parameters.min_photos, parameters.min_drop)
    others = [row for run, own in reported for row in report_pairs(own, run, pairs)]
    if reported and parameters.rule == "controlled":
        pairs = mark_only_its_own(pairs, others)
    return {
        "groups": from_rows(groups, GROUPS.schema),
        "pairs": from_rows([*pairs, *others], PAIRS.schema),
        "split": split_rows(judged, pairs),
    }


def split_rows(judged: pa.Table, pairs: list[dict[str, Any]]) -> pa.Table:
    """Rows of `split`: the judged photos that lie in a group of a selected class."""
    group_of: Mapping[tuple[int, str], str] = {
        (pair["class_index"], pair[f"{group}_background"]): group
        for pair in pairs
        if pair["selected"]
        for group in ("common", "counter")
    }
    places = zip(judged["class_index"].to_pylist(), judged["background"].to_pylist(), strict=True)
    groups = pa.array([group_of.get(place) for place in places], pa.string())
    table = judged.append_column("group", groups)
    if "partition" not in table.column_names:
        table = table.append_column("partition", pa.nulls(table.num_rows, pa.string()))
    return table.filter(pc.is_valid(table["group"])).select(SPLIT.schema.names)


def _outcome(workspace: Workspace, run: str, *, fresh: bool) -> Outcome:
    pairs = [pair for pair in workspace.read("pairs").to_pylist() if pair["run"] == run]
    chosen = [pair for pair in pairs if pair["selected"]]
    others = [f"  {p['class_name']}: not selected, {p['reason']}" for p in pairs if p["reason"]]
    if len(others) > _REASONS_TOLD:
        rest = len(others) - _REASONS_TOLD
        others[_REASONS_TOLD:] = [f"  and {rest} more not selected; their reasons are in pairs"]
    photos = workspace.read("split").num_rows
    text = f"{len(chosen)} of {len(pairs)} classes selected, {photos} photos ({run})"
    facts = {
        "run": run,
        "classes": len(pairs),
        "selected": [pair["class_name"] for pair in chosen],
        "photos": photos,
    }
    return Outcome("split", "\n".join([text, *map(_told, chosen), *others]), facts, fresh)


def _told(pair: Mapping[str, Any]) -> str:
    """A selected pair in a line."""
    groups = ", ".join(
        f"{pair[f'{group}_background']} {pair[f'{group}_accuracy']:.1%} of "
        f"{pair[f'{group}_photos']}"
        for group in ("common", "counter")
    )
    line = f"  {pair['class_name']}: {groups}, drop {100 * pair['drop']:.1f} points"
    if pair["q_value"] is not None:
        line += f" (q {pair['q_value']:.2g})"
    if pair["drop_honest"] is not None:
        low, high = (100 * pair[f"drop_ci_{end}"] for end in ("low", "high"))
        line += f"; on test photos {100 * pair['drop_honest']:.1f} ({low:.1f} to {high:.1f})"
    if pair["only_its_own"]:
        line += "; no other model shows it"
    return line
