"""Dedup: find photos that repeat another, and choose the one to keep.

Hashes are made batch by batch; the search for near pairs, the groups and the keepers are pure and
follow from the hashes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError, PhotoError
from manifests.photos import PhotoStore
from manifests.schema import DUPLICATES
from manifests.tables import count_by, from_rows
from manifests.workspace import Job, Outcome
from pipeline.engine import Engine

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import DedupParameters

__all__ = ["dedup"]

_BATCH = 32
"""Photos per batch: small enough that a kill costs little, large enough to keep workers busy."""


def _hash_one(photo: dict[str, Any], store: PhotoStore) -> dict[str, Any]:
    from pipeline.dedup.hashing import phash

    row = {"photo_id": photo["photo_id"], "status": "ok"}
    try:
        return {**row, "phash": phash(store.read(photo["path"], photo["sha256"]))}
    except PhotoError as error:
        return {**row, "status": "failed", "error": str(error)}


def dedup(workspace: Workspace, parameters: DedupParameters, progress: Progress) -> Outcome:
    """Write `duplicates`: for each stored photo its hash, its relation and its keeper."""
    from pipeline.dedup.reference import read_reference_photos

    photos = workspace.read("photos")
    stored = photos.filter(pc.equal(photos["status"], "ok"))
    if not stored.num_rows:
        msg = "photos has no row with status ok; run `cap collect`, or see `cap status --failures`"
        raise CapError(msg)
    reference = read_reference_photos(parameters.against, parameters.workers, progress)
    inputs = {"photos": workspace.digest("photos")}
    if reference is not None:
        inputs["against"] = reference.digest
    job = Job(
        table="duplicates",
        stage="dedup",
        parameters={"distance": parameters.distance},
        inputs=inputs,
        packages=("imagehash", "pillow", "numpy", "scipy", "pyarrow"),
    )
    run = workspace.begin(job)
    if not run.fresh:
        hash_one = partial(_hash_one, store=workspace.photos)
        items = stored.select(["photo_id", "path", "sha256"]).to_pylist()
        with Engine(parameters.workers) as engine:
            for index, batch in run.batches(items, _BATCH, progress):
                run.save(index, from_rows(list(engine.map(hash_one, batch)), DUPLICATES.schema))
        against = None if reference is None else reference.photos
        run.commit(_with_keepers(stored, run.saved(), parameters.distance, against))
    return _outcome(workspace, fresh=run.fresh)


def _with_keepers(
    stored: pa.Table, hashed: pa.Table, distance: int, against: pa.Table | None
) -> pa.Table:
    """The duplicates table from hashes; photos that could not be hashed keep their failed row."""
    from pipeline.dedup.groups import choose_keepers

    facts = ["photo_id", "sha256", "width", "height", "license", "observed_at"]
    made = hashed.filter(pc.equal(hashed["status"], "ok")).select(["photo_id", "phash"])
    candidates = stored.select(facts).join(made, "photo_id", join_type="inner")
    chosen = choose_keepers(candidates, distance, against=against)
    return hashed.select(["photo_id", "status", "error", "phash"]).join(
        chosen, "photo_id", join_type="left outer"
    )


def _outcome(workspace: Workspace, *, fresh: bool) -> Outcome:
    table = workspace.read("duplicates")
    counts = count_by(table, "relation")
    removed = counts.get("exact", 0) + counts.get("near", 0)
    failed = count_by(table, "status").get("failed", 0)
    hint = f", {failed} could not be hashed" if failed else ""
    text = (
        f"{table.num_rows - removed - failed} photos kept; {counts.get('exact', 0)} exact and "
        f"{counts.get('near', 0)} near duplicates{hint}"
    )
    return Outcome("dedup", text, {"failed": failed, **counts}, fresh)
