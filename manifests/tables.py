"""Reading and writing tables: validated on the way in and out, and never half a file.

A table is an Arrow table that satisfies its `TableSchema`. Its digest says whether two tables hold
the same rows; it does not depend on compression, chunking or library versions, and leaves out
columns that only tell when or how fast something happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import CapError, TableError
from manifests.schema import SCHEMA_VERSION, TableSchema

if TYPE_CHECKING:
    from manifests.vocabulary import LabelSpace

__all__ = [
    "chosen_pairs",
    "count_by",
    "first_of_content",
    "from_rows",
    "is_volatile",
    "misnumbered",
    "observer_codes",
    "observers",
    "photo_codes",
    "read_parts",
    "read_table",
    "replacing",
    "table_digest",
    "validate",
    "whole",
    "write_bytes",
    "write_table",
    "write_validated",
]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, whole and synced, on success.

    Raises
    ------
    CapError
        If the disk is full or the folder cannot be written; `path` is then as before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        msg = (
            f"could not write {path.name} in {path.parent}: {error.strerror or error}; "
            "nothing done so far is lost: mend this and run the same command again"
        )
        raise CapError(msg) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is either absent, as it was, or whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """An Arrow table of `schema` from dictionaries; a column that a row leaves out is null."""
    return pa.table(
        {f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema}, schema=schema
    )


def is_volatile(column: str) -> bool:
    """Whether a column tells when or how fast, and so does not count for sameness."""
    return column.endswith("_at") or column == "seconds"


def count_by(table: pa.Table, column: str) -> dict[str, int]:
    """How many rows hold each value of `column`, by value."""
    counts = pc.value_counts(table.column(column)).to_pylist()
    return {
        str(row["values"]): row["counts"] for row in sorted(counts, key=lambda c: str(c["values"]))
    }


def first_of_content(sha256: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each row the first row with the same bytes."""
    digests = pc.dictionary_encode(sha256).combine_chunks()
    codes = digests.indices.fill_null(-1).to_numpy().astype(np.int64)
    # Photos of unknown content are like no other.
    unknown = np.flatnonzero(codes < 0)
    codes[unknown] = len(digests.dictionary) + np.arange(len(unknown))
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def chosen_pairs(pairs: pa.Table) -> pa.Table:
    """Rows of `pairs` that chose, without those of models that are only reported for."""
    if "chosen_by" not in pairs.column_names:
        return pairs
    chose = pc.fill_null(pc.equal(pairs["chosen_by"], pairs["run"]), True)
    return pairs.filter(chose)


def misnumbered(rows: pa.Table, labels: LabelSpace, *, exactly: bool) -> list[tuple[int, str]]:
    """Number and name of the classes of rows that a label space has otherwise, by number.

    Parameters
    ----------
    rows
        With `class_index` and `class_name`, without nulls.
    labels
        The label space.
    exactly
        Whether the rows have names that it knows; else one that it does not know is no
        contradiction.
    """
    classes = rows.group_by(["class_index", "class_name"]).aggregate([])
    found = zip(classes["class_index"].to_pylist(), classes["class_name"].to_pylist(), strict=True)

    def other(index: int, name: str) -> bool:
        return not labels.calls(index, name) if exactly else labels.contradicts(index, name)

    return sorted((index, name) for index, name in found if other(index, name))


def observers(photos: pa.Table) -> pa.Array:
    """Who took each photo, whose photos belong together; where that is unknown, the photo's id."""
    return pc.coalesce(photos["creator_id"], photos["photo_id"]).combine_chunks()


def observer_codes(photos: pa.Table) -> NDArray[np.int64]:
    """A number for each photo's observer, of shape (photos,), in the order of their names."""
    return _codes(observers(photos))


def photo_codes(photos: pa.Table) -> NDArray[np.int64]:
    """A number for each photo, of shape (photos,), in the order of their ids."""
    return _codes(photos["photo_id"].combine_chunks())


def _codes(names: pa.Array) -> NDArray[np.int64]:
    ranks = pc.rank(names, sort_keys="ascending", tiebreaker="dense")
    codes: NDArray[np.int64] = ranks.to_numpy().astype(np.int64) - 1
    return codes


def _fits(actual: pa.DataType, expected: pa.DataType) -> bool:
    # A fixed-size list stands for any list of the same values: its length depends on the model.
    lists = (
        pa.types.is_list(expected),
        pa.types.is_list(actual) or pa.types.is_fixed_size_list(actual),
    )
    return bool(
        actual.equals(expected) or (all(lists) and actual.value_type == expected.value_type)
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionary encoding or 64-bit offsets, which other writers like to add."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def _cast(table: pa.Table, spec: TableSchema) -> pa.Table:
    """Bring harmless differences of type (string views, int64 for int32) to the schema's types."""
    for position, actual in enumerate(table.schema):
        if actual.name not in spec.schema.names:
            continue
        expected = spec.schema.field(actual.name).type
        if _fits(actual.type, expected):
            continue
        try:
            column = table.column(position).cast(_plain(actual.type)).cast(expected)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            msg = f"column {actual.name!r} is {actual.type}, not {expected}: {error}"
            raise TableError(msg) from error
        table = table.set_column(position, pa.field(actual.name, expected), column)
    return table


def _rises(table: pa.Table, key: Sequence[str]) -> bool:
    """Whether each row's key is above that of the row before: rows are sorted and unique."""
    first = min(1, table.num_rows)
    earlier, later = table.slice(0, table.num_rows - first), table.slice(first)
    above, same = pa.scalar(False), pa.scalar(True)
    for name in key:
        above = pc.or_(above, pc.and_(same, pc.less(earlier[name], later[name])))
        same = pc.and_(same, pc.equal(earlier[name], later[name]))
    return bool(pc.all(above, min_count=0).as_py())


def _doubled(table: pa.Table, key: Sequence[str]) -> str:
    """Which keys are there more than once, as a sentence."""
    counts = table.group_by(list(key)).aggregate([([], "count_all")])
    doubled = counts.filter(pc.greater(counts["count_all"], 1))
    first = ", ".join(str(doubled[name][0].as_py()) for name in key)
    return f"{doubled.num_rows} keys occur more than once, such as {first}"


def validate(table: pa.Table, spec: TableSchema) -> pa.Table:
    """The table with the schema's types, columns in its order and rows sorted by its key.

    Columns that the schema does not list are kept, after the others.

    Raises
    ------
    TableError
        If a column is missing or of another type, a required value is null, a key occurs twice, or
        a value is outside the column's vocabulary.
    """
    missing = [
        n for n in spec.schema.names if n not in table.column_names and n not in spec.optional
    ]
    if missing:
        msg = f"column {missing[0]!r} is missing"
        raise TableError(msg)
    table = _cast(table, spec)
    for column in spec.schema:
        if column.name in table.column_names and not column.nullable:
            nulls = table.column(column.name).null_count
            if nulls:
                msg = f"column {column.name!r} has {nulls} nulls and may have none"
                raise TableError(msg)
    for name, words in spec.choices.items():
        known = pc.is_in(table.column(name).drop_null(), value_set=pa.array(words))
        if not pc.all(known, min_count=0).as_py():
            wrong = table.column(name).drop_null().filter(pc.invert(known))[0].as_py()
            msg = f"column {name!r} holds {wrong!r}, which is none of {', '.join(words)}"
            raise TableError(msg)
    names = [n for n in spec.schema.names if n in table.column_names]
    extra = [n for n in table.column_names if n not in spec.schema.names]
    fields = [spec.schema.field(n).with_type(table.schema.field(n).type) for n in names] + [
        table.schema.field(n) for n in extra
    ]
    ordered = pa.table([table.column(f.name) for f in fields], schema=pa.schema(fields))
    # Tables that were written here are sorted already, and a copy costs as much as the table.
    if not _rises(ordered, spec.key):
        ordered = ordered.sort_by([(name, "ascending") for name in spec.key])
        if not _rises(ordered, spec.key):
            raise TableError(_doubled(ordered, spec.key))
    return ordered.combine_chunks()


def _check_version(path: Path, schema: pa.Schema) -> None:
    version = (schema.metadata or {}).get(b"cap.schema_version")
    if version is not None and version != b"%d" % SCHEMA_VERSION:
        msg = (
            f"{path} has schema version {version.decode()}, this cap reads {SCHEMA_VERSION}; "
            "run its stage again"
        )
        raise TableError(msg)


@contextlib.contextmanager
def _opened(path: Path, spec: TableSchema) -> Iterator[pq.ParquetFile]:
    """A file of a table; what is wrong with it becomes an error that names it."""
    try:
        with pq.ParquetFile(path) as file:
            _check_version(path, file.schema_arrow)
            yield file
    except FileNotFoundError as error:
        msg = f"there is no {spec.name} table ({path.name})"
        raise TableError(msg) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            msg = f"{path} cannot be read ({os.strerror(error.errno)})"
            raise TableError(msg) from error
        reason = str(error).splitlines()[0]
        msg = f"{path} is not a whole Parquet file ({reason}); remove it and run its stage again"
        raise TableError(msg) from error


def read_parts(
    paths: Sequence[Path], spec: TableSchema, further: pa.Table | None = None
) -> pa.Table:
    """The rows of files that `write_table` wrote, and `further` rows, as one table sorted by key.

    Read column by column, so that the rows are in memory once.

    Raises
    ------
    TableError
        If a file is missing, cut short, or of a later schema version.
    """
    schema = spec.schema
    if paths:
        with _opened(paths[0], spec) as file:
            schema = file.schema_arrow.remove_metadata()

    def column(name: str) -> pa.ChunkedArray:
        chunks = [] if further is None else further.column(name).chunks
        for path in paths:
            with _opened(path, spec) as file:
                chunks += file.read([name], use_threads=False).column(0).chunks
        return pa.chunked_array(chunks, schema.field(name).type)

    keys = pa.table({name: column(name) for name in spec.key})
    order = pc.sort_indices(keys, [(name, "ascending") for name in spec.key])
    return pa.table([column(name).take(order) for name in schema.names], schema=schema)


def read_table(path: Path, spec: TableSchema) -> pa.Table:
    """Read and validate a table.

    Raises
    ------
    TableError
        If the file is missing, cut short, of a later schema version, or against its schema.
    """
    with _opened(path, spec) as file:
        table = file.read()
    try:
        return validate(table.replace_schema_metadata(None), spec)
    except TableError as error:
        msg = f"{path} is not a {spec.name} table: {error}"
        raise TableError(msg) from error


def write_table(path: Path, table: pa.Table, spec: TableSchema) -> pa.Table:
    """Validate a table and write it in one piece; gives back what was written.

    Raises
    ------
    TableError
        If the table is against its schema.
    CapError
        If it cannot be written.
    """
    table = validate(table, spec)
    write_validated(path, table, spec)
    return table


def write_validated(path: Path, table: pa.Table, spec: TableSchema) -> None:
    """Write a table that `validate` gave, in one piece.

    Raises
    ------
    CapError
        If it cannot be written.
    """
    with replacing(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(spec.metadata()), temporary, compression="zstd"
        )


_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)


def table_digest(table: pa.Table) -> str:
    """sha256 over the table's rows in key order, without columns of time and duration.

    Two tables have the same digest when they have the same columns, types and values, however they
    were chunked, compressed or written.
    """
    digest = hashlib.sha256()
    for name in sorted(n for n in table.column_names if not is_volatile(n)):
        digest.update(f"{name}\0".encode())
        _digest_array(whole(table.column(name)), digest)
    return digest.hexdigest()


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; `combine_chunks` would copy a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _digested(kind: pa.DataType) -> pa.DataType:
    """The type as it comes back from a file, in the form that is digested."""
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([kind.key_field, kind.item_field]))
    if pa.types.is_date64(kind):
        return pa.date32()
    return pa.time32("ms") if pa.types.is_time32(kind) else _plain(kind)


def _digest_array(array: pa.Array, digest: hashlib._Hash) -> None:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = _digested(array.type)
    # The name of a list's values and the length of its vectors are the file format's own affair.
    nested = pa.types.is_nested(kind)
    digest.update(f"{'nested' if nested else kind}:{len(array)}:".encode())
    digest.update(np.packbits(_numbers(array.is_valid())).tobytes())
    array = (array.cast(kind) if array.type != kind else array).drop_null()
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        _, offset_buffer, values = array.buffers()
        if len(array):
            offsets = np.frombuffer(offset_buffer, np.int32)[array.offset :][: len(array) + 1]
            digest.update(np.diff(offsets).astype("<i8").tobytes())
            # Without nulls the values stand one after the other.
            if values is not None:
                digest.update(values[int(offsets[0]) : int(offsets[-1])])
    elif any(is_kind(kind) for is_kind in _LISTS):
        digest.update(_numbers(pc.list_value_length(array)).astype("<i8").tobytes())
        _digest_array(array.flatten(), digest)
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            _digest_array(pc.struct_field(array, [index]), digest)
    elif pa.types.is_timestamp(kind):
        digest.update(_numbers(array.cast(pa.int64())).tobytes())
    elif any(is_kind(kind) for is_kind in _NUMBERS):
        digest.update(_numbers(array).tobytes())
    elif not pa.types.is_null(kind):
        digest.update(_fixed_width(array))


def _fixed_width(array: pa.Array) -> pa.Buffer:
    """The bytes of values without nulls that each take as many: days, times, decimals."""
    try:
        width = array.type.bit_width // 8
    except ValueError as error:
        msg = f"columns of type {array.type} are not supported; leave the column out"
        raise TableError(msg) from error
    values = array.buffers()[1]
    return values[array.offset * width : (array.offset + len(array)) * width] if values else b""


def _numbers(array: pa.Array) -> NDArray[Any]:
    """The values of an array without nulls; truth values as 0 and 1.

    `to_numpy` would import pandas, which takes longer than to load a release.
    """
    return np.from_dlpack(array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array)
