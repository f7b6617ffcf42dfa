"""What goes into a release: the rows of the split, and whether each photo is embedded or linked.

Embedding passes a photo on, so it asks for a licence; a link only says where the photo is, so it
asks for an address. What has neither is left out, and counted by licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.tables import count_by
from manifests.vocabulary import allowed_licenses, sharing_licenses

if TYPE_CHECKING:
    from manifests.workspace import Workspace
    from pipeline.parameters import ReleaseParameters

__all__ = ["Content", "select"]


@dataclass(frozen=True)
class Content:
    """The rows of a release.

    Attributes
    ----------
    rows
        Rows of `split` with the photos' `path` and `bytes`, and `embed`: whether the photo's bytes
        are in the release, instead of a link to it.
    left_out
        Photos of the split that are not in it, by licence.
    without_url
        How many of these could have been linked, had they an address.
    """

    rows: pa.Table
    left_out: dict[str, int]
    without_url: int

    @property
    def linked(self) -> int:
        """Photos that are only linked."""
        return int(pc.sum(pc.invert(self.rows["embed"])).as_py() or 0)

    @property
    def shareable(self) -> bool:
        """Whether the licence of every embedded photo allows passing it on."""
        embedded = self.rows.filter(self.rows["embed"])
        return set(count_by(embedded, "license")) <= set(sharing_licenses())


def select(workspace: Workspace, parameters: ReleaseParameters) -> Content:
    """Choose what a release holds.

    With `embed`, photos under the licences named, or under those that allow sharing; with `mixed`,
    all others as links; with `link`, every photo as a link, or those under the licences named.

    Raises
    ------
    CapError
        If the split is empty, or nothing of it is left.
    """
    split = workspace.read("split")
    if not split.num_rows:
        msg = "the split is empty: no class was selected; `cap split` says why for each"
        raise CapError(msg)
    named = parameters.licenses or (("any",) if parameters.images == "link" else ())
    allowed = pc.is_in(split["license"], pa.array(allowed_licenses(named)))
    has_url = pc.fill_null(pc.match_substring_regex(split["url"], "^https?://"), False)
    never = pa.chunked_array([pa.repeat(False, split.num_rows)])
    embed = never if parameters.images == "link" else allowed
    if parameters.images == "embed":
        may_link = never
    elif parameters.images == "link":
        may_link = allowed
    else:
        may_link = pc.invert(allowed)
    included = pc.or_(embed, pc.and_(may_link, has_url))
    left_out = split.filter(pc.invert(included))
    without_url = pc.sum(pc.and_(may_link, pc.invert(has_url))).as_py() or 0
    rows = split.append_column("embed", embed).filter(included)
    counted = count_by(left_out, "license")
    if not rows.num_rows:
        raise CapError(_nothing_left(parameters.images, counted, without_url))
    files = workspace.read("photos").select(["photo_id", "path", "bytes"])
    joined = rows.join(files, "photo_id", join_type="inner").sort_by("photo_id").combine_chunks()
    return Content(joined, counted, without_url)


def _nothing_left(images: str, left_out: dict[str, int], without_url: int) -> str:
    counted = ", ".join(f"{count} {name}" for name, count in left_out.items())
    if images != "embed" and without_url:
        return (
            f"no photo of the split can be linked: {without_url} have no http address ({counted}); "
            "photos of a folder are released with --images embed"
        )
    return (
        f"no photo of the split has a licence to release under ({counted}); "
        "--licenses any makes a release for local use"
    )
