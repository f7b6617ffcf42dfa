"""`cap mitigate`: what it learns from, what it leaves as it was, and what comes out."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
import torch
from checkpoints import tiny_clip
from conftest import cap, save_photo
from hypothesis import given
from PIL import Image
from safetensors.torch import load_file

from manifests.errors import CapError
from manifests.progress import Progress
from manifests.schema import TABLES
from manifests.tables import write_table
from manifests.vocabulary import LabelSpace
from manifests.workspace import Workspace
from pipeline.mitigate import _job, mitigate
from pipeline.mitigate.photos import (
    LabelledPhoto,
    by_the_same_observers,
    epoch_order,
    kept_apart,
)
from pipeline.mitigate.run import _measured, _photos, _steps, _why_none, _write
from pipeline.mitigate.training import METHODS, Batch, Settings, Trainer
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.boxes import Box
from pipeline.parameters import MitigateParameters

QUADRANTS = [Box(x, y, x + 0.5, y + 0.5) for y in (0, 0.5) for x in (0, 0.5)]
LABELS = LabelSpace("animals", ("ant", "bee", "cat"), ("",) * 3, ((),) * 3)


# Steps


@pytest.fixture
def model(tmp_path):
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}
    folder = tmp_path / "stepper"
    folder.mkdir()
    spec = tiny_clip(folder / "stepper.json", folder / "stepper.safetensors", vision_cfg=vision)
    return load_model(ModelSpec.parse(spec), LABELS, ModelOptions(device="cpu"))


def batch(*, crops: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 64, 64, generator=generator)
    parts = [QUADRANTS] * 6
    if crops:
        parts = torch.randn(24, 3, 64, 64, generator=generator)
    return Batch(
        images,
        label=torch.tensor([0, 1, 2, 0, 1, 2]),
        group=torch.tensor([0, 1, 2, 3, 1, 2]),
        regions=parts,
        image=torch.arange(6).repeat_interleave(4),
        spurious=torch.arange(24) % 4 == 3,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_step_changes_the_image_tower_and_nothing_else(model, method):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    settings = Settings(method=method, learning_rate=1e-3, steps=4)
    trainer = Trainer(model.network, torch.from_numpy(model.head), settings, 4)
    losses = [trainer.step(batch()) for _ in range(4)]
    changed = {
        name
        for name, value in model.network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("visual.") for name in changed)
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert losses[-1].contrast < losses[0].contrast
    parts = {"region-aware": {"regions", "labels"}, "erm": {"classes"}, "gdro": {"classes"}}
    told = {name for name in ("regions", "labels", "classes") if getattr(losses[0], name)}
    assert told == parts.get(method, set())


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize("contrast", ["clip", "class"])
def test_region_aware_steps_push_spurious_regions_away_from_labels(model, crops, contrast):
    head = torch.from_numpy(model.head)
    settings = Settings(contrast=contrast, weight=0.0, learning_rate=1e-3, steps=30)
    trainer = Trainer(model.network, head, settings, 4)
    given = batch(crops=crops)

    def similarity() -> tuple[float, float]:
        with torch.no_grad():
            _, regions = trainer._features(given)
        cosines = regions @ head.T
        labels = given.label[given.image]
        own = cosines[torch.arange(24), labels]
        return own[~given.spurious].mean().item(), cosines[given.spurious].max(
            1
        ).values.mean().item()

    relevant, spurious = similarity()
    first = trainer.step(given)
    for _ in range(28):
        trainer.step(given)
    last = trainer.step(given)
    assert last.regions < first.regions
    assert last.labels < first.labels
    after = similarity()
    assert after[0] - after[1] > relevant - spurious


def test_a_checkpoint_is_loaded_with_the_preprocessing_of_the_model_that_learned(model, tmp_path):
    spec = ModelSpec.parse(model.name)
    model.network.visual.preprocess_cfg |= {"mean": (0.5,) * 3, "resize_mode": "squash"}
    learned = type(model)(spec, model.network, model.head, model.description)
    state = model.network.state_dict()
    _write(learned, state, 1.0, tmp_path / "learned.safetensors")
    file = str(tmp_path / "learned.safetensors")
    found = load_model(replace(spec, weights=file), LABELS, ModelOptions(device="cpu"))
    image = Image.new("RGB", (100, 60), "red")
    image.paste("blue", (0, 0, 20, 60))
    assert torch.equal(found.preprocess(image), learned.preprocess(image))
    assert not torch.equal(found.preprocess(image), model.preprocess(image))


def test_live_assignment_asks_the_medoids(model):
    head = torch.from_numpy(model.head)
    medoids = torch.nn.functional.normalize(torch.eye(16)[:2], dim=-1)
    settings = Settings(assign="live", steps=1)
    trainer = Trainer(model.network, head, settings, 4, medoids=(medoids, (1,)))
    regions = torch.stack([medoids[0], medoids[1]] * 12)
    _, spurious = trainer._assigned(batch(), regions)
    assert spurious.tolist() == [False, True] * 12


def test_a_trainer_goes_on_from_its_state_as_if_it_had_not_stopped(model):
    head = torch.from_numpy(model.head)
    original = {name: value.clone() for name, value in model.network.state_dict().items()}
    settings = Settings(method="gdro", learning_rate=1e-3, steps=4)

    def fresh() -> Trainer:
        model.network.load_state_dict(original)
        return Trainer(model.network, head, settings, 4)

    trainer = fresh()
    whole = [trainer.step(batch()) for _ in range(4)]
    trainer = fresh()
    parted = [trainer.step(batch()) for _ in range(2)]
    state = {key: _copied(value) for key, value in trainer.state().items()}
    trainer = fresh()
    trainer.restore(state)
    parted += [trainer.step(batch()) for _ in range(2)]
    assert parted == whole


def _copied(value):
    import copy

    return copy.deepcopy(value)


# Photos


def photo(number: int, group: int) -> LabelledPhoto:
    boxes, spurious = (Box(0, 0, 1, 1),), (False,)
    return LabelledPhoto(str(number), Path(), (1, 1), boxes, spurious, 0, "a", group)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9), st.integers(1, 9))
def test_an_epoch_sees_every_photo_once_or_groups_alike(groups, seed, epoch):
    photos = [photo(n, group) for n, group in enumerate(groups)]
    plain = epoch_order(photos, epoch, seed, balanced=False)
    assert sorted(p.photo_id for p in plain) == sorted(p.photo_id for p in photos)
    assert plain == epoch_order(photos, epoch, seed, balanced=False)
    balanced = epoch_order(photos, epoch, seed, balanced=True)
    assert len(balanced) == len(photos)
    assert {p.group for p in balanced} <= set(groups)


def test_balanced_epochs_draw_each_group_equally_often():
    photos = [photo(n, group) for n, group in enumerate([0] * 900 + [2] * 90 + [3] * 10)]
    drawn = Counter(p.group for e in range(20) for p in epoch_order(photos, e, 0, balanced=True))
    assert set(drawn) == {0, 2, 3}
    assert np.array(list(drawn.values())) / 20_000 == pytest.approx(1 / 3, abs=0.02)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.floats(0, 1), st.integers(0, 10**6))
def test_photos_of_one_observer_are_learned_from_or_kept_apart_together(who, share, seed):
    photos = pa.table(
        {
            "photo_id": [str(n) for n in range(len(who))],
            "creator_id": pa.array([None if n == 9 else f"observer {n}" for n in who], pa.string()),
        }
    )
    apart = kept_apart(photos, None, share, seed)
    for name in set(who) - {9}:
        own = {str(n) for n, other in enumerate(who) if other == name}
        assert own <= apart or not own & apart
    if share == 0:
        assert not apart


def test_nothing_is_learned_from_those_who_took_the_test_photos():
    photos = pa.table(
        {
            "photo_id": ["a", "b", "c", "d", "e"],
            "creator_id": pa.array(["x", "x", "y", None, "y"], pa.string()),
            "partition": ["test", None, "train", "test", "train"],
        }
    )
    apart = kept_apart(photos, photos, 0.5, 0)
    assert apart == {"a", "d"}
    assert by_the_same_observers(photos, apart) == {"a", "b", "d"}


@given(st.integers(1, 2000), st.integers(1, 200))
def test_an_epoch_leaves_out_fewer_photos_than_it_has_steps(photos, most):
    steps, size = _steps(photos, most)
    assert 1 <= size <= most
    assert 0 <= photos - steps * size < steps
    assert (steps - 1) * most < photos


def test_photos_that_cannot_be_read_and_scores_that_are_no_numbers_are_told_apart(model, tmp_path):
    file = save_photo(tmp_path / "a.png", 1)
    apart = [replace(photo(1, 0), file=file), replace(photo(2, 0), file=tmp_path / "b.png")]
    parameters = MitigateParameters(workers=0, batch_size=2)
    assert _measured(model, apart, parameters)["photos"] == 1
    with pytest.raises(CapError, match=r"none of 1 photos .* could be read, such as 2: cannot be"):
        _measured(model, apart[1:], parameters)
    with torch.no_grad():
        model._head[:] = float("nan")
    with pytest.raises(
        CapError, match=r"no numbers for any of 1 photos .* smaller --learning-rate"
    ):
        _measured(model, apart[:1], parameters)


def test_where_no_photo_is_left_the_cause_is_named():
    photos = pa.table(
        {"photo_id": ["0", "1", "2"], "creator_id": pa.array(["x", "x", None], pa.string())}
    )
    split = pa.table({"photo_id": ["0"], "partition": ["test"]})
    looked = [photo(0, 0), photo(1, 0)]
    assert "one observer has taken all" in _why_none(photos, looked, None, set())
    assert "choose another --held-out" in _why_none(photos, [*looked, photo(2, 0)], None, set())
    assert "none of the split's test photos" in _why_none(photos, looked[1:], split, {"0"})
    assert "photos of other observers" in _why_none(photos, looked, split, {"0"})


# The command


@pytest.fixture
def workspace(discovered: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to change."""
    root = tmp_path / "demo"
    shutil.copytree(discovered.root, root)
    return Workspace(root)


class Notes(Progress):
    """Keeps what it is told; stops the work after some steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.notes: list[str] = []
        self._left = stop_after

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextlib.contextmanager
    def task(self, label: str, total: int, done: int = 0):
        def advance(count: int) -> None:
            if self._left is not None:
                self._left -= count
                if self._left < 0:
                    raise KeyboardInterrupt

        yield advance


def told(workspace: Workspace, progress: Progress | None = None, **changes):
    given = {"learning_rate": 1e-3, "epochs": 1, "workers": 0, "device": "cpu", **changes}
    return mitigate(workspace, MitigateParameters(**given), progress or Progress())


def of_the_same_observers(workspace: Workspace, some: list[str]) -> set[str]:
    """Some photos, and all others of whoever took them."""
    who = {
        row["photo_id"]: row["creator_id"] or row["photo_id"]
        for row in workspace.read("photos").to_pylist()
    }
    theirs = {who[photo_id] for photo_id in some}
    return {photo_id for photo_id, name in who.items() if name in theirs}


def weights_of(outcome) -> dict[str, torch.Tensor]:
    return load_file(outcome.facts["model"].rpartition(":")[2])


def test_the_checkpoint_is_a_model_that_cap_scores_and_the_table_tells_its_accuracy(workspace):
    outcome = told(workspace)
    (name,) = workspace.runs("mitigations")
    rows = workspace.read(f"mitigations/{name}").to_pylist()
    spec = outcome.facts["model"]
    assert f"score it with `cap score --model {spec}`" in outcome.text
    cap("score", "--model", spec, cwd=workspace.root)
    (run,) = [run for run in workspace.runs() if "region-aware" in run]
    correct = {
        row["photo_id"]: row["correct"] for row in workspace.read(f"predictions/{run}").to_pylist()
    }
    split = workspace.read("split").to_pylist()
    apart = [row["photo_id"] for row in split if row["partition"] == "test"]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[-1]["photos"] == len(apart)
    assert rows[-1]["accuracy"] == pytest.approx(np.mean([correct[p] for p in apart]))
    assert outcome.facts["after"]["accuracy"] == rows[-1]["accuracy"]
    (looked,) = workspace.runs("regions")
    regions = workspace.read(f"regions/{looked}")
    looked_at = set(regions["photo_id"].to_pylist())
    assert rows[-1]["trained_on"] == len(looked_at - of_the_same_observers(workspace, apart))
    assert rows[-1]["loss"] == pytest.approx(
        0.8 * rows[-1]["contrast"] + 0.2 * (rows[-1]["regions"] + rows[-1]["labels"]), rel=1e-4
    )


def test_a_checkpoint_is_fresh_until_it_is_gone(workspace):
    outcome = told(workspace, method="finetune")
    assert told(workspace, method="finetune").fresh
    Path(outcome.facts["model"].rpartition(":")[2]).unlink()
    notes = Notes()
    redone = told(workspace, notes, method="finetune")
    assert not redone.fresh
    assert "is gone, so that the model is fine-tuned again" in notes.notes[0]
    assert redone.facts["after"] == outcome.facts["after"]


def test_a_stopped_fine_tuning_goes_on_and_ends_with_the_same_weights(workspace, tmp_path):
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(workspace.root, undisturbed)
    whole = told(Workspace(undisturbed), epochs=2, method="finetune")
    steps, _ = _steps(whole.facts["trained_on"], 64)
    with pytest.raises(KeyboardInterrupt):
        told(workspace, Notes(stop_after=steps + 2), epochs=2, method="finetune")
    assert not (workspace.root / "models").exists()
    resumed = told(workspace, epochs=2, method="finetune")
    one, other = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    (name,) = workspace.runs("mitigations")
    table = f"mitigations/{name}"
    assert workspace.digest(table) == Workspace(undisturbed).digest(table)


def test_no_share_of_the_new_weights_is_the_model_as_it_was(workspace):
    outcome = told(workspace, method="finetune", interpolate=0.0)
    original = load_file(workspace.root / "toy.safetensors")
    found = weights_of(outcome)
    assert all(torch.equal(found[name], value) for name, value in original.items())
    assert outcome.facts["before"] == outcome.facts["after"]
    (name,) = workspace.runs("mitigations")
    assert workspace.read(f"mitigations/{name}")["epoch"].to_pylist() == [0, 1, 2]


def test_regions_that_were_cut_out_are_learned_from_as_such(workspace):
    (run,) = workspace.runs("regions")
    receipt = workspace.receipt_path(f"regions/{run}")
    text = receipt.read_text()
    assert '"embed": "pool"' in text
    receipt.write_text(text.replace('"embed": "pool"', '"embed": "crop"'))
    cut = told(workspace)
    receipt.write_text(text)
    assert cut.facts["after"]["accuracy"] > 0


def test_a_photo_that_cannot_be_read_is_told_and_left_out(workspace):
    split = workspace.read("split").to_pylist()
    tested = [row["photo_id"] for row in split if row["partition"] == "test"]
    apart = of_the_same_observers(workspace, tested)
    photos = workspace.read("photos").to_pylist()
    (run,) = workspace.runs("regions")
    looked = set(workspace.read(f"regions/{run}")["photo_id"].to_pylist())
    row = next(r for r in photos if r["photo_id"] in looked - apart)
    (workspace.root / row["path"]).write_bytes(b"no photo")
    notes = Notes()
    told(workspace, notes, method="finetune")
    (note,) = notes.notes
    assert note.startswith(f"not learned from: {row['photo_id']}: the stored bytes have changed")


def test_a_store_that_cannot_be_reached_is_no_fault_of_the_photos(workspace):
    (workspace.root / "photos").rename(workspace.root / "elsewhere")
    with pytest.raises(CapError, match=r"the photos in \S+ cannot be read .* goes on from here"):
        told(workspace, method="finetune")
    assert not (workspace.root / "models").exists()


def rewrite(workspace: Workspace, name: str, photo_id: str, **changes) -> None:
    """Change a row of a table."""
    table = workspace.read(name)
    rows = [{**row, **changes} if row["photo_id"] == photo_id else row for row in table.to_pylist()]
    write_table(workspace.table_path(name), pa.Table.from_pylist(rows, table.schema), TABLES[name])


def test_photos_that_are_gone_or_repeat_others_are_not_learned_from(workspace):
    (run,) = workspace.runs("regions")
    notes = Notes()

    def photos() -> tuple[set[str], set[str]]:
        some = _photos(workspace, run, (0,), MitigateParameters(), notes)
        return tuple({photo.photo_id for photo in part} for part in some)

    learn, measure = photos()
    assert not notes.notes
    name = mitigation(workspace)
    gone, copy, *_ = sorted(learn)
    failed = {"status": "failed", "error": "HTTP 404", "path": None, "sha256": None}
    rewrite(workspace, "photos", gone, **failed)
    keeper = min(measure)
    rewrite(workspace, "duplicates", copy, relation="near", keeper=keeper, reason="alike")
    assert photos() == (learn - {gone, copy}, measure)
    assert notes.notes == [
        "mitigate: 2 photos whose regions were looked at are left out, since they are no longer "
        "stored, or repeat others; `cap discover` looks again"
    ]
    assert mitigation(workspace) != name


def mitigation(workspace: Workspace) -> str:
    """The name of what would be made."""
    (run,) = workspace.runs("regions")
    return _job(workspace, run, (0,), {"weights_sha256": "0"}, MitigateParameters()).table


def test_a_colon_in_the_folder_of_the_weights_is_no_part_of_the_spec(workspace):
    folder = workspace.root / "my:weights"
    folder.mkdir()
    shutil.copy(workspace.root / "toy.safetensors", folder)
    architecture = f"open_clip:{workspace.root / 'toy.json'}"
    outcome = told(
        workspace, method="finetune", model=f"{architecture}:{folder / 'toy.safetensors'}"
    )
    (name,) = workspace.runs("mitigations")
    file = workspace.root / "models" / f"{name}.safetensors"
    assert outcome.facts["model"] == f"{architecture}:{file}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolate": 1.5}, "--interpolate is a fraction"),
        ({"loss_weight": -0.1}, "--loss-weight is a fraction"),
        ({"epochs": 0}, "--epochs is a number above 0"),
        ({"learning_rate": 0.0}, "--learning-rate is a number above 0"),
        ({"discovery": ("99",)}, "has no cluster '99'; its clusters are 0 to"),
        ({"model": "open_clip:ViT-B-32:openai"}, "has not been scored; run `cap score"),
    ],
)
def test_what_cannot_be_is_one_line(discovered, changes, message):
    with pytest.raises(CapError, match=message):
        told(discovered, **changes)


def test_without_a_kept_cluster_one_has_to_be_named(workspace):
    cap(
        "discover",
        "--min-influence",
        "1",
        "--clusters",
        "2-3",
        "--embed",
        "pool",
        cwd=workspace.root,
    )
    with pytest.raises(CapError, match=r"has kept no cluster .* name one of . with --discovery"):
        told(workspace)
    assert told(workspace, discovery=("0",), method="finetune").facts["photos"]


def test_without_a_discovery_there_is_nothing_to_mitigate(demo):
    with pytest.raises(CapError, match=r"no discoveries/.* table yet; run `cap discover` first"):
        told(demo)


def test_a_discovery_of_other_regions_is_told(workspace):
    (run,) = workspace.runs("regions")
    receipt = workspace.receipt_path(f"discoveries/{run}")
    text = receipt.read_text()
    digest = workspace.digest(f"regions/{run}")
    assert digest in text
    receipt.write_text(text.replace(digest, "0" * 64))
    message = f"discoveries/{run} is of other regions than regions/{run}; run `cap discover`"
    with pytest.raises(CapError, match=message):
        told(workspace, method="finetune")
    done = cap("report", cwd=workspace.root, check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_photo_apart_is_in_no_batch(workspace):
    for name in ("split", "pairs", "groups"):
        workspace.table_path(name).unlink()
        workspace.receipt_path(name).unlink(missing_ok=True)
    with pytest.raises(CapError, match="no photo left to measure on; choose another --held-out"):
        told(workspace, held_out=0.0)
    outcome = told(workspace, held_out=0.5, method="finetune")
    (run,) = workspace.runs("regions")
    looked = len(set(workspace.read(f"regions/{run}")["photo_id"].to_pylist()))
    assert outcome.facts["photos"] + outcome.facts["trained_on"] == looked
    assert 0.35 < outcome.facts["photos"] / looked < 0.65
    digest = hashlib.sha256(Path(outcome.facts["model"].rpartition(":")[2]).read_bytes())
    assert (
        digest.hexdigest()
        != hashlib.sha256((workspace.root / "toy.safetensors").read_bytes()).hexdigest()
    )
