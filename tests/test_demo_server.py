"""The local iNaturalist: answers, rules, faults and log, as a client sees them."""

from __future__ import annotations

import contextlib
import csv
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from conftest import save_photo

from manifests.errors import CapError, PhotoError
from manifests.photos import inspect_photo
from manifests.vocabulary import label_space
from pipeline.demo.server import (
    API_FAULTS,
    FIRST_DECOY,
    HEALING_PHOTO_FAULTS,
    PHOTO_FAULTS,
    Catalogue,
    Fault,
    Faults,
    LocalINaturalist,
    Observation,
    Observer,
    Photo,
    RequestLog,
    ServerSettings,
    Taxon,
    folder_catalogue,
    server_process,
)

LIFE = Taxon(48460, "Life", "stateofmatter", (48460,))
JUNCO = Taxon(10, "Junco", "genus", (48460, 1, 10))
HYEMALIS = Taxon(11, "Junco hyemalis", "species", (48460, 1, 10, 11), common_name="Dark-eyed Junco")
RUSH = Taxon(12, "Juncus", "genus", (48460, 47126, 12))
OLD = Taxon(13, "Junco", "genus", (48460, 1, 13), is_active=False)
ADA, BO = Observer(1, "ada", "Ada Winter"), Observer(2, "bo")

START = datetime(2024, 1, 1, tzinfo=UTC)


class Bytes:
    """The content of a photo that takes no file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __call__(self) -> bytes:
        return self.content


BODY = bytes(range(256)) * 1200  # larger than a socket's first packets


def observation(number: int, **changes) -> Observation:
    seen = START + timedelta(days=number)
    fields = {
        "taxon": HYEMALIS,
        "observer": ADA,
        "photos": (Photo(100 + number, Bytes(BODY)),),
        "created_at": seen + timedelta(hours=2),
        "observed_on": seen.date(),
        "time_observed_at": seen,
        "place_ids": (5, 6),
    }
    return Observation(id=number, **(fields | changes))


CATALOGUE = Catalogue(
    taxa=(LIFE, JUNCO, HYEMALIS, RUSH, OLD),
    observations=(
        observation(1),
        observation(2, taxon=JUNCO, observer=BO, quality_grade="needs_id"),
        observation(3, taxon=RUSH, captive=True, quality_grade="casual", place_ids=(7,)),
        observation(
            4,
            photos=(
                Photo(104, Bytes(BODY), license_code=None),
                Photo(204, Bytes(BODY), "cc0", "png", dimensions=None),
            ),
        ),
        observation(5, photos=(), observed_on=None, time_observed_at=None),
        # Uploaded last, observed first.
        observation(6, observed_on=START.date(), photos=(Photo(106, Bytes(BODY), "cc-by-nc-nd"),)),
    ),
)


@contextlib.contextmanager
def serving(faults: Faults | None = None, catalogue: Catalogue = CATALOGUE, **settings):
    settings = {"requests_per_minute": 10_000} | settings
    chosen = ServerSettings(faults=faults or Faults(), **settings)
    with LocalINaturalist(catalogue, chosen) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[LocalINaturalist]:
    with serving() as server:
        yield server


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def get(client: requests.Session, url: str, **query) -> requests.Response:
    return client.get(url, params=query, timeout=5, allow_redirects=False)


def found(client, server, path: str = "observations", **query) -> list[int]:
    answer = get(client, f"{server.api_url}/{path}", **query)
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["results"]]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"taxon_id": 10}, [6, 5, 4, 2, 1]),
        ({"taxon_id": "11"}, [6, 5, 4, 1]),
        ({"taxon_id": [11, 12]}, [6, 5, 4, 3, 1]),
        ({"taxon_id": "11,12"}, [6, 5, 4, 3, 1]),
        ({"photos": "true"}, [6, 4, 3, 2, 1]),
        ({"quality_grade": "research"}, [6, 5, 4, 1]),
        ({"quality_grade": "needs_id,casual"}, [3, 2]),
        ({"captive": "false"}, [6, 5, 4, 2, 1]),
        ({"captive": "true"}, [3]),
        ({"captive": "any", "id_below": 3}, [2, 1]),
        ({"photo_license": "cc0"}, [4]),
        ({"photo_license": "cc0,CC-BY-NC-ND"}, [6, 4]),
        ({"place_id": "7"}, [3]),
        ({"place_id": "6,7"}, [6, 5, 4, 3, 2, 1]),
        ({"d1": "2024-01-03"}, [4, 3, 2]),
        ({"d1": "2024-01-03", "d2": "2024-01-04"}, [3, 2]),
        ({"id": "3,1,99"}, [3, 1]),
        ({"id_above": 4}, [6, 5]),
        ({"id_below": 3, "order_by": "id"}, [2, 1]),
        ({"order_by": "id", "order": "asc"}, [1, 2, 3, 4, 5, 6]),
        ({"order_by": "observed_on"}, [4, 3, 2, 1, 6, 5]),
        ({"per_page": 2, "page": 2}, [4, 3]),
        ({"per_page": 2, "page": 4}, []),
    ],
)
def test_observations_are_filtered_and_ordered_as_asked(client, server, query, ids):
    assert found(client, server, **query) == ids


def test_a_page_of_none_tells_how_many_there_are(client, server):
    answer = get(client, f"{server.api_url}/observations", per_page=0).json()
    assert answer == {"total_results": 6, "page": 1, "per_page": 0, "results": []}


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"q": "junco"}, [10, 11, 13]),
        ({"q": "JUNC"}, [10, 11, 12, 13]),
        ({"q": "eyed junc"}, []),
        ({"q": "dark-eyed junc"}, [11]),
        ({"q": "hyem"}, [11]),
        ({"q": "yemalis"}, []),
        ({"q": "junco", "rank": "genus"}, [10, 13]),
        ({"q": "junco", "rank": "genus", "is_active": "true"}, [10]),
        ({"is_active": "false"}, [13]),
        ({"q": "junco", "is_active": "any", "per_page": 1, "page": 2}, [11]),
    ],
)
def test_taxa_are_found_by_the_beginnings_of_words_most_observed_first(client, server, query, ids):
    assert found(client, server, "taxa", **query) == ids


def test_a_taxon_is_found_by_its_id_with_its_ancestors(client, server):
    (taxon,) = get(client, f"{server.api_url}/taxa/11").json()["results"]
    assert (taxon["name"], taxon["rank_level"]) == ("Junco hyemalis", 10)
    assert [ancestor["id"] for ancestor in taxon["ancestors"]] == [48460, 10]
    assert found(client, server, "taxa/10,12") == [10, 12]
    assert found(client, server, "taxa/99") == []


@pytest.mark.parametrize(
    ("path", "query", "status", "words"),
    [
        ("observations", {"taxon_id": 99}, 422, "Unknown taxon_id 99"),
        ("observations", {"per_page": 201}, 422, "per_page ends at 200"),
        ("observations", {"page": 0}, 422, "page starts at 1"),
        ("observations", {"page": "two"}, 422, "no whole number"),
        ("observations", {"d1": "yesterday"}, 422, "no day"),
        ("observations", {"quality_grade": "good"}, 422, "none of research"),
        ("observations", {"taxon": "10"}, 422, "'taxon' is not understood"),
        ("taxa", {"name": "Junco"}, 422, "'name' is not understood"),
        ("places", {}, 404, "Not Found"),
        ("observations", {"page": 51, "per_page": 200}, 403, "Result window is too large, page x"),
    ],
)
def test_what_iNaturalist_refuses_or_would_misread_is_refused(
    client, server, path, query, status, words
):
    answer = get(client, f"{server.api_url}/{path}", **query)
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert words in answer.json()["error"]


def test_paging_by_id_reaches_what_pages_do_not(client):
    photo = (Photo(1, Bytes(BODY)),)
    rows = tuple(
        Observation(n, HYEMALIS, ADA, photo, START + timedelta(minutes=n)) for n in range(1, 10_051)
    )
    with serving(catalogue=Catalogue(CATALOGUE.taxa, rows)) as server:
        first = get(client, f"{server.api_url}/observations", per_page=200, page=50).json()
        assert first["total_results"] == 10_050
        assert len(first["results"]) == 200
        seen: list[int] = []
        while True:
            below = {"id_below": seen[-1]} if seen else {}
            page = found(client, server, per_page=200, order_by="id", **below)
            if not page:
                break
            seen.extend(page)
    assert seen == list(range(10_050, 0, -1))


def test_requests_beyond_the_rate_are_told_when_to_come_again(client):
    with serving(requests_per_minute=3, window_seconds=0.6) as server:
        url = f"{server.api_url}/observations"
        answers = [get(client, url, per_page=0) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[3].headers["Retry-After"] == "1"
        assert get(client, server.photo_url(101)).status_code == 200
        time.sleep(0.6)
        assert get(client, url, per_page=0).status_code == 200
        assert server.log.requests_in_any(0.5) == 5
        assert server.log.requests_in_any(60) == 6
        assert server.log.requests_in_any(60, prefix="/photos/") == 1
        assert not server.log.faults_seen()


def fields(value: object, path: str = "") -> Iterator[tuple[str, type]]:
    """Every field of a JSON value with its type; items of a list share a path."""
    if value is not None:
        yield path, type(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}", type(None)
            yield from fields(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{path}[]")


@pytest.mark.parametrize(
    ("path", "recorded"),
    [
        ("observations", ("get_observation", "get_observations_page1", "get_observations_page2")),
        ("taxa", ("get_taxa",)),
        ("taxa/11", ("get_taxa_by_id",)),
    ],
)
def test_answers_have_fields_and_types_of_recorded_ones(client, server, shared, path, recorded):
    known = {
        field
        for name in recorded
        for field in fields(json.loads((shared / f"inaturalist/api/{name}.json").read_text()))
    }
    answer = set(fields(get(client, f"{server.api_url}/{path}").json()))
    assert (".results[].id", int) in answer
    assert answer - known == set()


def test_photos_are_served_in_every_size_over_one_connection(client):
    own = Photo(9, Bytes(BODY), extension="jpeg", sizes={"square": Bytes(b"small")})
    rows = (observation(1, photos=(own,)),)
    with serving(catalogue=Catalogue(CATALOGUE.taxa, rows)) as server:
        (row,) = get(client, f"{server.api_url}/observations").json()["results"]
        assert row["photos"][0]["url"] == f"{server.url}/photos/9/square.jpeg"
        for size in ("original", "large", "medium", "small"):
            answer = get(client, server.photo_url(9, size))
            assert (answer.content, answer.headers["Content-Type"]) == (BODY, "image/jpeg")
        assert get(client, f"{row['photos'][0]['url']}?123").content == b"small"
        assert server.log.completed(9) == 5
        # One connection for everything: the pool has opened no other.
        (pool,) = client.get_adapter(server.url).poolmanager.pools._container.values()
        assert pool.num_connections == 1


@pytest.mark.parametrize("path", ["/photos/1/large.jpg", "/photos/101/large.png", "/photos/x", "/"])
def test_what_is_not_there_is_a_404(client, server, path):
    assert get(client, server.url + path).status_code == 404


def met(client: requests.Session, url: str, read_timeout: float = 0.15) -> dict[str, object]:
    """What a client meets at a photo's address: an answer, or the name of the error."""
    try:
        with client.get(
            url, timeout=(5, read_timeout), allow_redirects=False, stream=True
        ) as answer:
            content = b""
            for chunk in answer.iter_content(1 << 16):
                content += chunk
                if len(content) > 4 * len(BODY):
                    return {"error": "endless"}
    except requests.RequestException as error:
        return {"error": type(error).__name__, "words": str(error)}
    return {
        "status": answer.status_code,
        "content": content,
        "type": answer.headers["Content-Type"],
        "retry": answer.headers.get("Retry-After"),
        "location": answer.headers.get("Location"),
    }


RIGHT = {"status": 200, "content": BODY, "type": "image/jpeg", "retry": None, "location": None}
EXPECTED = {
    Fault.TOO_MANY_REQUESTS: {"status": 429, "retry": "3"},
    Fault.SERVER_ERROR: {"status": 500},
    Fault.BAD_GATEWAY: {"status": 502, "type": "text/html"},
    Fault.UNAVAILABLE: {"status": 503, "retry": None},
    Fault.S3_SLOW_DOWN: {"status": 503, "type": "application/xml", "starts": b"<?xml"},
    Fault.S3_ERROR: {"status": 200, "type": "application/xml", "starts": b"<?xml"},
    Fault.HTML_PAGE: {"status": 200, "type": "image/jpeg", "starts": b"<!DOCTYPE html>"},
    Fault.WRONG_TYPE: {"status": 200, "type": "text/plain", "content": BODY},
    Fault.RESET: {"error": "ConnectionError"},
    Fault.RESET_MIDWAY: {"error": "ChunkedEncodingError"},
    Fault.TRUNCATED: {"error": "ChunkedEncodingError"},
    Fault.CUT_SHORT: {"status": 200, "content": BODY[: len(BODY) // 2], "type": "image/jpeg"},
    Fault.STALL: {"error": "ConnectionError"},
    Fault.REDIRECT: {"status": 302, "location": "/moved/photos/101/original.jpg"},
    Fault.NOT_FOUND: {"status": 404},
    Fault.FORBIDDEN: {"status": 403},
    Fault.GONE: {"status": 410},
    Fault.LFS_POINTER: {"status": 200, "type": "image/jpeg", "starts": b"version https://git-lfs"},
    Fault.ONE_PIXEL: {"status": 200, "type": "image/png", "starts": b"\x89PNG"},
    Fault.ENDLESS: {"error": "endless"},
    Fault.REDIRECT_TO_FILE: {"status": 302, "location": "file:///etc/passwd"},
    Fault.REDIRECT_TO_METADATA: {
        "status": 302,
        "location": "http://169.254.169.254/latest/meta-data/",
    },
    Fault.REDIRECT_ELSEWHERE: {"status": 302, "location": "http://127.0.0.1:9/photo.jpg"},
    Fault.REDIRECT_LOOP: {"status": 302, "location": "/photos/101/original.jpg"},
}
WORDS = {Fault.RESET: "reset", Fault.RESET_MIDWAY: "", Fault.STALL: "timed out"}
PLAN = {"retry_after": 3, "elsewhere": "http://127.0.0.1:9/photo.jpg", "stall_seconds": 30.0}


def assert_met(answer: dict[str, object], fault: Fault) -> None:
    expected = dict(EXPECTED[fault])
    starts = expected.pop("starts", b"")
    assert answer | expected == answer
    assert answer.get("content", b"").startswith(starts)
    assert WORDS.get(fault, "") in answer.get("words", "").lower()


def test_every_fault_is_expected_somewhere():
    assert set(EXPECTED) == set(Fault) == {*PHOTO_FAULTS, *API_FAULTS}


@pytest.mark.parametrize("fault", HEALING_PHOTO_FAULTS)
def test_a_photo_meets_its_fault_so_many_times_and_then_heals(client, fault):
    with serving(Faults(photos={101: fault}, times=2, **PLAN)) as server:
        url = server.photo_url(101)
        for _ in range(2):
            assert_met(met(client, url), fault)
        assert met(client, url) == RIGHT
        assert met(client, server.photo_url(102)) == RIGHT
        assert server.log.faults_seen() == {fault: 2}
        assert server.log.completed(101) == server.log.completed(102) == 1


@pytest.mark.parametrize("fault", PHOTO_FAULTS)
def test_a_permanent_fault_stays(client, fault):
    with serving(Faults(permanent={101: fault}, **PLAN)) as server:
        for _ in range(2):
            assert_met(met(client, server.photo_url(101)), fault)
        assert server.log.faults_seen() == {fault: 2}
        assert server.log.completed(101) == 0


def test_a_redirect_leads_to_the_photo_and_a_loop_leads_nowhere(client):
    permanent = {101: Fault.REDIRECT, 102: Fault.REDIRECT_LOOP}
    with serving(Faults(permanent=permanent)) as server:
        assert client.get(server.photo_url(101), timeout=5).content == BODY
        assert server.log.completed(101) == 1
        with pytest.raises(requests.TooManyRedirects):
            client.get(server.photo_url(102), timeout=5)


def test_one_pixel_is_an_image_and_a_photo_cut_short_is_none(client, tmp_path):
    photo = Photo(101, save_photo(tmp_path / "photo.jpg", 1, size=(640, 480)))
    catalogue = Catalogue(CATALOGUE.taxa, (observation(1, photos=(photo,)),))
    with serving(Faults(permanent={101: Fault.ONE_PIXEL}), catalogue) as server:
        facts = inspect_photo(get(client, server.photo_url(101)).content)
        assert (facts.width, facts.height) == (1, 1)
    with serving(Faults(permanent={101: Fault.CUT_SHORT}), catalogue) as server:
        with pytest.raises(PhotoError, match="cannot be decoded"):
            inspect_photo(get(client, server.photo_url(101)).content)
        assert server.log.records[0].complete


def api_outcome(client: requests.Session, url: str) -> object:
    try:
        answer = client.get(url, timeout=(5, 0.15))
        return (answer.status_code, answer.json()["total_results"])
    except requests.JSONDecodeError:
        return (answer.status_code, "no JSON")
    except KeyError:
        return (answer.status_code, answer.json()["error"])
    except requests.RequestException as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault.TOO_MANY_REQUESTS, (429, "Too Many Requests")),
        (Fault.SERVER_ERROR, (500, "no JSON")),
        (Fault.BAD_GATEWAY, (502, "no JSON")),
        (Fault.RESET, "ConnectionError"),
        (Fault.STALL, "ConnectionError"),
        (Fault.CUT_SHORT, (200, "no JSON")),
    ],
)
def test_an_api_request_meets_its_fault_and_heals_when_repeated(client, fault, outcome):
    with serving(Faults(api={2: fault}, times=2)) as server:
        first, second = (f"{server.api_url}/observations?page={page}" for page in (1, 2))
        assert api_outcome(client, first) == (200, 6)
        assert [api_outcome(client, second) for _ in range(3)] == [outcome, outcome, (200, 6)]
        assert server.log.faults_seen() == {fault: 2}


def test_chance_gives_a_photo_the_same_fault_whenever_it_is_asked_for():
    rates = dict.fromkeys(HEALING_PHOTO_FAULTS, 0.05)
    plan, backwards = Faults(3, rates), Faults(3, dict(reversed(rates.items())))
    drawn = [plan.of_photo(photo_id, 0) for photo_id in range(4000)]
    assert drawn == [backwards.of_photo(photo_id, 0) for photo_id in range(4000)]
    assert drawn != [Faults(4, rates).of_photo(photo_id, 0) for photo_id in range(4000)]
    for fault in HEALING_PHOTO_FAULTS:
        assert drawn.count(fault) / 4000 == pytest.approx(0.05, abs=0.02)
    assert all(plan.of_photo(photo_id, 1) is None for photo_id in range(4000))
    api = Faults(3, api_rates={Fault.RESET: 0.5})
    resets = [api.of_api_request(number, 0) for number in range(1, 1001)].count(Fault.RESET)
    assert resets / 1000 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    "plan",
    [
        {"photo_rates": {Fault.GONE: 0.1}},
        {"photos": {1: Fault.ENDLESS}},
        {"permanent": {1: Fault.BAD_GATEWAY}},
        {"api": {1: Fault.REDIRECT}},
        {"api_rates": {Fault.HTML_PAGE: 0.1}},
        {"photo_rates": {Fault.RESET: 0.6, Fault.STALL: 0.6}},
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan):
    with pytest.raises(ValueError, match=r"cannot happen there|add up to more than 1"):
        Faults(**plan)


def test_latency_keeps_each_photo_waiting_but_not_the_others(client):
    with serving(latency=0.2) as server:
        started = time.monotonic()
        url = server.photo_url(101)
        threads = [threading.Thread(target=requests.get, args=(url,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.2 <= time.monotonic() - started < 1.2
        assert server.log.completed(101) == 8


def test_the_log_tells_what_was_asked_and_what_was_sent(client, tmp_path):
    file = tmp_path / "requests.jsonl"
    with serving(Faults(photos={101: Fault.TRUNCATED}), log_file=file) as server:
        before = time.time()
        get(client, f"{server.api_url}/taxa", q="junco")
        met(client, server.photo_url(101))
        asked, broken = server.log.records
    assert (asked.method, asked.path, asked.query) == ("GET", "/v1/taxa", "q=junco")
    assert (asked.status, asked.fault, asked.complete, asked.photo_id) == (200, None, True, None)
    assert before <= asked.wall <= broken.wall <= time.time()
    assert asked.monotonic <= broken.monotonic
    assert (broken.photo_id, broken.fault, broken.complete) == (101, Fault.TRUNCATED, False)
    assert broken.sent == len(BODY) // 2
    with file.open("a") as handle:
        handle.write('{"half a li')
    assert RequestLog.read(file).records == [asked, broken]
    assert RequestLog.read(tmp_path / "none.jsonl").records == []


def test_leaving_hangs_up_on_clients_that_are_still_connected(client):
    before = set(threading.enumerate())
    with serving(Faults(permanent={101: Fault.STALL, 102: Fault.ENDLESS})) as server:
        stalled = client.get(server.photo_url(101), stream=True, timeout=5)
        endless = client.get(server.photo_url(102), stream=True, timeout=5)
        threads = set(threading.enumerate()) - before
        assert len(threads) == 3
        left = time.monotonic()
    assert time.monotonic() - left < 2
    for thread in threads:
        thread.join(1)
        assert not thread.is_alive()
    stalled.close()
    endless.close()
    assert [record.complete for record in server.log.records] == [False, False]


def test_a_server_that_has_gone_may_come_back_at_its_address(client):
    with serving() as server:
        url = server.photo_url(101)
        assert met(client, url) == RIGHT
    assert met(client, url)["error"] == "ConnectionError"
    with serving(port=int(server.url.rpartition(":")[2])):
        assert met(client, url) == RIGHT


def test_a_server_in_a_process_of_its_own_serves_and_logs_and_ends(client, tmp_path):
    file = tmp_path / "requests.jsonl"
    catalogue = Catalogue(
        CATALOGUE.taxa,
        (observation(1, photos=(Photo(7, save_photo(tmp_path / "photo.jpg", 1)),)),),
    )
    with server_process(catalogue, ServerSettings(log_file=file)) as url:
        content = get(client, f"{url}/photos/7/large.jpg").content
        assert content == (tmp_path / "photo.jpg").read_bytes()
    assert RequestLog.read(file).completed(7) == 1
    with pytest.raises(requests.ConnectionError):
        get(client, f"{url}/photos/7/large.jpg")


@pytest.fixture
def described(animals: Path) -> Path:
    """The folder of animals, where metadata tell of two photos."""
    rows = [
        {
            "file_name": "lion/0.jpg",
            "license": "all-rights-reserved",
            "creator": "Ada Winter",
            "creator_id": "toy-1",
            "observed_at": "2024-05-06T07:08:09Z",
            "uploaded_at": "2024-05-07T00:00:00Z",
        },
        {"file_name": "otter/3.jpg", "license": "cc-by-sa", "creator": "Bo", "creator_id": "77"},
    ]
    with (animals / "metadata.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return animals


def test_every_file_of_a_folder_is_the_photo_of_one_observation(described):
    labels = label_space("imagenet1k")
    catalogue = folder_catalogue(described, labels)
    assert catalogue == folder_catalogue(described, labels)
    rows = {
        photo.content.relative_to(described).as_posix(): (row, photo)
        for row in catalogue.observations
        for photo in row.photos
        if photo.id < FIRST_DECOY
    }
    assert sorted(rows) == sorted(
        path.relative_to(described).as_posix() for path in described.glob("*/*.jpg")
    )
    for name, (row, photo) in rows.items():
        taxa = labels.taxa[labels.index_of(name.split("/")[0])]
        assert any(row.taxon.name.startswith(taxon.name) for taxon in taxa)
        assert (row.quality_grade, row.captive, photo.dimensions) == ("research", False, (96, 72))
    lion, photo = rows["lion/0.jpg"]
    assert (lion.observer.login, lion.observer.name) == ("toy-1", "Ada Winter")
    assert photo.license_code is None
    assert lion.time_observed_at == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert lion.created_at == datetime(2024, 5, 7, tzinfo=UTC)
    otter, photo = rows["otter/3.jpg"]
    assert (otter.observer.id, otter.observer.login, photo.license_code) == (77, "bo", "cc-by-sa")


def test_decoys_are_added_to_a_folder_and_numbered_by_time(animals):
    catalogue = folder_catalogue(animals, label_space("imagenet1k"), prolific=20)
    rows = catalogue.observations
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert [row.created_at for row in rows] == sorted(row.created_at for row in rows)
    decoys = [row for row in rows if all(photo.id >= FIRST_DECOY for photo in row.photos)]
    prolific = [row for row in decoys if row.observer.login == "prolific"]
    assert len(prolific) == 3 * 20
    assert len(decoys) - len(prolific) == 3 * 5
    assert sum(row.quality_grade == "needs_id" for row in decoys) == 3
    assert sum(row.captive for row in decoys) == 3
    assert sum(47126 in row.taxon.ancestor_ids for row in decoys) == 3
    assert sum(row.photos[0].license_code == "cc-by-nd" for row in decoys) == 3
    assert sum(row.photos[0].license_code is None for row in decoys) == 3
    namesakes = [taxon for taxon in catalogue.taxa if taxon.name == "Panthera leo"]
    assert [taxon.is_active for taxon in namesakes] == [True, True, False]
    assert [taxon.ancestor_ids[1] for taxon in namesakes] == [1, 47126, 1]
    plain = folder_catalogue(animals, label_space("imagenet1k"), decoys=False)
    assert max(plain.photo) < FIRST_DECOY


def test_some_observations_of_a_folder_have_an_unlicensed_photo_before_the_one_wanted(tmp_path):
    for number in range(60):
        save_photo(tmp_path / "lion" / f"{number}.jpg", 1)
    rows = folder_catalogue(tmp_path, label_space("imagenet1k")).observations
    mixed = [[photo.id < FIRST_DECOY for photo in row.photos] for row in rows]
    assert {(False, True), (True, False), (True, False, False)} <= {tuple(row) for row in mixed}
    before = [row.photos[0] for row, kinds in zip(rows, mixed, strict=True) if kinds[1:] == [True]]
    assert {photo.license_code for photo in before} == {None}


def test_a_class_without_a_taxon_cannot_be_served(tmp_path):
    (tmp_path / "labels.csv").write_text("name\ntoy bear\n")
    save_photo(tmp_path / "root" / "toy bear" / "1.jpg", 1)
    with pytest.raises(CapError, match="'toy bear' of labels has no taxon"):
        folder_catalogue(tmp_path / "root", label_space("labels.csv", tmp_path))
