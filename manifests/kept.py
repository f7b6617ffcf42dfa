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

__all__ = ["kept_photos"]


def kept_photos(workspace: Workspace) -> tuple[pa.Table, dict[str, str]]:
    """Stored photos that no other stands for, by photo_id, and the digests they follow from.

    Raises
    ------
    CapError
        If photos have been collected since duplicates were looked for: they would be left out.
    """
    photos = workspace.read("photos")
    inputs = {"photos": workspace.digest("photos")}
    stored = photos.filter(pc.equal(photos["status"], "ok"))
    if workspace.has("duplicates"):
        duplicates = workspace.read("duplicates")
        inputs["duplicates"] = workspace.digest("duplicates")
        compared = pc.is_in(stored["photo_id"], duplicates["photo_id"].combine_chunks())
        later = stored.num_rows - (pc.sum(compared).as_py() or 0)
        if later:
            msg = (
                f"{later} of {stored.num_rows} photos have been collected since duplicates were "
                "looked for; run `cap dedup` first"
            )
            raise CapError(msg)
        kept = duplicates.filter(pc.is_in(duplicates["relation"], pa.array(["unique", "keeper"])))
        stored = stored.filter(pc.is_in(stored["photo_id"], kept["photo_id"].combine_chunks()))
    return stored, inputs
