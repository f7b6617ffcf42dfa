"""Evaluate: how well models do on a release's common and counter photos, and how they compare.

Given a release and any number of models, writes a folder of results. It needs no workspace. Each
photo is scored once per network, and a killed run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import __version__
from manifests.errors import CapError
from manifests.schema import PREDICTIONS
from manifests.tables import from_rows
from manifests.workspace import Outcome, now
from pipeline.evaluate.choices import Choices, choices_for
from pipeline.evaluate.folder import is_counteranimal, open_counteranimal
from pipeline.evaluate.measures import Answers, Photos, compare, measure
from pipeline.evaluate.photos import EvaluationSet, open_release
from pipeline.evaluate.results import ResultsFolder, evaluated
from pipeline.evaluate.summary import summary
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.cache import Batches, cached_scores
from pipeline.models.predictions import predictions_from
from pipeline.models.registry import REDUCED_DECODING, network_digest, published_name

if TYPE_CHECKING:
    from manifests.progress import Progress
    from pipeline.models import Model
    from pipeline.parameters import EvaluateParameters

__all__ = ["evaluate", "evaluate_set"]

_PACKAGES = ("torch", "open_clip_torch", "timm", "pillow", "numpy", "pyarrow")
_ROWS_AT_ONCE = 2048
_NAMED = 3
"""Classes that a warning names."""


def evaluate(parameters: EvaluateParameters, base: Path, progress: Progress) -> Outcome:
    """Evaluate models on a release.

    Parameters
    ----------
    parameters
        As the command takes them.
    base
        Folder that `results/` is made in unless `out` names another.
    progress
        Told of each batch of photos.

    Raises
    ------
    CapError
        If the release, the label space or a model is not to be had, does not fit, or gives no score
        for a photo; no result is then written.
    """
    if parameters.release is None:
        msg = "name the release: `cap evaluate RELEASE --model SPEC` (or `release` in cap.toml)"
        raise CapError(msg)
    place = Path(parameters.release)
    layout = open_counteranimal if is_counteranimal(place) else open_release
    return evaluate_set(layout(parameters.release), parameters, base, progress)


@dataclass(frozen=True)
class _Task:
    """Photos of one partition, what competes for them, and how they are measured."""

    photos: EvaluationSet
    rows: pa.Table
    choices: Choices
    partition: str
    parameters: EvaluateParameters

    @cached_property
    def honest(self) -> _Task:
        """The same on the photos that did not choose the pairs."""
        rows = _of_partition(self.photos, "test")
        return _Task(self.photos, rows, self.choices, "test", self.parameters)

    @cached_property
    def measured(self) -> Photos:
        """The photos with their resamples."""
        resamples, seed = self.parameters.resamples, self.parameters.seed
        return Photos(self.rows, resamples=resamples, seed=seed)


@dataclass(frozen=True)
class _Made:
    """One evaluation with the answers behind it; `fresh` where it was there already."""

    content: dict[str, Any]
    predictions: pa.Table
    task: _Task
    fresh: bool


def evaluate_set(
    photos: EvaluationSet, parameters: EvaluateParameters, base: Path, progress: Progress
) -> Outcome:
    """As `evaluate`, on photos of any layout."""
    specs = _specs(parameters.model)
    choices = choices_for(parameters.label_space, photos)
    rows = _of_partition(photos, parameters.partition)
    task = _Task(photos, rows, choices, parameters.partition, parameters)
    _tell_halves(rows, progress)
    folder = ResultsFolder(Path(parameters.out) if parameters.out else base / "results")
    made: list[_Made] = []
    for spec in specs:
        made += _evaluate_model(spec, task, folder, made, progress)
    pairs = [
        (first, second)
        for first, second in itertools.combinations(
            sorted(made, key=lambda m: str(m.content["evaluation"])), 2
        )
        if first.content["parameters"]["partition"] == second.content["parameters"]["partition"]
    ]
    names = [(a.content["evaluation"], b.content["evaluation"]) for a, b in pairs]
    drawn = {"resamples": parameters.resamples, "seed": parameters.seed}
    contents = [m.content for m in made]
    fresh = all(m.fresh for m in made) and folder.holds(contents, names, drawn)
    if not fresh:
        comparisons = list(_comparisons(pairs))
        folder.write([(m.content, m.predictions) for m in made if not m.fresh], comparisons)
    text, facts = summary(contents, folder.comparisons(names), folder.root)
    return Outcome("evaluate", text, facts, fresh)


def _specs(texts: Sequence[str]) -> list[ModelSpec]:
    if not texts:
        msg = "evaluating needs --model SPEC, such as open_clip:ViT-B-32-quickgelu:laion400m_e31"
        raise CapError(msg)
    doubled = [text for text in texts if texts.count(text) > 1]
    if doubled:
        msg = f"the model {doubled[0]} is named twice; name each model once"
        raise CapError(msg)
    return [ModelSpec.parse(text) for text in texts]


def _of_partition(photos: EvaluationSet, partition: str) -> pa.Table:
    if partition == "all":
        return photos.rows
    rows = photos.rows.filter(pc.equal(photos.rows["partition"], partition))
    if not rows.num_rows:
        there = ", ".join(photos.partitions) or "none: its rule makes none"
        msg = f"{photos.place} has no partition {partition} (it has {there}); use --partition all"
        raise CapError(msg)
    return rows


def _tell_halves(rows: pa.Table, progress: Progress) -> None:
    """Say which classes have photos of one group only: the groups then are of different classes."""
    groups = rows.group_by("class_name").aggregate([("group", "count_distinct")])
    most = len(pc.unique(rows["group"]))
    halves = groups.filter(pc.less(groups["group_count_distinct"], most))
    names = sorted(halves["class_name"].to_pylist())
    if names:
        first = ", ".join(names[:_NAMED])
        progress.note(
            f"warning: {len(names)} of {groups.num_rows} classes have photos of one group only "
            f"({first}), so that the drop is not between the same classes"
        )


def _evaluate_model(
    spec: ModelSpec,
    task: _Task,
    folder: ResultsFolder,
    earlier: Sequence[_Made],
    progress: Progress,
) -> Iterator[_Made]:
    """The model's evaluation, and where it chose the pairs, that on the photos which did not."""
    parameters = task.parameters
    cache = _cache(parameters.cache)
    options = ModelOptions(
        device=parameters.device,
        precision=parameters.precision,
        prompts=parameters.prompts,
        cache_dir=cache / "text",
    )
    model = load_model(spec, task.choices.labels, options)
    for other in earlier:
        if other.content["model"]["digest"] == model.digest:
            msg = (
                f"{spec} is the same model as {other.content['model']['name']}: same weights, "
                "preprocessing and prompts; name it once"
            )
            raise CapError(msg)
    chose = _chose(model, task.photos)
    tasks = [task]
    if chose and task.partition == "all":
        honest = "test" in task.photos.partitions
        name = published_name(model.description)
        progress.note(
            f"warning: {name} chose this release's pairs, so that its drop on all photos is too "
            "large; "
            + ("the test photos show its honest drop" if honest else "judge by other models")
        )
        tasks += [task.honest] if honest else []
    for part in tasks:
        yield _evaluate_part(model, chose, part, folder, cache, progress)


def _cache(named: str | None) -> Path:
    if named is not None:
        return Path(named)
    import platformdirs

    return platformdirs.user_cache_path("cap") / "models"


def _chose(model: Model, photos: EvaluationSet) -> bool:
    """Whether the release's pairs were chosen by this network, with whatever prompts."""
    if photos.chosen_by is None:
        return False
    described = photos.chosen_by["model"]
    if described is None:
        return str(photos.chosen_by["run"]).endswith(f"-{model.digest[:8]}")
    return network_digest(_decoded_in_full(described)) == network_digest(model.description)


def _decoded_in_full(description: dict[str, Any]) -> dict[str, Any]:
    """The description of a network without how its photos were decoded: it is the same network."""
    full = {
        name: value
        for name, value in description["preprocessing"].items()
        if name not in REDUCED_DECODING
    }
    return {**description, "preprocessing": full}


def _key(model: Model, task: _Task) -> dict[str, Any]:
    """What decides an evaluation's numbers."""
    return {
        "release": task.photos.digest,
        "model": model.digest,
        "precision": model.description["precision"],
        "label_space": task.choices.digest,
        "partition": task.partition,
    }


def _evaluate_part(
    model: Model,
    chose: bool,
    task: _Task,
    folder: ResultsFolder,
    cache: Path,
    progress: Progress,
) -> _Made:
    spec, parameters = ModelSpec.parse(model.name), task.parameters
    key = _key(model, task)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    name = f"{spec.slug}-{digest[:8]}"
    measured = {
        "cap_version": __version__,
        "parameters": {
            "partition": task.partition,
            "resamples": parameters.resamples,
            "seed": parameters.seed,
        },
    }
    standing = folder.standing(name)
    if standing is not None and measured.items() <= standing[0].items():
        return _Made(*standing, task, fresh=True)
    content = {"evaluation": name, "key": key, **measured, **_about(model, task, chose)}
    predictions = _predict(model, task, cache, progress)
    content |= measure(_answers(predictions, task), task.measured)
    return _Made(content, predictions, task, fresh=False)


def _about(model: Model, task: _Task, chose: bool) -> dict[str, Any]:
    """What was evaluated, with everything needed to do it again."""
    photos, choices = task.photos, task.choices
    description = model.description
    reference = None
    if choices.name == "confusing20" and photos.chosen_by is not None:
        chosen = photos.chosen_by["model"] or {}
        reference = {"run": photos.chosen_by["run"], "prompts": chosen.get("prompts")}
    return {
        "made_at": now().isoformat(),
        "release": {
            "name": photos.name,
            "digest": photos.digest,
            "photos": task.rows.num_rows,
            "chosen_by": None if photos.chosen_by is None else photos.chosen_by["run"],
        },
        "model": {
            "name": published_name(description),
            "digest": model.digest,
            **description,
        },
        "label_space": {
            "name": choices.name,
            "digest": choices.digest,
            "labels": len(choices.labels),
            "compete": list(choices.per_class),
            "reference": reference,
        },
        "chose_pairs": chose,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def _predict(model: Model, task: _Task, cache: Path, progress: Progress) -> pa.Table:
    """Rows of `predictions` for the photos of the task."""
    ids = task.rows["photo_id"].to_pylist()
    by_id = {photo.photo_id: photo for photo in task.photos.photos}
    photos = [
        (sha256, by_id[photo_id])
        for sha256, photo_id in zip(task.rows["sha256"].to_pylist(), ids, strict=True)
    ]
    batches = Batches(
        task.parameters.batch_size, task.parameters.workers, waits=task.photos.over_network
    )
    scores = cached_scores(model, photos, cache / "vectors", batches, progress)
    choices = task.choices
    classes = task.rows["class_index"].to_numpy().astype(np.int64)
    targets = choices.target_of(classes)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        allowed = choices.restrict(scores[part], classes[part])
        found = predictions_from(targets[part].tolist(), allowed, choices.labels)
        rows += [
            {
                "photo_id": photo_id,
                "status": "ok",
                "label_space": choices.labels.name,
                **answer,
            }
            for photo_id, answer in zip(ids[part], found, strict=True)
        ]
    schema = pa.schema([f for f in PREDICTIONS.schema if f.name not in PREDICTIONS.optional])
    return from_rows(rows, schema)


def _answers(predictions: pa.Table, task: _Task) -> Answers:
    order = pc.index_in(task.rows["photo_id"], predictions["photo_id"].combine_chunks())
    predicted = predictions["predicted_index"].take(order).to_numpy().astype(np.int64)
    return Answers.of(predicted, task.measured, task.choices)


def _comparisons(pairs: Sequence[tuple[_Made, _Made]]) -> Iterator[dict[str, Any]]:
    """Rows of `comparisons`."""
    answers: dict[str, Answers] = {}
    for pair in pairs:
        for made in pair:
            name = made.content["evaluation"]
            if name not in answers:
                answers[name] = _answers(made.predictions, made.task)
        first, second = (made.content for made in pair)
        about = {
            "evaluation": first["evaluation"],
            "other": second["evaluation"],
            "model": first["model"]["name"],
            "other_model": second["model"]["name"],
            **evaluated(first),
        }
        here = pair[0].task.measured
        for row in compare(answers[about["evaluation"]], answers[about["other"]], here):
            yield {**about, **row}
