"""Ask again for the licence of every photo: people change licences, and delete what they uploaded.

A photo that is gone, or whose licence no longer allows taking it, becomes a failed row with the
reason, so that no later stage uses it; a licence that changed to another one allowed is taken over.
The files stay in the photo store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.progress import reason_of
from manifests.schema import PHOTOS
from manifests.tables import from_rows, table_digest
from manifests.vocabulary import allowed_licenses, attribution_text
from manifests.workspace import Job, Outcome, now
from pipeline.collect.inaturalist import IDS_PER_REQUEST, license_of, open_api

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Run, Workspace
    from pipeline.parameters import CollectParameters

__all__ = ["checked", "refresh"]

GONE, CHANGED = "gone", "licence changed"


def checked(
    row: Mapping[str, Any], license_now: str | None, allowed: Sequence[str]
) -> dict[str, Any]:
    """A row of `photos` brought up to date.

    Parameters
    ----------
    row
        The row as it is.
    license_now
        The photo's licence today, or None where the photo is gone.
    allowed
        Licences whose photos may be kept.
    """
    if license_now == row["license"]:
        return dict(row)
    if license_now in allowed:
        creator = row["creator"]
        line = None if creator is None else attribution_text(creator, str(license_now))
        return {**row, "license": license_now, "attribution": line}
    unknown = dict.fromkeys(("path", "width", "height", "format", "fetched_at"))
    if license_now is None:
        reason = f"{GONE}: the photo is no longer there"
    else:
        reason = f"{CHANGED}: from {row['license']} to {license_now}"
        unknown["license"] = license_now
    return {**row, **unknown, "status": "failed", "error": reason, "transient": False}


def _licenses_now(observations: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Licence of each photo that can still be seen, by photo_id."""
    return {
        f"inaturalist:{photo['id']}": license_of(photo)
        for observation in observations.values()
        for photo in observation.get("photos") or ()
        if not photo.get("hidden")
    }


def _ask_api(run: Run, photos: pa.Table, parameters: CollectParameters, progress: Progress) -> None:
    allowed = allowed_licenses(parameters.licenses)
    batch: pa.Table
    with open_api(run.workspace, parameters) as api:
        for index, batch in run.batches(photos, IDS_PER_REQUEST, progress):
            fresh = []
            for start in range(0, len(batch), IDS_PER_REQUEST):
                part = batch[start : start + IDS_PER_REQUEST].to_pylist()
                wanted = sorted({row["observation_id"] for row in part})
                now = _licenses_now(api.by_id(wanted))
                fresh += [checked(row, now.get(row["photo_id"]), allowed) for row in part]
            run.save(index, from_rows(fresh, PHOTOS.schema))


def _ask_tables(
    run: Run, photos: pa.Table, parameters: CollectParameters, progress: Progress
) -> None:
    from pipeline.collect.open_data import open_data_licenses

    allowed = allowed_licenses(parameters.licenses)
    batch: pa.Table
    ids = photos["photo_id"].to_pylist()
    now = open_data_licenses(parameters.tables, ids, run.folder, progress)
    for index, batch in run.batches(photos, IDS_PER_REQUEST, progress):
        fresh = [checked(row, now.get(row["photo_id"]), allowed) for row in batch.to_pylist()]
        run.save(index, from_rows(fresh, PHOTOS.schema))


def _asked(parameters: CollectParameters) -> str:
    """Who is asked and which licences count: what a stopped refresh has, another may not use."""
    licenses = " ".join(sorted(allowed_licenses(parameters.licenses)))
    if parameters.source == "inaturalist":
        return f"{parameters.api_url} {now():%Y-%m-%d} {licenses}"
    from pipeline.collect.open_data import open_data_digest

    return f"{open_data_digest(parameters.tables)} {licenses}"


def refresh(workspace: Workspace, parameters: CollectParameters, progress: Progress) -> Outcome:
    """Bring the licences of a source's photos up to date: from the API, or from newer tables.

    Raises
    ------
    CapError
        If none were collected.
    """
    source = parameters.source
    receipt = workspace.receipt("photos")
    entry = receipt.sources.get(source) if receipt else None
    if receipt is None or entry is None:
        msg = f"no photos were collected from {source} yet; run `cap collect --source {source}`"
        raise CapError(msg)
    own = workspace.read("photos", source)
    job = Job(
        table="photos",
        stage="collect",
        source=source,
        step=f"refresh {table_digest(own)} {_asked(parameters)}",
        parameters=entry["parameters"],
        inputs=entry["inputs"],
        packages=tuple(receipt.versions),
    )
    run = workspace.begin(job)
    if run.fresh:
        run.start()
    there = pc.equal(own["status"], "ok")
    before = own.filter(there)
    ask = _ask_api if source == "inaturalist" else _ask_tables
    ask(run, before, parameters, progress)
    after = run.saved()
    run.commit(pa.concat_tables([own.filter(pc.invert(there)), after]))
    return _outcome(before, after)


def _outcome(before: pa.Table, after: pa.Table) -> Outcome:
    lost = Counter(map(reason_of, after["error"].drop_null().to_pylist()))
    relicensed = pc.sum(pc.not_equal(before["license"], after["license"]), min_count=0).as_py()
    kept = relicensed - lost[CHANGED]
    text = (
        f"{after.num_rows} photos asked again; {lost[GONE]} gone, {lost[CHANGED]} with a licence "
        f"that is not allowed, {kept} with another that is"
    )
    facts = {
        "checked": after.num_rows,
        "gone": lost[GONE],
        "not_allowed": lost[CHANGED],
        "relicensed": kept,
    }
    return Outcome("collect", text, facts)
