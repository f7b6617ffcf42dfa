"""`cap evaluate` measures what its definitions say, and scores each photo once."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import timm
import torch
from checkpoints import tiny_clip
from conftest import cap, save_photo
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

from annotation.imports import import_tags
from annotation.parameters import ImportParameters
from manifests import load_split
from manifests.errors import CapError, ReleaseError
from manifests.photos import open_image
from manifests.progress import Progress
from manifests.schema import COMPARISONS, CONFUSING, PREDICTIONS, RESULTS, SPLIT
from manifests.tables import read_table, write_table
from manifests.vocabulary import LabelSpace, label_space, read_reference
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.dedup import dedup
from pipeline.evaluate import _chose, evaluate
from pipeline.evaluate.choices import choices_for
from pipeline.evaluate.measures import Answers, Photos
from pipeline.evaluate.photos import open_release
from pipeline.evaluate.results import ResultsFolder
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.open_clip_family import OpenClipModel
from pipeline.parameters import (
    CollectParameters,
    DedupParameters,
    EvaluateParameters,
    ReleaseParameters,
    ScoreParameters,
    SplitParameters,
)
from pipeline.release import release
from pipeline.release.confusing import most_like
from pipeline.score import score
from pipeline.split import split

CLASSES = ("lion", "otter", "tusker", "Asian elephant")
BACKGROUNDS = ("grass", "sky")


class Told(Progress):
    """Remembers what a person would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def make_study(root: Path, spec: str, space: str = "imagenet1k", *, save_scores=True) -> Workspace:
    """A workspace with a release of 48 photos, 12 of each class, made by the stages themselves."""
    root.mkdir()
    (root / "cap.toml").write_text(f'label_space = "{space}"\n')
    facts, tags = ["file_name,creator_id"], ["path,background"]
    for number in range(48):
        name = f"{CLASSES[number % 4]}/{number:02d}.jpg"
        save_photo(root / "animals" / name, number)
        facts.append(f"{name},observer-{number % 7}")
        tags.append(f"{name},{BACKGROUNDS[number // 4 % 2]}")
    (root / "animals" / "metadata.csv").write_text("\n".join(facts))
    (root / "tags.csv").write_text("\n".join(tags))
    workspace, say = Workspace(root), Progress()
    collect(workspace, CollectParameters(root=str(root / "animals"), workers=1), say)
    dedup(workspace, DedupParameters(workers=1), say)
    score(workspace, ScoreParameters(model=spec, workers=0, save_scores=save_scores), say)
    import_tags(workspace, ImportParameters(file=str(root / "tags.csv")), say)
    split(workspace, SplitParameters(rule="paper", min_photos=2, min_drop=-1), say)
    release(workspace, ReleaseParameters(str(root / "release"), ("any",)), say)
    return workspace


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """SPECs of three small models: two CLIPs with random weights, and a classifier."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=1000)
    save_file(network.state_dict(), folder / "classifier.safetensors")
    return {
        "one": tiny_clip(folder / "one.json", folder / "one.safetensors"),
        "two": tiny_clip(folder / "two.json", folder / "two.safetensors", seed=1),
        "classifier": f"timm:test_resnet:{folder / 'classifier.safetensors'}",
    }


@pytest.fixture(scope="module")
def study(models, tmp_path_factory) -> Workspace:
    """A workspace over ImageNet-1K whose release the first model chose."""
    return make_study(tmp_path_factory.mktemp("study") / "workspace", models["one"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """What models made of photos, for the tests that do not count."""
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture
def run(study, cache, tmp_path):
    """Evaluate on the study's release, with results in a folder of the test's own."""

    def evaluated(*specs: str, release: Path | None = None, progress=None, **changes):
        parameters = EvaluateParameters(
            **{
                "release": str(release or study.root / "release"),
                "model": specs,
                "workers": 0,
                "resamples": 200,
                "cache": str(cache),
                **changes,
            }
        )
        return evaluate(parameters, tmp_path, progress or Progress())

    return evaluated


def contents(folder: Path) -> list[dict]:
    files = sorted((folder / "results" / "evaluations").iterdir())
    return [json.loads(file.read_text()) for file in files]


def answers_of(folder: Path, evaluation: dict) -> dict[str, dict]:
    file = folder / "results" / "predictions" / f"{evaluation['evaluation']}.parquet"
    return {row["photo_id"]: row for row in read_table(file, PREDICTIONS).to_pylist()}


def without_times(evaluation: dict) -> dict:
    return {key: value for key, value in evaluation.items() if key != "made_at"}


# What a model answers


def direct_scores(spec: str, labels: LabelSpace, place: Path) -> dict[str, np.ndarray]:
    """Scores of a release's photos without the scoring loop and its cache."""
    model = load_model(ModelSpec.parse(spec), labels, ModelOptions(device="cpu"))
    return {
        record["photo_id"]: model.score(model.preprocess(image)[None])[0][0]
        for image, _, record in load_split(place)
    }


def confusing_of(place: Path) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for row in read_table(place / "confusing.parquet", CONFUSING).to_pylist():
        found[row["class_index"]].add(row["label_index"])
    return found


@pytest.mark.parametrize("model", ["one", "classifier"])
@pytest.mark.parametrize("space", ["imagenet1k", "confusing20", "classes", "animals.csv"])
def test_the_answer_is_the_best_label_of_those_that_compete(
    run, study, models, tmp_path, model, space
):
    imagenet, place = label_space("imagenet1k"), study.root / "release"
    names = [*CLASSES, "zebra", "brambling"]
    (tmp_path / "animals.csv").write_text("\n".join(["name", *names]))
    few = {imagenet.index_of(name) for name in names}
    competing = {
        "imagenet1k": lambda _: set(range(1000)),
        "confusing20": confusing_of(place).__getitem__,
        "classes": lambda _: {imagenet.index_of(name) for name in CLASSES},
        "animals.csv": lambda _: few,
    }[space]
    named = str(tmp_path / space) if space.endswith(".csv") else space
    run(models[model], label_space=named)
    (evaluation,) = contents(tmp_path)
    answers = answers_of(tmp_path, evaluation)
    scores = direct_scores(models[model], imagenet, place)
    rows = {row["photo_id"]: row for row in load_split(place).table.to_pylist()}
    assert answers.keys() == rows.keys() == scores.keys()
    for photo_id, answer in answers.items():
        truth = rows[photo_id]["class_index"]
        labels = competing(truth)
        best = max(labels, key=lambda label: scores[photo_id][label])
        assert answer["predicted_index"] == best
        assert answer["predicted_name"] == imagenet.names[best]
        assert answer["correct"] == (best == truth)
        ahead = sum(scores[photo_id][label] > scores[photo_id][truth] for label in labels)
        assert answer["target_rank"] == ahead + 1
    assert evaluation["label_space"]["compete"] == [len(labels), len(labels)]


def test_a_zero_shot_model_takes_any_label_space_and_a_classifier_only_imagenets(
    run, study, models, tmp_path
):
    names = ["lion", "otter", "tusker", "Asian elephant", "unicorn"]
    (tmp_path / "mine.csv").write_text("\n".join(["name", *names]))
    labels = label_space(str(tmp_path / "mine.csv"))
    run(models["one"], label_space=str(tmp_path / "mine.csv"))
    (evaluation,) = contents(tmp_path)
    scores = direct_scores(models["one"], labels, study.root / "release")
    for photo_id, answer in answers_of(tmp_path, evaluation).items():
        assert answer["predicted_name"] == names[int(scores[photo_id].argmax())]
    assert set(evaluation["measures"]) == {"accuracy", "plain_accuracy"}
    with pytest.raises(CapError, match="imagenet1k only, not mine; use an open_clip model"):
        run(models["classifier"], label_space=str(tmp_path / "mine.csv"))


# The labels most like each class


def test_the_confusing_labels_have_the_highest_mean_score_over_both_groups(study):
    place = study.root / "release"
    (name,) = study.runs()
    scores = {r["photo_id"]: r["scores"] for r in study.read(f"predictions/{name}").to_pylist()}
    rows = read_table(place / "confusing.parquet", CONFUSING).to_pylist()
    by_class = defaultdict(list)
    for row in rows:
        by_class[row["class_index"]].append(row)
    released = load_split(place).table.to_pylist()
    assert by_class.keys() == {row["class_index"] for row in released}
    replaced = 0
    for class_index, labels in by_class.items():
        own = [scores[r["photo_id"]] for r in released if r["class_index"] == class_index]
        means = np.mean(np.array(own, dtype=np.float64), axis=0)
        best = sorted(range(1000), key=lambda label: (-means[label], label))[:20]
        if class_index not in best:
            best[-1] = class_index
            replaced += 1
        assert [row["label_index"] for row in labels] == best
        assert [row["rank"] for row in labels] == list(range(1, 21))
        assert [row["mean_score"] for row in labels] == pytest.approx(means[best].tolist())
        assert [row["replaced"] for row in labels].count(True) == (
            labels[-1]["label_index"] == class_index and labels[-1]["replaced"]
        )
    manifest = json.loads((place / "release.json").read_text())
    assert manifest["confusing"] == {"run": name, "replaced": replaced}
    metadata = pq.read_schema(place / "confusing.parquet").metadata
    assert metadata[b"cap.run"].decode() == name
    assert json.loads(metadata[b"cap.prompts"]) == ["A photo of {}."]
    assert json.loads(metadata[b"cap.model"])["architecture"] == "one"


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40), st.data())
def test_the_class_itself_is_always_among_its_confusing_labels(scores, data):
    names = tuple(str(n) for n in range(len(scores)))
    labels = LabelSpace("some", names, ("",) * len(names), ((),) * len(names))
    class_index = data.draw(st.integers(0, len(scores) - 1))
    rows = most_like(class_index, np.array(scores, dtype=np.float64), labels)
    chosen = [row["label_index"] for row in rows]
    assert len(set(chosen)) == len(chosen) == min(20, len(scores))
    assert class_index in chosen
    beaten_by = sum(s > scores[class_index] for s in scores)
    ties = sum(s == scores[class_index] for s in scores[:class_index])
    assert any(row["replaced"] for row in rows) == (beaten_by + ties >= 20)


def test_without_kept_scores_the_confusing_labels_are_not_there_and_the_way_is_named(
    models, run, tmp_path_factory
):
    root = tmp_path_factory.mktemp("plain") / "workspace"
    study = make_study(root, models["one"], save_scores=False)
    assert json.loads((root / "release" / "release.json").read_text())["confusing"] is None
    with pytest.raises(CapError, match="score with `cap score --save-scores`, then split and"):
        run(models["two"], release=study.root / "release", label_space="confusing20")


# What is measured


def brute(rows: dict[str, dict], right: dict[str, bool]) -> dict[str, dict[str, float]]:
    """Class-balanced and plain means by group, with plain loops."""
    cells, plain = defaultdict(list), defaultdict(list)
    for photo_id, row in rows.items():
        cells[row["group"], row["class_index"]].append(right[photo_id])
        plain[row["group"]].append(right[photo_id])
    groups = ("common", "counter")
    return {
        "balanced": {g: fmean(fmean(v) for (h, _), v in cells.items() if h == g) for g in groups},
        "plain": {g: fmean(plain[g]) for g in groups},
    }


FAMILIES = {int(row["class_index"]): row for row in read_reference("animals")}


def kinds(truth: int, guess: int) -> dict[str, bool]:
    """What an answer counts as, from the reference table itself."""
    row = FAMILIES[truth]
    also = str(guess) in row["also_correct"].split("|")
    family = also or FAMILIES.get(guess, {}).get("superclass") == row["superclass"]
    return {
        "accuracy": guess == truth,
        "accuracy_also_correct": guess == truth or also,
        "error_same_family": guess != truth and family,
        "error_other_family": guess != truth and not family,
    }


def test_accuracies_and_errors_are_those_of_a_loop_over_the_photos(run, study, models, tmp_path):
    run(models["one"], models["two"], label_space="classes")
    rows = {r["photo_id"]: r for r in load_split(study.root / "release").table.to_pylist()}
    for evaluation in contents(tmp_path):
        answers = answers_of(tmp_path, evaluation)
        counted = {
            photo_id: kinds(row["class_index"], answers[photo_id]["predicted_index"])
            for photo_id, row in rows.items()
        }
        for name in ("accuracy", "accuracy_also_correct", "error_same_family"):
            found = evaluation["measures"][name]
            expected = brute(rows, {i: kind[name] for i, kind in counted.items()})["balanced"]
            for group, value in expected.items():
                assert found[group]["value"] == pytest.approx(value)
                assert found[group]["ci_low"] <= value <= found[group]["ci_high"]
                assert found[group]["photos"] == sum(r["group"] == group for r in rows.values())
            sign = -1 if name.startswith("error") else 1
            lost = sign * (expected["common"] - expected["counter"])
            assert found["drop"]["value"] == pytest.approx(lost)
        plain = brute(rows, {i: kind["accuracy"] for i, kind in counted.items()})["plain"]
        for group, value in plain.items():
            assert evaluation["measures"]["plain_accuracy"][group]["value"] == pytest.approx(value)
        measures = evaluation["measures"]
        parts = ("error_same_family", "error_other_family")
        assert sum(measures[part]["drop"]["value"] for part in parts) == pytest.approx(
            measures["accuracy"]["drop"]["value"]
        )
        for name, measured in evaluation["classes"].items():
            for group in ("common", "counter"):
                here = [
                    counted[i]["accuracy"]
                    for i, row in rows.items()
                    if (row["class_name"], row["group"]) == (name, group)
                ]
                assert measured["accuracy"][group]["value"] == pytest.approx(fmean(here))
                assert measured["accuracy"][group]["photos"] == len(here)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 999), min_size=48, max_size=48))
def test_every_answer_is_right_or_an_error_of_one_kind(study, guesses):
    photos = open_release(str(study.root / "release"))
    choices = choices_for(None, photos)
    measured = Photos(photos.rows, resamples=1, seed=0)
    some = np.where(np.arange(48) % 3 == 0, [386, 101, 385] * 16, guesses)
    answers = Answers.of(some, measured, choices)
    shares = answers.shares()
    for row in range(48):
        expected = kinds(int(measured.classes[row]), int(some[row]))
        assert {name: bool(values[row]) for name, (values, _) in shares.items()} == expected
        parts = ("accuracy", "error_same_family", "error_other_family")
        assert sum(expected[part] for part in parts) == 1


def test_two_models_are_compared_photo_by_photo(run, study, models, tmp_path):
    run(models["two"], models["one"], label_space="classes")
    rows = {r["photo_id"]: r for r in load_split(study.root / "release").table.to_pylist()}
    table = read_table(tmp_path / "results" / "comparisons.parquet", COMPARISONS).to_pylist()
    first, second = sorted(contents(tmp_path), key=lambda e: e["evaluation"])
    assert {(r["evaluation"], r["other"]) for r in table} == {
        (first["evaluation"], second["evaluation"])
    }
    right = [{i: a["correct"] for i, a in answers_of(tmp_path, e).items()} for e in (first, second)]
    means = [brute(rows, r) for r in right]
    by_key = {(r["measure"], r["group"]): r for r in table}
    for measure, how in (("accuracy", "balanced"), ("plain_accuracy", "plain")):
        differences = {g: means[0][how][g] - means[1][how][g] for g in ("common", "counter")}
        differences["drop"] = differences["common"] - differences["counter"]
        for group, value in differences.items():
            row = by_key[measure, group]
            assert row["difference"] == pytest.approx(value)
            assert row["ci_low"] <= value <= row["ci_high"]
    for group in ("common", "counter"):
        ids = [i for i, row in rows.items() if row["group"] == group]
        row = by_key["plain_accuracy", group]
        assert row["only_first"] == sum(right[0][i] and not right[1][i] for i in ids)
        assert row["only_second"] == sum(right[1][i] and not right[0][i] for i in ids)
        assert 0 < row["p_value"] <= 1
    assert by_key["accuracy", "drop"]["p_value"] is None


def test_the_table_holds_every_number_of_the_files(run, models, tmp_path):
    run(models["one"], models["classifier"])
    run(models["two"], label_space="confusing20")
    table = read_table(tmp_path / "results" / "results.parquet", RESULTS).to_pylist()
    numbers = {
        (r["evaluation"], r["class_name"], r["measure"], r["group"]): r["value"] for r in table
    }
    expected = {
        (e["evaluation"], class_name, measure, group): found["value"]
        for e in contents(tmp_path)
        for class_name, measures in {"*": e["measures"], **e["classes"]}.items()
        for measure, groups in measures.items()
        for group, found in groups.items()
    }
    assert numbers == expected
    assert {r["model"] for r in table} == {
        "open_clip:one:one.safetensors",
        "open_clip:two:two.safetensors",
        "timm:test_resnet:classifier.safetensors",
    }
    with (tmp_path / "results" / "results.csv").open(encoding="utf-8", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert [float(line["value"]) for line in lines] == [row["value"] for row in table]


def test_a_result_says_all_that_is_needed_to_repeat_it(run, study, models, tmp_path):
    run(models["one"], label_space="confusing20", seed=7)
    (evaluation,) = contents(tmp_path)
    assert evaluation["release"]["name"] == "release"
    assert len(evaluation["release"]["digest"]) == 64
    assert len(evaluation["model"]["weights_sha256"]) == 64
    assert evaluation["model"]["prompts"] == ["A photo of {}."]
    assert evaluation["label_space"]["reference"] == {
        "run": study.runs()[0],
        "prompts": ["A photo of {}."],
    }
    assert evaluation["parameters"] == {"partition": "all", "resamples": 200, "seed": 7}
    assert {"torch", "open_clip_torch", "timm"} <= evaluation["versions"].keys()
    assert evaluation["cap_version"]
    assert str(Path(models["one"].split(":")[1]).parent) not in json.dumps(evaluation)


# Each photo once


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """The sizes of the batches that CLIP models see."""
    sizes: list[int] = []
    forward = OpenClipModel.score

    def counted(model, batch):
        sizes.append(len(batch))
        return forward(model, batch)

    monkeypatch.setattr(OpenClipModel, "score", counted)
    return sizes


def test_each_photo_is_scored_once_whatever_is_asked_of_it(run, models, tmp_path, scored):
    vectors = str(tmp_path / "cache")
    run(models["one"], cache=vectors)
    assert sum(scored) == 48
    for changes in ({"label_space": "classes"}, {"prompts": "a sketch of {}"}, {"seed": 3}):
        run(models["one"], cache=vectors, **changes)
    assert sum(scored) == 48
    run(models["one"], models["two"], cache=vectors)
    assert sum(scored) == 96


def test_a_stopped_run_goes_on_with_the_next_batch(run, models, tmp_path, scored, monkeypatch):
    vectors = str(tmp_path / "cache")
    forward = OpenClipModel.score

    def stopped(model, batch):
        if len(scored) == 3:
            raise KeyboardInterrupt
        return forward(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(OpenClipModel, "score", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(models["one"], cache=vectors, batch_size=8)
    assert not (tmp_path / "results").exists()
    run(models["one"], cache=vectors, batch_size=8)
    assert sum(scored) == 48
    (resumed,) = contents(tmp_path)
    run(models["one"], cache=str(tmp_path / "other"), batch_size=8, out=str(tmp_path / "b"))
    (file,) = (tmp_path / "b" / "evaluations").iterdir()
    assert without_times(json.loads(file.read_text())) == without_times(resumed)


def test_killed_at_any_moment_it_ends_in_the_same_results(study, models, tmp_path):
    command = [sys.executable, "-m", "pipeline", "--quiet", "evaluate", study.root / "release"]
    command += ["--model", models["one"], "--model", models["classifier"]]
    command += ["--batch-size", "4", "--workers", "0", "--resamples", "100"]
    killed, undisturbed = (
        [*command, "--cache", tmp_path / name / "cache", "--out", tmp_path / name / "results"]
        for name in ("killed", "undisturbed")
    )
    parts = tmp_path / "killed" / "cache" / "vectors"
    for wanted in (3, 15):
        process = subprocess.Popen(list(map(str, killed)), cwd=tmp_path)
        while process.poll() is None and len(list(parts.rglob("*.parquet"))) < wanted:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    for arguments in (killed, undisturbed):
        subprocess.run(list(map(str, arguments)), cwd=tmp_path, check=True, env=dict(os.environ))
    assert len(list(parts.rglob("*.parquet"))) == 24
    found = [list(map(without_times, contents(tmp_path / n))) for n in ("killed", "undisturbed")]
    assert len(found[0]) == 2
    assert found[0] == found[1]
    tables = [
        (tmp_path / name / "results" / "comparisons.csv").read_text()
        for name in ("killed", "undisturbed")
    ]
    assert tables[0] == tables[1]


def test_a_damaged_file_of_the_cache_is_named(run, models, tmp_path):
    run(models["one"], cache=str(tmp_path / "cache"))
    file = next((tmp_path / "cache" / "vectors").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CapError, match=f"{file.name} cannot be read; remove it"):
        run(models["one"], cache=str(tmp_path / "cache"), seed=1)


# Results are not mixed up


def test_the_same_again_is_fresh_and_another_configuration_stands_beside_it(run, models, tmp_path):
    both = (models["one"], models["two"])
    assert not run(*both).fresh
    before = {p: p.read_bytes() for p in (tmp_path / "results").rglob("*") if p.is_file()}
    assert run(*reversed(both)).fresh
    assert before == {p: p.read_bytes() for p in before}
    assert not run(models["one"], label_space="classes").fresh
    assert len(contents(tmp_path)) == 3
    assert run(*both).fresh
    assert not run(*both, seed=5).fresh
    assert {e["parameters"]["seed"] for e in contents(tmp_path)} == {0, 5}
    # Each by itself has no comparison with the other.
    for model in both:
        assert not run(model, seed=6).fresh
    assert not run(*both, seed=6).fresh
    assert run(*both, seed=6).fresh
    assert len(contents(tmp_path)) == 3
    (tmp_path / "results" / "results.parquet").unlink()
    assert not run(*both, seed=5).fresh
    assert (tmp_path / "results" / "results.parquet").is_file()


def test_another_release_is_another_evaluation(run, study, models, tmp_path):
    release(study, ReleaseParameters(str(tmp_path / "release"), ("any",)), Progress())
    run(models["one"])
    assert run(models["one"], release=tmp_path / "release").fresh
    rows = study.read("split")
    fewer = study.root.parent / "fewer"
    fewer.mkdir()
    for name in ("cap.toml", "photos", "manifests"):
        (fewer / name).symlink_to(study.root / name) if name != "manifests" else None
    (fewer / "manifests").mkdir()
    for file in (study.root / "manifests").iterdir():
        (fewer / "manifests" / file.name).symlink_to(file)
    (fewer / "manifests" / "split.parquet").unlink()
    write_table(fewer / "manifests" / "split.parquet", rows.slice(0, 40), SPLIT)
    release(Workspace(fewer), ReleaseParameters(str(fewer / "release"), ("any",)), Progress())
    assert not run(models["one"], release=fewer / "release").fresh
    assert len({e["release"]["digest"] for e in contents(tmp_path)}) == 2


@pytest.mark.parametrize("others", [["common", "counter"], ["counter"]])
def test_classes_of_which_one_group_is_there_are_told(run, study, models, tmp_path, others):
    halved = tmp_path / "halved"
    (halved / "manifests").mkdir(parents=True)
    for path in (study.root / "cap.toml", study.root / "photos"):
        (halved / path.name).symlink_to(path)
    for file in (study.root / "manifests").iterdir():
        if file.stem != "split":
            (halved / "manifests" / file.name).symlink_to(file)
    rows = study.read("split")
    half = rows["class_name"][0].as_py()
    is_half = pc.equal(rows["class_name"], half)
    kept = pc.if_else(
        is_half, pc.equal(rows["group"], "common"), pc.is_in(rows["group"], pa.array(others))
    )
    write_table(halved / "manifests" / "split.parquet", rows.filter(kept), SPLIT)
    release(Workspace(halved), ReleaseParameters(str(halved / "release"), ("any",)), Progress())
    told = Told()
    run(models["two"], release=halved / "release", progress=told)
    (note,) = told.notes
    halves = [half] if len(others) > 1 else sorted(set(rows["class_name"].to_pylist()))
    assert note.startswith(f"warning: {len(halves)} of 4 classes have photos of one group only")
    assert f"({', '.join(halves[:3])}), so that the drop is not between" in note


def test_tables_that_were_not_written_are_written_by_the_same_command(run, models, tmp_path):
    results = tmp_path / "results"
    run(models["one"])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(ResultsFolder, "_write", full)
        with pytest.raises(CapError, match="cannot be written: No space left on device"):
            run(models["one"], seed=5)
    assert {e["parameters"]["seed"] for e in contents(tmp_path)} == {5}
    assert not run(models["one"], seed=5).fresh
    rows = read_table(results / "results.parquet", RESULTS).to_pylist()
    assert {row["seed"] for row in rows} == {5}
    with (results / "results.csv").open(encoding="utf-8", newline="") as handle:
        assert {line["seed"] for line in csv.DictReader(handle)} == {"5"}
    assert run(models["one"], seed=5).fresh


# The model that chose


def test_the_model_that_chose_the_pairs_is_told_from_the_others(run, models, tmp_path):
    told = Told()
    run(models["one"], models["two"], progress=told)
    (note,) = told.notes
    assert note.startswith("warning: open_clip:one:one.safetensors chose this release's pairs")
    assert "judge by other models" in note
    chose = {e["model"]["architecture"]: e["chose_pairs"] for e in contents(tmp_path)}
    assert chose == {"one": True, "two": False}


def test_the_model_that_chose_is_known_however_photos_were_decoded(models):
    few = LabelSpace("few", ("ant", "bee"), ("",) * 2, ((),) * 2)
    full, reduced, other = (
        load_model(ModelSpec.parse(models[name]), few, ModelOptions(device="cpu", reduced=less))
        for name, less in (("one", False), ("one", True), ("two", False))
    )
    release = SimpleNamespace(chosen_by={"run": "run", "model": reduced.description})
    assert _chose(full, release)
    assert not _chose(other, release)


@pytest.fixture(scope="module")
def divided(study, tmp_path_factory) -> Path:
    """The study's release with photos divided into validation and test."""
    root = tmp_path_factory.mktemp("divided") / "workspace"
    (root / "manifests").mkdir(parents=True)
    for path in (study.root / "cap.toml", study.root / "photos"):
        (root / path.name).symlink_to(path)
    for path in (study.root / "manifests").iterdir():
        if path.stem != "split":
            (root / "manifests" / path.name).symlink_to(path)
    rows = study.read("split")
    partitions = pa.array(["validation", "validation", "test", "test"] * (rows.num_rows // 4))
    position = rows.schema.get_field_index("partition")
    rows = rows.set_column(position, "partition", partitions)
    write_table(root / "manifests" / "split.parquet", rows, SPLIT)
    release(Workspace(root), ReleaseParameters(str(root / "release"), ("any",)), Progress())
    return root / "release"


def test_its_honest_drop_on_the_test_photos_is_measured_beside_that_on_all(
    run, models, tmp_path, divided
):
    told = Told()
    run(models["one"], models["two"], release=divided, progress=told)
    assert "the test photos show its honest drop" in told.notes[0]
    found = {
        (e["model"]["architecture"], e["parameters"]["partition"]): e for e in contents(tmp_path)
    }
    assert found.keys() == {("one", "all"), ("one", "test"), ("two", "all")}
    rows = {
        row["photo_id"]: row
        for row in load_split(divided).table.to_pylist()
        if row["partition"] == "test"
    }
    honest = found["one", "test"]
    answers = answers_of(tmp_path, honest)
    assert answers.keys() == rows.keys()
    expected = brute(rows, {i: answers[i]["correct"] for i in rows})["balanced"]
    drop = honest["measures"]["accuracy"]["drop"]["value"]
    assert drop == pytest.approx(expected["common"] - expected["counter"])
    table = read_table(tmp_path / "results" / "comparisons.parquet", COMPARISONS)
    assert set(table["partition"].to_pylist()) == {"all"}


def test_a_partition_can_be_chosen_where_there_are_some(run, models, tmp_path, divided):
    told = Told()
    run(models["one"], release=divided, partition="validation", progress=told)
    (evaluation,) = contents(tmp_path)
    assert evaluation["release"]["photos"] == 24
    assert told.notes == []
    with pytest.raises(CapError, match=r"has no partition test .*none: its rule makes none"):
        run(models["one"], partition="test")


# Label spaces of one's own


def test_a_release_brings_its_own_label_space_and_it_is_the_default(
    models, run, tmp_path, tmp_path_factory
):
    names = [*CLASSES, "unicorn"]
    root = tmp_path_factory.mktemp("own") / "workspace"
    (root.parent / "beasts.csv").write_text(
        "\n".join(["name,prompts", *(f"{name},a drawing of a {name}" for name in names)])
    )
    own = make_study(root, models["one"], "../beasts.csv").root / "release"
    split_ = load_split(own)
    assert split_.label_space == label_space(str(root.parent / "beasts.csv"))
    run(models["two"], release=own)
    (evaluation,) = contents(tmp_path)
    assert evaluation["label_space"]["name"] == "beasts"
    assert evaluation["model"]["prompts"] == [[f"a drawing of a {name}"] for name in names]
    run(models["two"], release=own, label_space="confusing20")
    assert contents(tmp_path)[0]["label_space"]["compete"] == [5, 5]
    (own / "label_space.csv").write_text("name\nlion\n")
    with pytest.raises(ReleaseError, match=r"label_space\.csv has changed since the release"):
        run(models["two"], release=own)
    (own / "label_space.csv").unlink()
    with pytest.raises(CapError, match="does not hold its label space; --label-space classes"):
        run(models["two"], release=own)
    run(models["two"], release=own, label_space="classes")
    assert {e["label_space"]["name"] for e in contents(tmp_path)} >= {"classes"}


# What cannot be evaluated


def test_a_model_that_returns_nan_is_named_with_the_photo_and_nothing_is_written(
    run, models, tmp_path
):
    _, config, weights = models["one"].split(":")
    tensors = load_file(weights)
    tensors["visual.proj"][:] = float("nan")
    save_file(tensors, tmp_path / "broken.safetensors")
    broken = f"open_clip:{config}:{tmp_path / 'broken.safetensors'}"
    message = (
        "open_clip:one:broken.safetensors gives no score for photo "
        "folder:.*jpg: the model returned a score that is not a number"
    )
    with pytest.raises(CapError, match=message):
        run(models["two"], broken)
    assert not (tmp_path / "results").exists()


def test_text_features_that_are_no_numbers_are_found_though_all_photos_are_cached(
    run, models, tmp_path, monkeypatch
):
    run(models["one"])
    nothing = np.full((1000, 16), np.nan, np.float32)
    monkeypatch.setattr(OpenClipModel, "head", property(lambda _: nothing))
    with pytest.raises(CapError, match=r"gives photo folder:.*jpg a score that is not a number"):
        run(models["one"], prompts="a picture of {}")
    assert len(contents(tmp_path)) == 1


def test_the_same_model_twice_is_refused(run, models, tmp_path):
    with pytest.raises(CapError, match="is named twice"):
        run(models["one"], models["one"])
    _, config, weights = models["one"].split(":")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(weights).read_bytes())
    with pytest.raises(CapError, match=r"is the same model as open_clip:one:one\.safetensors"):
        run(models["one"], f"open_clip:{config}:{copy}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"release": Path("nowhere")}, "nowhere is no release: release.json cannot be read"),
        ({"label_space": "imagenet2k"}, "cannot read the label space imagenet2k"),
        ({"label_space": "backgrounds"}, "backgrounds are no classes"),
        ({"model": ()}, "evaluating needs --model SPEC"),
        ({"model": ("vit",)}, "'vit' is no model"),
    ],
)
def test_what_is_not_to_be_had_is_one_line(run, models, tmp_path, changes, message):
    with pytest.raises(CapError, match=message):
        run(*changes.pop("model", [models["one"]]), **changes)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("lion", "otter", "tusker"), "mine lacks the class 'Asian elephant' of the photos"),
        (("lion", "otter", "beast"), "mine lacks the class 'tusker' of the photos"),
    ],
)
def test_a_class_that_the_label_space_lacks_is_named(run, models, tmp_path, names, message):
    (tmp_path / "mine.csv").write_text("\n".join(["name", *names]))
    with pytest.raises(CapError, match=message):
        run(models["one"], label_space=str(tmp_path / "mine.csv"))


def test_two_classes_for_one_label_are_refused(run, models, tmp_path):
    rows = ["name,synonyms", "beast,lion|otter", "tusker,", "Asian elephant,"]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    with pytest.raises(CapError, match="one label, 'beast', for the classes 'lion' and 'otter'"):
        run(models["one"], label_space=str(tmp_path / "mine.csv"))


def test_a_photo_that_has_changed_is_named(study, run, models, tmp_path):
    release(study, ReleaseParameters(str(tmp_path / "mine"), ("any",)), Progress())
    file = next((tmp_path / "mine" / "data").glob("counter-*"))
    table = pq.read_table(file)
    images = table["image"].to_pylist()
    images[0]["bytes"] = images[1]["bytes"]
    changed = table.set_column(
        table.schema.get_field_index("image"),
        table.schema.field("image"),
        pa.array(images, table.schema.field("image").type),
    )
    pq.write_table(changed, file)
    with pytest.raises(CapError, match=r"gives no score for photo .*has changed since the release"):
        run(models["one"], release=tmp_path / "mine", cache=str(tmp_path / "cache"))


def test_predictions_over_another_label_space_are_refused_by_the_loader(study, run, models):
    (name,) = study.runs()
    split_ = load_split(study.root / "release")
    table = study.read(f"predictions/{name}")
    assert split_.evaluate(table).groups.keys() == {"common", "counter"}
    other = pa.array(["backgrounds"] * table.num_rows)
    position = table.schema.get_field_index("label_space")
    with pytest.raises(ReleaseError, match="over backgrounds, this split's classes are imagenet1k"):
        split_.evaluate(table.set_column(position, "label_space", other))


# The command


def test_the_command_needs_no_workspace_and_takes_models_from_variables_and_the_file(
    study, models, cache, tmp_path
):
    command = ["evaluate", study.root / "release", "--cache", cache, "--resamples", "50"]
    both = ["--model", models["one"], "--model", models["two"]]
    told = json.loads(cap(*command, *both, "--json", cwd=tmp_path).stdout)
    assert told["stage"] == "evaluate"
    assert [e["model"].split(":")[1] for e in told["evaluations"]] == ["one", "two"]
    assert told["results"] == "results"
    assert (tmp_path / "results" / "results.csv").is_file()
    (tmp_path / "cap.toml").write_text(f"""
[evaluate]
release = "{study.root / "release"}"
model = ["{models["one"]}", "{models["two"]}"]
cache = "{cache}"
resamples = 50
""")
    again = cap("evaluate", cwd=tmp_path).stdout
    assert "2 models on 48 photos of release, imagenet1k (1 of 1000)" in again
    assert "(up to date, skipped)" in again
    assert "of the drop" in again
    assert "drop of open_clip:one:one.safetensors minus that of open_clip:two" in again
    (tmp_path / "cap.toml").write_text('[evaluate]\nmodel = "timm:test_resnet:classifier.pt"\n')
    three = f"{models['one']},{models['two']},{models['classifier']}"
    assert "3 models" in cap(*command, cwd=tmp_path, CAP_EVALUATE_MODEL=three).stdout
    wrong = cap("evaluate", "nowhere", *both, cwd=tmp_path, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: nowhere is no release")


def test_photos_come_out_of_a_release_with_the_bytes_that_were_collected(study):
    photos = open_release(str(study.root / "release"))
    paths = {r["photo_id"]: r["path"] for r in study.read("photos").to_pylist()}
    for photo in photos.photos:
        stored = (study.root / paths[photo.photo_id]).read_bytes()
        assert photo.content() == stored
        assert open_image(photo.content()).size == (96, 72)
