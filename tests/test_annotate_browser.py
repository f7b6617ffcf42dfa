"""The labelling page as an annotator uses it, in a real browser on a real Label Studio."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from annotators import PASSWORD, Office, kept
from clusters import discover_in
from conftest import cap, open_office
from playwright.sync_api import Browser, Page

from annotation.environment import Environment
from annotation.screen import BACKGROUND_KEYS
from manifests import load_split
from manifests.schema import PREDICTIONS
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace

IN_THE_BROWSER = 12
TASK = ".lsf-current-task__task-id"


class Annotator:
    """Somebody at the page, with a keyboard only."""

    def __init__(self, page: Page, office: Office, email: str) -> None:
        self.page = page
        self.url = office.url
        self.elsewhere: list[str] = []
        page.on("request", self._watch)
        page.goto(f"{self.url}/user/login/")
        page.fill("input[name=email]", email)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/user/login" not in url)

    def _watch(self, request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def open(
        self, project: int, question: str = "Is the photo a good example of its class?"
    ) -> None:
        """Open a project's label stream, and see its first photo."""
        with self.page.expect_response(lambda r: "/data/local-files/" in r.url) as photo:
            self.page.goto(f"{self.url}/projects/{project}/data?labeling=1")
        assert photo.value.status == 200
        self.page.get_by_text("Labeling Instructions").wait_for()
        self.page.keyboard.press("Escape")
        self.page.get_by_text("Labeling Instructions").wait_for(state="hidden")
        self.page.get_by_text(question).wait_for()

    @property
    def task(self) -> int:
        """The server's number of the photo on the screen."""
        return int(self.page.locator(TASK).inner_text().split()[0])

    @property
    def chosen(self) -> set[str]:
        """Names of the choices that are selected."""
        return {
            str(each.get_attribute("name")) for each in self.page.locator("input:checked").all()
        }

    def press(self, *keys: str) -> None:
        """Press keys, the last of which submits or skips, and wait for the next photo."""
        before = self.task
        for key in keys[:-1]:
            self.page.keyboard.press(key)
        stored = lambda r: "/annotations" in r.url and r.request.method == "POST"  # noqa: E731
        with self.page.expect_response(stored) as response:
            self.page.keyboard.press(keys[-1])
        assert response.value.status == 201
        self.page.wait_for_function(
            "([place, before]) => {"
            "  const now = document.querySelector(place)?.innerText;"
            "  return now && parseInt(now) !== before;"
            "}",
            arg=[TASK, before],
        )


def only_project(office: Office, workspace: Workspace) -> int:
    (project,) = office.projects(workspace)
    return project.id


@pytest.fixture
def owner(browser: Browser, office: Office) -> Iterator[Annotator]:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    yield Annotator(page, office, office.owner.email)
    page.close()


def test_k_then_w_then_enter_is_a_label(office, study, owner):
    office.push(study)
    first, second, third, fourth = list(office.tasks(study))[:4]
    owner.open(only_project(office, study))
    owner.press("k", "w", "Enter")
    owner.press("x", "2", "4", "Enter")
    owner.press("k", "f", "Enter")
    owner.press("k", "n", "Shift+Y", "Enter")
    owner.press("q")
    office.pull(study)
    labels = {row["photo_id"]: row for row in study.read("labels").to_pylist()}
    assert labels[first]["background"] == "water"
    assert labels[second]["decision"] == "reject"
    assert (labels[third]["decision"], labels[third]["background"]) == ("keep", None)
    assert labels[fourth]["background"] == "snow"
    assert labels[fourth]["background_second"] == "sky"
    decisions = [row["decision"] for row in study.read("annotations").to_pylist()]
    assert sorted(decisions) == ["keep", "keep", "keep", "reject", "skip"]
    assert not owner.elsewhere


def test_a_photo_without_a_background_or_a_reason_is_not_submitted(office, study, owner):
    office.push(study)
    owner.open(only_project(office, study))
    for keys, message in (("k", "Choose the background"), ("x", "needs a reason")):
        owner.page.keyboard.press(keys)
        owner.page.keyboard.press("Enter")
        owner.page.get_by_text(message).wait_for()
        owner.page.get_by_role("button", name="OK").click()
        owner.page.get_by_text(message).wait_for(state="hidden")
    office.pull(study)
    assert not study.read("annotations").num_rows


def test_definitions_are_one_key_away_and_change_no_answer(office, study, owner):
    office.push(study)
    owner.open(only_project(office, study))
    definition = owner.page.get_by_text("Blades only are grass").last
    assert not definition.is_visible()
    owner.page.keyboard.press("d")
    definition.wait_for()
    owner.press("k", "b", "Enter")
    office.pull(study)
    (row,) = study.read("annotations").to_pylist()
    assert (row["decision"], row["background"]) == ("keep", "shrub")


def test_a_right_suggestion_is_taken_with_one_key_and_a_wrong_one_changed_with_two(
    office, study, owner
):
    photos = study.read("photos")["photo_id"].to_pylist()
    run = "guess-12345678"
    rows = [
        {
            "photo_id": photo_id,
            "status": "ok",
            "label_space": "backgrounds",
            "predicted_index": 5,
            "predicted_name": "grass",
        }
        for photo_id in photos
    ]
    study.table_path(f"predictions/{run}").parent.mkdir()
    write_table(
        study.table_path(f"predictions/{run}"), from_rows(rows, PREDICTIONS.schema), PREDICTIONS
    )
    office.push(study, suggest=run, without_suggestion=0)
    first, second, third = list(office.tasks(study))[:3]
    owner.open(only_project(office, study))
    assert owner.chosen == {"Keep", "grass"}
    owner.page.get_by_text("Suggested: grass").wait_for()
    owner.press("Enter")
    owner.press("c", "Enter")
    owner.press("x", "1", "Enter")
    office.pull(study)
    found = {row["photo_id"]: row for row in study.read("annotations").to_pylist()}
    told = [
        (found[p]["decision"], found[p]["background"], found[p]["suggestion_accepted"])
        for p in (first, second, third)
    ]
    assert told == [("keep", "grass", True), ("keep", "rock", False), ("reject", None, False)]
    assert all(row["suggested_background"] == "grass" for row in found.values())


def test_what_a_class_looks_like_is_on_the_page_and_no_prediction_of_it(office, study, owner):
    office.push(study)
    owner.open(only_project(office, study))
    text = owner.page.locator("body").inner_text()
    photo = next(iter(office.tasks(study)))
    name = photo.removeprefix("folder:").split("/")[0]
    index = study.label_space.index_of(name)
    assert name in text
    assert study.label_space.definitions[index] in text
    assert "predict" not in text.casefold()


def test_y_or_n_then_enter_says_whether_a_photo_shows_what_regions_have_in_common(
    office, study, owner
):
    discover_in(office, study)
    office.push(study, from_discovery="0")
    first, second, third = list(office.tasks(study))[:3]
    owner.open(only_project(office, study), "Does the photo show what these have in common?")
    owner.page.get_by_text("These regions look alike to the model").wait_for()
    owner.page.wait_for_function(
        "document.querySelector('.cap-sheet img')?.naturalWidth > 0"
        " && document.querySelector('.cap-photo img')?.naturalWidth > 0"
    )
    sheet = owner.page.locator(".cap-sheet img").bounding_box()
    photo = owner.page.locator(".cap-photo img").bounding_box()
    assert sheet["width"] > 400
    assert photo["x"] + photo["width"] < sheet["x"]
    text = owner.page.locator("body").inner_text().casefold()
    assert not [word for word in ("ice bear", "lion", "otter", "predict") if word in text]
    owner.press("y", "Enter")
    owner.press("n", "Enter")
    owner.press("q")
    office.pull(study)
    rows = study.read("confirmations").to_pylist()
    assert {row["photo_id"]: row["shows"] for row in rows} == {
        first: True,
        second: False,
        third: None,
    }
    assert not study.has("annotations")
    assert not owner.elsewhere


def test_a_note_alone_says_neither_yes_nor_no_and_is_not_submitted(office, study, owner):
    discover_in(office, study)
    office.push(study, from_discovery="0")
    owner.open(only_project(office, study), "Does the photo show what these have in common?")
    owner.page.get_by_placeholder("Note (optional)").fill("rock, perhaps")
    owner.page.keyboard.press("Enter")
    owner.page.get_by_role("button", name="Submit").first.click()
    message = owner.page.get_by_text("Yes (y) or no (n)?")
    message.wait_for()
    owner.page.get_by_role("button", name="OK").click()
    message.wait_for(state="hidden")
    owner.press("n", "Enter")
    office.pull(study)
    (row,) = study.read("confirmations").to_pylist()
    assert (row["shows"], row["note"]) == (False, "rock, perhaps")


@pytest.fixture
def through_label_studio(demo: Workspace, tmp_path: Path) -> Workspace:
    """The demo's workspace before anybody has tagged a photo."""
    root = tmp_path / "toys"
    shutil.copytree(demo.root, root)
    shutil.rmtree(root / "release")
    for table in ("annotations", "labels", "groups", "pairs", "split"):
        for suffix in ("parquet", "json"):
            (root / "manifests" / f"{table}.{suffix}").unlink()
    recipe = (root / "cap.toml").read_text()
    (root / "cap.toml").write_text(recipe.replace('file = "tags.tsv"', ""))
    return Workspace(root)


def test_the_demo_tagged_in_label_studio_ends_in_the_same_split(
    demo: Workspace,
    through_label_studio: Workspace,
    label_studio: Environment,
    browser: Browser,
):
    workspace = through_label_studio
    with (workspace.root / "tags.tsv").open(encoding="utf-8", newline="") as handle:
        tags = {
            f"folder:{row['path']}": row["background"]
            for row in csv.DictReader(handle, delimiter="\t")
        }
    model = "open_clip:toy.json:toy.safetensors"
    arguments = ["score", "--model", model, "--label-space", "backgrounds", "--json"]
    run = json.loads(cap(*arguments, cwd=workspace.root).stdout)["run"]
    with open_office(label_studio, workspace.root) as office:
        # The recipe's own command sends the photos and says what people must do next.
        said = cap("run", cwd=workspace.root, CAP_ANNOTATE_PUSH_SUGGEST=run).stdout
        assert "photos wait for an answer" in said
        assert not workspace.has("split")
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        annotator = Annotator(page, office, office.owner.email)
        task = office.tasks(workspace)
        photo_of = {key: photo_id for photo_id, key in task.items()}
        annotator.open(only_project(office, workspace))
        accepted = 0
        for _ in range(IN_THE_BROWSER):
            background = tags[photo_of.pop(annotator.task)]
            if annotator.chosen == {"Keep", background}:
                annotator.press("Enter")
                accepted += 1
            elif annotator.chosen:
                annotator.press(BACKGROUND_KEYS[background], "Enter")
            else:
                annotator.press("k", BACKGROUND_KEYS[background], "Enter")
        page.close()
        assert accepted > IN_THE_BROWSER / 2
        for key, photo_id in photo_of.items():
            office.owner.answer(key, kept(tags[photo_id]))
        said = cap("run", cwd=workspace.root).stdout
    assert "photos wait" not in said
    assert workspace.digest("split") == demo.digest("split")
    assert workspace.digest("pairs") == demo.digest("pairs")
    rows = workspace.read("annotations").to_pylist()
    suggested = [row for row in rows if row["suggested_background"]]
    assert 0.85 < len(suggested) / len(rows) < 0.95
    assert sum(row["suggestion_accepted"] for row in suggested) / len(suggested) >= 0.8
    ours, theirs = (load_split(each.root / "release") for each in (workspace, demo))
    assert ours.table["photo_id"].to_pylist() == theirs.table["photo_id"].to_pylist()
