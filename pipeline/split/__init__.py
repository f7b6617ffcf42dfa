"""Split: group each class's photos by background, and choose its common and counter group.

Given photos, duplicates, labels and one scoring run, writes `groups`, `pairs` and `split`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.schema import GROUPS, PAIRS, SPLIT
from manifests.tables import from_rows
from manifests.workspace import Job, Outcome
from pipeline.split.groups import group_accuracies, judged_photos
from pipeline.split.paper import choose_pairs

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import SplitParameters

__all__ = ["split", "split_rows"]


def split(workspace: Workspace, parameters: SplitParameters, progress: Progress) -> Outcome:
    """Choose the pairs by the paper's rule and write the split."""
    del progress
    from pipeline.runs import run_for

    name = run_for(workspace, parameters.model)
    predictions = workspace.read(f"predictions/{name}")
    inputs = {
        table: workspace.digest(table)
        for table in ("photos", "duplicates", "labels", f"predictions/{name}")
    }
    jobs = {
        table: Job(
            table=table,
            stage="split",
            parameters={
                "run": name,
                "rule": parameters.rule,
                "min_photos": parameters.min_photos,
                "min_drop": parameters.min_drop,
                "exclude_mixed": parameters.exclude_mixed,
            },
            inputs=inputs,
        )
        for table in ("groups", "pairs", "split")
    }
    runs = {table: workspace.begin(job) for table, job in jobs.items()}
    fresh = all(run.fresh for run in runs.values())
    if not fresh:
        photos = workspace.read("photos")
        judged = judged_photos(
            photos,
            workspace.read("duplicates"),
            workspace.read("labels"),
            predictions,
            exclude_mixed=parameters.exclude_mixed,
        )
        groups = group_accuracies(judged, name)
        pairs = choose_pairs(groups, parameters.min_photos, parameters.min_drop)
        tables = {
            "groups": from_rows(groups, GROUPS.schema),
            "pairs": from_rows(pairs, PAIRS.schema),
            "split": split_rows(judged, pairs),
        }
        for table, run in runs.items():
            if not run.fresh:
                run.commit(tables[table])
    return _outcome(workspace, name, fresh=fresh)


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
    columns = [name for name in SPLIT.schema.names if name in judged.column_names]
    table = judged.select(columns).append_column("group", groups)
    table = table.append_column("partition", pa.nulls(table.num_rows, pa.string()))
    return table.filter(pc.is_valid(table["group"])).select(SPLIT.schema.names)


def _outcome(workspace: Workspace, run: str, *, fresh: bool) -> Outcome:
    pairs = workspace.read("pairs").to_pylist()
    chosen = [pair for pair in pairs if pair["selected"]]
    photos = workspace.read("split").num_rows
    lines = [
        f"  {p['class_name']}: {p['common_background']} {p['common_accuracy']:.1%} of "
        f"{p['common_photos']}, {p['counter_background']} {p['counter_accuracy']:.1%} of "
        f"{p['counter_photos']}, drop {100 * p['drop']:.1f} points"
        for p in chosen
    ]
    text = f"{len(chosen)} of {len(pairs)} classes selected, {photos} photos ({run})"
    facts = {
        "run": run,
        "classes": len(pairs),
        "selected": [pair["class_name"] for pair in chosen],
        "photos": photos,
    }
    return Outcome("split", "\n".join([text, *lines]), facts, fresh)
