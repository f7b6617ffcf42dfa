"""Discover: what a model leans on in regions of the photos, found from its own errors (RaVL).

The stage reads the photos that a run has scored. It has the run's model look at regions of each,
into `regions/<run>`, clusters them, and measures how the model's accuracy differs with and without
each cluster, into `discoveries/<run>`. That nothing is found is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.workspace import Job, Outcome
from pipeline.discover.findings import Bar, Search, find
from pipeline.discover.looking import look
from pipeline.discover.rows import discovery_rows, looked_at
from pipeline.discover.scored import ScoredPhotos, scored_photos
from pipeline.runs import run_for

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import DiscoverParameters

__all__ = ["discover"]

_SURE = 0.05
"""Share of false clusters to expect among those that the summary counts as sure."""


def discover(workspace: Workspace, parameters: DiscoverParameters, progress: Progress) -> Outcome:
    """Look at regions, cluster them, and tell which clusters the model leans on."""
    bar, search = _asked(parameters)
    photos = scored_photos(workspace, run_for(workspace, parameters.model))
    looked = look(workspace, photos, parameters, progress)
    job = Job(
        table=f"discoveries/{photos.run}",
        stage="discover",
        parameters={
            name: getattr(parameters, name)
            for name in (
                "clusters",
                "min_influence",
                "two_sided",
                "exact_up_to",
                "draws",
                "resamples",
                "seed",
            )
        },
        inputs={**photos.inputs, "regions": workspace.digest(f"regions/{photos.run}")},
        seed=parameters.seed,
        packages=("numpy", "pyarrow", "scipy"),
    )
    run = workspace.begin(job)
    if not run.fresh:
        seen = looked_at(workspace.read(f"regions/{photos.run}"), photos.rows)
        progress.note(f"discover: comparing {len(seen.numbers)} regions")
        run.commit(discovery_rows(find(seen.regions, bar, search), seen))
    return _outcome(workspace, photos, parameters, fresh=looked and run.fresh)


def _asked(parameters: DiscoverParameters) -> tuple[Bar, Search]:
    """The bar and the search that the parameters describe.

    Raises
    ------
    CapError
        If one of them cannot be.
    """
    if parameters.grid < 1:
        msg = f"--grid is the number of rows and columns, 1 or more, not {parameters.grid}"
        raise CapError(msg)
    if not 0 <= parameters.min_influence <= 1:
        msg = f"--min-influence is a fraction from 0 to 1, not {parameters.min_influence}"
        raise CapError(msg)
    for name in ("exact_up_to", "draws", "resamples"):
        if getattr(parameters, name) < 1:
            msg = f"--{name.replace('_', '-')} is a number above 0, not {getattr(parameters, name)}"
            raise CapError(msg)
    return (
        Bar(parameters.min_influence, parameters.two_sided),
        Search(
            _range(parameters.clusters),
            parameters.exact_up_to,
            parameters.resamples,
            parameters.draws,
            parameters.seed,
        ),
    )


def _range(text: str | None) -> range | None:
    """The numbers of clusters from `20-49`."""
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 < int(first) <= int(last)):
        msg = f"--clusters is FIRST-LAST, such as 20-49, both above 1, not {text!r}"
        raise CapError(msg)
    return range(int(first), int(last) + 1)


def _outcome(
    workspace: Workspace, photos: ScoredPhotos, parameters: DiscoverParameters, *, fresh: bool
) -> Outcome:
    regions = workspace.read(f"regions/{photos.run}")
    failed = pc.sum(pc.equal(regions["status"], "failed")).as_py()
    looked_at = regions.num_rows - failed
    rows = workspace.read(f"discoveries/{photos.run}").drop_columns(["members"]).to_pylist()
    kept = sorted((row for row in rows if row["rank"] is not None), key=lambda row: row["rank"])
    clusters = f"{len(rows)} clusters of {looked_at} regions"
    if kept:
        sure = sum(row["q_value"] <= _SURE for row in kept)
        text = (
            f"the model leans on {len(kept)} of {clusters}, {sure} of them with q of at most "
            f"{_SURE}; most on {_told(kept[0])}"
        )
    elif not rows:
        text = f"nothing found: {_why_no_clusters(looked_at, parameters)}"
    else:
        text = f"nothing found among {clusters}: {_why_nothing(photos, rows)}"
    if failed:
        text += f"; {failed} photos failed (`cap status --failures` says why)"
    shown = ("cluster", "rank", "class_name", "difference", "gap", "influence", "q_value")
    facts = {
        "run": photos.run,
        "regions": looked_at,
        "failed": failed,
        "clusters": len(rows),
        "kept": [{name: row[name] for name in shown} for row in kept],
    }
    return Outcome("discover", text, facts, fresh)


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"cluster {row['cluster']}, tied to {row['class_name']} "
        f"({100 * row['difference']:+.0f} points with it, q {row['q_value']:.2g})"
    )


def _why_no_clusters(regions: int, parameters: DiscoverParameters) -> str:
    compared = min(regions, parameters.exact_up_to)
    asked = _range(parameters.clusters)
    if asked is not None and asked[0] >= compared:
        return (
            f"no number of clusters of {parameters.clusters} is below the {compared} regions that "
            "are clustered; give --clusters smaller ones"
        )
    return f"{regions} regions do not fall into clusters"


def _why_nothing(photos: ScoredPhotos, rows: Sequence[Mapping[str, Any]]) -> str:
    if pc.all(photos.rows["correct"]).as_py():
        return f"the model is right about all {photos.rows.num_rows} photos"
    reasons = [row["reason"] for row in rows]
    return f"{max(reasons, key=reasons.count)}, of most"
