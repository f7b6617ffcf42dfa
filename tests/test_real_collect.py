"""The whole job on real photos from a local iNaturalist that misbehaves: as from the folder."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from conftest import cap, papers_split, weights

from manifests import load_split
from manifests.vocabulary import label_space
from manifests.workspace import Workspace
from pipeline.demo.server import (
    API_FAULTS,
    FIRST_DECOY,
    HEALING_PHOTO_FAULTS,
    PHOTO_FAULTS,
    Faults,
    LocalINaturalist,
    ServerSettings,
    folder_catalogue,
)

PEOPLE = 60
COLUMNS = ("sha256", "class_index", "group", "background")


@pytest.fixture(scope="module")
def animals(shared: Path, tmp_path_factory) -> Path:
    """The shared photos with photographers and licences, as iNaturalist has them."""
    root = tmp_path_factory.mktemp("inaturalist") / "animals"
    shutil.copytree(shared / "photos", root, copy_function=shutil.copyfile)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    lines = ["file_name,license,creator,creator_id,observed_at"]
    for number, name in enumerate(files):
        who = number % PEOPLE
        lines.append(f"{name},cc-by,Person {who},{who + 1},{2000 + number // 365}-01-01")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def collected(shared: Path, animals: Path) -> tuple[Workspace, LocalINaturalist]:
    """A workspace in which every stage is done, and the server that its photos came from."""
    catalogue = folder_catalogue(animals, label_space("imagenet1k"), prolific=1)
    for_ever = sorted(set(PHOTO_FAULTS) - set(HEALING_PHOTO_FAULTS))
    # A photo more for each class, which will never come.
    lost = [row.photos[0].id for row in catalogue.observations if row.observer.login == "prolific"]
    faults = Faults(
        photo_rates=dict.fromkeys(HEALING_PHOTO_FAULTS, 0.03),
        permanent=dict(zip(lost, for_ever, strict=False)),
        api={3 * number: fault for number, fault in enumerate(API_FAULTS, start=1)},
        stall_seconds=2,
        elsewhere="http://127.0.0.2:9/",
    )
    root = animals.parent / "study"
    with (shared / "photos.tsv").open(encoding="utf-8") as handle:
        tags = [(r["sha256"], r["background"]) for r in csv.DictReader(handle, delimiter="\t")]
    (animals.parent / "tags.csv").write_text(
        "sha256,background\n" + "\n".join(map(",".join, dict(tags).items()))
    )
    cap("init", "study", cwd=animals.parent)
    classes = sorted(path.name for path in animals.iterdir() if path.is_dir())
    with LocalINaturalist(catalogue, ServerSettings(faults=faults)) as server:
        (root / "cap.toml").write_text(f"""
[collect]
source = "inaturalist"
classes = {classes}
api_url = "{server.api_url}"

[score]
model = "timm:tf_efficientnet_lite0:{weights()}"

[annotate.import]
file = "../tags.csv"

[split]
rule = "paper"
min_photos = 8

[release]
out = "release"
""")
        cap("run", cwd=root)
    return Workspace(root), server


def test_the_split_is_the_one_from_the_folder(collected, finished: Workspace, tmp_path):
    # By the paper's rule: the controlled one looks at observers, which the folder does not know.
    workspace, _ = collected
    ours, theirs = (
        sorted(tuple(row[name] for name in COLUMNS) for row in w.read("split").to_pylist())
        for w in (workspace, papers_split(finished, tmp_path / "paper"))
    )
    assert ours == theirs
    assert len(ours) > 100


def test_every_kind_of_fault_occurred_and_the_rules_were_kept(collected):
    workspace, server = collected
    assert set(server.log.faults_seen()) == set(PHOTO_FAULTS) | set(API_FAULTS)
    assert server.log.requests_in_any(60) <= 50
    status = {
        int(row["photo_id"].partition(":")[2]): row["status"]
        for row in workspace.read("photos").to_pylist()
    }
    genuine = [status[number] for number in status if number < FIRST_DECOY]
    assert genuine == ["ok"] * 775
    lost = [number for number in status if status[number] == "failed"]
    assert len(lost) == len(set(PHOTO_FAULTS) - set(HEALING_PHOTO_FAULTS))


def test_the_release_names_every_photographer(collected):
    workspace, _ = collected
    split = load_split(workspace.root / "release")
    assert set(split.table["license"].to_pylist()) == {"cc-by"}
    assert all(text.startswith("© Person ") for text in split.table["attribution"].to_pylist())
    assert len(set(split.table["creator_id"].to_pylist())) > PEOPLE / 2
