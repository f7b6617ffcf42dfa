"""From a discovery to people and back: who is asked what, and what they said, exactly."""

from __future__ import annotations

import hashlib
import io
import random
import re
import shutil
from collections import Counter
from xml.etree import ElementTree

import hypothesis.strategies as st
import numpy as np
import pyarrow.compute as pc
import pytest
from annotators import Notes, Office, choice, kept
from clusters import BEARS, CLUSTERS, LIONS, OTTERS, RUN, cluster_row, discover, discover_in
from hypothesis import given
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from annotation.assignment import Candidate
from annotation.client import ClusterMark, ProjectMark, _described, _mark_in
from annotation.confirming import ask_about, discovery_digest, seal, unsealed
from annotation.contact_sheet import Cut, Sheets, contact_sheet
from annotation.mirror import mirror_folder
from annotation.parameters import PushParameters, StatusParameters
from annotation.push import push
from annotation.screen import (
    KEYMAP,
    PHOTO,
    SHOWS,
    SHOWS_KEYS,
    discovery_screen,
    labelling_screen,
)
from annotation.status import status
from manifests.errors import CapError
from manifests.photos import PhotoStore, open_image
from manifests.progress import Progress
from manifests.schema import REGIONS
from manifests.tables import read_table, write_table
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters
from pipeline.status import status as workspace_status

# Which photos


def candidate(number: int) -> Candidate:
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return Candidate(f"p{number}", sha256, f"photos/{number}.jpg", 0, "x")


@st.composite
def pools(draw):
    """Photos with a cluster and photos without."""
    sizes = draw(st.tuples(st.integers(0, 30), st.integers(0, 30)))
    photos = [candidate(n) for n in range(sum(sizes))]
    return photos[: sizes[0]], photos[sizes[0] :]


SEEDS = st.integers(0, 99)
LIMITS = st.none() | st.integers(1, 80)


@given(pools(), SEEDS, LIMITS)
def test_half_of_the_photos_have_the_cluster_as_far_as_there_are(pool, seed, limit):
    inside, outside = pool
    asked = ask_about(inside, outside, seed, limit)
    count = Counter(each.in_cluster for each in asked)
    most = 2 * len(inside) if limit is None else limit
    assert count[True] == min(len(inside), -(-most // 2))
    assert count[False] == min(len(outside), count[True], most // 2)
    assert limit is None or len(asked) <= limit
    for each in asked:
        assert each.candidate in (inside if each.in_cluster else outside)
    assert len({each.candidate.sha256 for each in asked}) == len(asked)


@given(pools(), SEEDS, st.integers(1, 80), st.integers(0, 20), st.randoms())
def test_asking_again_asks_the_same_and_a_higher_limit_takes_nothing_away(
    pool, seed, limit, more, chance
):
    inside, outside = pool
    asked = ask_about(inside, outside, seed, limit)
    shuffled = [random.Random(chance.random()).sample(photos, len(photos)) for photos in pool]
    assert ask_about(*shuffled, seed, limit) == asked
    assert set(asked) <= set(ask_about(inside, outside, seed, limit + more))


@given(pools(), SEEDS, st.randoms())
def test_the_order_does_not_depend_on_which_photos_have_the_cluster(pool, seed, chance):
    photos = [*pool[0], *pool[1]]
    places = []
    for _ in range(2):
        chance.shuffle(photos)
        half = len(photos) // 2
        asked = ask_about(photos[:half], photos[half:], seed)
        places.append([each.candidate.sha256 for each in asked])
    both = set(places[0]) & set(places[1])
    first, second = ([sha256 for sha256 in order if sha256 in both] for order in places)
    assert first == second


def test_what_is_sealed_is_read_again_and_by_nothing_else():
    for inside in (True, False):
        assert unsealed(seal("key", "photo", in_cluster=inside), "key", "photo") is inside
        assert unsealed(seal("key", "photo", in_cluster=inside), "key", "other") is None
        assert unsealed(seal("key", "photo", in_cluster=inside), "other", "photo") is None
    assert unsealed("", "key", "photo") is None


def test_a_cluster_is_known_by_its_middle_and_its_regions():
    row = cluster_row(3, BEARS)
    digest = discovery_digest(row)
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert discovery_digest({**row, "rank": None, "gap": 0.1, "cluster": 5}) == digest
    assert discovery_digest({**row, "embedding": [1.0, 0.0]}) != digest
    assert discovery_digest({**row, "members": row["members"][:-1]}) != digest


def test_a_mark_tells_the_cluster_and_marks_of_older_projects_still_read():
    older = 'Made by cap.\ncap: {"batch": "ann", "round": "first", "screen": "a", "uid": "b", '
    plain = ProjectMark("w", "b", "a", "first", "ann")
    assert _mark_in(older + '"workspace": "w"}') == plain
    assert "about" not in _described(plain)
    mark = ProjectMark("w", "b", "a", "discovery", "ann", ClusterMark(RUN, 12, "d"))
    assert _mark_in(_described(mark)) == mark
    assert _mark_in('cap: {"about": {"run": "x"}}') is None
    assert _mark_in("cap: []") is None


# The contact sheet


def colours(count: int) -> list[Image.Image]:
    return [
        Image.new("RGB", (60, 40 + 3 * n), (10 + 17 * n, 90, 200 - 9 * n)) for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 12])
def test_a_contact_sheet_shows_every_region_whole_and_nothing_else(count):
    regions = colours(count)
    for region in regions:
        region.info["exif"] = b"Exif\0\0secret"
    sheet = open_image(contact_sheet(regions))
    pixels = np.asarray(sheet).reshape(-1, 3).astype(int)
    areas = []
    for region in regions:
        near = np.abs(pixels - region.getpixel((0, 0))).max(axis=1) < 6
        areas.append(int(near.sum()))
    for region, area in zip(regions, areas, strict=True):
        scale = 240 / max(region.size)
        assert area == pytest.approx(region.width * region.height * scale**2, rel=0.05)
    assert b"secret" not in contact_sheet(regions)
    assert contact_sheet(regions) == contact_sheet(colours(count))


def test_no_sheet_beside_a_photo_shows_the_photo_and_all_sheets_show_as_many(tmp_path):
    cuts = [Cut(candidate(n).sha256, image) for n, image in enumerate(colours(13))]
    sheets = Sheets(cuts, PhotoStore(tmp_path), seed=0)
    left_out = [sheets.left_out(cut.sha256) for cut in cuts]
    assert left_out == list(range(13))
    others = Counter(sheets.left_out(candidate(n).sha256) for n in range(100, 1400))
    assert set(others) == set(range(13))
    assert max(others.values()) < 2 * min(others.values())
    sizes = set()
    for cut in cuts:
        sha256, path = sheets.beside(cut.sha256)
        data = (tmp_path / path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha256
        image = open_image(data)
        sizes.add(image.size)
        near = np.abs(np.asarray(image).astype(int) - cut.image.getpixel((0, 0))).max(axis=2) < 6
        assert near.sum() < 500
    assert len(sizes) == 1
    assert len(list(tmp_path.rglob("*.jpg"))) == 13
    assert sheets.beside(cuts[0].sha256) == sheets.beside(cuts[0].sha256)


# The screen


def test_label_studio_takes_the_discovery_screen():
    interface = LabelInterface(discovery_screen().config)
    interface.validate()
    assert {control.name for control in interface.controls} == {SHOWS, "note"}
    assert {control.to_name[0] for control in interface.controls} == {PHOTO}


def test_the_discovery_screen_shows_the_photo_the_sheet_and_no_other_fact():
    config = discovery_screen().config
    assert set(re.findall(r"\$[\w[\].{}]+", config)) == {"$image", "$sheet"}
    assert not re.search(r"https?:|//|url\(|@import|src=", config)
    root = ElementTree.fromstring(config)
    for style in root.iter("Style"):
        assert not re.search(r"name=|[<>&]|#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", style.text)


def test_the_keys_of_the_discovery_screen_are_shown_and_free():
    choices = list(ElementTree.fromstring(discovery_screen().config).iter("Choice"))
    keys = {each.get("alias"): each.get("hotkey") for each in choices}
    assert keys == SHOWS_KEYS
    taken = {"h", "u", "v", *(binding["key"] for binding in KEYMAP.values())}
    assert not taken & set(keys.values())
    for each in choices:
        assert f"<kbd>{each.get('hotkey')}</kbd>" in each.get("html")
    instruction = discovery_screen().instruction
    for key in (*keys.values(), "Enter", "q"):
        assert f"<b>{key}</b>" in instruction


def test_each_screen_has_its_own_version():
    screens = [discovery_screen(), labelling_screen(), labelling_screen(adjudication=True)]
    assert len({screen.version for screen in screens}) == 3


# The command, where it cannot be done


@pytest.fixture
def found(workspace: Workspace, animals) -> Workspace:
    """Twelve photos, and three clusters of their regions."""
    collect(workspace, CollectParameters(root=str(animals)), Progress())
    discover(workspace)
    return workspace


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from_discovery": "bears"}, r"such as 12 or RUN/12, not 'bears'"),
        ({"from_discovery": "7"}, f"no cluster 7 of {RUN}, which has clusters 0 to 2"),
        ({"from_discovery": "other-1/0"}, f"no discoveries of 'other-1'; there are those of {RUN}"),
        ({"from_discovery": "1"}, f"cluster 1 of {RUN} is in 2 photos; .* 3 or more"),
        ({"from_discovery": "0", "adjudicate": True}, "leave out --adjudicate"),
        ({"from_discovery": "0", "suggest": "x"}, "leave out --suggest"),
        ({"from_discovery": "0", "limit": 0}, "--limit is a number of photos, 1 or more, not 0"),
    ],
)
def test_what_cannot_be_asked_is_one_line(found, options, message):
    with pytest.raises(CapError, match=message):
        push(found, PushParameters(**options), Progress())


def test_of_several_runs_one_must_be_named(found):
    discover(found, run="timm_toy-99999999")
    with pytest.raises(CapError, match=f"name one of: {RUN}/0, timm_toy-99999999/0"):
        push(found, PushParameters(from_discovery="0"), Progress())


def test_without_a_discovery_the_command_that_makes_one_is_named(found):
    shutil.rmtree(found.table_path("discoveries").with_suffix(""))
    with pytest.raises(CapError, match="run `cap discover` first"):
        push(found, PushParameters(from_discovery="0"), Progress())


def test_a_run_without_clusters_says_so(found):
    discover(found, clusters=())
    with pytest.raises(CapError, match=f"no cluster 0 of {RUN}, which has no cluster"):
        push(found, PushParameters(from_discovery="0"), Progress())


def test_regions_that_were_made_anew_are_not_mixed_with_older_clusters(found):
    path = found.table_path(f"regions/{RUN}")
    regions = read_table(path, REGIONS)
    write_table(path, regions.filter(pc.equal(regions["region"], 1)), REGIONS)
    with pytest.raises(CapError, match="is of other regions than"):
        push(found, PushParameters(from_discovery="0"), Progress())


def test_before_anybody_has_answered_the_command_that_asks_for_answers_is_named(found):
    with pytest.raises(CapError, match="no confirmations table yet; run `cap annotate pull` first"):
        found.read("confirmations")


def test_photos_that_cannot_be_read_stand_on_no_sheet(found):
    rows = {row["photo_id"]: row for row in found.read("photos").to_pylist()}
    for photo_id in CLUSTERS[0][:3]:
        (found.root / rows[photo_id]["path"]).unlink()
    with pytest.raises(CapError, match="only 2 photos of cluster 0 can be read"):
        push(found, PushParameters(from_discovery="0"), Progress())


# A real Label Studio


@pytest.fixture
def asking(office: Office, study: Workspace) -> Workspace:
    return discover_in(office, study)


@pytest.fixture(scope="module")
def ann(office: Office):
    return office.join("ann@example.com")


@pytest.fixture(scope="module")
def bob(office: Office):
    return office.join("bob@example.com")


def shows(said: str) -> list[dict]:
    return [choice(SHOWS, said)]


def said(workspace: Workspace) -> dict[tuple[str, str], dict]:
    rows = workspace.read("confirmations").to_pylist()
    return {(row["photo_id"], row["annotator"].partition("@")[0]): row for row in rows}


def test_people_are_asked_about_all_photos_of_a_cluster_and_as_many_others_once(office, asking):
    outcome = office.push(asking, from_discovery="0")
    assert (outcome.facts["sent"], outcome.facts["in_cluster"]) == (10, 5)
    assert "10 photos asked about cluster 0, 5 of them with it" in outcome.text
    asked = set(office.tasks(asking))
    assert set(CLUSTERS[0]) <= asked
    assert len(asked) == 10
    again = office.push(asking, from_discovery=f"{RUN}/0")
    assert again.facts["sent"] == 0
    assert again.fresh
    # Also by another machine, which has no memory of what was sent.
    shutil.rmtree(mirror_folder(asking))
    assert office.push(asking, from_discovery="0").facts["sent"] == 0
    (project,) = office.projects(asking)
    assert (project.mark.round, project.mark.batch) == ("discovery", "everyone")
    assert (project.mark.about.run, project.mark.about.cluster) == (RUN, 0)
    assert project.title.startswith("study cluster 0 of 0a1b2c3d everyone ")


def test_a_task_tells_nobody_whether_the_photo_is_in_the_cluster(office, asking):
    office.push(asking, from_discovery="0")
    (project,) = office.projects(asking)
    with office.client() as client:
        tasks = list(client.tasks(project, None))
    assert {frozenset(task.data) for task in tasks} == {
        frozenset({"image", "sha256", "photo_id", "sheet", "sealed"})
    }
    assert len({task.data["sealed"] for task in tasks}) == len(tasks)
    # Nor does the size of the sheet, nor what is on it.
    rows = {row["photo_id"]: row for row in asking.read("photos").to_pylist()}
    sizes = set()
    for task in tasks:
        sheet = task.data["sheet"]
        answer = office.http.get(
            office.url + sheet, headers={"Authorization": f"Token {office.owner.token}"}
        )
        image = Image.open(io.BytesIO(answer.content))
        sizes.add(image.size)
        assert not image.getexif()
        assert sheet.partition("?d=")[2] not in {row["path"] for row in rows.values()}
    assert len(sizes) == 1


def test_what_people_say_of_a_discovery_comes_back_exactly_and_labels_nothing(
    office, asking, ann, bob
):
    office.push(asking, from_discovery="0", overlap=2)
    task = office.tasks(asking)
    (without,) = [photo_id for photo_id in task if photo_id not in CLUSTERS[0]][:1]
    note = {
        "from_name": "note",
        "to_name": "photo",
        "type": "textarea",
        "value": {"text": ["é <b>"]},
    }
    ann.answer(task[BEARS[0]], [*shows("yes"), note], seconds=6.5)
    bob.answer(task[BEARS[0]], shows("no"))
    ann.answer(task[without], shows("no"))
    bob.skip(task[without])
    outcome = office.pull(asking)
    assert outcome.text == "4 answers of 2 people about 1 discoveries"
    assert outcome.facts["confirmations"] == 4
    found = said(asking)
    told = {of: (row["shows"], row["in_cluster"]) for of, row in found.items()}
    assert told == {
        (BEARS[0], "ann"): (True, True),
        (BEARS[0], "bob"): (False, True),
        (without, "ann"): (False, False),
        (without, "bob"): (None, False),
    }
    row = found[BEARS[0], "ann"]
    (project,) = office.projects(asking)
    assert (row["note"], row["seconds"], row["run"], row["cluster"]) == ("é <b>", 6.5, RUN, 0)
    assert row["discovery"] == discovery_digest(cluster_row(0, CLUSTERS[0]))
    assert row["config_version"] == discovery_screen().version
    assert row["source_id"].startswith(f"{project.mark.uid}/")
    assert not asking.has("annotations")
    assert not asking.has("labels")
    (told_of,) = [
        row for row in workspace_status(asking)["tables"] if row["table"] == "confirmations"
    ]
    assert (told_of["state"], told_of["rows"]) == ("fresh", 4)
    assert office.pull(asking).fresh


def test_labels_and_discoveries_are_asked_beside_each_other(office, asking, ann):
    office.push(asking)
    office.push(asking, from_discovery="0")
    labelling, confirming = office.projects(asking)
    with office.client() as client:
        first, second = (
            {str(t.data["photo_id"]): t.id for t in client.tasks(project, None)}
            for project in (labelling, confirming)
        )
    ann.answer(first[OTTERS[0]], kept("water"))
    ann.answer(second[BEARS[1]], shows("yes"))
    outcome = office.pull(asking)
    assert (
        "1 answers of 1 people; 1 photos kept, 0 rejected\n  1 answers of 1 people" in outcome.text
    )
    assert asking.read("annotations")["photo_id"].to_pylist() == [OTTERS[0]]
    assert asking.read("labels")["photo_id"].to_pylist() == [OTTERS[0]]
    assert list(said(asking)) == [(BEARS[1], "ann")]
    # Answering about a discovery labels no photo: it is still asked for.
    assert office.push(asking).facts["asked"] == 11
    before = asking.digest("annotations")
    ann.answer(second[BEARS[2]], shows("no"))
    office.pull(asking)
    assert asking.digest("annotations") == before


def test_edits_deletions_and_the_later_answer_are_followed(office, asking, ann):
    office.push(asking, from_discovery="0")
    task = office.tasks(asking)
    first = ann.answer(task[BEARS[0]], shows("yes"))
    second = ann.answer(task[BEARS[1]], shows("yes"))
    office.pull(asking)
    ann.change(first, shows("no"))
    ann.remove(second)
    ann.answer(task[BEARS[2]], shows("no"))
    ann.answer(task[BEARS[2]], shows("yes"))
    office.pull(asking)
    told = {photo_id: row["shows"] for (photo_id, _), row in said(asking).items()}
    assert told == {BEARS[0]: False, BEARS[2]: True}
    incremental = asking.digest("confirmations")
    office.pull(asking, full=True)
    shutil.rmtree(mirror_folder(asking))
    office.pull(asking)
    assert asking.digest("confirmations") == incremental


def test_answers_that_the_discovery_screen_cannot_give_are_told_and_left_out(office, asking, ann):
    office.push(asking, from_discovery="0")
    task = office.tasks(asking)
    wrong = {
        "'maybe' is not on the screen": shows("maybe"),
        "shows has 2 values": [choice(SHOWS, "yes", "no")],
        "neither yes nor no": kept("snow"),
        "another form": [{**choice(SHOWS), "value": {"rating": 3}}],
    }
    for key, result in zip(task.values(), wrong.values(), strict=False):
        ann.answer(key, result)
    (project,) = office.projects(asking)
    row = asking.read("photos").to_pylist()[0]
    made = office.owner.call(
        "POST",
        f"/api/projects/{project.id}/import?return_task_ids=true",
        json=[{"data": {"image": "x", "sheet": "x", "sha256": row["sha256"], "sealed": "0"}}],
    )
    ann.answer(made["task_ids"][0], shows("yes"))
    notes = Notes()
    outcome = office.pull(asking, notes)
    text = "\n".join(notes.told)
    for reason in (*wrong, "its task does not tell what was asked"):
        assert reason in text
    assert len(outcome.facts["left_out"]) == 5
    assert not said(asking)


def test_answers_about_a_discovery_outlive_its_project(office, asking, ann):
    office.push(asking, from_discovery="0")
    ann.answer(office.tasks(asking)[BEARS[0]], shows("yes"))
    office.pull(asking)
    (project,) = office.projects(asking)
    office.owner.call("DELETE", f"/api/projects/{project.id}/")
    outcome = office.pull(asking)
    assert outcome.facts["kept_though_gone"] == 1
    assert said(asking)[BEARS[0], "ann"]["shows"] is True
    assert not asking.has("annotations")


def test_another_clustering_is_asked_anew_and_its_answers_stand_apart(office, asking, ann):
    office.push(asking, from_discovery="0")
    ann.answer(office.tasks(asking)[BEARS[0]], shows("yes"))
    discover(asking, clusters=([*BEARS, *LIONS[:2]], LIONS[2:], OTTERS))
    assert office.push(asking, from_discovery="0").facts["sent"] == 12
    _, project = office.projects(asking)
    with office.client() as client:
        task = {str(t.data["photo_id"]): t.id for t in client.tasks(project, None)}
    ann.answer(task[BEARS[0]], shows("no"))
    office.pull(asking)
    rows = asking.read("confirmations").to_pylist()
    assert [(row["photo_id"], row["cluster"]) for row in rows] == [(BEARS[0], 0)] * 2
    assert {row["discovery"]: row["shows"] for row in rows} == {
        discovery_digest(cluster_row(0, CLUSTERS[0])): True,
        project.mark.about.discovery: False,
    }


def test_a_limit_caps_all_that_is_asked_and_a_higher_one_adds_to_it(office, asking):
    assert office.push(asking, from_discovery="0", limit=4).facts["in_cluster"] == 2
    first = set(office.tasks(asking))
    assert len(first) == 4
    assert len(first & set(CLUSTERS[0])) == 2
    assert office.push(asking, from_discovery="0", limit=4).facts["sent"] == 0
    assert office.push(asking, from_discovery="0", limit=8).facts["sent"] == 4
    assert first < set(office.tasks(asking))


def test_annotators_share_the_photos_of_a_discovery(office, asking, ann, bob):
    office.push(asking, from_discovery="0", annotators=("ann", "bob"), overlap=2, project="who")
    mine, theirs = office.tasks(asking, "ann"), office.tasks(asking, "bob")
    assert set(mine) == set(theirs)
    assert len(mine) == 10
    assert {project.title.split()[0] for project in office.projects(asking)} == {"who"}
    ann.answer(mine[BEARS[0]], shows("yes"))
    bob.answer(theirs[BEARS[0]], shows("yes"))
    office.pull(asking)
    assert len(said(asking)) == 2


def test_status_tells_how_far_people_are_with_a_discovery(office, asking, ann):
    office.push(asking)
    office.push(asking, from_discovery="0")
    labelling, confirming = office.projects(asking)
    with office.client() as client:
        task = next(client.tasks(confirming, None))
    ann.answer(task.id, shows("yes"))
    rows = status(asking, StatusParameters(), Progress()).facts["projects"]
    told = {row["project"]: (row["photos"], row["answered"]) for row in rows}
    assert told == {labelling.title: (12, 0), confirming.title: (10, 1)}


def test_a_sheet_that_annotators_would_not_see_is_told_before_anything_is_sent(office, asking):
    # The office serves the photos of the other folder only.
    (asking.root / "photos").unlink()
    shutil.copytree(office.root / "photos", asking.root / "photos")
    with pytest.raises(CapError, match="would not see the photos: Label Studio gives HTTP 404"):
        office.push(asking, from_discovery="2", seed=7)
    assert not office.tasks(asking)
