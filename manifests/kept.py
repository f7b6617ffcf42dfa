"""Which photos go on: stored, and repeated by no other.

Scoring and annotation both start from these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = ["kept_photos"]


def kept_photos(workspace: Workspace) -> tuple[pa.Table, dict[str, str]]:
    """Stored photos that no other stands for, by photo_id, and the digests they follow from."""
    photos = workspace.read("photos")
    inputs = {"photos": workspace.digest("photos")}
    stored = photos.filter(pc.equal(photos["status"], "ok"))
    if workspace.has("duplicates"):
        duplicates = workspace.read("duplicates")
        inputs["duplicates"] = workspace.digest("duplicates")
        kept = duplicates.filter(pc.is_in(duplicates["relation"], pa.array(["unique", "keeper"])))
        stored = stored.filter(pc.is_in(stored["photo_id"], kept["photo_id"].combine_chunks()))
    return stored, inputs
