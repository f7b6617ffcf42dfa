"""Ask people about a cluster of `cap discover`: do photos show what its regions have in common?

Given the number of a cluster, `confirming` gives the photos that have a region in it and as many
that have none, in an order that does not tell which is which. Whether a photo is in the cluster
travels with its task in a form that people cannot read, and comes home with the answer.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from annotation.assignment import Candidate, Plan, draw
from annotation.client import ClusterMark, photo_url
from annotation.contact_sheet import REGIONS_AT_MOST, Cut, Sheets
from annotation.mirror import workspace_id
from annotation.questions import Inquiry, Question
from annotation.screen import discovery_screen
from manifests.errors import CapError, PhotoError
from manifests.kept import kept_photos
from manifests.photos import open_upright

if TYPE_CHECKING:
    from annotation.parameters import PushParameters
    from manifests.workspace import Workspace

__all__ = ["Chosen", "ask_about", "confirming", "discovery_digest", "seal", "unsealed"]

_FEWEST = 3
"""Photos that a cluster needs: two on the sheet, and the one beside it."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Chosen:
    """A photo that is asked about, and whether one of its regions is in the cluster."""

    candidate: Candidate
    in_cluster: bool


def discovery_digest(cluster: Row) -> str:
    """Sixteen hexadecimal digits that differ where a cluster has another medoid or other regions.

    Parameters
    ----------
    cluster
        Row of `discoveries`.
    """
    medoid = cluster["embedding"]
    regions = [[member["photo_id"], member["region"]] for member in cluster["members"]]
    content = struct.pack(f"<{len(medoid)}f", *medoid) + json.dumps(regions).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def seal(secret: str, sha256: str, *, in_cluster: bool) -> str:
    """Whether a photo is in the cluster, as its task carries it: an annotator sees the task's data.

    Parameters
    ----------
    secret
        What the digest is made with, so that nobody can make it from the photo alone.
    sha256
        Digest of the photo.
    in_cluster
        What is sealed.
    """
    return hashlib.sha256(f"{secret}:{sha256}:{in_cluster}".encode()).hexdigest()[:16]


def unsealed(sealed: str, secret: str, sha256: str) -> bool | None:
    """What was sealed; None where that was not done with this secret for this photo."""
    for in_cluster in (True, False):
        if sealed == seal(secret, sha256, in_cluster=in_cluster):
            return in_cluster
    return None


def ask_about(
    inside: Sequence[Candidate], outside: Sequence[Candidate], seed: int, limit: int | None = None
) -> list[Chosen]:
    """Photos with and without a cluster, equally many as far as there are, in one mixed order.

    What is drawn and where it stands depends on the seed and the photo's digest alone, so that a
    higher limit adds photos and takes none away.

    Parameters
    ----------
    inside, outside
        Photos that have a region in the cluster, and photos that have none.
    seed
        What the order, and the photos without the cluster, are drawn from.
    limit
        Photos to ask about at most; None asks about all with the cluster.
    """

    def drawn(photos: Sequence[Candidate], purpose: str) -> list[Candidate]:
        return sorted(photos, key=lambda photo: draw(seed, purpose, photo.sha256))

    most = 2 * len(inside) if limit is None else limit
    chosen = drawn(inside, "inside")[: (most + 1) // 2]
    others = drawn(outside, "outside")[: min(len(chosen), most // 2)]
    of = {photo.sha256: Chosen(photo, in_cluster=True) for photo in chosen}
    of |= {photo.sha256: Chosen(photo, in_cluster=False) for photo in others}
    return [of[photo.sha256] for photo in drawn([*chosen, *others], "order")]


def confirming(workspace: Workspace, parameters: PushParameters) -> Inquiry:
    """The photos to ask about the cluster that `--from-discovery` names.

    Raises
    ------
    CapError
        If there is no such cluster, or it is in too few photos.
    """
    run, cluster = _named(workspace, str(parameters.from_discovery))
    about = ClusterMark(run, cluster["cluster"], discovery_digest(cluster))
    inside, outside = _by_membership(workspace, run, cluster)
    if len(inside) < _FEWEST:
        msg = (
            f"cluster {about.cluster} of {run} is in {len(inside)} photos; what regions have in "
            f"common can be asked where it is in {_FEWEST} or more"
        )
        raise CapError(msg)
    asked = ask_about(inside, outside, parameters.seed, parameters.limit)
    cuts = _cuts(workspace, run, cluster, {photo.photo_id: photo for photo in inside})
    sheets = Sheets(cuts, workspace.photos, parameters.seed)
    secret = workspace_id(workspace)
    with_it = sum(each.in_cluster for each in asked)
    return Inquiry(
        round="discovery",
        screen=discovery_screen(),
        plan=Plan(
            parameters.annotators, parameters.overlap, parameters.share, seed=parameters.seed
        ),
        questions=tuple(_question(each, sheets, secret) for each in asked),
        what=f"photos asked about cluster {about.cluster}, {with_it} of them with it",
        about=about,
        facts={"run": run, "cluster": about.cluster, "in_cluster": with_it},
    )


def _question(asked: Chosen, sheets: Sheets, secret: str) -> Question:
    photo = asked.candidate
    sha256, path = sheets.beside(photo.sha256)
    shown = {
        "sheet": photo_url(path),
        "sealed": seal(secret, photo.sha256, in_cluster=asked.in_cluster),
    }
    return Question(photo, shown, ((path, sha256),))


def _named(workspace: Workspace, name: str) -> tuple[str, Row]:
    """Run and row of the cluster that a person names, `12` or `RUN/12`.

    Raises
    ------
    CapError
        If there is none, or several runs have one; what there is, is named.
    """
    runs = workspace.runs("discoveries")
    run, _, number = name.rpartition("/")
    if not number.isdecimal():
        msg = f"--from-discovery is the number of a cluster, such as 12 or RUN/12, not {name!r}"
        raise CapError(msg)
    if not runs:
        msg = "nothing has been discovered yet; run `cap discover` first"
        raise CapError(msg)
    if run and run not in runs:
        msg = f"there are no discoveries of {run!r}; there are those of {', '.join(runs)}"
        raise CapError(msg)
    if not run and len(runs) > 1:
        choices = ", ".join(f"{each}/{number}" for each in runs)
        msg = f"{len(runs)} runs have discoveries; name one of: {choices}"
        raise CapError(msg)
    run = run or runs[0]
    table = workspace.read(f"discoveries/{run}")
    rows = table.filter(pc.equal(table["cluster"], int(number))).to_pylist()
    if not rows:
        there = f"clusters 0 to {table.num_rows - 1}" if table.num_rows else "no cluster"
        msg = f"there is no cluster {number} of {run}, which has {there}"
        raise CapError(msg)
    return run, rows[0]


def _by_membership(
    workspace: Workspace, run: str, cluster: Row
) -> tuple[list[Candidate], list[Candidate]]:
    """Photos that the model looked at: those with a region in the cluster, and the others.

    Of photos with the same bytes one is asked about.
    """
    regions = workspace.read(f"regions/{run}")
    looked_at = regions.filter(pc.equal(regions["status"], "ok"))["photo_id"]
    photos, _ = kept_photos(workspace)
    photos = photos.filter(pc.is_in(photos["photo_id"], looked_at.combine_chunks()))
    members = {member["photo_id"] for member in cluster["members"]}
    columns = ["photo_id", "sha256", "path", "class_index"]
    inside: dict[str, Candidate] = {}
    outside: dict[str, Candidate] = {}
    for row in photos.select(columns).to_pylist():
        of = inside if row["photo_id"] in members else outside
        of.setdefault(row["sha256"], Candidate(**row))
    return list(inside.values()), [p for p in outside.values() if p.sha256 not in inside]


def _cuts(
    workspace: Workspace, run: str, cluster: Row, photos: Mapping[str, Candidate]
) -> list[Cut]:
    """The regions nearest to the middle of the cluster, one of a photo: one more than are shown.

    Raises
    ------
    CapError
        If too few photos can be read, or the regions have been made anew since.
    """
    table = workspace.read(f"regions/{run}").select(
        ["photo_id", "region", "left", "top", "right", "bottom"]
    )
    boxes = {(row["photo_id"], row["region"]): row for row in table.to_pylist()}
    first: dict[str, int] = {}
    for member in cluster["members"]:
        first.setdefault(member["photo_id"], member["region"])
    cuts: list[Cut] = []
    for photo_id, number in first.items():
        box = boxes.get((photo_id, number))
        if box is None:
            msg = f"discoveries/{run} is of other regions than regions/{run}; run `cap discover`"
            raise CapError(msg)
        if photo_id not in photos or len(cuts) > REGIONS_AT_MOST:
            continue
        photo = photos[photo_id]
        try:
            image = open_upright(workspace.photos.read(photo.path, photo.sha256))
        except PhotoError:
            # It is told, and not sent, when it is its turn.
            continue
        edges = (box["left"], box["top"], box["right"], box["bottom"])
        cuts.append(Cut(photo.sha256, image.crop(edges)))
    if len(cuts) < _FEWEST:
        msg = f"only {len(cuts)} photos of cluster {cluster['cluster']} can be read"
        raise CapError(msg)
    return cuts
