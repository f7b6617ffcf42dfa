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
from manifests.tables import count_by, misnumbered
from manifests.vocabulary import allowed_licenses, licenses, sharing_licenses

if TYPE_CHECKING:
    from manifests.workspace import Workspace
    from pipeline.parameters import ReleaseParameters

__all__ = ["Content", "select"]

_AS_CHOSEN = ("license", "sha256")
_OF_PHOTOS = ("path", "bytes", "source", "observed_at")


@dataclass(frozen=True)
class Content:
    """The rows of a release.

    Attributes
    ----------
    rows
        Rows of `split` with `path`, `bytes`, `source` and `observed_at` of `photos`, and `embed`:
        whether the photo's bytes are in the release, instead of a link to it.
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
        If the split is empty, nothing of it is left, a photo of it is not among the photos, or no
        longer as it was chosen or decided, or its licences or classes are not those that are known.
    """
    # The photos first, while nothing else takes memory.
    files = workspace.read("photos").select(["photo_id", "status", *_AS_CHOSEN, *_OF_PHOTOS])
    split = workspace.read("split")
    if not split.num_rows:
        msg = "the split is empty: no class was selected; `cap split` says why for each"
        raise CapError(msg)
    _check_licenses(split)
    _check_classes(workspace, split)
    _check_decisions(workspace, split)
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
    left_out = count_by(split.filter(pc.invert(included)), "license")
    without_url = pc.sum(pc.and_(may_link, pc.invert(has_url))).as_py() or 0
    if not pc.any(included).as_py():
        raise CapError(_nothing_left(parameters.images, left_out, without_url))
    rows = split.append_column("embed", embed)
    if left_out:
        rows = rows.filter(included)
    return Content(_with_files(rows, files), left_out, without_url)


def _check_licenses(split: pa.Table) -> None:
    """See that every licence is one of the vocabulary, of which the card can tell."""
    unknown = sorted(count_by(split, "license").keys() - licenses().keys())
    if unknown:
        msg = (
            f"the split has licences that cap does not know ({', '.join(unknown)}); in the table "
            f"photos, write one of {', '.join(licenses())}, then run `cap split` again"
        )
        raise CapError(msg)


def _check_classes(workspace: Workspace, split: pa.Table) -> None:
    """See that the label space has each class of the split under its number."""
    labels = workspace.label_space
    others = misnumbered(split, labels, exactly=False)
    if others:
        index, name = others[0]
        now = labels.names[index] if 0 <= index < len(labels) else None
        found = "has no such class" if now is None else f"calls it {now!r}"
        msg = (
            f"class {index} of the split is {name!r}, and the label space {labels.name} "
            f"{found}; run `cap collect` and the later stages again"
        )
        raise CapError(msg)


def _check_decisions(workspace: Workspace, split: pa.Table) -> None:
    """See that people still keep each photo with its background, and that it repeats no other."""
    against = pa.chunked_array([pa.repeat(False, split.num_rows)])
    if workspace.has("labels"):
        labels = workspace.read("labels").select(["photo_id", "decision", "background"])
        now = _rows_of(split, labels)
        kept = pc.and_(
            pc.equal(now["decision"], "keep"), pc.equal(now["background"], split["background"])
        )
        # A split that was made elsewhere may hold photos that nobody tagged here.
        untagged = pc.is_null(now["photo_id"])
        unless = pc.and_(untagged, workspace.state("split") != "fresh")
        against = pc.invert(pc.or_(pc.fill_null(kept, False), unless))
    if workspace.has("duplicates"):
        duplicates = workspace.read("duplicates").select(["photo_id", "relation"])
        relation = _rows_of(split, duplicates)["relation"]
        against = pc.or_(against, pc.is_in(relation, pa.array(["exact", "near"])))
    found = split["photo_id"].filter(against)
    if len(found):
        msg = (
            f"{len(found)} photos of the split, such as {found[0]}, were rejected or given another "
            "background since it was made, or repeat another photo; run `cap split` again"
        )
        raise CapError(msg)


def _rows_of(split: pa.Table, table: pa.Table) -> pa.Table:
    """What a table says of each photo of the split; nulls where it has no row for it."""
    return table.take(pc.index_in(split["photo_id"], table["photo_id"].combine_chunks()))


def _with_files(rows: pa.Table, files: pa.Table) -> pa.Table:
    """The rows with what only the table photos tells."""
    at = pc.index_in(rows["photo_id"], files["photo_id"].combine_chunks())
    if at.null_count:
        lost = rows["photo_id"].filter(at.is_null())[0]
        msg = f"photo {lost} of the split is not in the table photos; run `cap split` again"
        raise CapError(msg)
    now = files.take(at)
    gone = pc.not_equal(now["status"], "ok")
    same = [pc.fill_null(pc.equal(now[name], rows[name]), False) for name in _AS_CHOSEN]
    changed = pc.sum(pc.or_(gone, pc.invert(pc.and_(*same)))).as_py()
    if changed:
        msg = (
            f"{changed} photos of the split are gone, or have another licence or other bytes than "
            "when it was made; run `cap dedup`, `cap score` and `cap split` again"
        )
        raise CapError(msg)
    for name in _OF_PHOTOS:
        rows = rows.append_column(name, files[name].take(at))
    return rows.combine_chunks()


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
