"""Dedup: find photos that repeat another, and choose the one to keep.

Hashes are made batch by batch, of contents that no earlier run has hashed; the search for near
pairs, of which one is new, the groups and the keepers are pure and follow from the hashes.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError, PhotoError
from manifests.kept import GOING_ON
from manifests.schema import DUPLICATES
from manifests.tables import count_by, first_of_content, from_rows, whole
from manifests.workspace import Job, Outcome
from pipeline.engine import engine_for
from pipeline.photo_source import PhotoSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manifests.progress import Progress
    from manifests.workspace import Run, Workspace
    from pipeline.dedup.known import Known
    from pipeline.dedup.linking import LinkedHashes
    from pipeline.dedup.similarity import Alike, Embeddings
    from pipeline.parameters import DedupParameters

__all__ = ["dedup"]

_BATCH = 32
"""Photos per batch: small enough that a kill costs little, large enough to keep workers busy."""


def _hash_one(photo: dict[str, Any], source: PhotoSource) -> dict[str, Any]:
    from pipeline.dedup.hashing import phash

    row = {"photo_id": photo["photo_id"], "status": "ok"}
    try:
        return {**row, "phash": phash(source.read(photo["path"], photo["sha256"]))}
    except PhotoError as error:
        return {**row, "status": "failed", "error": str(error)}


def dedup(workspace: Workspace, parameters: DedupParameters, progress: Progress) -> Outcome:
    """Write `duplicates`: for each stored photo its hash, its relation and its keeper."""
    from pipeline.dedup.embeddings import read_embeddings
    from pipeline.dedup.known import Known
    from pipeline.dedup.reference import read_reference_photos

    photos = workspace.read("photos")
    stored = photos.filter(pc.equal(photos["status"], "ok"))
    if not stored.num_rows:
        msg = "photos has no row with status ok; run `cap collect`, or see `cap status --failures`"
        raise CapError(msg)
    known = Known(workspace.cache / "dedup")
    reference = read_reference_photos(parameters.against, parameters.workers, known, progress)
    embeddings = read_embeddings(workspace, parameters, stored, known)
    inputs = {"photos": workspace.digest("photos")}
    if reference is not None:
        inputs["against"] = reference.digest
    if embeddings is not None:
        inputs["embeddings"] = embeddings.digest
    run = workspace.begin(_job(parameters, inputs))
    if not run.fresh:
        hashed = _hash_photos(run, stored, known, parameters, progress)
        against = None if reference is None else reference.photos
        linked = _link_hashes(hashed, against, parameters.distance, known)
        near = None if embeddings is None else _alike(embeddings, parameters.similarity, progress)
        run.commit(_with_keepers(stored, hashed, linked, against, near))
    return _outcome(workspace, _without(workspace, stored, embeddings), fresh=run.fresh)


def _job(parameters: DedupParameters, inputs: dict[str, str]) -> Job:
    rule: dict[str, Any] = {"distance": parameters.distance}
    packages = ["imagehash", "pillow", "numpy", "scipy", "pyarrow"]
    if parameters.embeddings is not None:
        rule |= {"embeddings": parameters.embeddings, "similarity": parameters.similarity}
        packages.append("faiss-cpu")
    return Job("duplicates", "dedup", rule, inputs, packages=tuple(packages))


def _hash_photos(
    run: Run, stored: pa.Table, known: Known, parameters: DedupParameters, progress: Progress
) -> pa.Table:
    """Rows with the hash of each photo, or why it has none."""
    photos = stored.select(["photo_id", "path", "sha256"])
    photos = photos.join(known.hashes(), "sha256", join_type="left outer").sort_by("photo_id")
    # Of photos with the same bytes the first is hashed, for all.
    first, copies = np.unique(first_of_content(photos["sha256"]), return_inverse=True)
    firsts = photos.take(first)
    source = PhotoSource.of(run.workspace.photos, parameters.photos_at)
    # Photos with a known hash are in the batches too, so that a resumed run cuts the same ones
    # whatever is known by then.
    every = range(firsts.num_rows)
    todo = firsts.take(pa.array(run.pending(every, _BATCH), pa.int64()))
    todo = todo.filter(pc.is_null(todo["phash"])).select(["photo_id", "path", "sha256"])
    with engine_for(parameters, progress, source.folder) as engine:
        # One pass over all that is left, so that no process waits where a batch ends.
        made = engine.map(
            partial(_hash_one, source=source), _each_row(todo), threads=source.threads
        )
        for index, positions in run.batches(every, _BATCH, progress):
            batch = firsts.slice(positions[0], len(positions))
            standing = batch.filter(pc.is_valid(batch["phash"])).select(["photo_id", "phash"])
            standing = standing.append_column("status", pa.repeat("ok", standing.num_rows))
            new = list(itertools.islice(made, batch["phash"].null_count))
            rows = [from_rows(new, DUPLICATES.schema), standing]
            run.save(index, pa.concat_tables(rows, promote_options="default"))
    hashed = run.saved()
    new = pa.table([firsts["sha256"], hashed["phash"]], names=["sha256", "phash"])
    known.add_hashes(new.filter(pc.is_null(firsts["phash"])))
    return hashed.take(copies).set_column(0, "photo_id", photos["photo_id"])


def _each_row(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _link_hashes(
    hashed: pa.Table, against: pa.Table | None, distance: int, known: Known
) -> LinkedHashes:
    """Which hashes of photos and references hang together."""
    from pipeline.dedup.linking import link_hashes

    tables = [hashed] if against is None else [hashed, against]
    hashes = pa.concat_arrays([whole(table["phash"]) for table in tables]).drop_null()
    linked = link_hashes(hashes.to_numpy(), distance, known.linked(distance))
    known.keep_linked(linked)
    return linked


def _alike(embeddings: Embeddings, similarity: float, progress: Progress) -> Alike:
    """Which contents are near by their embeddings."""
    from pipeline.dedup.similarity import alike

    found = alike(embeddings, similarity)
    if found.recall is not None:
        progress.note(f"embeddings: an index finds {found.recall:.1%} of the near pairs")
    return found


def _with_keepers(
    stored: pa.Table,
    hashed: pa.Table,
    linked: LinkedHashes,
    against: pa.Table | None,
    near: Alike | None,
) -> pa.Table:
    """The duplicates table from hashes; photos that could not be hashed keep their failed row."""
    from pipeline.dedup.groups import choose_keepers

    facts = ["photo_id", "sha256", "width", "height", "license", "observed_at"]
    made = hashed.filter(pc.equal(hashed["status"], "ok")).select(["photo_id", "phash"])
    candidates = stored.select(facts).join(made, "photo_id", join_type="inner")
    chosen = choose_keepers(candidates, linked, against, near)
    compared = hashed.select(["photo_id", "status", "error", "phash"]).join(
        stored.select(["photo_id", "sha256"]), "photo_id", join_type="left outer"
    )
    return compared.join(chosen, "photo_id", join_type="left outer")


def _without(workspace: Workspace, stored: pa.Table, embeddings: Embeddings | None) -> int | None:
    """How many photos were kept that have no embedding."""
    if embeddings is None:
        return None
    duplicates = workspace.read("duplicates")
    kept = duplicates.filter(pc.is_in(duplicates["relation"], pa.array(GOING_ON)))
    seen = stored.filter(pc.is_in(stored["sha256"], embeddings.sha256))
    unseen = pc.invert(pc.is_in(kept["photo_id"], whole(seen["photo_id"])))
    return int(pc.sum(unseen, min_count=0).as_py())


def _outcome(workspace: Workspace, without: int | None, *, fresh: bool) -> Outcome:
    table = workspace.read("duplicates")
    counts = count_by(table, "relation")
    removed = counts.get("exact", 0) + counts.get("near", 0)
    failed = count_by(table, "status").get("failed", 0)
    hint = f", {failed} could not be hashed" if failed else ""
    facts = {"failed": failed, **counts}
    if without is not None:
        facts["without_embedding"] = without
    if without:
        hint += f"; {without} of those kept have no embedding yet: `cap score` them, and again"
    text = (
        f"{table.num_rows - removed - failed} photos kept; {counts.get('exact', 0)} exact and "
        f"{counts.get('near', 0)} near duplicates{hint}"
    )
    return Outcome("dedup", text, facts, fresh)
