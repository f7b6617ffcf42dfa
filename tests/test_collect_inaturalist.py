"""`cap collect --source inaturalist`: which photos are asked for, how politely, and what comes."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from catalogues import NEWT, TOAD, TOADS, Body, body, make_space, observation, photo_catalogue
from conftest import cap, commit_interrupted, save_photo

from manifests.errors import CapError
from manifests.progress import Progress
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.collect.budget import ByteBudget
from pipeline.collect.inaturalist import Api, photo_url
from pipeline.demo.server import (
    API_FAULTS,
    HEALING_PHOTO_FAULTS,
    Catalogue,
    Fault,
    Faults,
    LocalINaturalist,
    Observation,
    Observer,
    Photo,
    ServerSettings,
    Taxon,
)
from pipeline.parameters import CollectParameters


class Notes(Progress):
    """Remembers what a person was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def study(tmp_path) -> Workspace:
    root = tmp_path / "study"
    root.mkdir()
    make_space(root)
    return Workspace(root)


@contextlib.contextmanager
def serving(catalogue: Catalogue, **settings):
    chosen = ServerSettings(**{"requests_per_minute": 100_000, **settings})
    with LocalINaturalist(catalogue, chosen) as server:
        yield server


def run(study: Workspace, server: LocalINaturalist, progress: Progress | None = None, **options):
    defaults = {
        "source": "inaturalist",
        "api_url": server.api_url,
        "requests_per_minute": 60_000,
        "workers": 1,
        "classes": ("toad",),
    }
    return collect(study, CollectParameters(**(defaults | options)), progress or Progress())


def numbers(study: Workspace, status: str = "ok") -> list[int]:
    rows = study.read("photos").to_pylist()
    return sorted(int(r["photo_id"].split(":")[1]) for r in rows if r["status"] == status)


def asked(server: LocalINaturalist) -> Counter[int]:
    """How often each photo was asked for."""
    return Counter(r.photo_id for r in server.log.records if r.photo_id is not None)


def test_a_photos_row_tells_all_that_is_known_of_it(study):
    named = observation(7)
    nameless = observation(
        8, observer=Observer(5, "bo"), photos=(Photo(8, Body(8), "cc0"),), taxon=TOAD
    )
    with serving(Catalogue((TOADS, TOAD), (named, nameless))) as server:
        outcome = run(study, server)
        url = server.photo_url(7, "large")
    assert outcome.text == "2 photos of 1 class"
    eight, seven = sorted(study.read("photos").to_pylist(), key=lambda r: -int(r["creator_id"]))[
        ::-1
    ]
    assert (seven["photo_id"], seven["source"], seven["status"]) == (
        "inaturalist:7",
        "inaturalist",
        "ok",
    )
    assert (seven["observation_id"], seven["creator"], seven["creator_id"]) == (
        "7",
        "Person 7",
        "7",
    )
    assert (seven["taxon"], seven["taxon_id"], seven["taxon_rank"]) == (
        "Bufo bufo",
        "21",
        "species",
    )
    assert (seven["class_index"], seven["class_name"]) == (0, "toad")
    assert seven["license"] == "cc-by"
    assert seven["attribution"] == "© Person 7, some rights reserved (CC-BY)"
    assert seven["url"] == url
    assert seven["observed_at"] == datetime(2024, 1, 1, 7, tzinfo=UTC)
    assert seven["uploaded_at"] == datetime(2024, 1, 1, 8, tzinfo=UTC)
    assert (study.root / seven["path"]).read_bytes() == body(7)
    assert eight["attribution"] == "bo, no rights reserved (CC0)"


def test_the_newest_come_first_and_pages_reach_as_far_as_needed(study):
    with serving(photo_catalogue(450)) as server:
        run(study, server, per_class=430)
        pages = [r for r in server.log.records if r.path == "/v1/observations"]
    assert numbers(study) == list(range(21, 451))
    assert len(pages) == 3
    assert all("page=" not in page.query.replace("per_page=", "") for page in pages)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1]),
        ({"quality": "any"}, [1, 2]),
        ({"quality": "needs_id"}, [2]),
        ({"captive": "yes", "quality": "any"}, [1, 2, 3]),
        ({"captive": "only", "quality": "casual"}, [3]),
        ({"licenses": ("cc-by-nd",)}, [4]),
        ({"licenses": ("cc-by", "all-rights-reserved")}, [1, 5]),
        ({"licenses": ("any",)}, [1, 4, 5]),
        ({"places": ("77",), "licenses": ("any",)}, [5]),
        ({"since": "2024-03-01", "licenses": ("any",)}, [4]),
        ({"until": "2024-02-28", "licenses": ("any",)}, [1, 5]),
    ],
)
def test_filters_are_the_askers(study, options, expected):
    rows = (
        observation(1),
        observation(2, quality_grade="needs_id"),
        observation(3, quality_grade="casual", captive=True),
        observation(4, photos=(Photo(4, Body(4), "cc-by-nd"),), observed_on=date(2024, 3, 5)),
        observation(5, photos=(Photo(5, Body(5), None),), place_ids=(77,)),
    )
    with serving(Catalogue((TOAD,), rows)) as server:
        run(study, server, **options)
    assert numbers(study) == expected


def test_all_rights_reserved_is_never_taken_unasked_whatever_the_observations_licence(study):
    both = observation(
        1, photos=(Photo(1, Body(1), None), Photo(2, Body(2), "cc-by"), Photo(3, Body(3), "cc0"))
    )
    with serving(Catalogue((TOAD,), (both,))) as server:
        run(study, server)
        # The first photo that may be taken, and one of an observation.
        assert numbers(study) == [2]
        assert set(asked(server)) == {2}


def test_photos_per_observation_and_the_share_of_an_observer_can_be_changed(study):
    ann = Observer(1, "ann")
    rows = [observation(number, observer=ann) for number in range(1, 31)]
    rows += [observation(number) for number in range(101, 131)]
    double = observation(200, photos=(Photo(200, Body(2), "cc0"), Photo(201, Body(3), "cc0")))
    notes = Notes()
    with serving(Catalogue((TOAD,), (*rows, double))) as server:
        run(study, server, notes)
        assert Counter(study.read("photos")["creator_id"].to_pylist())["1"] == 2
        assert len(numbers(study)) == 33
        assert any("so that no observer has more than 5 %" in text for text in notes.told)
        run(study, server, photos_per_observation=2, observer_share=1.0)
        assert len(numbers(study)) == 62


def test_a_plant_or_an_outdated_taxon_of_the_same_name_is_not_taken(study):
    plant = Taxon(90, "Bufo bufo", "species", (48460, 47126, 90))
    old = Taxon(91, "Bufo bufo", "species", (48460, 1, 91), is_active=False)
    longer = Taxon(92, "Bufo bufo spinosus", "subspecies", (48460, 1, 20, 21, 92))
    rows = (
        observation(1, plant),
        observation(2, old),
        observation(3),
        observation(4, longer),
    )
    with serving(Catalogue((plant, old, longer, TOAD), rows)) as server:
        run(study, server)
    # Subspecies belong to the species.
    assert numbers(study) == [3, 4]


def test_a_taxon_that_is_not_known_is_said_and_left_out(study):
    (study.root / "space.csv").write_text("name,taxon\ntoad,Bufo bufo|Bufo nobody\n")
    notes = Notes()
    with serving(photo_catalogue(2)) as server:
        run(study, server, notes)
    assert numbers(study) == [1, 2]
    assert "toad: iNaturalist knows no Bufo nobody; left out" in notes.told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("house",)}, "'house' stands for no taxon"),
        ({"classes": ("tod",)}, "nearest: toad"),
        ({"per_class": 0}, "--per-class is 0"),
        ({"observer_share": 2.0}, "--observer-share is 2"),
        ({"since": "yesterday"}, "write a day as YYYY-MM-DD"),
        ({"gb_per_hour": 0}, "--gb-per-hour must be above 0"),
        ({"requests_per_minute": 0}, "--requests-per-minute is 0"),
        ({"api_url": "file:///tmp"}, "write http"),
        ({"api_url": "http://ann:secret@127.0.0.1/v1"}, "must not hold a name or a password"),
        ({"tables": "https://ann:secret@127.0.0.1/"}, "--tables must not hold a name"),
        ({"licenses": ("mine",)}, "no licence 'mine'"),
        ({"refresh": True}, "no photos were collected from inaturalist yet"),
        ({"refresh": True, "dry_run": True}, "leave out one of the two"),
        ({"gb_per_day": math.inf}, "--gb-per-day must be above 0 and finite"),
    ],
)
def test_what_cannot_be_asked_is_one_line(study, options, message):
    with serving(photo_catalogue(1)) as server, pytest.raises(CapError, match=message):
        run(study, server, **options)


def test_every_fault_that_passes_is_outlasted_and_no_photo_comes_twice(study):
    count = 60
    kinds = [f for f in HEALING_PHOTO_FAULTS if f not in {Fault.STALL, Fault.CUT_SHORT}]
    faults = Faults(
        photos={number: kinds[number % len(kinds)] for number in range(1, count + 1)},
        api=dict(enumerate((f for f in API_FAULTS if f is not Fault.STALL), start=1)),
        stall_seconds=1,
    )
    with serving(photo_catalogue(count), faults=faults) as server:
        outcome = run(study, server)
        seen = set(server.log.faults_seen())
    assert outcome.facts["ok"] == count
    assert outcome.facts["failed"] == 0
    assert set(kinds) <= seen
    # Pages and messages that came instead of a photo are whole, too.
    whole = Counter(
        r.photo_id
        for r in server.log.records
        if r.complete and r.status == 200 and r.fault in {None, Fault.WRONG_TYPE}
    )
    assert all(whole[number] == 1 for number in range(1, count + 1))
    rows = study.read("photos").to_pylist()
    assert all((study.root / r["path"]).read_bytes() == body(int(r["creator_id"])) for r in rows)


PERMANENT = {
    1: (Fault.NOT_FOUND, "not found (404)", 1),
    2: (Fault.FORBIDDEN, "not allowed (403)", 1),
    3: (Fault.GONE, "gone (410)", 1),
    4: (Fault.LFS_POINTER, "a Git LFS pointer", 1),
    5: (Fault.ONE_PIXEL, "not the photo: a placeholder of 1 x 1 pixels", 1),
    6: (Fault.CUT_SHORT, "cannot be decoded", 1),
    7: (Fault.REDIRECT_TO_FILE, "refused: a redirect", 1),
    8: (Fault.REDIRECT_LOOP, "redirected more than 5 times", 6),
}


def test_what_is_no_photo_fails_at_once_with_its_reason_and_is_not_asked_for_again(study):
    faults = Faults(permanent={number: fault for number, (fault, _, _) in PERMANENT.items()})
    with serving(photo_catalogue(9), faults=faults) as server:
        outcome = run(study, server)
        rows = {int(r["creator_id"]): r for r in study.read("photos").to_pylist()}
        for number, (_, reason, times) in PERMANENT.items():
            assert rows[number]["status"] == "failed"
            assert rows[number]["error"].startswith(reason)
            assert rows[number]["path"] is None
            assert asked(server)[number] == times, rows[number]["error"]
        assert (outcome.facts["ok"], outcome.facts["failed"]) == (1, 8)
        before = len(server.log.records)
        assert run(study, server).fresh
        assert len(server.log.records) == before
    stored = [path for path in (study.root / "photos").rglob("*") if path.is_file()]
    assert len(stored) == 1


def test_the_same_command_asks_again_only_for_what_may_come(study, monkeypatch):
    monkeypatch.setattr("manifests.fetch._LONGEST_BACKOFF", 0.05)
    faults = Faults(
        photos={2: Fault.SERVER_ERROR}, permanent={3: Fault.NOT_FOUND}, times=5, retry_after=0
    )
    with serving(photo_catalogue(5), faults=faults) as server:
        outcome = run(study, server)
        assert "the same command asks again for 1 of them" in outcome.text
        assert (numbers(study), numbers(study, "failed")) == ([1, 4, 5], [2, 3])
        api = sum(r.photo_id is None for r in server.log.records)
        first = asked(server)
        outcome = run(study, server)
        assert asked(server) - first == Counter({2: 1})
        assert sum(r.photo_id is None for r in server.log.records) == api
        assert not outcome.fresh
        assert numbers(study) == [1, 2, 4, 5]
        assert run(study, server).fresh


@pytest.mark.parametrize("interrupted", ["first", "again"])
@pytest.mark.parametrize("point", ["receipt", "batches"])
def test_a_commit_that_was_interrupted_is_made_good_by_the_same_command(
    study, monkeypatch, interrupted, point
):
    monkeypatch.setattr("manifests.fetch._LONGEST_BACKOFF", 0.05)
    (study.root / "space.csv").write_text("name,taxon\ntoad,Bufo bufo\nkin,Bufo\n")
    rows = [observation(number, TOADS) for number in range(1, 5)] + [observation(5)]
    faults = Faults(photos={2: Fault.SERVER_ERROR}, times=5, retry_after=0)
    with serving(Catalogue((TOADS, TOAD), tuple(rows)), faults=faults) as server:
        for command in ("first", "again"):
            interrupting = command == interrupted
            with (
                commit_interrupted(point, monkeypatch) if interrupting else contextlib.nullcontext()
            ):
                run(study, server, classes=())
        run(study, server, classes=())
        assert (numbers(study), numbers(study, "failed")) == ([1, 2, 3, 4], [5])
        assert run(study, server, classes=()).fresh


def test_more_photos_are_fetched_without_asking_again_for_those_that_are_there(study):
    with serving(photo_catalogue(30)) as server:
        run(study, server, per_class=10)
        run(study, server, per_class=25)
        assert numbers(study) == list(range(6, 31))
        assert set(asked(server).values()) == {1}
        (study.root / study.read("photos")["path"][0].as_py()).unlink()
        run(study, server, per_class=26)
        assert numbers(study) == list(range(5, 31))
        assert sum(asked(server).values()) == 27


def test_taxa_are_looked_up_once_for_a_workspace(study):
    with serving(photo_catalogue(3)) as server:
        run(study, server, per_class=1)
        run(study, server, per_class=2)
        run(study, server, per_class=3, quality="any")
        assert sum(r.path == "/v1/taxa" for r in server.log.records) == 1
        assert numbers(study) == [1, 2, 3]


def test_a_used_up_byte_budget_is_said_and_waited_for(study):
    allowed = 12_000
    command = [sys.executable, "-m", "pipeline", "collect", "--source", "inaturalist"]
    options = ["--classes", "toad", "--connections", "2", "--gb-per-hour", str(allowed / 1e9)]
    with serving(photo_catalogue(40)) as server:
        process = subprocess.Popen(
            [*command, *options, "--api-url", server.api_url, "--requests-per-minute", "6000"],
            cwd=study.root,
            stderr=subprocess.PIPE,
            text=True,
        )
        told = next(line for line in process.stderr if "budget" in line)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        sent = sum(r.sent for r in server.log.records if r.photo_id is not None)
    assert re.search(r"the byte budget for 127.0.0.1:\d+ is used up; going on at \d\d:\d\d", told)
    assert process.returncode == 130, rest
    assert "goes on where this one stopped" in rest
    assert len(body(1)) < sent <= allowed


def test_a_photo_asked_for_under_two_classes_is_one_failed_row(study):
    (study.root / "space.csv").write_text("name,taxon\nrooster,Bufo bufo\nhen,Bufo\n")
    with serving(photo_catalogue(2)) as server:
        outcome = run(study, server, classes=())
        assert not asked(server)
    rows = study.read("photos").to_pylist()
    assert [r["error"] for r in rows] == ["asked for under two classes: hen and rooster"] * 2
    assert outcome.facts["problems"] == {"asked for under two classes": 2}
    assert {r["class_name"] for r in rows} == {"rooster"}


def sources(study: Workspace) -> Counter[str]:
    return Counter(study.read("photos")["source"].to_pylist())


def test_sources_live_beside_each_other_and_each_replaces_its_own_rows(study, tmp_path):
    for number in range(3):
        save_photo(tmp_path / "animals" / "newt" / f"{number}.jpg", 500 + number)
    folder = CollectParameters(root=str(tmp_path / "animals"), workers=1)
    collect(study, folder, Progress())
    with serving(photo_catalogue(4)) as server:
        run(study, server)
        assert Counter(study.read("photos")["source"].to_pylist()) == {
            "folder": 3,
            "inaturalist": 4,
        }
        run(study, server, per_class=2)
        assert Counter(study.read("photos")["source"].to_pylist()) == {
            "folder": 3,
            "inaturalist": 2,
        }
        assert collect(study, folder, Progress()).fresh
        assert run(study, server, per_class=2).fresh
        study.table_path("photos").unlink()
        run(study, server, per_class=2)
        assert not collect(study, folder, Progress()).fresh
        assert sources(study) == {"folder": 3, "inaturalist": 2}
        assert run(study, server, per_class=2).fresh


def test_a_dry_run_tells_counts_and_gigabytes_and_fetches_nothing(study):
    newts = [observation(number, NEWT) for number in range(1000, 1003)]
    with serving(photo_catalogue(50, *newts)) as server:
        outcome = run(study, server, dry_run=True, per_class=40, classes=(), size="original")
        assert not asked(server)
    assert outcome.text.splitlines()[0] == (
        "would ask for up to 43 photos of 2 classes, about 0.034 GB"
    )
    assert outcome.facts["classes"] == [
        {"class": "toad", "observations": 50, "photos": 40, "GB": 0.031},
        {"class": "newt", "observations": 3, "photos": 3, "GB": 0.002},
    ]
    assert not study.has("photos")
    assert study.state("photos") == "missing"


def test_a_dry_run_counts_the_photos_of_an_observation(study):
    with serving(photo_catalogue(5)) as server:
        plans = [
            run(study, server, dry_run=True, photos_per_observation=number, per_class=12)
            for number in (1, 2, 3)
        ]
    assert [plan.facts["photos"] for plan in plans] == [5, 10, 12]


def changed(row: Observation, license_code: str | None) -> Observation:
    return replace(row, photos=(replace(row.photos[0], license_code=license_code),))


def test_a_refresh_marks_what_is_gone_and_whose_licence_changed(study):
    rows = {number: observation(number) for number in range(1, 71)}
    with serving(Catalogue((TOAD,), tuple(rows.values()))) as server:
        run(study, server)
        port = int(server.url.rpartition(":")[2])
    del rows[3]
    rows[5] = replace(rows[5], photos=(Photo(500, Body(5), "cc-by"),))
    rows[7] = changed(rows[7], None)
    rows[9] = changed(rows[9], "cc0")
    with serving(Catalogue((TOAD,), tuple(rows.values())), port=port) as server:
        outcome = run(study, server, refresh=True)
        assert not asked(server)
        assert len(server.log.records) == 3
        before = len(server.log.records)
        assert run(study, server).fresh
        assert len(server.log.records) == before
    assert outcome.text == (
        "70 photos asked again; 2 gone, 1 with a licence that is not allowed, "
        "1 with another that is"
    )
    photos = {int(r["creator_id"]): r for r in study.read("photos").to_pylist()}
    assert photos[3]["error"] == photos[5]["error"] == ("gone: the photo is no longer there")
    assert photos[7]["error"] == "licence changed: from cc-by to all-rights-reserved"
    assert [photos[n]["path"] for n in (3, 5, 7)] == [None] * 3
    assert (photos[9]["status"], photos[9]["license"]) == ("ok", "cc0")
    assert photos[9]["attribution"] == "Person 9, no rights reserved (CC0)"
    assert len(numbers(study)) == 67


def test_an_api_that_does_not_answer_is_one_line(study, monkeypatch):
    monkeypatch.setattr("manifests.fetch._LONGEST_BACKOFF", 0.05)
    with serving(photo_catalogue(1)) as server:
        pass
    with pytest.raises(CapError, match=r"Connection refused; try again later"):
        run(study, server)
    faults = Faults(api={1: Fault.SERVER_ERROR}, times=100)
    with (
        serving(photo_catalogue(1), faults=faults) as server,
        pytest.raises(CapError, match=r"server error \(500\); try again later"),
    ):
        run(study, server)


def test_a_cache_that_cannot_be_made_is_one_line(study, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with serving(photo_catalogue(1)) as server, pytest.raises(CapError, match="XDG_CACHE_HOME"):
        run(study, server)


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [{"photos": [{"id": 1}]}], "total_results": 1},
        {"results": [{"id": 1, "photos": [{"id": "../../x", "url": "http://h/square.jpg"}]}]},
        {"results": ["photo"]},
        {"results": [None] * 200},
    ],
)
def test_answers_unlike_those_of_inaturalist_are_one_line(study, monkeypatch, answer):
    with serving(photo_catalogue(1)) as server:
        real = Api.get
        monkeypatch.setattr(
            Api,
            "get",
            lambda self, path, query, **more: (
                answer if path == "observations" else real(self, path, query, **more)
            ),
        )
        with pytest.raises(CapError, match="does not answer like iNaturalist"):
            run(study, server, licenses=("any",))


def test_retry_after_is_honoured_by_all_connections(study):
    faults = Faults(photos={20: Fault.TOO_MANY_REQUESTS}, retry_after=2)
    with serving(photo_catalogue(40), faults=faults, latency=0.02) as server:
        run(study, server, connections=4)
        records = [r for r in server.log.records if r.photo_id is not None]
    refused = next(r.monotonic for r in records if r.status == 429)
    # Requests that were under way already may still arrive.
    early = [r for r in records if refused + 0.3 < r.monotonic < refused + 2]
    assert not early
    assert sum(r.monotonic >= refused + 2 for r in records) > 10


def test_a_host_that_asks_for_an_hour_is_left_alone_until_the_next_run(study):
    faults = Faults(photos={20: Fault.TOO_MANY_REQUESTS}, retry_after=3600)
    with serving(photo_catalogue(40), faults=faults, latency=0.01) as server:
        begun = time.monotonic()
        outcome = run(study, server, connections=2)
        assert time.monotonic() - begun < 30
        assert outcome.facts["problems"].keys() == {"too many requests (429)"}
        assert "the same command asks again" in outcome.text
        assert asked(server).total() < 40
        run(study, server, connections=2)
        assert len(numbers(study)) == 40


def test_the_number_of_connections_to_a_host_is_kept(study):
    with serving(photo_catalogue(60), latency=0.05) as server:
        run(study, server, connections=3)
        begun = sorted(r.monotonic for r in server.log.records if r.photo_id is not None)
    # With three connections, the fourth request after any other comes a latency later.
    assert all(late - early > 0.04 for early, late in zip(begun, begun[3:], strict=False))


def test_requests_keep_to_the_rate_in_any_ten_seconds(study):
    (study.root / "space.csv").write_text(
        "name,taxon\n" + "\n".join(f"toad {n},Bufo nobody{n}" for n in range(24)) + "\n"
    )
    with serving(photo_catalogue(1)) as server:
        run(study, server, classes=(), requests_per_minute=60)
        assert len(server.log.records) == 24
        assert server.log.requests_in_any(9.9) <= 10


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_full_disk_is_one_line_and_nothing_is_lost(study, monkeypatch, module, name):
    real, count = getattr(module, name), 0

    def failing(*arguments):
        nonlocal count
        count += 1
        if count > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with serving(photo_catalogue(40)) as server:
        monkeypatch.setattr(module, name, failing)
        with pytest.raises(CapError, match="No space left on device"):
            run(study, server, connections=2)
        monkeypatch.setattr(module, name, real)
        assert study.state("photos") == "unfinished"
        run(study, server, connections=2)
        assert len(numbers(study)) == 40
        # Only those that were under way when the disk was full came twice.
        assert sum(asked(server).values()) <= 40 + 4


def test_a_cache_that_cannot_be_written_is_one_line(study, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ledger = tmp_path / "cache" / "cap" / "bytes.sqlite"
    ledger.mkdir(parents=True)
    with serving(photo_catalogue(2)) as server:
        with pytest.raises(CapError, match=r"bytes\.sqlite, where bytes are counted, cannot be"):
            run(study, server)
        ledger.rmdir()
        ledger.write_text("no database, and longer than the header of one would have to be" * 9)
        with pytest.raises(CapError, match="file is not a database"):
            run(study, server)
        ledger.unlink()
        run(study, server)
        assert set(asked(server).values()) == {1}


def test_what_cannot_be_counted_in_the_end_is_one_line(study, monkeypatch):
    close = ByteBudget.close

    def full(budget):
        close(budget)
        msg = "database or disk is full"
        raise sqlite3.OperationalError(msg)

    with serving(photo_catalogue(2)) as server:
        with monkeypatch.context() as patch:
            patch.setattr(ByteBudget, "close", full)
            with pytest.raises(CapError, match=r"cannot be written \(database or disk is full"):
                run(study, server)
        run(study, server)
        assert set(asked(server).values()) == {1}


@pytest.mark.parametrize(
    ("url", "large"),
    [
        (
            "https://inaturalist-open-data.s3.amazonaws.com/photos/1/square.jpg",
            "https://inaturalist-open-data.s3.amazonaws.com/photos/1/large.jpg",
        ),
        (
            "https://static.inaturalist.org/photos/1/square.JPG?1461537518",
            "https://static.inaturalist.org/photos/1/large.JPG?1461537518",
        ),
        ("https://live.staticflickr.com/1/2_s.jpg", None),
        ("file:///photos/1/square.jpg", None),
        (None, None),
    ],
)
def test_a_photos_address_in_another_size(url, large):
    assert photo_url(url, "large") == large


def test_the_recorded_answers_are_read(shared):
    from pipeline.collect.inaturalist import photo_rows

    answer = json.loads((shared / "inaturalist" / "api" / "get_observation.json").read_text())
    rows = photo_rows(answer["results"][0], "medium", ("cc-by",))
    assert [row["photo_id"] for row in rows] == ["inaturalist:24355315", "inaturalist:24355313"]
    assert rows[0]["url"] == "https://static.inaturalist.org/photos/24355315/medium.jpeg?1536150664"
    assert rows[0]["taxon"] == "Lixus bardanae"
    assert rows[0]["observed_at"] == datetime(2018, 9, 5, 12, 6, tzinfo=UTC)
    page = json.loads((shared / "inaturalist" / "api" / "get_observations_page2.json").read_text())
    assert photo_rows(page["results"][0], "large", ("cc-by", "cc-by-nc")) == []


def test_the_command_tells_what_came_and_status_tells_why_the_rest_did_not(study):
    faults = Faults(permanent={1: Fault.NOT_FOUND, 2: Fault.NOT_FOUND, 3: Fault.LFS_POINTER})
    with serving(photo_catalogue(8), faults=faults) as server:
        done = cap(
            *("collect", "--source", "inaturalist", "--classes", "toad"),
            *("--api-url", server.api_url, "--requests-per-minute", "60000"),
            cwd=study.root,
        )
    assert done.stdout == (
        "collect: 5 photos of 1 class, 3 failed: 2 not found (404), 1 a Git LFS pointer\n"
    )
    assert "collect: 8 of 8 photos" in done.stderr
    status = cap("status", cwd=study.root).stdout
    assert "2 not found (404), 1 a Git LFS pointer" in status
