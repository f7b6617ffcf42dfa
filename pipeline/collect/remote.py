"""Collect photos from the internet: list what to ask for, fetch it, and commit the rows.

The listing of each class is written down before a photo is fetched, so that a command that was
stopped goes on with the same photos however many new ones there are. Photos that the workspace has
already are not fetched again; when nothing but passing failures is left, only these are asked for.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.columns import columns
from manifests.errors import CapError
from manifests.fetch import local_addresses
from manifests.progress import reason_of, tell_problems
from manifests.schema import PHOTOS
from manifests.tables import replacing
from manifests.vocabulary import Taxon, allowed_licenses
from manifests.workspace import Job, Outcome, Run, Workspace
from pipeline.collect.download import Politeness
from pipeline.collect.fetching import fetch_listing, known_rows
from pipeline.collect.inaturalist import (
    Api,
    Query,
    ResolvedTaxon,
    cache_folder,
    list_class,
    open_api,
)
from pipeline.collect.listing import (
    BY_CLASS,
    LISTING,
    PER_CLASS,
    ListedClass,
    chosen_classes,
    left_out_text,
    one_class_each,
)
from pipeline.collect.refresh import refresh

if TYPE_CHECKING:
    from manifests.progress import Progress
    from pipeline.parameters import CollectParameters

__all__ = ["collect_remote"]

_SIDE = {"original": 2048, "large": 1024, "medium": 500}
"""Longest side of each size, in pixels."""

_PHOTO_ASPECT = 3 / 4
_BYTES_PER_PIXEL = 0.25
"""Of JPEG photos, as 775 animal photos from the internet have it on average."""


def check_parameters(parameters: CollectParameters) -> None:
    """Refuse numbers, days and addresses that make no sense.

    Raises
    ------
    CapError
        If there is one.
    """
    at_least_one = ("connections", "photos_per_observation", "per_class")
    for name in at_least_one:
        value = getattr(parameters, name)
        if value is not None and value < 1:
            msg = f"--{name.replace('_', '-')} is {value}; it must be at least 1"
            raise CapError(msg)
    if not 0 <= parameters.observer_share <= 1:
        msg = f"--observer-share is {parameters.observer_share:g}; it must be from 0 to 1"
        raise CapError(msg)
    for name in ("gb_per_hour", "gb_per_day"):
        if not 0 < getattr(parameters, name) < math.inf:
            msg = f"--{name.replace('_', '-')} must be above 0 and finite"
            raise CapError(msg)
    if parameters.refresh and parameters.dry_run:
        msg = "--refresh cannot be tried with --dry-run; leave out one of the two"
        raise CapError(msg)
    if "@" in parameters.tables.partition("://")[2]:
        msg = "--tables must not hold a name or a password; they would end up in receipts"
        raise CapError(msg)
    for name in ("since", "until"):
        day = getattr(parameters, name)
        try:
            datetime.date.fromisoformat(day or "2000-01-01")
        except ValueError as error:
            msg = f"--{name} is {day!r}; write a day as YYYY-MM-DD"
            raise CapError(msg) from error


def deciding(parameters: CollectParameters, classes: Sequence[ListedClass]) -> dict[str, Any]:
    """The parameters that decide which rows there are; how fast they come does not count."""
    names = (
        "source",
        "photos_per_observation",
        "observer_share",
        "quality",
        "captive",
        "places",
        "since",
        "until",
        "size",
    )
    own = ("api_url",) if parameters.source == "inaturalist" else ("tables", "photo_url")
    taxa = json.dumps([asdict(one) for one in classes])
    return {name: getattr(parameters, name) for name in (*names, *own)} | {
        "classes": [one.name for one in classes],
        "taxa": hashlib.sha256(taxa.encode()).hexdigest(),
        "per_class": parameters.per_class or PER_CLASS,
        "licenses": sorted(allowed_licenses(parameters.licenses)),
    }


def _kept(path: Path, schema: pa.Schema, make: Callable[[], pa.Table]) -> pa.Table:
    """A table from a file, or made and written there."""
    if not path.exists():
        table = make()
        with replacing(path) as temporary:
            pq.write_table(table, temporary)
    return pq.read_table(path, schema=schema, partitioning=None)


def list_inaturalist(
    workspace: Workspace,
    folder: Path,
    classes: Sequence[ListedClass],
    parameters: CollectParameters,
    progress: Progress,
) -> pa.Table:
    """The listing of all classes from the API; classes listed before are not asked for again."""
    allowed = allowed_licenses(parameters.licenses)
    listings = []
    with open_api(workspace, parameters) as api, progress.task("list", len(classes)) as advance:
        for one in classes:

            def make(one: ListedClass = one) -> pa.Table:
                taxa = resolve(api, one, progress)
                if not taxa:
                    return LISTING.empty_table()
                query = Query.of(taxa, allowed, parameters)
                return list_class(api, (one.index, one.name), query, parameters, progress.note)

            listings.append(_kept(folder / f"listing-{one.index}.parquet", LISTING, make))
            advance(1)
    return pa.concat_tables(listings)


def list_open_data_photos(
    workspace: Workspace,
    folder: Path,
    classes: Sequence[ListedClass],
    parameters: CollectParameters,
    progress: Progress,
) -> pa.Table:
    """The listing of all classes from the Open Data tables; says what they do not tell."""
    from pipeline.collect.open_data import list_open_data

    def make() -> pa.Table:
        indices = [one.index for one in classes]
        found = list_open_data(
            parameters.tables, workspace.label_space, indices, parameters, folder, progress
        )
        for one in classes:
            for taxon in found.unresolved.get(one.index, ()):
                tell_unresolved(one, taxon, progress)
            if one.index in found.left_out:
                count, share = found.left_out[one.index], parameters.observer_share
                progress.note(left_out_text(one.name, count, share))
        for name, count in found.unknown_licenses.items():
            progress.note(f"{count} photos left out, whose licence {name!r} is not known here")
        for file, lines in found.unread_lines.items():
            progress.note(
                f"{file}: {lines.count} lines could not be read, the first is {lines.first}: "
                f"{lines.reason}"
            )
        return found.photos

    return _kept(folder / "listing.parquet", LISTING, make)


def tell_unresolved(one: ListedClass, taxon: Taxon, progress: Progress) -> None:
    """Say that a taxon of a class is not known to the source."""
    rank = f" ({taxon.rank})" if taxon.rank else ""
    progress.note(f"{one.name}: iNaturalist knows no {taxon.name}{rank}; left out")


def resolve(api: Api, one: ListedClass, progress: Progress) -> list[ResolvedTaxon]:
    """The taxa of a class that the API knows; says which it does not."""
    found = {taxon: api.resolve(taxon) for taxon in one.taxa}
    for taxon, resolved in found.items():
        if resolved is None:
            tell_unresolved(one, taxon, progress)
    return [resolved for resolved in found.values() if resolved is not None]


def dry_run(
    workspace: Workspace,
    classes: Sequence[ListedClass],
    parameters: CollectParameters,
    progress: Progress,
) -> Outcome:
    """Say what would be asked, before a photo is fetched."""
    if parameters.source == "open-data":
        return _dry_open_data(workspace, classes, parameters, progress)
    allowed = allowed_licenses(parameters.licenses)
    most = parameters.per_class or PER_CLASS
    rows = []
    with open_api(workspace, parameters) as api, progress.task("count", len(classes)) as advance:
        for one in classes:
            taxa = resolve(api, one, progress)
            there = api.count(Query.of(taxa, allowed, parameters)) if taxa else 0
            photos = min(there * parameters.photos_per_observation, most)
            gigabytes = round(photos * _typical_bytes(parameters.size) / 1e9, 3)
            rows.append(
                {"class": one.name, "observations": there, "photos": photos, "GB": gigabytes}
            )
            advance(1)
    return _planned(rows, parameters.size)


def _dry_open_data(
    workspace: Workspace,
    classes: Sequence[ListedClass],
    parameters: CollectParameters,
    progress: Progress,
) -> Outcome:
    """What would be asked by the tables, which tell it photo by photo."""
    with tempfile.TemporaryDirectory() as scratch:
        listing = list_open_data_photos(workspace, Path(scratch), classes, parameters, progress)
    asked, _ = one_class_each(listing, parameters.source)
    counts = Counter(asked["class_name"].to_pylist())
    gigabytes = _typical_bytes(parameters.size) / 1e9
    rows = [
        {
            "class": one.name,
            "photos": counts[one.name],
            "GB": round(counts[one.name] * gigabytes, 3),
        }
        for one in classes
    ]
    return _planned(rows, parameters.size)


def _typical_bytes(size: str) -> float:
    return _SIDE[size] ** 2 * _PHOTO_ASPECT * _BYTES_PER_PIXEL


def _planned(rows: list[dict[str, Any]], size: str) -> Outcome:
    photos = sum(row["photos"] for row in rows)
    gigabytes = round(photos * _typical_bytes(size) / 1e9, 3)
    text = f"would ask for up to {photos} photos of {len(rows)} classes, about {gigabytes:g} GB"
    facts = {"dry_run": True, "photos": photos, "gigabytes": gigabytes, "classes": rows}
    return Outcome("collect", "\n".join([text, *columns(rows)]), facts)


def _politeness(parameters: CollectParameters) -> Politeness:
    own = parameters.api_url if parameters.source == "inaturalist" else parameters.photo_url
    return Politeness(
        connections=parameters.connections,
        bytes_per_hour=int(parameters.gb_per_hour * 1e9),
        bytes_per_day=int(parameters.gb_per_day * 1e9),
        ledger=cache_folder() / "bytes.sqlite",
        allowed=local_addresses(own),
    )


def _may_pass(own: pa.Table) -> bool:
    """Whether some of a source's rows failed for a reason that may pass."""
    return "transient" in own.column_names and pc.any(own["transient"], min_count=0).as_py()


def _asked(
    run: Run, classes: Sequence[ListedClass], parameters: CollectParameters, progress: Progress
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """What is asked for: rows that are there, rows of what cannot be had, the others' listing.

    Of a table that is there already, only what failed and may pass is left. What was there when the
    run first began stays so, whatever other sources have brought since: the batches depend on it.
    """
    workspace, source = run.workspace, parameters.source
    failed = PHOTOS.schema.empty_table()
    if run.fresh:
        listing = workspace.read("photos", source).select(LISTING.names).sort_by(BY_CLASS)
    else:
        make = list_inaturalist if source == "inaturalist" else list_open_data_photos
        listing = make(workspace, run.folder, classes, parameters, progress)
        listing, failed = one_class_each(listing, source)
    noted = run.folder / "ready.parquet"
    resumed = noted.exists()
    ready = _kept(
        noted,
        PHOTOS.schema,
        lambda: known_rows(workspace, listing, source, permanent=run.fresh),
    )
    if resumed:
        ready = _taken_back(ready, known_rows(workspace, listing, source, permanent=True))
    there = pc.is_in(listing["photo_id"], ready["photo_id"].combine_chunks())
    missing = _kept(
        run.folder / "missing.parquet", LISTING, lambda: listing.filter(pc.invert(there))
    )
    return ready, failed, missing


def _taken_back(ready: pa.Table, now: pa.Table) -> pa.Table:
    """Rows that were ready when a run began, those as failed that have failed for good since."""
    failed = now.filter(pc.equal(now["status"], "failed"))
    ids = failed["photo_id"].combine_chunks()
    failed = failed.filter(pc.is_in(ids, ready["photo_id"].combine_chunks()))
    return pa.concat_tables([ready.filter(pc.invert(pc.is_in(ready["photo_id"], ids))), failed])


def _fetch(
    run: Run, classes: Sequence[ListedClass], parameters: CollectParameters, progress: Progress
) -> pa.Table:
    """Bring what is missing into the batches of the run; gives the rows that need no fetching."""
    ready, failed, missing = _asked(run, classes, parameters, progress)
    fetch_listing(run, missing, ready, _politeness(parameters), parameters.workers, progress)
    return pa.concat_tables([ready, failed])


def collect_remote(
    workspace: Workspace, parameters: CollectParameters, progress: Progress
) -> Outcome:
    """Bring photos from iNaturalist into the workspace, as rows of `photos`."""
    check_parameters(parameters)
    if parameters.refresh:
        return refresh(workspace, parameters, progress)
    classes = chosen_classes(workspace.label_space, parameters.classes)
    if parameters.dry_run:
        return dry_run(workspace, classes, parameters, progress)
    run = workspace.begin(_job(workspace, classes, parameters))
    if run.fresh:
        own = workspace.read("photos", parameters.source)
        if not _may_pass(own):
            return _outcome(own, parameters.source, fresh=True)
        run = workspace.begin_again(run.job, own)
    rows = run.saved(_fetch(run, classes, parameters, progress))
    run.commit(rows)
    return _outcome(rows, parameters.source, fresh=False)


def _job(
    workspace: Workspace, classes: Sequence[ListedClass], parameters: CollectParameters
) -> Job:
    inputs = {"label_space": workspace.label_space.digest}
    packages = ["requests", "pillow", "pyarrow"]
    if parameters.source == "open-data":
        from pipeline.collect.open_data import open_data_digest

        inputs["tables"] = open_data_digest(parameters.tables)
        packages.append("duckdb")
    else:
        packages.append("pyinaturalist")
    return Job(
        table="photos",
        stage="collect",
        source=parameters.source,
        parameters=deciding(parameters, classes),
        inputs=inputs,
        packages=tuple(packages),
    )


def _outcome(own: pa.Table, source: str, *, fresh: bool) -> Outcome:
    """What there is of a source, by its rows."""
    failed = own.filter(pc.equal(own["status"], "failed"))
    problems = Counter(map(reason_of, failed["error"].to_pylist()))
    again = pc.sum(failed["transient"]).as_py() or 0
    classes = pc.count_distinct(own["class_name"]).as_py()
    plural = "class" if classes == 1 else "classes"
    text = f"{own.num_rows - failed.num_rows} photos of {classes} {plural}"
    if failed.num_rows:
        text += f", {failed.num_rows} failed: {tell_problems(problems)}"
    if again:
        text += f"\n  the same command asks again for {again} of them"
    facts = {
        "source": source,
        "ok": own.num_rows - failed.num_rows,
        "failed": failed.num_rows,
        "problems": dict(problems),
        "bytes": pc.sum(own["bytes"], min_count=0).as_py(),
    }
    return Outcome("collect", text, facts, fresh)
