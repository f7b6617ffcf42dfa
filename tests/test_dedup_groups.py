"""Groups of duplicates and their keepers: the rule, its words, references, row order."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.vocabulary import licenses
from pipeline.dedup.groups import choose_keepers
from pipeline.dedup.linking import link_hashes

TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("photo_id", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("license", pa.string()),
        ("observed_at", TIME),
        ("phash", pa.uint64()),
    ]
)
AGAINST = pa.schema([("photo_id", pa.string()), ("sha256", pa.string()), ("phash", pa.uint64())])
BASE = {"width": 500, "height": 375, "license": "cc-by", "observed_at": None, "phash": 0}


def photo(name: str, **facts) -> dict:
    return {**BASE, "photo_id": name, "sha256": f"bytes of {name}", **facts}


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def references(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=AGAINST)


def keepers(photos: pa.Table, distance: int, against: pa.Table | None = None) -> pa.Table:
    """The keepers among photos whose hashes were all searched at once."""
    tables = [photos] if against is None else [photos, against]
    hashes = pa.concat_arrays(
        [part.cast(pa.uint64()) for table in tables for part in table["phash"].chunks]
    )
    linked = link_hashes(hashes.drop_null().to_numpy(), distance)
    return choose_keepers(photos, linked, against)


def chosen(*rows: dict, against: pa.Table | None = None) -> dict[str, dict]:
    result = keepers(table(*rows), 6, against=against)
    return {row["photo_id"]: row for row in result.to_pylist()}


def year(number: int) -> datetime:
    return datetime(number, 6, 1, tzinfo=UTC)


def bits(count: int) -> int:
    return (1 << count) - 1


# A small world in which hashes collide, chain and differ, sizes tie, and ids sort unlike rows.
PHOTO = st.fixed_dictionaries(
    {
        "sha256": st.integers(0, 8).map(str),
        "width": st.integers(1, 3),
        "height": st.integers(1, 3),
        "license": st.sampled_from(["cc0", "pd", "cc-by", "unknown"]),
        "observed_at": st.none() | st.integers(2000, 2003).map(year),
        "phash": st.none() | st.integers(0, 5).map(lambda count: bits(10 * count)),
    }
)


def photos_of(facts: list[dict]) -> list[dict]:
    """Rows with ids; equal bytes have an equal hash, as they do in the world."""
    hashes: dict[str, int | None] = {}
    return [
        {
            **row,
            "photo_id": f"p{number * 7 % 31}",
            "phash": hashes.setdefault(row["sha256"], row["phash"]),
        }
        for number, row in enumerate(facts)
    ]


WORLD = st.lists(PHOTO, max_size=14).map(photos_of)
DISTANCE = st.sampled_from([0, 6, 10, 20])


def linked(one: dict, other: dict, distance: int) -> bool:
    if one["sha256"] == other["sha256"]:
        return True
    if one["phash"] is None or other["phash"] is None:
        return False
    return (one["phash"] ^ other["phash"]).bit_count() <= distance


def components(rows: list[dict], distance: int) -> list[list[dict]]:
    """Groups by repeated merging: slow, and plainly what is meant."""
    groups: list[list[dict]] = []
    for row in rows:
        touched = [
            group for group in groups if any(linked(row, other, distance) for other in group)
        ]
        groups = [group for group in groups if group not in touched]
        groups.append([row, *(other for group in touched for other in group)])
    return groups


def rule(row: dict) -> tuple:
    observed = row["observed_at"]
    return (
        -row["width"] * row["height"],
        licenses()[row["license"]].openness,
        observed is None,
        observed or year(1),
        row["photo_id"],
    )


@given(WORLD, DISTANCE)
def test_keepers_are_the_best_of_their_connected_group(rows, distance):
    expected = {}
    for group in components(rows, distance):
        best = min(group, key=rule)
        for row in group:
            if len(group) == 1:
                expected[row["photo_id"]] = ("unique", row["photo_id"], None)
            elif row is best:
                expected[row["photo_id"]] = ("keeper", row["photo_id"], 0)
            elif row["sha256"] == best["sha256"]:
                expected[row["photo_id"]] = ("exact", best["photo_id"], 0)
            else:
                moved = (row["phash"] ^ best["phash"]).bit_count()
                expected[row["photo_id"]] = ("near", best["photo_id"], moved)
    result = keepers(table(*rows), distance).to_pylist()
    found = {row["photo_id"]: (row["relation"], row["keeper"], row["distance"]) for row in result}
    assert found == expected
    assert all(row["reason"] for row in result)


@given(WORLD, WORLD, DISTANCE, st.randoms(use_true_random=False))
def test_the_result_is_sorted_and_does_not_depend_on_row_order(rows, others, distance, random):
    against = [{key: row[key] for key in AGAINST.names} for row in others]
    first = keepers(table(*rows), distance, against=references(*against))
    random.shuffle(rows)
    random.shuffle(against)
    assert keepers(table(*rows), distance, against=references(*against)).equals(first)
    assert first["photo_id"].to_pylist() == sorted(row["photo_id"] for row in rows)


@given(WORLD, WORLD, DISTANCE)
def test_every_photo_in_a_group_with_a_reference_repeats_the_nearest_one(rows, others, distance):
    against = [{**row, "photo_id": f"r{row['photo_id']}"} for row in others]
    for row in against:
        # Equal bytes have an equal hash across both tables, too.
        row["phash"] = next(
            (other["phash"] for other in rows if other["sha256"] == row["sha256"]), row["phash"]
        )
    known = references(*({key: row[key] for key in AGAINST.names} for row in against))
    result = keepers(table(*rows), distance, against=known).to_pylist()
    found = {row["photo_id"]: row for row in result}
    for group in components([*rows, *against], distance):
        held = [row for row in group if row["photo_id"].startswith("r")]
        for row in (row for row in group if held and row["photo_id"].startswith("p")):
            nearest = min(
                held,
                key=lambda other, row=row: (
                    other["sha256"] != row["sha256"],
                    ((other["phash"] or 0) ^ (row["phash"] or 0)).bit_count(),
                    other["photo_id"],
                ),
            )
            assert found[row["photo_id"]]["keeper"] == nearest["photo_id"]
            same = nearest["sha256"] == row["sha256"]
            assert found[row["photo_id"]]["relation"] == ("exact" if same else "near")
            assert nearest["photo_id"] in found[row["photo_id"]]["reason"]


@pytest.mark.parametrize(
    ("better", "worse", "kept", "dropped"),
    [
        (
            {"width": 1024, "height": 768},
            {},
            "largest of 2 (1024x768)",
            "which is larger (1024x768, not 500x375)",
        ),
        (
            {"license": "cc0"},
            {"observed_at": year(2001)},
            "openest licence (cc0) among the largest of 2 (500x375)",
            "which has the more open licence (cc0, not cc-by)",
        ),
        (
            {"observed_at": year(2015)},
            {"observed_at": year(2016)},
            "oldest (2015-06-01 00:00:00) among the largest of 2 (500x375) "
            "with the openest licence",
            "which is older (2015-06-01 00:00:00, not 2016-06-01 00:00:00)",
        ),
        (
            {"observed_at": year(2015)},
            {},
            "oldest (2015-06-01 00:00:00) among the largest of 2 (500x375) "
            "with the openest licence",
            "which is older (2015-06-01 00:00:00, not undated)",
        ),
        (
            {"license": "cc0", "photo_id": "a"},
            {"license": "pd", "photo_id": "b"},
            "first by id among the largest of 2 (500x375), alike in licence and date",
            "which comes first by id",
        ),
    ],
    ids=["larger", "opener", "older", "dated", "first"],
)
def test_the_reason_names_the_first_rule_that_sets_the_keeper_apart(better, worse, kept, dropped):
    # The worse photo comes first by id unless the case says otherwise.
    rows = chosen(photo("z", **better), photo("y", **{"phash": bits(3), **worse}))
    keeper, duplicate = rows[better.get("photo_id", "z")], rows[worse.get("photo_id", "y")]
    assert (keeper["relation"], keeper["reason"]) == ("keeper", kept)
    assert duplicate["relation"] == "near"
    assert duplicate["reason"] == f"pHash distance 3 from the keeper, {dropped}"


def test_the_same_bytes_are_exact_whatever_their_licence_and_say_so():
    rows = chosen(photo("a", sha256="s"), photo("b", sha256="s", license="cc0"))
    assert rows["a"]["relation"] == "exact"
    assert rows["a"]["reason"] == (
        "same bytes as the keeper, which has the more open licence (cc0, not cc-by)"
    )


def test_a_chain_of_near_photos_is_one_group_and_the_reason_tells():
    rows = chosen(
        photo("a", width=900), photo("b", phash=bits(6), width=800), photo("c", phash=bits(12))
    )
    assert [rows[name]["relation"] for name in "abc"] == ["keeper", "near", "near"]
    assert rows["c"]["distance"] == 12
    assert "through a chain of near photos" in rows["c"]["reason"]
    assert "chain" not in rows["b"]["reason"]


def test_a_photo_without_hash_repeats_others_by_its_bytes_only():
    lone, *twins = (photo(name, phash=None, sha256=sha) for name, sha in ["ax", "by", "cy"])
    rows = chosen(lone, *twins, photo("d"))
    assert [rows[name]["relation"] for name in "abcd"] == ["unique", "keeper", "exact", "unique"]
    assert rows["a"]["distance"] is None
    assert rows["c"]["distance"] == 0
    assert "no pHash" in rows["a"]["reason"]


def test_references_win_over_larger_photos_and_get_no_row():
    known = references({"photo_id": "test/7", "sha256": None, "phash": bits(2)})
    rows = chosen(
        photo("a", width=9000), photo("b", phash=bits(8)), photo("c", phash=bits(40)), against=known
    )
    assert list(rows) == ["a", "b", "c"]
    assert (rows["a"]["relation"], rows["a"]["keeper"]) == ("near", "test/7")
    assert rows["a"]["reason"] == "pHash distance 2 from the reference photo test/7"
    assert rows["b"]["distance"] == 6
    assert rows["c"]["relation"] == "unique"


def test_a_reference_with_the_same_bytes_goes_before_one_with_an_equal_hash():
    known = references(
        {"photo_id": "r1", "sha256": "other", "phash": 0},
        {"photo_id": "r2", "sha256": "bytes of a", "phash": None},
    )
    row = chosen(photo("a"), against=known)["a"]
    assert (row["relation"], row["keeper"]) == ("exact", "r2")
    assert row["reason"] == "same bytes as the reference photo r2"


def test_references_of_unknown_bytes_are_not_taken_for_copies_of_each_other():
    known = references(
        {"photo_id": "r1", "sha256": None, "phash": bits(30)},
        {"photo_id": "r2", "sha256": None, "phash": bits(60)},
    )
    rows = chosen(photo("a", phash=bits(29)), photo("b"), against=known)
    assert rows["a"]["keeper"] == "r1"
    assert rows["b"]["relation"] == "unique"


def test_a_table_without_rows_gives_one_without_rows():
    result = keepers(table(), 6, against=references())
    assert result.num_rows == 0
    assert result.schema.names == ["photo_id", "relation", "keeper", "distance", "reason"]


def test_20000_photos_half_of_which_hash_alike_take_seconds():
    rng = np.random.default_rng(0)
    count = 20_000
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    hashes[: count // 2] = 42
    photos = pa.table(
        {
            "photo_id": [f"folder:{index}" for index in range(count)],
            "sha256": [f"{index:064x}" for index in range(count)],
            "width": rng.integers(100, 200, count),
            "height": rng.integers(100, 200, count),
            "license": ["cc0"] * count,
            "observed_at": pa.nulls(count, TIME),
            "phash": hashes,
        }
    )
    started = time.perf_counter()
    relations = keepers(photos, 6)["relation"].to_pylist()
    assert time.perf_counter() - started < 10
    assert relations.count("near") >= count // 2 - 1
