"""Which photos repeat each other, and which one of them is kept.

Given a table of photos with their sha256 and pHash, and which hashes hang together, gives for each
photo whether it is unique, a keeper or a duplicate of one, and why, in words. Photos with the same
bytes or near hashes are linked; whatever hangs together is one group with one keeper. Photos of a
reference table, such as another dataset's test set, win over ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.tables import first_of_content
from manifests.vocabulary import licenses
from pipeline.dedup.linking import LinkedHashes
from pipeline.dedup.similarity import Alike

__all__ = ["choose_keepers"]

_Indices = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

_UNDATED = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Nodes:
    """Photos and, after them, references, each sorted by id: what links them."""

    ids: list[str]
    content: _Indices  # equal for equal bytes
    hashes: npt.NDArray[np.uint64]
    hashed: _Mask


def _nodes(photos: pa.Table, against: pa.Table | None) -> _Nodes:
    columns = ["photo_id", "sha256", "phash"]
    tables = [photos.select(columns)]
    if against is not None:
        tables.append(against.select(columns).sort_by("photo_id").cast(tables[0].schema))
    table = pa.concat_tables(tables).combine_chunks()
    content = first_of_content(table["sha256"])
    hashes = table["phash"].fill_null(0).to_numpy().astype(np.uint64)
    hashed = table["phash"].is_valid().to_numpy()
    # The same bytes have the same hash, even where one of them was not hashed.
    lowest = np.full(len(content), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(lowest, content[hashed], hashes[hashed])
    known = np.isin(content, content[hashed])
    return _Nodes(
        ids=table["photo_id"].to_pylist(),
        content=content,
        hashes=np.where(hashed, hashes, lowest[content]),
        hashed=known,
    )


@dataclass(frozen=True)
class _Seen:
    """What a model's embeddings say of photos."""

    alike: Alike
    places: _Indices  # of each photo among the embeddings, -1 where it has none

    @classmethod
    def of(cls, photos: pa.Table, alike: Alike) -> _Seen:
        places = pc.index_in(photos["sha256"], value_set=alike.embeddings.sha256)
        return cls(alike, places.fill_null(-1).to_numpy().astype(np.int64))

    def pairs(self) -> tuple[_Indices, _Indices]:
        """Photos that are alike; one of each content stands for its copies."""
        photos = np.full(len(self.alike.embeddings.sha256), -1)
        places, first = np.unique(self.places, return_index=True)
        photos[places[places >= 0]] = first[places >= 0]
        pairs = photos[np.stack([self.alike.first, self.alike.second])]
        left, right = pairs[:, (pairs >= 0).all(axis=0)]
        return left, right

    def similarities(self, keepers: _Indices) -> npt.NDArray[np.float64]:
        """Cosine of each photo to its keeper where that is large enough, else NaN."""
        found = np.full(len(keepers), np.nan)
        # References have no embedding.
        ours = np.flatnonzero(keepers < len(self.places))
        ours = ours[(self.places[ours] >= 0) & (self.places[keepers[ours]] >= 0)]
        found[ours] = self.alike.embeddings.cosines(self.places[ours], self.places[keepers[ours]])
        found[found < self.alike.similarity] = np.nan
        return found


def _groups(nodes: _Nodes, linked: LinkedHashes, seen: _Seen | None) -> _Indices:
    """The connected component of each node."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Besides the photos, each content and each group of hashes is a vertex: a thousand photos with
    # equal hashes are then linked by a thousand edges instead of half a million.
    count = len(nodes.ids)
    hashed = np.flatnonzero(nodes.hashed)
    first_group = 2 * count
    left, right = seen.pairs() if seen else (np.empty(0, np.int64), np.empty(0, np.int64))
    sources = np.concatenate([np.arange(count), hashed, left])
    targets = np.concatenate(
        [count + nodes.content, first_group + linked.groups_of(nodes.hashes[hashed]), right]
    )
    size = int(targets.max(initial=first_group)) + 1
    links = coo_array((np.ones(len(sources), np.uint8), (sources, targets)), shape=(size, size))
    labels = connected_components(links, directed=False)[1]
    return np.asarray(np.unique(labels[:count], return_inverse=True)[1], dtype=np.int64)


@dataclass(frozen=True)
class _Photos:
    """What the keeper rule looks at, for photos sorted by id."""

    width: _Indices
    height: _Indices
    pixels: _Indices
    license: list[str]
    openness: _Indices
    observed: _Indices  # microseconds, `_UNDATED` where unknown

    @classmethod
    def of(cls, photos: pa.Table) -> _Photos:
        openness = {code: row.openness for code, row in licenses().items()}
        codes = photos["license"].fill_null("unknown").to_pylist()
        ranks = [openness.get(code, openness["unknown"]) for code in codes]
        observed = photos["observed_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        width = photos["width"].fill_null(0).to_numpy().astype(np.int64)
        height = photos["height"].fill_null(0).to_numpy().astype(np.int64)
        return cls(
            width=width,
            height=height,
            pixels=width * height,
            license=codes,
            openness=np.array(ranks, dtype=np.int64),
            observed=observed.fill_null(_UNDATED).to_numpy(),
        )

    def ranked(self, groups: _Indices) -> _Indices:
        """Photos by group, the best of each first: the largest, then openest, then oldest."""
        # The sort is stable, so that the first id wins among equals.
        order: _Indices = np.lexsort((self.observed, self.openness, -self.pixels, groups))
        return order

    def size(self, photo: int) -> str:
        return f"{self.width[photo]}x{self.height[photo]}"

    def date(self, photo: int) -> str:
        observed = int(self.observed[photo])
        if observed == _UNDATED:
            return "undated"
        return str(np.datetime64(observed, "us").astype("datetime64[s]")).replace("T", " ")

    def why_kept(self, keeper: int, next_best: int, members: int) -> str:
        """Why a photo is the keeper of its group, by the first rule that sets it apart."""
        among = f"among the largest of {members} ({self.size(keeper)})"
        if self.pixels[keeper] != self.pixels[next_best]:
            return f"largest of {members} ({self.size(keeper)})"
        if self.openness[keeper] != self.openness[next_best]:
            return f"openest licence ({self.license[keeper]}) {among}"
        if self.observed[keeper] != self.observed[next_best]:
            return f"oldest ({self.date(keeper)}) {among} with the openest licence"
        return f"first by id {among}, alike in licence and date"

    def why_better(self, keeper: int, photo: int) -> str:
        """What the keeper has over a duplicate."""
        if self.pixels[keeper] != self.pixels[photo]:
            return f"which is larger ({self.size(keeper)}, not {self.size(photo)})"
        if self.openness[keeper] != self.openness[photo]:
            kept, other = self.license[keeper], self.license[photo]
            return f"which has the more open licence ({kept}, not {other})"
        if self.observed[keeper] != self.observed[photo]:
            return f"which is older ({self.date(keeper)}, not {self.date(photo)})"
        return "which comes first by id"


@dataclass(frozen=True)
class _Decisions:
    """The outcome for each photo: its keeper (a node), the distance in bits and the cosine to it.

    The cosine is NaN where it does not link the two.
    """

    relations: list[str]
    keepers: _Indices
    distances: npt.NDArray[np.uint8]
    similarities: npt.NDArray[np.float64]


def _best_of_group(ranked: _Indices, groups: _Indices) -> _Indices:
    """For each photo the first of its group in rank."""
    names, first = np.unique(groups[ranked], return_index=True)
    return np.asarray(ranked[first][np.searchsorted(names, groups)], dtype=np.int64)


def _nearest_references(nodes: _Nodes, groups: _Indices, keepers: _Indices) -> _Indices:
    """Keepers, replaced where the group holds references: the same bytes, else the nearest."""
    keepers = keepers.copy()
    count = len(keepers)
    same: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    for reference in range(count, len(nodes.ids)):
        same.setdefault(int(nodes.content[reference]), reference)
        members.setdefault(int(groups[reference]), []).append(reference)
    arrays = {group: np.array(positions) for group, positions in members.items()}
    for photo in np.flatnonzero(np.isin(groups[:count], groups[count:])).tolist():
        candidates = arrays[int(groups[photo])]
        distances = np.bitwise_count(nodes.hashes[candidates] ^ nodes.hashes[photo])
        # Candidates are sorted by id, so that the first of the nearest is taken.
        nearest = int(candidates[np.argmin(distances)])
        keepers[photo] = same.get(int(nodes.content[photo]), nearest)
    return keepers


def _decide(nodes: _Nodes, groups: _Indices, ranked: _Indices, seen: _Seen | None) -> _Decisions:
    count = len(ranked)
    keepers = _nearest_references(nodes, groups, _best_of_group(ranked, groups[:count]))
    alone = np.bincount(groups, minlength=1)[groups[:count]] == 1
    itself = keepers == np.arange(count)
    exact = nodes.content[keepers] == nodes.content[:count]
    relations = np.select([alone, itself, exact], ["unique", "keeper", "exact"], "near")
    distances = np.bitwise_count(nodes.hashes[keepers] ^ nodes.hashes[:count])
    cosines = seen.similarities(keepers) if seen else np.full(count, np.nan)
    return _Decisions(
        relations=relations.tolist(),
        keepers=keepers,
        distances=np.where(exact, 0, distances).astype(np.uint8),
        similarities=np.where(relations == "near", cosines, np.nan),
    )


def _reasons(
    photos: _Photos,
    nodes: _Nodes,
    ranked: _Indices,
    decisions: _Decisions,
    distance: int,
    seen: _Seen | None,
) -> list[str]:
    """For each photo, what was decided and why, in words."""
    count = len(ranked)
    members = np.bincount(decisions.keepers, minlength=count)
    next_best = dict(zip(ranked[:-1].tolist(), ranked[1:].tolist(), strict=True))

    def reason(photo: int, relation: str, keeper: int, bits: int, cosine: float) -> str:
        if relation == "unique":
            near = f", none within {distance} bits" if nodes.hashed[photo] else "; it has no pHash"
            if seen and seen.places[photo] >= 0:
                of = f"in the embeddings of {seen.alike.embeddings.run}"
                near += f", none with a cosine of {seen.alike.similarity} {of}"
            return f"no other photo has the same bytes{near}"
        if relation == "keeper":
            return photos.why_kept(photo, next_best[photo], int(members[photo]))
        fact = "same bytes as" if relation == "exact" else f"pHash distance {bits} from"
        chain = " (through a chain of near photos)" if bits > distance else ""
        if seen and chain and not np.isnan(cosine):
            run = seen.alike.embeddings.run
            better = photos.why_better(keeper, photo)
            return f"cosine {cosine:.3f} to the keeper in the embeddings of {run}, {better}"
        if keeper >= count:
            return f"{fact} the reference photo {nodes.ids[keeper]}{chain}"
        return f"{fact} the keeper{chain}, {photos.why_better(keeper, photo)}"

    columns = (
        decisions.relations,
        decisions.keepers.tolist(),
        decisions.distances.tolist(),
        decisions.similarities.tolist(),
    )
    return [reason(photo, *row) for photo, row in enumerate(zip(*columns, strict=True))]


def choose_keepers(
    photos: pa.Table,
    linked: LinkedHashes,
    against: pa.Table | None = None,
    alike: Alike | None = None,
) -> pa.Table:
    """Group photos that repeat each other and choose one of each group.

    The keeper is the largest photo in pixels, then the one with the openest licence, then the
    oldest, then the first by id. Where a group holds references, each of its photos is a duplicate
    of the reference with the same bytes, or of the nearest one, or of the first by id among these.

    Parameters
    ----------
    photos
        Columns photo_id, sha256, width, height, license, observed_at and phash (uint64, null where
        hashing failed: such a photo repeats others by its bytes only). Rows in any order.
    linked
        The groups of at least the hashes of all photos and references.
    against
        References, photos that ours must not repeat: columns photo_id, sha256 and phash, the
        latter two null where unknown.
    alike
        Contents that are near by a model's embeddings too.

    Returns
    -------
    Table
        One row per photo, sorted by photo_id: photo_id, relation (`unique`, `keeper`, `exact`,
        `near`), keeper (photo_id; a unique photo's is its own), distance to the keeper in bits
        (null for unique; over that of near hashes where a chain of near photos leads to the
        keeper), reason; with `alike` also similarity, the cosine to the keeper where that links
        them.
    """
    photos = photos.sort_by("photo_id")
    nodes = _nodes(photos, against)
    seen = None if alike is None else _Seen.of(photos, alike)
    groups = _groups(nodes, linked, seen)
    rules = _Photos.of(photos)
    ranked = rules.ranked(groups[: photos.num_rows])
    decisions = _decide(nodes, groups, ranked, seen)
    reasons = _reasons(rules, nodes, ranked, decisions, linked.distance, seen)
    unique = np.array(decisions.relations, dtype=str) == "unique"
    chosen = pa.table(
        {
            "photo_id": photos["photo_id"],
            "relation": pa.array(decisions.relations, pa.string()),
            "keeper": pa.array([nodes.ids[keeper] for keeper in decisions.keepers], pa.string()),
            "distance": pa.array(decisions.distances, pa.uint8(), mask=unique),
            "reason": pa.array(reasons, pa.string()),
        }
    )
    if seen is None:
        return chosen
    cosines = pa.array(decisions.similarities, pa.float32(), from_pandas=True)
    return chosen.append_column("similarity", cosines)
