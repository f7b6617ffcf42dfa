"""Push and pull against a real Label Studio: nothing doubled, nothing lost, nothing invented."""

from __future__ import annotations

import dataclasses
import json
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pyarrow as pa
import pytest
from annotators import PASSWORD, Notes, Office, choice, kept, rejected
from conftest import cap
from pages import DOCS, run, to_run

from annotation.client import Address, connect
from annotation.mirror import Mirror, mirror_folder, workspace_id
from annotation.parameters import StatusParameters
from annotation.screen import labelling_screen
from annotation.server import photo_root
from annotation.status import status
from manifests.errors import CapError
from manifests.progress import Progress
from manifests.schema import PHOTOS, PREDICTIONS
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters

BEAR, LION, OTTER = "folder:ice bear/0.jpg", "folder:lion/1.jpg", "folder:otter/2.jpg"


@pytest.fixture(scope="module")
def ann(office: Office):
    return office.join("ann@example.com")


@pytest.fixture(scope="module")
def bob(office: Office):
    return office.join("bob@example.com")


def answers(workspace: Workspace) -> dict[tuple[str, str], dict]:
    rows = workspace.read("annotations").to_pylist()
    return {(row["photo_id"], row["annotator"].partition("@")[0]): row for row in rows}


def labels(workspace: Workspace) -> dict[str, dict]:
    return {row["photo_id"]: row for row in workspace.read("labels").to_pylist()}


def suggest(workspace: Workspace, background: str) -> str:
    """A scoring run over backgrounds that says the same of every photo."""
    photos = workspace.read("photos")["photo_id"].to_pylist()
    rows = [
        {
            "photo_id": photo_id,
            "status": "ok",
            "label_space": "backgrounds",
            "predicted_index": 0,
            "predicted_name": background,
        }
        for photo_id in photos
    ]
    path = workspace.table_path("predictions/guess-12345678")
    path.parent.mkdir(exist_ok=True)
    write_table(path, from_rows(rows, PREDICTIONS.schema), PREDICTIONS)
    return "guess-12345678"


def test_each_photo_is_sent_once_however_often_push_runs(office, study):
    assert office.push(study).facts["sent"] == 12
    again = office.push(study)
    assert again.facts["sent"] == 0
    assert again.fresh
    # Also by another machine, which has no memory of what was sent.
    shutil.rmtree(mirror_folder(study))
    assert office.push(study).facts["sent"] == 0
    assert len(office.tasks(study)) == 12


def test_what_people_say_comes_back_exactly(office, study, ann, bob):
    office.push(study, overlap=2)
    task = office.tasks(study)
    ann.answer(task[BEAR], [*kept("snow", "sky"), choice("definitions", "shown")], seconds=6.5)
    note = {
        "from_name": "note",
        "to_name": "photo",
        "type": "textarea",
        "value": {"text": ["é <b>"]},
    }
    bob.answer(task[BEAR], [*kept("snow"), note])
    ann.answer(task[LION], rejected("clarity", "label_noise"))
    ann.answer(task[OTTER], kept("none_fits"))
    bob.skip(task[OTTER])
    office.pull(study)
    found = answers(study)
    bear = found[BEAR, "ann"]
    assert (bear["decision"], bear["background"], bear["background_second"]) == (
        "keep",
        "snow",
        "sky",
    )
    assert bear["seconds"] == 6.5
    assert bear["round"] == "first"
    assert bear["config_version"] == labelling_screen().version
    assert found[BEAR, "bob"]["note"] == "é <b>"
    assert found[LION, "ann"]["reject_reasons"] == ["label_noise", "clarity"]
    assert found[LION, "ann"]["background"] is None
    assert (found[OTTER, "ann"]["decision"], found[OTTER, "ann"]["background"]) == ("keep", None)
    assert found[OTTER, "bob"]["decision"] == "skip"
    assert found[OTTER, "bob"]["background"] is None
    settled = labels(study)
    assert settled[BEAR]["settled_by"] == "majority"
    assert settled[OTTER]["settled_by"] == "single"
    assert settled[LION]["decision"] == "reject"


def test_edits_deletions_and_late_answers_are_followed(office, study, ann, bob):
    office.push(study, overlap=2)
    task = office.tasks(study)
    first = ann.answer(task[BEAR], kept("snow"))
    second = bob.answer(task[BEAR], kept("rock"))
    office.pull(study)
    assert BEAR not in labels(study)
    ann.change(first, kept("rock"))
    office.pull(study)
    assert labels(study)[BEAR]["background"] == "rock"
    bob.remove(second)
    office.pull(study)
    assert set(answers(study)) == {(BEAR, "ann")}
    ann.remove(first)
    office.pull(study)
    assert not answers(study)
    assert not labels(study)


def test_an_incremental_pull_equals_a_full_one(office, study, ann, bob):
    office.push(study, overlap=2)
    task = office.tasks(study)
    given = {photo_id: ann.answer(key, kept("grass")) for photo_id, key in task.items()}
    office.pull(study)
    ann.change(given[BEAR], rejected("clarity"))
    ann.remove(given[LION])
    bob.answer(task[OTTER], kept("water"))
    bob.skip(task[BEAR])
    office.pull(study)
    incremental = study.digest("annotations")
    assert office.pull(study).fresh
    office.pull(study, full=True)
    assert study.digest("annotations") == incremental
    shutil.rmtree(mirror_folder(study))
    office.pull(study)
    assert study.digest("annotations") == incremental


def test_the_later_answer_of_one_person_stands(office, study, ann):
    office.push(study)
    task = office.tasks(study)
    ann.answer(task[BEAR], kept("snow"))
    ann.answer(task[BEAR], kept("rock"))
    office.pull(study)
    assert answers(study)[BEAR, "ann"]["background"] == "rock"
    assert len(answers(study)) == 1


def test_answers_that_the_screen_cannot_give_are_told_and_left_out(office, study, ann, bob):
    office.push(study, overlap=2)
    task = office.tasks(study)
    wrong = {
        "lava": [choice("decision", "keep"), choice("background", "lava")],
        "2 values": [choice("decision", "keep"), choice("background", "sky", "rock")],
        "no background": [choice("decision", "keep")],
        "neither keeps": [],
        "another form": [{**choice("decision"), "value": {"rating": 3}}],
        "boredom": [choice("decision", "reject"), choice("reject_reasons", "boredom")],
        "maybe": [choice("decision", "maybe")],
    }
    for key, result in zip(task.values(), wrong.values(), strict=False):
        ann.answer(key, result)
    bob.answer(task[BEAR], kept("snow"))
    notes = Notes()
    outcome = office.pull(study, notes)
    assert list(answers(study)) == [(BEAR, "bob")]
    told = "\n".join(notes.told)
    for reason in wrong:
        assert reason in told
    assert "by ann@example.com" in told
    assert len(outcome.facts["left_out"]) == len(wrong)
    assert f"{len(wrong)} answers make no sense" in outcome.text


def test_answers_to_a_task_or_project_that_is_gone_are_kept(office, study, ann):
    office.push(study)
    task = office.tasks(study)
    ann.answer(task[BEAR], kept("snow"))
    ann.answer(task[LION], kept("grass"))
    office.pull(study)
    office.owner.remove_task(task[BEAR])
    outcome = office.pull(study)
    assert outcome.facts["kept_though_gone"] == 1
    assert "no longer on the server and are kept" in outcome.text
    assert answers(study)[BEAR, "ann"]["background"] == "snow"
    (project,) = office.projects(study)
    office.owner.call("DELETE", f"/api/projects/{project.id}/")
    shutil.rmtree(mirror_folder(study))
    outcome = office.pull(study)
    assert outcome.facts["kept_though_gone"] == 2
    assert labels(study)[LION]["background"] == "grass"
    # Settled photos are not sent again; the others are, to a new project.
    assert office.push(study).facts["sent"] == 10
    office.pull(study)
    assert len(answers(study)) == 2


def test_a_photo_that_left_the_workspace_keeps_its_answers(office, study, ann):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], kept("snow"))
    photos = study.read("photos")
    study.receipt_path("photos").unlink()
    kept_rows = photos.filter(pa.compute.not_equal(photos["photo_id"], BEAR))
    write_table(study.table_path("photos"), kept_rows, PHOTOS)
    outcome = office.pull(study)
    assert outcome.facts["unknown"] == [BEAR]
    assert f"1 photos in Label Studio are not in the workspace ({BEAR})" in outcome.text
    assert answers(study)[BEAR, "ann"]["background"] == "snow"


def rename(workspace: Workspace, old: str, new: str, class_name: str) -> None:
    """Give a photo another id and class, as collecting from other folders would."""
    rows = workspace.read("photos").to_pylist()
    index = next(row["class_index"] for row in rows if row["class_name"] == class_name)
    changed = {"photo_id": new, "class_name": class_name, "class_index": index}
    rows = [row | (changed if row["photo_id"] == old else {}) for row in rows]
    table = from_rows(sorted(rows, key=lambda row: row["photo_id"]), PHOTOS.schema)
    workspace.receipt_path("photos").unlink(missing_ok=True)
    write_table(workspace.table_path("photos"), table, PHOTOS)


def test_answers_follow_a_photo_that_is_renamed(office, study, ann):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], kept("snow"))
    office.pull(study)
    renamed = "folder:ice bear/renamed.jpg"
    rename(study, BEAR, renamed, "polar bear")
    outcome = office.pull(study)
    assert (outcome.facts["moved"], outcome.facts["kept_though_gone"]) == ([], 0)
    assert set(labels(study)) == {renamed}
    assert office.push(study).facts["sent"] == 0


@pytest.mark.parametrize("moved", [BEAR, "folder:lion/moved.jpg"])
def test_a_photo_that_is_in_another_class_by_now_is_asked_about_again(office, study, ann, moved):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], rejected("label_noise"))
    office.pull(study)
    rename(study, BEAR, moved, "lion")
    outcome = office.pull(study)
    assert outcome.facts["moved"] == [BEAR]
    assert f"another class than theirs is now ({BEAR})" in outcome.text
    assert not labels(study)
    assert office.push(study).facts["sent"] == 1
    assert office.push(study).facts["sent"] == 0
    with office.client() as client:
        (project,) = client.projects(workspace_id(study))
        asked = [t for t in client.tasks(project, None) if t.data["photo_id"] == moved]
    (new,) = [task for task in asked if task.data["class_name"] == "lion"]
    ann.answer(new.id, kept("grass"))
    office.pull(study)
    assert answers(study)[moved, "ann"]["background"] == "grass"
    assert len(answers(study)) == 1


def test_a_run_asks_at_once_about_a_photo_that_is_in_another_class_by_now(office, study, ann):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], rejected("label_noise"))
    office.pull(study)
    for moved in (BEAR, OTTER):
        rename(study, moved, moved, "lion")
    photos_at = str(photo_root(office.root))
    command = ("run", "--from", "annotate", "--to", "annotate")
    said = cap(*command, cwd=study.root, CAP_ANNOTATE_PUSH_PHOTOS_AT=photos_at)
    # Nobody has answered what was asked about the otter.
    assert "1 photos that nobody has answered" in said.stderr
    with office.client() as client:
        (project,) = client.projects(workspace_id(study))
        asked = [task.data for task in client.tasks(project, None)]
    classes = {i: {t["class_name"] for t in asked if t["photo_id"] == i} for i in (BEAR, OTTER)}
    assert classes == {BEAR: {"polar bear", "lion"}, OTTER: {"lion"}}
    outcome = office.pull(study)
    assert outcome.facts["moved"] == [BEAR]
    assert "asks again" not in outcome.text


def test_a_class_that_is_only_spelled_otherwise_is_not_asked_about_again(office, study, ann):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], kept("snow"))
    (study.root / "animals.csv").write_text("name,synonyms\nPolar Bear,ice bear\nLion,\nOtter,\n")
    (study.root / "cap.toml").write_text('label_space = "animals.csv"\n')
    again = Workspace(study.root)
    collect(again, CollectParameters(root=str(office.root / "animals")), Progress())
    assert office.push(again).facts["sent"] == 0
    assert office.pull(again).facts["moved"] == []
    assert labels(again)[BEAR]["background"] == "snow"


def test_a_photo_that_cannot_be_read_is_told_and_not_sent(office, study):
    rows = {row["photo_id"]: row for row in study.read("photos").to_pylist()}
    (study.root / rows[BEAR]["path"]).unlink()
    (study.root / rows[LION]["path"]).write_bytes(b"another")
    notes = Notes()
    outcome = office.push(study, notes)
    assert outcome.facts["sent"] == 10
    assert outcome.facts["unreadable"] == 2
    assert f"not sent: {BEAR} cannot be read from the store" in "\n".join(notes.told)
    assert f"not sent: {LION} the stored bytes have changed" in "\n".join(notes.told)
    assert not {BEAR, LION} & set(office.tasks(study))


def test_nothing_is_sent_where_annotators_would_not_see_the_photos(office, study):
    with pytest.raises(CapError, match="serve the workspace's photos: start it with"):
        office.push(study, photos_at="/nowhere/photos")
    served = [office.root / path for path in study.read("photos")["path"].to_pylist()]
    contents = [file.read_bytes() for file in served]
    try:
        for file in served:
            file.write_bytes(b"another photo")
        with pytest.raises(CapError, match="gives other bytes than were collected for photos/"):
            office.push(study)
        for file in served:
            file.unlink()
        with pytest.raises(CapError, match="would not see the photos: Label Studio gives HTTP 404"):
            office.push(study)
    finally:
        for file, content in zip(served, contents, strict=True):
            file.write_bytes(content)
    assert not office.tasks(study)


def test_an_edited_screen_is_put_back_and_each_version_has_its_own_project(office, study, ann):
    office.push(study)
    (project,) = office.projects(study)
    edited = project.config.replace('alias="snow"', 'alias="schnee"')
    office.owner.call("PATCH", f"/api/projects/{project.id}/", json={"label_config": edited})
    ann.answer(office.tasks(study)[BEAR], kept("schnee"))
    notes = Notes()
    office.pull(study, notes)
    assert "was edited in Label Studio" in notes.told[0]
    assert "background 'schnee' is not on the screen" in notes.told[1]
    notes = Notes()
    office.push(study, notes)
    assert "it is put back" in notes.told[0]
    (project,) = office.projects(study)
    assert project.config == labelling_screen().config
    # A project of another version is left alone, and its photos are asked on the present screen.
    mark = dataclasses.replace(project.mark, screen="0badc0de", uid="another")
    with office.client() as client:
        client.create_project("study", mark, labelling_screen(), 1)
    assert office.push(study).facts["sent"] == 0
    assert len(office.projects(study)) == 2


def test_the_class_that_needs_most_comes_first(office, study, ann, tmp_path):
    tags = tmp_path / "tags.csv"
    tags.write_text("path,background\n" + "".join(f"lion/{n}.jpg,grass\n" for n in range(3)))
    cap("annotate", "import", str(tags), cwd=study.root)
    office.push(study, min_photos=2)
    order = [photo_id.split(":")[1].split("/")[0] for photo_id in office.tasks(study)]
    assert order[:4].count("lion") == 0
    assert sorted(order) == ["ice bear"] * 4 + ["lion"] + ["otter"] * 4
    assert order != sorted(order)


def test_a_plan_decides_which_class_comes_first(office, study, tmp_path):
    tags = tmp_path / "tags.csv"
    tags.write_text("path,background\n" + "".join(f"lion/{n}.jpg,grass\n" for n in range(3)))
    cap("annotate", "import", str(tags), cwd=study.root)
    cap("split", "--plan", cwd=study.root)
    # By the plan a lion is needed three times less than the others, of which there are four each.
    office.push(study, min_photos=2)
    order = [photo_id.split(":")[1].split("/")[0] for photo_id in office.tasks(study)]
    assert order[:6].count("lion") == 0
    assert sorted(order) == ["ice bear"] * 4 + ["lion"] + ["otter"] * 4


def test_batches_share_the_photos_among_annotators(office, study, ann, bob):
    outcome = office.push(study, annotators=("ann", "bob"), share=0.5, seed=1)
    mine, theirs = office.tasks(study, "ann"), office.tasks(study, "bob")
    assert set(mine) | set(theirs) == set(office.tasks(study, "ann") | office.tasks(study, "bob"))
    both = set(mine) & set(theirs)
    assert 0 < len(both) < 12
    assert len(set(mine) | set(theirs)) == 12
    assert abs(len(mine) - len(theirs)) <= 1
    assert outcome.facts["sent"] == 12 + len(both)
    assert office.push(study, annotators=("ann", "bob"), share=0.5, seed=1).facts["sent"] == 0
    for person, tasks in ((ann, mine), (bob, theirs)):
        for key in tasks.values():
            person.answer(key, kept("grass"))
    office.pull(study)
    counts = [label["annotators"] for label in labels(study).values()]
    assert sorted(counts) == [1] * (12 - len(both)) + [2] * len(both)


def test_a_photo_that_one_of_two_has_settled_still_goes_to_the_other(office, study, ann):
    both = {"annotators": ("ann", "bob"), "overlap": 2}
    office.push(study, **both)
    for key in office.tasks(study, "ann").values():
        ann.answer(key, kept("grass"))
    # As if the command had been stopped before it made the second project.
    (theirs,) = (each for each in office.projects(study) if each.mark.batch == "bob")
    office.owner.call("DELETE", f"/api/projects/{theirs.id}/")
    office.pull(study)
    assert {label["settled_by"] for label in labels(study).values()} == {"single"}
    # Nothing is missing where one person is enough.
    assert office.push(study, annotators=("ann", "bob")).facts["asked"] == 0
    assert office.push(study, **both).facts["sent"] == 12
    assert len(office.tasks(study, "bob")) == 12
    assert office.push(study, **both).facts["sent"] == 0


def test_a_share_is_done_twice_where_everyone_works_in_one_project(office, study):
    office.push(study, share=0.3)
    once, twice = office.tasks(study), office.tasks(study, "twice")
    assert len(once) + len(twice) == 12
    assert twice
    people = {project.mark.batch: project.people for project in office.projects(study)}
    assert people == {"everyone": 1, "twice": 2}
    assert office.push(study).facts["sent"] == 0


def test_a_first_few_can_be_sent_and_the_others_later_under_a_name_of_ones_own(office, study):
    assert office.push(study, limit=5, project="bears and others").facts["sent"] == 5
    first = list(office.tasks(study))
    assert office.push(study, project="bears and others").facts["sent"] == 7
    assert list(office.tasks(study))[:5] == first
    (project,) = office.projects(study)
    assert project.title.startswith("bears and others everyone ")


def test_the_first_few_are_photos_each_with_all_who_are_asked_about_it(office, study):
    people = ("ann", "bob")
    outcome = office.push(study, annotators=people, overlap=2, limit=3)
    assert outcome.facts["sent"] == 6
    mine, theirs = (set(office.tasks(study, name)) for name in people)
    assert mine == theirs
    assert len(mine) == 3
    assert office.push(study, annotators=people, overlap=2).facts["sent"] == 18


def test_more_people_can_be_asked_later(office, study):
    office.push(study)
    assert office.push(study, overlap=3).facts["sent"] == 0
    (project,) = office.projects(study)
    assert project.people == 3


def test_suggestions_are_shown_withheld_for_a_share_and_kept_with_the_answers(office, study, ann):
    run = suggest(study, "grass")
    office.push(study, suggest=run, without_suggestion=0.5)
    task = office.tasks(study)
    with office.client() as client:
        (project,) = office.projects(study)
        shown = {
            str(t.data["photo_id"]): t.data["suggested_background"]
            for t in client.tasks(project, None)
        }
    withheld = [photo_id for photo_id, background in shown.items() if not background]
    suggested = [photo_id for photo_id, background in shown.items() if background == "grass"]
    assert withheld
    assert len(suggested) > 2
    # The page opens with the suggestion filled in; one prediction, and none where it is withheld.
    for photo_id, key in task.items():
        (predictions,) = [office.owner.call("GET", f"/api/tasks/{key}/")["predictions"]]
        assert len(predictions) == (photo_id in suggested)
    ann.answer(task[suggested[0]], kept("grass"))
    ann.answer(task[suggested[1]], kept("water"))
    ann.skip(task[suggested[2]])
    ann.answer(task[withheld[0]], kept("grass"))
    office.pull(study)
    found = answers(study)
    columns = ("suggested_background", "suggestion_accepted")
    told = [
        tuple(found[photo_id, "ann"][name] for name in columns)
        for photo_id in (*suggested[:3], withheld[0])
    ]
    assert told == [("grass", True), ("grass", False), ("grass", None), (None, None)]


def test_only_runs_over_backgrounds_can_be_suggested(office, study):
    with pytest.raises(
        CapError, match=r"there is no scoring run 'open_clip_vit-00000000' \(there are: none\)"
    ):
        office.push(study, suggest="open_clip_vit-00000000")


def test_disputed_photos_go_to_an_adjudicator_with_the_answers_so_far(office, study, ann, bob):
    office.push(study, overlap=2)
    task = office.tasks(study)
    ann.answer(task[BEAR], kept("snow"))
    bob.answer(task[BEAR], rejected("clarity"))
    ann.answer(task[LION], kept("grass"))
    bob.answer(task[LION], kept("grass"))
    office.pull(study)
    assert BEAR not in labels(study)
    assert office.push(study, adjudicate=True).facts["sent"] == 1
    assert office.push(study, adjudicate=True).facts["sent"] == 0
    first, second = office.projects(study)
    assert (first.mark.round, second.mark.round) == ("first", "adjudication")
    with office.client() as client:
        (asked,) = client.tasks(second, None)
    assert asked.data["answers"] == {"answer 1": "keep, snow", "answer 2": "reject, clarity"}
    assert "ann" not in json.dumps(asked.data["answers"])
    office.owner.answer(asked.id, kept("snow"))
    office.pull(study)
    label = labels(study)[BEAR]
    assert (label["background"], label["settled_by"]) == ("snow", "adjudication")
    assert label["agreement"] == 0.5
    assert office.push(study, adjudicate=True).facts["asked"] == 0


def test_status_tells_how_far_people_are(office, study, ann, bob):
    office.push(study, overlap=2)
    task = office.tasks(study)
    ann.answer(task[BEAR], kept("snow"), seconds=3)
    bob.answer(task[BEAR], kept("snow"), seconds=5)
    ann.answer(task[LION], kept("grass"), seconds=7)
    bob.skip(task[LION])
    outcome = status(study, StatusParameters(), Progress())
    (project,) = outcome.facts["projects"]
    assert (project["photos"], project["answered"], project["left"]) == (12, 2, 11)
    mine, theirs = outcome.facts["annotators"]
    assert (mine["annotator"], mine["answers"], mine["skips"]) == ("ann@example.com", 2, 0)
    assert mine["seconds a photo"] == 5.0
    assert (theirs["answers"], theirs["skips"]) == (1, 1)
    assert not study.has("annotations")


def test_two_workspaces_on_one_server_do_not_see_each_other(office, study, tmp_path):
    office.push(study)
    other = tmp_path / "other"
    shutil.copytree(study.root, other)
    (other / "label-studio" / "workspace-id").unlink()
    shutil.rmtree(other / ".cap")
    second = Workspace(other)
    with pytest.raises(CapError, match="has no project of this workspace"):
        office.pull(second)
    assert office.push(second).facts["sent"] == 12
    assert len(office.projects(study)) == len(office.projects(second)) == 1


def test_answers_of_one_person_from_a_file_and_from_the_page_are_not_mixed(
    office, study, ann, tmp_path
):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], kept("snow"))
    tags = tmp_path / "tags.csv"
    tags.write_text("path,background\nice bear/0.jpg,rock\n")
    cap("annotate", "import", str(tags), "--annotator", "ann@example.com", cwd=study.root)
    with pytest.raises(CapError, match=r"ann@example.com has tagged .* in import:tags.csv already"):
        office.pull(study)
    assert answers(study)[BEAR, "ann"]["background"] == "rock"


@pytest.mark.parametrize("kind", ["wrong", "garbled"])
def test_a_wrong_token_is_one_clear_line(office, study, kind):
    personal = office.owner.call("POST", "/api/token/") if kind == "garbled" else None
    key = "0" * 40 if personal is None else personal["token"][:-4] + "abcd"
    done = cap("annotate", "pull", cwd=study.root, check=False, LABEL_STUDIO_API_KEY=key)
    assert done.returncode == 1
    assert "refuses the token in LABEL_STUDIO_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr
    assert key not in done.stderr + done.stdout


def test_both_kinds_of_token_work_and_none_is_written_down(office, study, ann):
    personal = ann.call("POST", "/api/token/")["token"]
    with connect(Address(office.url, personal)) as client:
        assert client.me == ann.email
    done = cap(
        "annotate",
        "push",
        "--photos-at",
        str(office.root / "label-studio" / "files" / "photos"),
        cwd=study.root,
        LABEL_STUDIO_API_KEY=personal,
    )
    assert "12 photos sent" in done.stdout
    cap("annotate", "pull", cwd=study.root, LABEL_STUDIO_API_KEY=personal)
    for file in study.root.rglob("*"):
        if file.is_file():
            assert personal.encode() not in file.read_bytes()


def test_a_dead_server_is_one_clear_line_and_nothing_is_lost(office, study, ann, tmp_path):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], kept("snow"))
    office.pull(study)
    before = study.digest("annotations")
    for command in ("push", "pull", "status"):
        done = cap(
            "annotate",
            command,
            cwd=study.root,
            check=False,
            LABEL_STUDIO_URL="http://127.0.0.1:9",
        )
        assert done.returncode == 1
        assert "does not answer" in done.stderr
        assert "cap annotate serve" in done.stderr
        assert "Traceback" not in done.stderr
    assert study.digest("annotations") == before


class _Page(BaseHTTPRequestHandler):
    """What a proxy says while the server behind it starts."""

    def do_GET(self) -> None:
        page = b"<html>We are back soon</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args) -> None:
        pass


def test_a_page_instead_of_label_studio_is_one_clear_line(study):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = cap("annotate", "pull", cwd=study.root, check=False, LABEL_STUDIO_URL=url)
        server.shutdown()
    assert done.returncode == 1
    assert f"Error: what answers at {url} is not Label Studio" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_token_is_one_clear_line(study):
    done = cap("annotate", "push", cwd=study.root, check=False, LABEL_STUDIO_API_KEY="")
    assert done.returncode == 1
    assert "set LABEL_STUDIO_API_KEY" in done.stderr


def test_a_mirror_that_is_broken_is_made_again(office, study, ann):
    office.push(study)
    ann.answer(office.tasks(study)[BEAR], kept("snow"))
    (project,) = office.projects(study)
    file = mirror_folder(study) / f"{project.mark.uid}.json"
    file.write_bytes(file.read_bytes()[:100])
    office.pull(study)
    assert answers(study)[BEAR, "ann"]["background"] == "snow"
    assert len(Mirror.load(mirror_folder(study), project.mark.uid).tasks) == 12


def test_photos_are_shown_to_those_who_signed_in_and_nothing_else_is(office, study, ann):
    office.push(study)
    row = study.read("photos").to_pylist()[0]
    address = f"{office.url}/data/local-files/?d={row['path']}"
    assert httpx.get(address).status_code == 401
    signed = {"Authorization": f"Token {ann.token}"}
    assert len(httpx.get(address, headers=signed).content) == row["bytes"]
    for path in ("photos/../../cap.toml", "../cap.toml", "photos/../../manifests/photos.parquet"):
        answer = httpx.get(f"{office.url}/data/local-files/?d={path}", headers=signed)
        assert answer.status_code >= 400
    with httpx.Client(base_url=office.url) as stranger:
        stranger.get("/user/signup/")
        form = {
            "email": "stranger@example.com",
            "password": PASSWORD,
            "csrfmiddlewaretoken": stranger.cookies["csrftoken"],
        }
        assert stranger.post("/user/signup/", data=form).status_code == 403


def test_the_page_for_annotators_and_researchers_runs_and_prints_what_it_shows(
    office, study, ann, bob
):
    background = {"ice bear": "snow", "lion": "grass", "otter": "water"}

    def two_people_tag_all() -> None:
        for photo_id, task in office.tasks(study).items():
            tag = background[photo_id.removeprefix("folder:").split("/")[0]]
            ann.answer(task, kept(tag))
            bob.answer(task, kept("sky" if photo_id == BEAR else tag))

    def one_decides() -> None:
        with office.client() as client:
            (asked,) = client.tasks(office.projects(study)[1], None)
        office.owner.answer(asked.id, kept("snow"))

    then = {"push --overlap 2": two_people_tag_all, "push --adjudicate": one_decides}
    photos_at = str(photo_root(office.root))
    (study.root.parent / "animals").symlink_to(office.root / "animals")
    for block in to_run(DOCS / "annotating.md"):
        run("annotating.md", [block], study.root, CAP_ANNOTATE_PUSH_PHOTOS_AT=photos_at)
        for command in [command for command in then if command in block.code]:
            then.pop(command)()
    assert not then
    assert labels(study)[BEAR]["background"] == "snow"
