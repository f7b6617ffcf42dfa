"""List photos from iNaturalist Open Data: its monthly tables in, which photos to ask for out.

The tables (observations, photos, taxa, observers; 250 million photos, tens of GB) are read once, as
a stream. DuckDB keeps the observations of the classes' taxa, joins the photos to them, and ranks
those, within a fixed memory and with its overflow in a scratch folder; what remains of a class is
at most what was asked for, and `choose_diverse` has the last word on it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from manifests.errors import CapError, UnknownNameError
from manifests.vocabulary import (
    LabelSpace,
    Taxon,
    allowed_licenses,
    attribution_text,
    resolve_license,
)
from pipeline.collect.listing import LISTING, PER_CLASS, choose_diverse, photos_per_observer

if TYPE_CHECKING:
    import duckdb

    from manifests.progress import Progress
    from pipeline.collect.places import Place
    from pipeline.parameters import CollectParameters

__all__ = [
    "OpenDataListing",
    "UnreadLines",
    "list_open_data",
    "open_data_digest",
    "open_data_licenses",
]

_COLUMNS = {
    "taxa": {
        "taxon_id": "BIGINT",
        "ancestry": "VARCHAR",
        "rank": "VARCHAR",
        "name": "VARCHAR",
        "active": "BOOLEAN",
    },
    "observations": {
        "observation_uuid": "UUID",
        "taxon_id": "BIGINT",
        "quality_grade": "VARCHAR",
        "observed_on": "DATE",
    },
    "photos": {
        "photo_id": "BIGINT",
        "observation_uuid": "UUID",
        "observer_id": "BIGINT",
        "extension": "VARCHAR",
        "license": "VARCHAR",
        "position": "INTEGER",
    },
    "observers": {"observer_id": "BIGINT", "login": "VARCHAR", "name": "VARCHAR"},
}
"""Columns that are read of each table, with the types that the published `structure.sql` gives."""

_PREFIX = "inaturalist:"

_ANIMALIA = 1
"""iNaturalist's id of the kingdom."""

_MEMORY = "1GB"

_THREADS = 4
"""More would each take memory and have nothing to do: unpacking gzip is the work of one."""

_LONGEST_HEADER = 2**16

_MOST_UNREAD = 10_000
"""Errors in lines that a table may not have; the published ones have a few with a tab too many."""


@dataclass(frozen=True)
class UnreadLines:
    """How many lines of a file could not be read, the number of the first, and what ails it."""

    count: int
    first: int
    reason: str


@dataclass(frozen=True)
class OpenDataListing:
    """Photos to ask for, and what the tables do not know.

    Attributes
    ----------
    photos
        One row per class and photo, of schema `LISTING`, sorted by class_index and photo_id. A
        photo whose taxon belongs to two classes has a row in each.
    unresolved
        Taxa of the classes that are no active animal taxon in the tables, by class index.
    unknown_licenses
        Photos of the classes left out because nobody here knows their licence, by its name.
    unread_lines
        Lines left out because they could not be read, by file name.
    left_out
        How many photos a class has fewer because no observer may have a larger share of it, by
        class index; classes that lack none are not in it.
    """

    photos: pa.Table
    unresolved: Mapping[int, tuple[Taxon, ...]]
    unknown_licenses: Mapping[str, int]
    unread_lines: Mapping[str, UnreadLines]
    left_out: Mapping[int, int]


def open_data_digest(place: str) -> str:
    """Tell the tables of a folder or URL from those of another month, without reading them.

    Parameters
    ----------
    place
        A folder or a URL, as for `list_open_data`.

    Returns
    -------
    str
        sha256 over the size of each table and its time of change or ETag.

    Raises
    ------
    CapError
        If the place cannot be read, or lacks a table.
    """
    return _place(place).digest


def list_open_data(
    place: str,
    labels: LabelSpace,
    class_indices: Sequence[int],
    parameters: CollectParameters,
    scratch: Path,
    progress: Progress,
) -> OpenDataListing:
    """Choose the photos of each class from the Open Data tables, newest first.

    Of each observation the first photos with an allowed licence are candidates; of these a class
    takes the newest (highest photo id), as `choose_diverse` limits its observers.

    Parameters
    ----------
    place
        Folder or URL (http, https; s3 with the extra `s3`) with `observations`, `photos`, `taxa`
        and `observers`, each as `.csv.gz` or `.csv`.
    labels
        Label space that knows the taxa of its classes.
    class_indices
        Classes to list.
    parameters
        Licences, quality, days, numbers per class, observer and observation, and photo size.
    scratch
        Folder for what does not fit into memory, in a folder `duckdb` that does not outlast this.
    progress
        Told how many megabytes of each table are read.

    Raises
    ------
    CapError
        If a table or column is missing or damaged, or a parameter asks for what the tables do not
        tell.
    """
    bounds = _bounds(parameters)
    class_indices = sorted(set(class_indices))
    with _reading(place, scratch, progress) as reader:
        unresolved = _find_taxa(reader, labels, class_indices)
        _find_photos(reader, bounds)
        unknown = _allow_licenses(reader, parameters)
        first = _rank(reader, class_indices, parameters)
        photos = _listing(first, labels, parameters)
        left_out = _left_out(reader, photos, class_indices, _at_most(parameters))
    return OpenDataListing(photos, unresolved, unknown, reader.unread_lines, left_out)


def open_data_licenses(
    place: str, photo_ids: Sequence[str], scratch: Path, progress: Progress
) -> dict[str, str]:
    """The licence that the tables give each photo, by photo_id; those that are gone are missing.

    Parameters
    ----------
    place, scratch, progress
        As for `list_open_data`.
    photo_ids
        Photos to look up, `inaturalist:<id>`.

    Raises
    ------
    CapError
        As `list_open_data`.
    """
    numbers = [int(photo_id.removeprefix(_PREFIX)) for photo_id in photo_ids]
    with _reading(place, scratch, progress) as reader:
        asked = pa.table({"photo_id": pa.array(numbers, pa.int64())})
        reader.connection.register("asked", asked)
        reader.read(
            "photos",
            """
            CREATE TABLE found AS
            SELECT photo_id, any_value(license) AS license FROM photos SEMI JOIN asked
            USING (photo_id) GROUP BY photo_id
            """,
        )
        rows = reader.connection.execute("SELECT photo_id, license FROM found").fetchall()
    return {f"{_PREFIX}{number}": _code(license_name or "") for number, license_name in rows}


def _code(license_name: str) -> str:
    """Our code of a licence; a name that nobody here knows allows nothing."""
    try:
        return resolve_license(license_name)
    except UnknownNameError:
        return "unknown"


@contextlib.contextmanager
def _reading(place: str, scratch: Path, progress: Progress) -> Iterator[_Reader]:
    """A reader of the tables, whose overflow goes into a folder that does not outlast it."""
    tables = _place(place)
    overflow = scratch / "duckdb"
    # One that was killed may have left gigabytes behind.
    shutil.rmtree(overflow, ignore_errors=True)
    overflow.mkdir(parents=True)
    try:
        with _connect(tables, overflow) as connection:
            yield _Reader(connection, tables, progress)
    finally:
        shutil.rmtree(overflow, ignore_errors=True)


def _place(address: str) -> Place:
    from pipeline.collect.places import Place

    return Place(address, tuple(_COLUMNS))


def _bounds(parameters: CollectParameters) -> dict[str, str | None]:
    """Which observations are wanted: grade, first and last day, each None for any."""
    for name, asked in (
        ("places", bool(parameters.places)),
        ("captive", parameters.captive != "no"),
    ):
        if asked:
            msg = (
                f"the Open Data tables do not tell what --{name} asks for; "
                f"leave it out, or use --source inaturalist"
            )
            raise CapError(msg)
    return {
        "quality": None if parameters.quality == "any" else parameters.quality,
        "since": parameters.since,
        "until": parameters.until,
    }


@contextlib.contextmanager
def _connect(tables: Place, overflow: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    with duckdb.connect(
        config={
            "memory_limit": _MEMORY,
            "threads": min(_THREADS, os.cpu_count() or 1),
            "temp_directory": str(overflow),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    ) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.register_filesystem(tables)
        try:
            yield connection
        except duckdb.Error as error:
            msg = f"could not choose photos of {tables.address}: {_first_line(error)}"
            raise CapError(msg) from error
        except RuntimeError as error:
            # This is how DuckDB passes Ctrl+C on.
            if str(error) == "Query interrupted":
                raise KeyboardInterrupt from error
            raise


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


@dataclass(frozen=True)
class _Reader:
    """Runs the statements that read a table, with progress, and minds what could not be read."""

    connection: duckdb.DuckDBPyConnection
    place: Place
    progress: Progress
    unread_lines: dict[str, UnreadLines] = field(default_factory=dict)

    def _header(self, file: str) -> list[str]:
        """Names of a file's columns, in the order that this month has them."""
        try:
            with self.place.open(file, compression="infer") as lines:
                line = lines.read(_LONGEST_HEADER).partition(b"\n")[0]
        except (OSError, EOFError) as error:
            msg = f"cannot read {file} at {self.place.address}: {error}"
            raise CapError(msg) from error
        return list(line.decode("utf-8", "replace").rstrip("\r").split("\t"))

    def _define(self, table: str) -> None:
        """Make a view that reads the file of a table."""
        file = self.place.files[table]
        header = self._header(file)
        wanted = _COLUMNS[table]
        missing = [name for name in wanted if name not in header]
        if missing:
            msg = (
                f"{file} at {self.place.address} has no column {missing[0]!r}; "
                "is it a table of iNaturalist Open Data?"
            )
            raise CapError(msg)
        types = ", ".join(f"{_text(name)}: '{wanted.get(name, 'VARCHAR')}'" for name in header)
        packed = "gzip" if file.endswith(".gz") else "none"
        # The tables quote nothing, and a name may hold a quote.
        self.connection.execute(
            f"""
            CREATE TEMP VIEW {table} AS SELECT {", ".join(wanted)} FROM read_csv(
                {_text(f"tables://{file}")}, compression = '{packed}', columns = {{{types}}},
                delim = '\t', quote = '', escape = '', header = true, auto_detect = false,
                store_rejects = true, rejects_limit = {_MOST_UNREAD}
            )
            """  # noqa: S608
        )

    def _count_unread(self, file: str) -> None:
        """Keep what DuckDB noted of the lines that it left out, unless they are too many."""
        noted, count, first, reason = self.connection.execute(
            """
            SELECT count(*), count(DISTINCT line), min(line), min_by(error_message, line)
            FROM reject_errors
            """
        ).fetchall()[0]
        self.connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
        # A line may have several errors, and DuckDB notes no more than the limit.
        if noted >= _MOST_UNREAD:
            msg = (
                f"{count} lines or more of {file} at {self.place.address} cannot be read, "
                f"the first is {first}: {reason}; is it a table of iNaturalist Open Data?"
            )
            raise CapError(msg)
        if count:
            self.unread_lines[file] = UnreadLines(count, first, reason)

    def read(self, table: str, statement: str, values: Mapping[str, Any] | None = None) -> None:
        """Run a statement that reads a table to its end."""
        import duckdb

        self._define(table)
        file = self.place.files[table]
        size = self.place.info(file)["size"]
        try:
            with self.progress.task(f"reading {file} (MB)", _megabytes(size)) as advance:
                self.place.on_bytes = _in_megabytes(advance)
                self.connection.execute(statement, values)
        except duckdb.Error as error:
            found = self.place.failure or CapError(
                _damage(error, f"{file} at {self.place.address}")
            )
            raise found from error
        finally:
            self.place.on_bytes = lambda count: None
        self._count_unread(file)


def _text(value: str) -> str:
    """A literal of SQL."""
    return "'" + value.replace("'", "''") + "'"


def _megabytes(count: int) -> int:
    return -(-count // 10**6)


def _in_megabytes(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Count bytes, and tell of whole megabytes."""
    read = 0

    def on_bytes(count: int) -> None:
        nonlocal read
        before, read = read, read + count
        advance(_megabytes(read) - _megabytes(before))

    return on_bytes


def _damage(error: Exception, file: str) -> str:
    """What DuckDB says of a file that it could not read, in a sentence."""
    if "GZIP" in str(error).upper():
        return f"{file} is incomplete or damaged ({_first_line(error)}); fetch the table again"
    return f"could not read {file}: {_first_line(error)}"


def _find_taxa(
    reader: _Reader, labels: LabelSpace, class_indices: Sequence[int]
) -> dict[int, tuple[Taxon, ...]]:
    """Make the table `class_taxa`: every taxon of each class. Gives the taxa that are not there."""
    wanted = [
        (index, number, taxon.name, taxon.rank)
        for index in class_indices
        for number, taxon in enumerate(labels.taxa.get(index, ()))
    ]
    connection = reader.connection
    connection.execute(
        "CREATE TABLE wanted (class_index INTEGER, number INTEGER, name VARCHAR, rank VARCHAR)"
    )
    if wanted:
        connection.executemany("INSERT INTO wanted VALUES (?, ?, ?, ?)", wanted)
    # A plant or a fungus may bear the name of an animal; those are left behind here.
    reader.read(
        "taxa",
        """
        CREATE TABLE animals AS
        SELECT * FROM (
            SELECT taxon_id, name, rank, active, list_append(
                string_split(coalesce(ancestry, ''), '/'), taxon_id::VARCHAR
            ) AS line
            FROM taxa
        )
        WHERE list_contains(line, $animalia)
        """,
        {"animalia": str(_ANIMALIA)},
    )
    connection.execute(
        """
        CREATE TABLE resolved AS
        SELECT class_index, number, taxon_id
        FROM wanted JOIN animals ON lower(animals.name) = lower(wanted.name)
            AND (wanted.rank IS NULL OR lower(animals.rank) = lower(wanted.rank))
        WHERE active
        """
    )
    # Observations may linger on inactive taxa, so a class has those below it, too.
    connection.execute(
        """
        CREATE TABLE class_taxa AS
        SELECT DISTINCT class_index, below.taxon_id, name, rank
        FROM (SELECT taxon_id, name, rank, unnest(line) AS ancestor FROM animals) AS below
        JOIN resolved ON below.ancestor = resolved.taxon_id::VARCHAR
        """
    )
    connection.execute("DROP TABLE animals")
    missing: dict[int, tuple[Taxon, ...]] = {}
    for index, name, rank in connection.execute(
        """
        SELECT class_index, name, rank FROM wanted ANTI JOIN resolved USING (class_index, number)
        ORDER BY class_index, number
        """
    ).fetchall():
        missing[index] = (*missing.get(index, ()), Taxon(name, rank))
    return missing


def _find_photos(reader: _Reader, bounds: Mapping[str, Any]) -> None:
    """Make the table `found`: the photos of wanted observations of the classes' taxa."""
    reader.read(
        "observations",
        """
        CREATE TABLE observed AS
        SELECT observation_uuid, taxon_id, observed_on
        FROM observations SEMI JOIN class_taxa USING (taxon_id)
        WHERE ($quality IS NULL OR lower(quality_grade) = $quality)
            AND ($since IS NULL OR observed_on >= $since::DATE)
            AND ($until IS NULL OR observed_on <= $until::DATE)
        """,
        bounds,
    )
    reader.read(
        "photos",
        """
        CREATE TABLE found AS
        SELECT photos.*, taxon_id, observed_on FROM photos JOIN observed USING (observation_uuid)
        """,
    )
    reader.connection.execute("DROP TABLE observed")


def _allow_licenses(reader: _Reader, parameters: CollectParameters) -> dict[str, int]:
    """Make the table `allowed_licenses`, from their names in the tables to our codes.

    Gives the number of photos found under each name that means no licence we know.
    """
    allowed = set(allowed_licenses(parameters.licenses))
    unknown = {}
    connection = reader.connection
    connection.execute("CREATE TABLE allowed_licenses (name VARCHAR, code VARCHAR)")
    for name, count in connection.execute(
        "SELECT coalesce(license, ''), count(DISTINCT photo_id) FROM found GROUP BY 1 ORDER BY 1"
    ).fetchall():
        try:
            code = resolve_license(name)
        except UnknownNameError:
            unknown[name] = count
        else:
            if code in allowed:
                connection.execute("INSERT INTO allowed_licenses VALUES (?, ?)", (name, code))
    return unknown


def _rank(reader: _Reader, class_indices: Sequence[int], parameters: CollectParameters) -> pa.Table:
    """The first candidates of each class, in order of preference.

    No observer has more of them than `choose_diverse` would allow to begin with, so that it chooses
    from these what it would choose from all.
    """
    at_most = _at_most(parameters)
    connection = reader.connection
    connection.execute(
        """
        CREATE TABLE candidates AS
        SELECT found.*, code
        FROM found JOIN allowed_licenses ON coalesce(license, '') = allowed_licenses.name
        QUALIFY row_number() OVER (
            PARTITION BY observation_uuid ORDER BY position NULLS LAST, photo_id
        ) <= $per_observation
        """,
        {"per_observation": parameters.photos_per_observation},
    )
    connection.execute("DROP TABLE found")
    connection.execute(
        "CREATE TABLE first AS SELECT 0::INTEGER AS class_index, * FROM candidates LIMIT 0"
    )
    with reader.progress.task("choosing photos of classes", len(class_indices)) as advance:
        for index in class_indices:
            # Class by class: a window over all classes would have to fit into memory at once.
            # A photo may be in two observations, and so come twice.
            connection.execute(
                """
                INSERT INTO first
                SELECT $class_index, * FROM (
                    SELECT * FROM candidates
                    WHERE taxon_id IN (
                        SELECT taxon_id FROM class_taxa WHERE class_index = $class_index
                    )
                    QUALIFY row_number() OVER (
                        PARTITION BY photo_id ORDER BY observation_uuid
                    ) = 1
                )
                QUALIFY observer_id IS NULL OR row_number() OVER (
                    PARTITION BY observer_id ORDER BY photo_id DESC
                ) <= $per_observer
                ORDER BY photo_id DESC
                LIMIT $at_most
                """,
                {
                    "class_index": index,
                    "per_observer": photos_per_observer(parameters.observer_share, at_most),
                    "at_most": at_most,
                },
            )
            advance(1)
    reader.read(
        "observers",
        """
        CREATE TABLE creators AS
        SELECT observer_id, coalesce(nullif(nullif(trim(name), ''), 'None'), login) AS creator
        FROM observers SEMI JOIN first USING (observer_id)
        """,
    )
    return reader.connection.sql(
        """
        SELECT
            $prefix || photo_id AS photo_id,
            class_index,
            observation_uuid::VARCHAR AS observation_id,
            class_taxa.name AS taxon,
            taxon_id::VARCHAR AS taxon_id,
            class_taxa.rank AS taxon_rank,
            $address || '/' || photo_id || '/' || $size || '.' || extension AS url,
            code AS license,
            creator,
            observer_id::VARCHAR AS creator_id,
            observed_on::TIMESTAMP AS observed_at
        FROM first
        JOIN class_taxa USING (class_index, taxon_id)
        LEFT JOIN creators USING (observer_id)
        ORDER BY class_index, first.photo_id DESC
        """,
        params={
            "prefix": _PREFIX,
            "address": parameters.photo_url.rstrip("/"),
            "size": parameters.size,
        },
    ).to_arrow_table()


def _left_out(
    reader: _Reader, photos: pa.Table, class_indices: Sequence[int], at_most: int
) -> dict[int, int]:
    """How many candidates more each class would have, if observers had no limit."""
    taken = Counter(photos["class_index"].to_pylist())
    left_out = {}
    for index in class_indices:
        if taken[index] == at_most:
            continue
        ((there,),) = reader.connection.execute(
            """
            SELECT count(DISTINCT photo_id) FROM candidates
            WHERE taxon_id IN (SELECT taxon_id FROM class_taxa WHERE class_index = $class_index)
            """,
            {"class_index": index},
        ).fetchall()
        if lacking := min(there, at_most) - taken[index]:
            left_out[index] = lacking
    return left_out


def _at_most(parameters: CollectParameters) -> int:
    return PER_CLASS if parameters.per_class is None else parameters.per_class


def _listing(first: pa.Table, labels: LabelSpace, parameters: CollectParameters) -> pa.Table:
    """Choose from the first candidates of each class, and give them the columns of a listing."""
    candidates: dict[int, list[int]] = {}
    for position, index in enumerate(first["class_index"].to_pylist()):
        candidates.setdefault(index, []).append(position)
    pairs = list(
        zip(first["observation_id"].to_pylist(), first["creator_id"].to_pylist(), strict=True)
    )
    chosen: list[int] = []
    for positions in candidates.values():
        taken = choose_diverse(
            [pairs[position] for position in positions],
            _at_most(parameters),
            parameters.photos_per_observation,
            parameters.observer_share,
        )
        chosen += [positions[number] for number in taken]
    photos = first.take(pa.array(chosen, pa.int64()))
    columns = {name: photos[name] for name in photos.column_names}
    columns["class_name"] = pa.array(
        [labels.names[index] for index in photos["class_index"].to_pylist()], pa.string()
    )
    columns["attribution"] = pa.array(
        [
            creator and attribution_text(creator, code)
            for creator, code in zip(
                photos["creator"].to_pylist(), photos["license"].to_pylist(), strict=True
            )
        ],
        pa.string(),
    )
    columns["uploaded_at"] = pa.nulls(photos.num_rows)
    listing = pa.table({field.name: columns[field.name].cast(field.type) for field in LISTING})
    return listing.cast(LISTING).sort_by([("class_index", "ascending"), ("photo_id", "ascending")])
