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

__all__ = ["check_compared", "kept_photos"]


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
        kept = duplicates.filter(pc.is_in(duplicates["relation"], pa.array(["unique", "keeper"])))
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
        If some have been collected since, or repeat a photo that is gone.
    """
    at = pc.index_in(some["photo_id"], duplicates["photo_id"].combine_chunks())
    later = at.null_count
    keepers = duplicates["keeper"].take(at.drop_null())
    # A keeper that is no photo of ours is one of a reference.
    ours = pc.is_in(keepers, duplicates["photo_id"].combine_chunks())
    gone = pc.and_(ours, pc.invert(pc.is_in(keepers, stored["photo_id"].combine_chunks())))
    orphans = pc.sum(pc.fill_null(gone, False)).as_py() or 0
    if later or orphans:
        msg = (
            f"{later + orphans} of {some.num_rows} photos have been collected since duplicates "
            "were looked for, or repeat a photo that is gone; run `cap dedup` first"
        )
        raise CapError(msg)
