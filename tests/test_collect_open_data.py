"""The Open Data tables become a listing: the right taxa, allowed licences, the newest first."""

from __future__ import annotations

import datetime
import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import cap
from hypothesis import given, settings
from hypothesis import strategies as st
from open_data_tables import observation, photo, uuid, write_tables
from s3fs import S3FileSystem

from manifests.errors import CapError
from manifests.progress import Progress
from manifests.vocabulary import LabelSpace, Taxon, default_licenses
from pipeline.collect import places
from pipeline.collect.listing import LISTING, choose_diverse
from pipeline.collect.open_data import list_open_data, open_data_digest
from pipeline.parameters import CollectParameters


def space(*taxa) -> LabelSpace:
    """A label space with a class for each argument, a list of taxa."""
    names = tuple(f"class {index}" for index in range(len(taxa)))
    return LabelSpace(
        "test",
        names,
        ("",) * len(taxa),
        ((),) * len(taxa),
        {index: tuple(Taxon(*taxon) for taxon in group) for index, group in enumerate(taxa)},
    )


LYNX = space([("Lynx", "genus")])


def run(place, labels=LYNX, **options):
    with tempfile.TemporaryDirectory() as scratch:
        found = list_open_data(
            str(place),
            labels,
            range(len(labels)),
            CollectParameters(**options),
            Path(scratch) / "scratch",
            Progress(),
        )
        assert not [path for path in Path(scratch).rglob("*") if path.is_file()]
    assert found.photos.schema == LISTING
    return found


def ids(found) -> list[str]:
    return [name.removeprefix("inaturalist:") for name in found.photos["photo_id"].to_pylist()]


@contextmanager
def serve(folder: Path, handler=SimpleHTTPRequestHandler):
    """A web server on the loopback with a folder's files."""

    class Quiet(handler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Told(Progress):
    """Keeps the total and the count of every task."""

    def __init__(self):
        self.tasks = {}

    @contextmanager
    def task(self, label, total, done=0):
        self.tasks[label] = [total, done]
        yield partial(self.advance, label)

    def advance(self, label, count):
        self.tasks[label][1] += count


class InParts(SimpleHTTPRequestHandler):
    """Answers requests for parts of files, as S3 does; fails at every third of them."""

    asked = 0

    def do_GET(self):
        InParts.asked += 1
        if InParts.asked % 3 == 0:
            self.send_error(503)
        else:
            self.send_part()

    def send_part(self):
        start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
        data = Path(self.translate_path(self.path)).read_bytes()
        part = data[int(start) : int(end) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


def test_a_row_tells_what_the_tables_tell(tmp_path):
    write_tables(
        tmp_path, observations=[observation(5, 11)], photos=[photo(77, 5, extension="jpeg")]
    )
    found = run(tmp_path, size="medium", photo_url="https://photos.example/")
    assert found.photos.to_pylist() == [
        {
            "photo_id": "inaturalist:77",
            "class_index": 0,
            "class_name": "class 0",
            "observation_id": uuid(5),
            "taxon": "Lynx lynx",
            "taxon_id": "11",
            "taxon_rank": "species",
            "url": "https://photos.example/77/medium.jpeg",
            "license": "cc-by",
            "attribution": "© Ann, some rights reserved (CC-BY)",
            "creator": "Ann",
            "creator_id": "1",
            "observed_at": datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
            "uploaded_at": None,
        }
    ]
    assert not found.unresolved
    assert not found.unknown_licenses
    assert not found.unread_lines


def test_observers_without_a_name_are_named_by_login_and_days_may_be_missing(tmp_path):
    write_tables(
        tmp_path,
        observers=[(1, "ann", 'Ann "Lynx" O\'Hara'), (2, "bo", "None"), (3, "chi", "")],
        observations=[observation(n, 11, day="") for n in range(4)],
        photos=[photo(n, n, observer=n) for n in (1, 2, 3)] + [photo(9, 0, observer=99)],
    )
    found = run(tmp_path).photos
    assert found["creator"].to_pylist() == ['Ann "Lynx" O\'Hara', "bo", "chi", None]
    assert found["attribution"].to_pylist()[3] is None
    assert found["observed_at"].null_count == 4


def test_the_files_as_published_are_read(shared, tmp_path):
    published = shared / "inaturalist" / "open-data"
    if not published.is_dir():
        pytest.skip("the sample of the Open Data tables is not there")
    for table in ("observations", "photos", "observers"):
        shutil.copy(published / f"{table}.csv.gz", tmp_path)
    # The sample's observations are of other taxa than its taxa.
    with gzip.open(published / "taxa.csv.gz", "rt") as sample:
        taxa = [tuple(line.rstrip("\n").split("\t")) for line in sample]
    observed = ["53137", "84549", "54964"]
    taxa += [(taxon, "48460/1/20978", "10", "species", f"T {taxon}", "true") for taxon in observed]
    text = "".join("\t".join(line) + "\n" for line in taxa)
    (tmp_path / "taxa.csv").write_text(text, encoding="utf-8")
    found = run(
        tmp_path,
        space([(f"T {taxon}",) for taxon in observed], [("Oxyrhopus occipitalis", "species")]),
        quality="any",
        photos_per_observation=9,
        observer_share=1.0,
    )
    assert found.photos.num_rows == 8
    assert set(found.photos["license"].to_pylist()) <= set(default_licenses())
    assert {"Don Loarie"} < set(found.photos["creator"].to_pylist())
    assert not found.unresolved
    # Two of the published lines have a tab too many.
    assert found.unread_lines["observations.csv.gz"].count == 2
    assert found.unread_lines["observations.csv.gz"].first == 27


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_columns_may_come_in_any_order_packed_or_not(tmp_path, suffix):
    write_tables(
        tmp_path,
        suffix,
        random.Random(1),
        observations=[observation(5, 11)],
        photos=[photo(77, 5)],
    )
    assert ids(run(tmp_path)) == ["77"]


def test_a_plant_of_the_same_name_is_not_taken(tmp_path):
    write_tables(
        tmp_path,
        observations=[observation(1, 20), observation(2, 21)],
        photos=[photo(1, 1), photo(2, 2)],
    )
    assert ids(run(tmp_path, space([("oenanthe",)]))) == ["2"]


@pytest.mark.parametrize(
    ("taxon", "expected"),
    [
        (("Bufo", "genus"), ["1", "2"]),
        (("Bufo", "subgenus"), ["2"]),
        (("Bufo", None), ["1", "2"]),
        (("Lynx", "genus"), ["3", "4", "5"]),
        (("Lynx lynx", "species"), ["4"]),
        (("Animalia", "kingdom"), ["1", "2", "3", "4", "5"]),
    ],
)
def test_a_taxon_of_the_rank_is_taken_with_all_below_it(tmp_path, taxon, expected):
    seen = {1: 30, 2: 31, 3: 10, 4: 12, 5: 14}
    write_tables(
        tmp_path,
        observations=[observation(n, taxon) for n, taxon in seen.items()],
        photos=[photo(n, n, observer=n) for n in seen],
    )
    assert ids(run(tmp_path, space([taxon]))) == expected


def test_taxa_that_are_not_there_or_not_active_are_given_back(tmp_path):
    write_tables(tmp_path, observations=[observation(1, 13)], photos=[photo(1, 1)])
    labels = space(
        [("Lynx rufus", "species"), ("Lynx rufus", "genus")],
        [("Lynx borealis", None)],
        [],
        [("Plantae", "kingdom")],
    )
    found = run(tmp_path, labels)
    assert ids(found) == ["1"]
    assert found.unresolved == {
        0: (Taxon("Lynx rufus", "genus"),),
        1: (Taxon("Lynx borealis"),),
        3: (Taxon("Plantae", "kingdom"),),
    }


def test_a_photo_of_two_classes_is_listed_under_both(tmp_path):
    write_tables(tmp_path, observations=[observation(1, 12)], photos=[photo(1, 1)])
    found = run(tmp_path, space([("Lynx",)], [("Felis catus",)], [("Lynx lynx",)])).photos
    assert found["class_index"].to_pylist() == [0, 2]
    assert found["photo_id"].to_pylist() == ["inaturalist:1"] * 2


def test_a_photo_of_two_observations_is_listed_once(tmp_path):
    write_tables(
        tmp_path,
        observations=[observation(1, 11), observation(2, 12)],
        photos=[photo(7, 2), photo(7, 1)],
    )
    assert run(tmp_path).photos["observation_id"].to_pylist() == [uuid(1)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((), ["1", "2", "6"]),
        (("cc0",), ["6"]),
        (("pd", "CC-BY"), ["1", "5"]),
        (("any",), ["1", "2", "3", "5", "6", "7"]),
    ],
)
def test_only_allowed_licences_are_listed_and_strange_ones_counted(tmp_path, asked, expected):
    codes = ["CC-BY", "CC-BY-NC", "CC-BY-ND", "GFDL", "PD", "CC0", ""]
    write_tables(
        tmp_path,
        observations=[observation(n, 11) for n in range(1, 8)],
        photos=[photo(n, n, observer=n, code=code) for n, code in enumerate(codes, 1)],
    )
    found = run(tmp_path, licenses=asked)
    assert ids(found) == expected
    assert found.unknown_licenses == {"GFDL": 1}


def test_the_first_photos_with_an_allowed_licence_stand_for_an_observation(tmp_path):
    write_tables(
        tmp_path,
        observations=[observation(1, 11)],
        photos=[
            photo(1, 1, position=2),
            photo(2, 1, position=0, code="CC-BY-ND"),
            photo(3, 1, position=1),
            photo(4, 1, position=""),
        ],
    )
    assert ids(run(tmp_path)) == ["3"]
    assert ids(run(tmp_path, photos_per_observation=2)) == ["1", "3"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["1", "5"]),
        ({"quality": "needs_id"}, ["2"]),
        ({"quality": "casual"}, ["3"]),
        ({"quality": "any"}, ["1", "2", "3", "4", "5"]),
        ({"quality": "any", "since": "2024-01-02"}, ["2", "3"]),
        ({"quality": "any", "until": "2024-01-02"}, ["1", "2"]),
        ({"quality": "any", "since": "2024-01-02", "until": "2024-01-02"}, ["2"]),
    ],
)
def test_grade_and_day_of_the_observation_are_held(tmp_path, options, expected):
    seen = [
        ("research", "2024-01-01"),
        ("needs_id", "2024-01-02"),
        ("casual", "2024-01-03"),
        ("", ""),
        ("research", ""),
    ]
    write_tables(
        tmp_path,
        observations=[observation(n, 11, *what) for n, what in enumerate(seen, 1)],
        photos=[photo(n, n, observer=n) for n in range(1, 6)],
    )
    assert ids(run(tmp_path, **options)) == expected


def test_one_observer_has_at_most_the_share_and_the_newest_win(tmp_path):
    write_tables(
        tmp_path,
        observations=[observation(n, 11) for n in range(60)],
        photos=[photo(n, n, observer=1 if n >= 30 else n + 100) for n in range(60)],
    )
    found = run(tmp_path, per_class=20, observer_share=0.2).photos
    assert found["creator_id"].to_pylist().count("1") == 4
    assert not run(tmp_path, per_class=20, observer_share=0.2).left_out
    assert run(tmp_path, per_class=50, observer_share=0.02).left_out == {0: 18}
    assert {*ids(run(tmp_path, per_class=20, observer_share=0.2))} == {
        *map(str, [59, 58, 57, 56]),
        *map(str, range(14, 30)),
    }


CODES = st.sampled_from(["CC-BY", "CC0", "CC-BY-ND"])
OBSERVATIONS = st.lists(st.sampled_from([11, 12, 13, 110, 20]), min_size=1, max_size=30)
CLASSES = space([("Lynx", "genus")], [("Lynx lynx", None), ("Felis catus", "species")])
BELOW = {0: {11, 12, 13}, 1: {11, 12, 110}}


def brute_force(taxa, photos, at_most, per_observation, share):
    """Class and photo of every photo that is to be listed, found one class at a time."""
    listed = set()
    for index, below in BELOW.items():
        first = []
        for number, taxon in enumerate(taxa):
            own = [p for p in photos if p[1] == number and taxon in below and p[3] != "CC-BY-ND"]
            first += sorted(own, key=lambda p: (p[4], p[0]))[:per_observation]
        # In the first of its observations.
        once = {p[0]: p for p in sorted(first, key=lambda p: -p[1])}
        newest = sorted(once.values(), key=lambda p: -p[0])
        pairs = [(str(p[1]), None if p[2] == "" else str(p[2])) for p in newest]
        chosen = choose_diverse(pairs, at_most, per_observation, share)
        listed |= {(index, f"inaturalist:{newest[i][0]}", uuid(newest[i][1])) for i in chosen}
    return listed


@settings(max_examples=40)
@given(
    OBSERVATIONS,
    st.data(),
    st.integers(1, 20),
    st.integers(1, 3),
    st.sampled_from([0.05, 0.2, 0.5]),
)
def test_the_listing_is_what_comparing_all_photos_gives(
    taxa, data, at_most, per_observation, share
):
    keys = data.draw(
        st.lists(
            st.tuples(st.integers(1, 60), st.integers(0, len(taxa) - 1)), max_size=80, unique=True
        )
    )
    photos = [
        (
            photo_id,
            number,
            data.draw(st.sampled_from([1, 2, 3, ""])),
            data.draw(CODES),
            data.draw(st.integers(0, 3)),
        )
        for photo_id, number in keys
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_tables(
            Path(folder),
            ".csv",
            observations=[observation(number, taxon) for number, taxon in enumerate(taxa)],
            photos=[photo(*fields) for fields in photos],
        )
        found = run(
            folder,
            CLASSES,
            per_class=at_most,
            photos_per_observation=per_observation,
            observer_share=share,
        ).photos
    rows = found.select(["class_index", "photo_id", "observation_id"]).to_pylist()
    keys = [(row["class_index"], row["photo_id"]) for row in rows]
    assert keys == sorted(set(keys))
    assert {tuple(row.values()) for row in rows} == brute_force(
        taxa, photos, at_most, per_observation, share
    )


def test_tables_come_from_a_web_server(tmp_path):
    write_tables(tmp_path, observations=[observation(1, 11)], photos=[photo(1, 1)])
    with serve(tmp_path) as address:
        assert ids(run(address)) == ids(run(address + "/")) == ["1"]


def test_parts_that_do_not_come_are_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_BLOCK", 1000)
    monkeypatch.setattr(places, "_WAITS", (0.0, 0.0))
    write_tables(
        tmp_path,
        observations=[observation(n, 11) for n in range(300)],
        photos=[photo(n, n, observer=n) for n in range(300)],
    )
    with serve(tmp_path, InParts) as address:
        assert len(ids(run(address))) == 300
    assert InParts.asked > 10


def test_a_server_that_gives_no_parts_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_BLOCK", 100)
    write_tables(tmp_path)
    with (
        serve(tmp_path) as address,
        pytest.raises(CapError, match="does not give parts of files; download"),
    ):
        run(address)


@pytest.mark.parametrize("answers", [0, 9])
def test_a_server_that_stops_is_named(tmp_path, monkeypatch, answers):
    class Stops(InParts):
        left = answers

        def do_GET(self):
            Stops.left -= 1
            if Stops.left < 0:
                self.send_error(503)
            else:
                self.send_part()

    monkeypatch.setattr(places, "_BLOCK", 1000)
    monkeypatch.setattr(places, "_WAITS", (0.0,))
    write_tables(tmp_path, photos=[photo(n, n) for n in range(30_000)])
    with (
        serve(tmp_path, Stops) as address,
        pytest.raises(CapError, match=r"csv\.gz stopped coming from http.*503.*again"),
    ):
        run(address)


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(CapError, match=r"no taxa\.csv\.gz at http://127.0.0.1:9.*Cannot connect"):
        open_data_digest("http://127.0.0.1:9")


BUCKET = "inaturalist-open-data"
DRY_RUN = ("collect", "--source", "open-data", "--tables", f"s3://{BUCKET}", "--dry-run")


def upload(s3, folder: Path, access: str) -> None:
    s3.create_bucket(Bucket=BUCKET)
    for file in write_tables(
        folder, observations=[observation(1, 11)], photos=[photo(1, 1)]
    ).iterdir():
        s3.put_object(Bucket=BUCKET, Key=file.name, Body=file.read_bytes(), ACL=access)


def test_a_public_bucket_needs_no_credentials(s3, workspace, tmp_path):
    upload(s3, tmp_path / "tables", "public-read")
    (workspace.root / "space.csv").write_text("name,taxon\nlynx,Lynx lynx\n")
    (workspace.root / "cap.toml").write_text('label_space = "space.csv"\n')
    done = cap(*DRY_RUN, cwd=workspace.root)
    assert "would ask for up to 1 photos" in done.stdout


def test_a_private_bucket_is_read_with_the_credentials_of_the_asker(s3, tmp_path, monkeypatch):
    upload(s3, tmp_path / "tables", "private")
    with pytest.raises(CapError, match=r"no taxa\.csv\.gz at s3://.*\(Forbidden\); name"):
        open_data_digest(f"s3://{BUCKET}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "owner")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    S3FileSystem.clear_instance_cache()
    assert ids(run(f"s3://{BUCKET}")) == ["1"]


def test_the_digest_follows_the_tables_of_a_bucket(s3, tmp_path):
    upload(s3, tmp_path / "tables", "public-read")
    before = open_data_digest(f"s3://{BUCKET}")
    assert open_data_digest(f"s3://{BUCKET}/") == before
    body = gzip.compress(b"other bytes")
    s3.put_object(Bucket=BUCKET, Key="photos.csv.gz", Body=body, ACL="public-read")
    assert open_data_digest(f"s3://{BUCKET}") != before


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [("http://127.0.0.1:9", "Could not connect to the endpoint"), ("here", "Invalid endpoint")],
)
def test_an_s3_server_that_is_not_there_is_named(s3, monkeypatch, endpoint, message):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(CapError, match=rf"no taxa\.csv\.gz at s3://{BUCKET} \({message}"):
        open_data_digest(f"s3://{BUCKET}")


def test_a_bucket_needs_an_extra_and_says_which(workspace):
    script = "import sys; sys.modules['s3fs'] = None; from pipeline.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *DRY_RUN],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: cannot read s3://inaturalist-open-data: run `pip install "
        "'counteranimal-pipeline[s3]'`, or put the tables into a folder and name that"
    )


def test_the_digest_follows_the_tables(tmp_path):
    write_tables(tmp_path / "a", photos=[photo(1, 1)])
    before = open_data_digest(str(tmp_path / "a"))
    assert open_data_digest(str(tmp_path / "a")) == before
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_data_digest(str(tmp_path / "b")) == before
    write_tables(tmp_path / "a", photos=[photo(1, 1), photo(2, 1)])
    assert open_data_digest(str(tmp_path / "a")) != before
    with serve(tmp_path / "b") as address:
        served = open_data_digest(address)
        assert open_data_digest(address) == served
        write_tables(tmp_path / "b", photos=[photo(1, 1), photo(3, 1)])
        assert open_data_digest(address) != served


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": ("1",)}, "--places .*--source inaturalist"),
        ({"captive": "only"}, "--captive .*--source inaturalist"),
        ({"captive": "yes"}, "--captive .*--source inaturalist"),
        ({"licenses": ("gfdl",)}, "no licence 'gfdl'"),
    ],
)
def test_what_the_tables_cannot_answer_is_refused(tmp_path, options, message):
    write_tables(tmp_path)
    with pytest.raises(CapError, match=message):
        run(tmp_path, **options)


def test_a_missing_table_is_named(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "observers.csv.gz").unlink()
    with pytest.raises(CapError, match=r"no observers\.csv\.gz at .*; name the folder"):
        run(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "photos.csv.gz").write_bytes(gzip.compress(b"photo_id\tlicense\n"))
    with pytest.raises(CapError, match=r"photos\.csv\.gz at .* has no column 'observation_uuid'"):
        run(tmp_path)


def test_a_table_cut_short_is_named(tmp_path):
    write_tables(
        tmp_path,
        observations=[observation(n, 11) for n in range(2000)],
        photos=[photo(n, n) for n in range(2000)],
    )
    file = tmp_path / "photos.csv.gz"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(CapError, match=r"photos\.csv\.gz at .* is incomplete or damaged .*again"):
        run(tmp_path)


def test_a_file_that_is_no_gzip_is_named(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "taxa.csv.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(CapError, match=r"cannot read taxa\.csv\.gz at .*gzip"):
        run(tmp_path)


def test_lines_that_cannot_be_read_are_counted(tmp_path):
    write_tables(
        tmp_path,
        observations=[observation(1, 11), observation(2, "eleven"), observation(3, 11)],
        photos=[photo(1, 1), (uuid(8), 2, "no uuid", 1, "jpg", "CC0", 1, 1, 0), photo(3, 3)],
    )
    found = run(tmp_path)
    assert ids(found) == ["1", "3"]
    assert {name: lines.first for name, lines in found.unread_lines.items()} == {
        "observations.csv.gz": 3,
        "photos.csv.gz": 3,
    }
    assert "eleven" in found.unread_lines["observations.csv.gz"].reason


def test_a_table_of_unreadable_lines_is_refused(tmp_path):
    write_tables(tmp_path, photos=[("", "x", "y", "", "", "", "", "", "")] * 5_001)
    with pytest.raises(CapError, match=r"^50\d\d lines or more of photos\.csv\.gz .*first is 2"):
        run(tmp_path)


def test_progress_counts_the_megabytes_of_each_table(tmp_path):
    told = Told()
    write_tables(tmp_path, ".csv", photos=[photo(n, n) for n in range(20_000)])
    list_open_data(str(tmp_path), LYNX, [0], CollectParameters(), tmp_path / "scratch", told)
    assert told.tasks["reading photos.csv (MB)"] == [2, 2]
    assert told.tasks["choosing photos of classes"] == [1, 1]


def test_an_interrupt_is_one(tmp_path):
    class Interrupts(Told):
        def advance(self, label, count):
            if "photos.csv" in label:
                os.kill(os.getpid(), signal.SIGINT)

    write_tables(tmp_path, ".csv", photos=[photo(n, n) for n in range(100_000)])
    with pytest.raises(KeyboardInterrupt):
        list_open_data(
            str(tmp_path), LYNX, [0], CollectParameters(), tmp_path / "scratch", Interrupts()
        )
    assert not list((tmp_path / "scratch").iterdir())
