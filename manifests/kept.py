"""Which photos go on: stored, and repeated by no other.

Scoring and annotation both start from these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = ["GOING_ON", "check_compared", "kept_photos"]

GOING_ON = ("unique", "keeper")
"""Relations, in `duplicates`, of the photos that no other stands for."""


def kept_photos(workspace: Workspace) -> tuple[pa.Table, dict[str, str]]:
    """Stored photos that no other stands for, by photo_id, and the digests they follow from.

    Raises
    ------
    CapError
        As `check_compared`.
    """
    photos = workspace.read("photos")
    inputs = {"photos": workspace.digest("photos")}
    stored = photos.filter(pc.equal(photos["status"], "ok"))
    if workspace.has("duplicates"):
        duplicates = workspace.read("duplicates")
        inputs["duplicates"] = workspace.digest("duplicates")
        check_compared(stored, stored, duplicates)
        kept = duplicates.filter(pc.is_in(duplicates["relation"], pa.array(GOING_ON)))
        stored = stored.filter(pc.is_in(stored["photo_id"], kept["photo_id"].combine_chunks()))
    return stored, inputs


def check_compared(some: pa.Table, stored: pa.Table, duplicates: pa.Table) -> None:
    """See that none of some photos would be left out because `duplicates` is older than they are.

    Parameters
    ----------
    some, stored
        The photos that are asked about, and all that are stored.
    duplicates
        The table.

    Raises
    ------
    CapError
        If some have been collected since, perhaps as other bytes under the same id, or repeat a
        photo that is gone or of which that holds.
    """
    compared = duplicates["photo_id"].combine_chunks()
    changed = _changed(stored, duplicates)
    at = pc.index_in(some["photo_id"], compared)
    later = pc.or_(pc.is_null(at), pc.is_in(some["photo_id"], changed))
    keepers = duplicates["keeper"].take(at)
    # A keeper that is no photo of ours is one of a reference.
    ours = pc.is_in(keepers, compared)
    there = pc.is_in(keepers, stored["photo_id"].combine_chunks())
    orphaned = pc.and_(ours, pc.or_(pc.invert(there), pc.is_in(keepers, changed)))
    count = pc.sum(pc.or_(later, orphaned), min_count=0).as_py()
    if count:
        msg = (
            f"{count} of {some.num_rows} photos have been collected since duplicates "
            "were looked for, or repeat a photo that is gone; run `cap dedup` first"
        )
        raise CapError(msg)


def _changed(stored: pa.Table, duplicates: pa.Table) -> pa.Array:
    """Ids of stored photos whose bytes are not those that were compared."""
    if "sha256" not in duplicates.column_names:
        return pa.array([], pa.string())
    at = pc.index_in(duplicates["photo_id"], stored["photo_id"].combine_chunks())
    # Of photos that are gone nothing is known, and the filter leaves them out.
    other = pc.not_equal(duplicates["sha256"], stored["sha256"].take(at))
    return duplicates["photo_id"].filter(other).combine_chunks()
