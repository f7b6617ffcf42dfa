"""`cap collect --source open-data`: the same downloader, from the monthly tables."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from catalogues import body, photo_catalogue
from conftest import cap
from open_data_tables import observation, photo, write_tables

from manifests.errors import CapError
from manifests.progress import Progress
from manifests.workspace import Run, Workspace
from pipeline.collect import collect
from pipeline.collect.refresh import checked
from pipeline.demo.server import Fault, Faults, LocalINaturalist, ServerSettings
from pipeline.parameters import CollectParameters

OBSERVATIONS = [observation(number, 11) for number in range(1, 6)]
PHOTOS = [photo(number, number, observer=number) for number in range(1, 6)]


@pytest.fixture
def study(tmp_path) -> Workspace:
    root = tmp_path / "study"
    root.mkdir()
    (root / "space.csv").write_text("name,taxon\nlynx,Lynx lynx\ncat,Felis catus\n")
    (root / "cap.toml").write_text('label_space = "space.csv"\n')
    return Workspace(root)


@pytest.fixture
def tables(tmp_path):
    return write_tables(tmp_path / "tables", observations=OBSERVATIONS, photos=PHOTOS)


@pytest.fixture
def server():
    faults = Faults(permanent={5: Fault.NOT_FOUND}, photos={4: Fault.RESET_MIDWAY})
    with LocalINaturalist(photo_catalogue(5), ServerSettings(faults=faults)) as running:
        yield running


def run(study, tables, server, **options):
    parameters = CollectParameters(
        source="open-data",
        tables=str(tables),
        photo_url=f"{server.url}/photos",
        workers=1,
        **options,
    )
    return collect(study, parameters, Progress())


def test_photos_come_from_the_bucket_with_what_the_tables_tell(study, tables, server):
    outcome = run(study, tables, server)
    assert outcome.text == "4 photos of 1 class, 1 failed: 1 not found (404)"
    rows = {r["photo_id"]: r for r in study.read("photos").to_pylist()}
    one = rows["inaturalist:1"]
    assert (one["source"], one["class_name"], one["taxon"]) == ("open-data", "lynx", "Lynx lynx")
    assert (one["license"], one["attribution"]) == (
        "cc-by",
        "© Ann, some rights reserved (CC-BY)",
    )
    assert one["url"] == f"{server.url}/photos/1/large.jpg"
    assert (study.root / one["path"]).read_bytes() == body(1)
    assert server.log.completed(4) == 1
    assert run(study, tables, server).fresh


def test_new_tables_are_asked_and_only_new_photos_fetched(study, tables, server):
    run(study, tables, server, per_class=2)
    write_tables(
        tables, observations=OBSERVATIONS, photos=[p for p in PHOTOS if p[1] != 5] + PHOTOS[:0]
    )
    outcome = run(study, tables, server, per_class=3)
    assert outcome.facts["ok"] == 3
    assert Counter(r.photo_id for r in server.log.records) == {5: 1, 4: 2, 3: 1, 2: 1}


def test_a_refresh_reads_the_licences_of_new_tables(study, tables, server):
    run(study, tables, server)
    changed = [photo(1, 1), photo(2, 2, code="CC-BY-ND"), photo(3, 3, code="CC0")]
    write_tables(tables, observations=OBSERVATIONS, photos=changed)
    outcome = run(study, tables, server, refresh=True)
    assert outcome.facts == {"checked": 4, "gone": 1, "not_allowed": 1, "relicensed": 1}
    rows = {r["photo_id"]: r for r in study.read("photos").to_pylist()}
    assert rows["inaturalist:2"]["error"] == "licence changed: from cc-by to cc-by-nd"
    assert rows["inaturalist:3"]["license"] == "cc0"
    assert rows["inaturalist:4"]["error"] == "gone: the photo is no longer there"


def test_a_relicensed_photo_of_an_unknown_person_names_nobody():
    row = {"license": "cc-by", "creator": None, "attribution": None, "status": "ok"}
    assert checked(row, "cc0", ("cc0",)) == {**row, "license": "cc0"}


def test_a_dry_run_counts_photo_by_photo(study, tables, server):
    outcome = run(study, tables, server, dry_run=True, size="medium")
    assert outcome.facts["photos"] == 5
    assert outcome.facts["classes"][0] == {"class": "lynx", "photos": 5, "GB": 0.0}
    assert not server.log.records


def test_a_photo_without_an_address_is_a_failed_row(study, tmp_path, server):
    photos = [photo(1, 1), photo(2, 2, observer=2, extension="")]
    tables = write_tables(tmp_path / "odd", observations=OBSERVATIONS, photos=photos)
    outcome = run(study, tables, server)
    assert outcome.facts["problems"] == {"the source gives no address": 1}


def test_a_photo_that_the_api_gave_already_stays_one_row_and_is_not_fetched_again(
    study, tables, server
):
    (study.root / "space.csv").write_text("name,taxon\nlynx,Bufo bufo|Lynx lynx\n")
    study = Workspace(study.root)
    api = CollectParameters(source="inaturalist", api_url=server.api_url, workers=1)
    collect(study, api, Progress())
    assert Counter(study.read("photos")["source"].to_pylist()) == {"inaturalist": 5}
    asked = Counter(r.photo_id for r in server.log.records if r.photo_id)
    run(study, tables, server)
    assert Counter(study.read("photos")["source"].to_pylist()) == {"open-data": 5}
    again = Counter(r.photo_id for r in server.log.records if r.photo_id) - asked
    # Only the one that failed is asked for, by a person who collects anew.
    assert again == {5: 1}


def test_photos_that_another_source_took_over_and_gave_up_are_had_again(study, tables, server):
    (study.root / "space.csv").write_text("name,taxon\ntoad,Bufo bufo|Lynx lynx\nnewt,Triturus\n")
    study = Workspace(study.root)
    api = {"source": "inaturalist", "api_url": server.api_url, "workers": 1}
    run(study, tables, server)
    toads = CollectParameters(**api, per_class=2, classes=("toad",))
    collect(study, toads, Progress())
    assert collect(study, toads, Progress()).fresh
    # As long as they are there, nobody misses them.
    assert run(study, tables, server).fresh
    run(study, tables, server, refresh=True)
    assert run(study, tables, server).fresh
    collect(study, CollectParameters(**api, classes=("newt",)), Progress())
    assert not run(study, tables, server).fresh
    assert study.read("photos").num_rows == 5
    assert run(study, tables, server).fresh


@contextmanager
def stopping_after_a_batch(monkeypatch):
    """Whatever runs in here is interrupted as soon as one batch is saved."""
    save = Run.save

    def save_and_stop(self, index, rows):
        save(self, index, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save_and_stop)
        yield


def test_a_collect_that_was_stopped_goes_on_after_another_source(
    study, tables, server, monkeypatch
):
    (study.root / "space.csv").write_text("name,taxon\nlynx,Bufo bufo|Lynx lynx\n")
    study = Workspace(study.root)
    api = CollectParameters(source="inaturalist", api_url=server.api_url, workers=1)
    monkeypatch.setattr("pipeline.collect.fetching._BATCH", 2)
    with stopping_after_a_batch(monkeypatch), pytest.raises(KeyboardInterrupt):
        collect(study, api, Progress())
    (part,) = study.parts_folder("photos").glob("*/[0-9]*.parquet")
    saved = pq.read_table(part)["photo_id"].to_pylist()
    run(study, tables, server, per_class=3)
    before = Counter(r.photo_id for r in server.log.records)
    collect(study, api, Progress())
    asked = Counter(r.photo_id for r in server.log.records) - before
    assert Counter(study.read("photos")["source"].to_pylist()) == {"inaturalist": 5}
    assert saved
    assert not {int(name.partition(":")[2]) for name in saved} & set(asked)


def test_a_photo_that_was_taken_back_while_a_collect_was_stopped_stays_so(
    study, tables, server, monkeypatch
):
    (study.root / "space.csv").write_text("name,taxon\nlynx,Bufo bufo|Lynx lynx\n")
    study = Workspace(study.root)
    run(study, tables, server, per_class=2)
    known = set(study.read("photos")["photo_id"].to_pylist())
    api = CollectParameters(source="inaturalist", api_url=server.api_url, workers=1)
    monkeypatch.setattr("pipeline.collect.fetching._BATCH", 2)
    with stopping_after_a_batch(monkeypatch), pytest.raises(KeyboardInterrupt):
        collect(study, api, Progress())
    write_tables(tables, observations=OBSERVATIONS, photos=[])
    run(study, tables, server, per_class=2, refresh=True)
    collect(study, api, Progress())
    rows = {row["photo_id"]: row for row in study.read("photos").to_pylist()}
    assert len(rows) == 5
    assert {name for name, row in rows.items() if "gone" in (row["error"] or "")} <= known
    assert any("gone" in (rows[name]["error"] or "") for name in known)


def test_a_refresh_that_was_stopped_goes_on_after_another_source_took_photos_over(
    study, tables, server, monkeypatch
):
    (study.root / "space.csv").write_text("name,taxon\nlynx,Bufo bufo|Lynx lynx\n")
    study = Workspace(study.root)
    run(study, tables, server)
    monkeypatch.setattr("pipeline.collect.refresh.IDS_PER_REQUEST", 2)
    with stopping_after_a_batch(monkeypatch), pytest.raises(KeyboardInterrupt):
        run(study, tables, server, refresh=True)
    api = CollectParameters(source="inaturalist", api_url=server.api_url, per_class=2, workers=1)
    collect(study, api, Progress())
    run(study, tables, server, refresh=True)
    assert Counter(study.read("photos")["source"].to_pylist()) == {"inaturalist": 2, "open-data": 3}


def test_a_refresh_that_was_stopped_mixes_no_answers_of_other_tables(
    study, tables, server, monkeypatch
):
    run(study, tables, server)
    monkeypatch.setattr("pipeline.collect.refresh.IDS_PER_REQUEST", 2)
    with stopping_after_a_batch(monkeypatch), pytest.raises(KeyboardInterrupt):
        run(study, tables, server, refresh=True)
    later = [photo(1, 1, code="CC0"), *PHOTOS[1:]]
    run(study, write_tables(tables, observations=OBSERVATIONS, photos=later), server, refresh=True)
    assert study.read("photos")["license"].to_pylist() == ["cc0"] + ["cc-by"] * 4


def test_a_refresh_that_was_stopped_mixes_no_answers_for_other_licences(
    study, tables, server, monkeypatch
):
    run(study, tables, server)
    changed = [photo(1, 1, code="CC-BY-ND"), *PHOTOS[1:]]
    write_tables(tables, observations=OBSERVATIONS, photos=changed)
    monkeypatch.setattr("pipeline.collect.refresh.IDS_PER_REQUEST", 2)
    with stopping_after_a_batch(monkeypatch), pytest.raises(KeyboardInterrupt):
        run(study, tables, server, refresh=True, licenses=("any",))
    assert run(study, tables, server, refresh=True).facts["not_allowed"] == 1


def test_a_refresh_that_was_stopped_asks_the_api_for_all_again_on_another_day(
    study, server, monkeypatch
):
    (study.root / "space.csv").write_text("name,taxon\ntoad,Bufo bufo\n")
    study = Workspace(study.root)
    options = {"source": "inaturalist", "api_url": server.api_url, "workers": 1}
    collect(study, CollectParameters(**options, per_class=3), Progress())
    monkeypatch.setattr("pipeline.collect.refresh.IDS_PER_REQUEST", 1)
    again = CollectParameters(**options, refresh=True)
    asked = []
    for day in (1, 2):
        moment = datetime(2026, 1, day, tzinfo=UTC)
        monkeypatch.setattr("pipeline.collect.refresh.now", lambda moment=moment: moment)
        before = len(server.log.records)
        if day == 1:
            with stopping_after_a_batch(monkeypatch), pytest.raises(KeyboardInterrupt):
                collect(study, again, Progress())
        else:
            collect(study, again, Progress())
        asked.append(len(server.log.records) - before)
    assert asked == [1, study.read("photos")["status"].to_pylist().count("ok")]


def test_what_is_left_out_is_said(study, tmp_path, server):
    tables = write_tables(
        tmp_path / "odd",
        observations=[*OBSERVATIONS, observation(9, 11, day="2024-01-01\textra")],
        photos=[
            *PHOTOS[:2],
            photo(3, 3, code="WTFPL"),
            *(photo(number, number, observer=1) for number in (4, 5)),
        ],
    )
    done = cap(
        *("collect", "--source", "open-data", "--tables", tables),
        *("--photo-url", f"{server.url}/photos"),
        cwd=study.root,
    )
    assert "1 photos left out, whose licence 'WTFPL' is not known here" in done.stderr
    assert "observations.csv.gz: 1 lines could not be read, the first is 7" in done.stderr
    assert "lynx: 1 photos left out, so that no observer has more than 5 %" in done.stderr
    assert done.stdout == "collect: 2 photos of 1 class, 1 failed: 1 not found (404)\n"


def test_a_place_without_tables_is_one_line(study, tmp_path, server):
    with pytest.raises(CapError, match=r"there is no taxa\.csv\.gz at .*--tables"):
        run(study, tmp_path, server)
