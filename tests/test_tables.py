"""Tables are validated, written whole, and have a digest that depends on their rows alone."""

from __future__ import annotations

import datetime
import errno
import os
from decimal import Decimal
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from manifests.errors import CapError, TableError
from manifests.schema import ANNOTATIONS, LABELS, PHOTOS, TABLES
from manifests.tables import (
    from_rows,
    read_table,
    replacing,
    table_digest,
    validate,
    write_table,
)

TIME = datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)


def label(photo_id: str, **changes) -> dict[str, object]:
    return {
        "photo_id": photo_id,
        "decision": "keep",
        "background": "grass",
        "annotators": 1,
        "agreement": 1.0,
        "settled_by": "import",
        **changes,
    }


def labels(*rows: dict[str, object]) -> pa.Table:
    return from_rows(rows, LABELS.schema)


def test_every_table_lists_its_key_among_its_columns_and_says_what_each_column_means():
    for spec in TABLES.values():
        assert set(spec.key) <= set(spec.schema.names)
        assert all(spec.meaning(name) for name in spec.schema.names)
        assert set(spec.choices) <= set(spec.schema.names)


def test_validation_sorts_by_key_and_keeps_further_columns():
    table = labels(label("b"), label("a")).append_column("extra", pa.array([1, 2]))
    valid = validate(table, LABELS)
    assert valid["photo_id"].to_pylist() == ["a", "b"]
    assert valid["extra"].to_pylist() == [2, 1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (labels(label("a"), label("a")), "more than once, such as a"),
        (labels(label("a")).drop_columns(["decision"]), "'decision' is missing"),
        (labels(label("a", decision="perhaps")), "'perhaps', which is none of keep"),
        (
            labels(label("a")).set_column(0, "photo_id", pa.nulls(1, pa.string())),
            "'photo_id' has 1 nulls",
        ),
        (
            labels(label("a")).set_column(5, "agreement", pa.array(["high"])),
            "'agreement' is string, not double",
        ),
    ],
)
def test_a_table_against_its_schema_is_refused_with_the_column_named(table, message):
    with pytest.raises(TableError, match=message):
        validate(table, LABELS)


KEYS = st.lists(st.tuples(st.text(max_size=2), st.sampled_from(["ann", "bob"])), max_size=8)


@given(keys=KEYS)
def test_validation_sorts_by_the_whole_key_and_refuses_one_that_is_there_twice(keys):
    rows = [
        {
            "photo_id": photo_id,
            "annotator": annotator,
            "round": "first",
            "decision": "keep",
            "source": "import",
        }
        for photo_id, annotator in keys
    ]
    table = from_rows(rows, ANNOTATIONS.schema)
    if len(set(keys)) < len(keys):
        with pytest.raises(TableError, match="more than once"):
            validate(table, ANNOTATIONS)
    else:
        valid = validate(table, ANNOTATIONS).select(["photo_id", "annotator"]).to_pylist()
        assert [tuple(row.values()) for row in valid] == sorted(keys)


def test_a_table_that_is_sorted_already_is_not_copied():
    table = validate(labels(*(label(str(number)) for number in range(5))), LABELS)
    before = pa.total_allocated_bytes()
    again = validate(table, LABELS)
    assert pa.total_allocated_bytes() == before
    assert again.equals(table)


def test_tables_of_other_writers_are_brought_to_the_types_of_the_schema():
    table = labels(label("a"), label("b"))
    foreign = table.set_column(0, "photo_id", table["photo_id"].cast(pa.large_string()))
    foreign = foreign.set_column(1, "decision", foreign["decision"].dictionary_encode())
    foreign = foreign.set_column(4, "annotators", foreign["annotators"].cast(pa.int64()))
    assert validate(foreign, LABELS).equals(validate(table, LABELS))


def test_a_table_reads_back_as_it_was_written(tmp_path: Path):
    table = labels(label("a"), label("b", background=None))
    written = write_table(tmp_path / "labels.parquet", table, LABELS)
    read = read_table(tmp_path / "labels.parquet", LABELS)
    assert read.equals(written)
    assert table_digest(read) == table_digest(table)


def test_a_half_written_table_is_an_error_that_names_the_file(tmp_path: Path):
    path = tmp_path / "labels.parquet"
    write_table(path, labels(label("a")), LABELS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"labels\.parquet is not a whole Parquet file"):
        read_table(path, LABELS)


def test_a_table_of_another_schema_version_is_refused(tmp_path: Path):
    path = tmp_path / "labels.parquet"
    table = labels(label("a")).replace_schema_metadata({b"cap.schema_version": b"99"})
    pq.write_table(table, path)
    with pytest.raises(TableError, match="schema version 99"):
        read_table(path, LABELS)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "table"
    path.write_text("old")

    def write_half(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CapError, match="No space left on device"), replacing(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table"]


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "photo_id": st.text(max_size=5),
            "annotator": st.sampled_from(["ann", "bob"]),
            "round": st.just("first"),
            "decision": st.sampled_from(["keep", "reject", "skip"]),
            "reject_reasons": st.none() | st.lists(st.text(max_size=3), max_size=3),
            "background": st.none() | st.text(max_size=4),
            "suggestion_accepted": st.none() | st.booleans(),
            "source": st.just("import"),
        }
    ),
    unique_by=lambda row: (row["photo_id"], row["annotator"]),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 8))
def test_the_digest_does_not_depend_on_order_chunks_or_storage(rows, cut, tmp_path_factory):
    table = validate(from_rows(rows, ANNOTATIONS.schema), ANNOTATIONS)
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    backwards = validate(from_rows(rows[::-1], ANNOTATIONS.schema), ANNOTATIONS)
    path = tmp_path_factory.mktemp("digest") / "annotations.parquet"
    write_table(path, table, ANNOTATIONS)
    digests = {table_digest(t) for t in (table, chunked, backwards, read_table(path, ANNOTATIONS))}
    assert len(digests) == 1


@settings(max_examples=60, deadline=None)
@given(rows=ROWS.filter(bool), data=st.data())
def test_the_digest_changes_with_any_cell(rows, data):
    before = table_digest(from_rows(rows, ANNOTATIONS.schema))
    row = dict(rows[0])
    column = data.draw(st.sampled_from(["decision", "background", "reject_reasons"]))
    row[column] = {
        "decision": "other",
        "background": "elsewhere",
        "reject_reasons": ["long reason"],
    }[column]
    assert table_digest(from_rows([row, *rows[1:]], ANNOTATIONS.schema)) != before


def test_the_digest_leaves_out_when_and_how_fast():
    row = {"photo_id": "a", "annotator": "ann", "decision": "keep"}
    early = from_rows([{**row, "created_at": TIME, "seconds": 1.0}], ANNOTATIONS.schema)
    late = from_rows([{**row, "updated_at": TIME, "seconds": 9.0}], ANNOTATIONS.schema)
    assert table_digest(early) == table_digest(late)


def test_the_digest_tells_null_from_empty_and_reads_binary_and_vectors():
    texts = [pa.table({"x": pa.array(values, pa.string())}) for values in ([None], [""], ["a"])]
    blobs = [pa.table({"x": pa.array([{"bytes": b}])}) for b in (b"", b"a", b"b")]
    vectors = [
        pa.table({"x": pa.array([np.float16([a, 1])], pa.list_(pa.float16(), 2))}) for a in (0, 1)
    ]
    tables = [*texts, *blobs, *vectors]
    assert len({table_digest(table) for table in tables}) == len(tables)


def test_a_photo_row_needs_no_more_than_its_required_columns():
    row = {
        "photo_id": "folder:lion/1.jpg",
        "source": "folder",
        "class_name": "lion",
        "license": "unknown",
        "status": "failed",
        "error": "empty file",
    }
    assert validate(from_rows([row], PHOTOS.schema), PHOTOS).num_rows == 1


ONE, OTHER = datetime.datetime(2024, 5, 1, 12, 30), datetime.datetime(2024, 5, 2, 12, 31)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (pa.null(), None, None),
        (pa.date32(), ONE.date(), OTHER.date()),
        (pa.date64(), ONE.date(), OTHER.date()),
        (pa.time32("s"), ONE.time(), OTHER.time()),
        (pa.time64("us"), ONE.time(), OTHER.time()),
        (pa.duration("us"), ONE - OTHER, OTHER - ONE),
        (pa.decimal128(5, 2), Decimal("1.20"), Decimal("-1.20")),
        (pa.decimal256(50, 2), Decimal("1.20"), Decimal("-1.20")),
        (pa.binary(2), b"ab", b"ac"),
        (pa.large_string(), "a", "b"),
        (pa.large_list(pa.int64()), [1, 2], [1, 3]),
        (pa.large_list(pa.date32()), [ONE.date()], [OTHER.date()]),
        (pa.map_(pa.string(), pa.int64()), [("a", 1)], [("a", 2)]),
        (pa.struct([("day", pa.date32())]), {"day": ONE.date()}, {"day": OTHER.date()}),
    ],
    ids=str,
)
def test_an_added_column_of_any_common_type_has_a_digest(kind, one, other, tmp_path):
    def table(*values: object) -> pa.Table:
        rows = from_rows([label(f"folder:{i}") for i in range(len(values))], LABELS.schema)
        return rows.append_column("added", pa.array(values, kind))

    whole = table(one, None, other)
    cut = pa.concat_tables([whole.slice(1), whole.slice(0, 1)])
    digest = table_digest(write_table(tmp_path / "labels.parquet", cut, LABELS))
    assert digest == table_digest(read_table(tmp_path / "labels.parquet", LABELS))
    assert digest == table_digest(whole)
    if one is not None:
        assert digest != table_digest(table(other, None, one))
        assert digest != table_digest(table(one, other, None))


def test_the_digests_of_tables_do_not_change_with_versions():
    rows = [label("folder:a"), label("folder:b", background=None, decision="reject", annotators=3)]
    added = pa.array([[1.5], None], pa.list_(pa.float16(), 1))
    told = table_digest(from_rows(rows, LABELS.schema).append_column("embedding", added))
    assert told == "f9aa46182679ed0a1f547c923c7f16334914c22304c3e8bc97f48d6e96f2d42b"


def test_a_column_that_cannot_be_digested_is_named_by_its_type():
    runs = pa.array([1, 1, 2], pa.run_end_encoded(pa.int32(), pa.int64()))
    with pytest.raises(TableError, match=r"type run_end_encoded<.*> are not supported"):
        table_digest(pa.table({"a": runs}))
