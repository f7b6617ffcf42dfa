"""The fine-tuning of one checkpoint, epoch by epoch, so that a stopped one goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from manifests.errors import CapError
from manifests.kept import kept_photos
from manifests.schema import MITIGATIONS
from manifests.tables import from_rows, observers, replacing
from pipeline.engine import LocalEngine
from pipeline.mitigate.losses import Choices
from pipeline.mitigate.photos import (
    LabelledPhoto,
    batches,
    by_the_same_observers,
    epoch_order,
    kept_apart,
    labelled,
)
from pipeline.mitigate.training import Losses, Settings, Trainer, interpolated
from pipeline.models import ModelSpec, load_model
from pipeline.models.network import write_checkpoint
from pipeline.models.open_clip_family import OpenClipModel
from pipeline.models.scoring import NOT_A_NUMBER, score_photos
from pipeline.photo_source import PhotoSource
from pipeline.runs import check_discoveries, load_scorer, options_of, spec_of

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Receipt, Run, Workspace
    from pipeline.models import Model
    from pipeline.parameters import MitigateParameters

__all__ = ["fine_tune"]

_SMALLEST_GROUP = 10
"""Photos that a group needs for its accuracy to count."""

_STATE = "state.pt"

Row = dict[str, Any]


def fine_tune(
    run: Run,
    receipt: Receipt,
    clusters: Sequence[int],
    file: Path,
    parameters: MitigateParameters,
    progress: Progress,
) -> pa.Table:
    """Fine-tune a model, write its checkpoint, and tell of each epoch; rows of `mitigations`.

    Raises
    ------
    CapError
        If the model cannot be loaded, or there are no photos to learn from or to measure on.
    """
    workspace = run.workspace
    name = receipt.table.removeprefix("predictions/")
    model = load_scorer(
        workspace,
        receipt,
        parameters.model,
        LocalEngine(parameters.workers),
        device=parameters.device,
        precision=parameters.precision,
    )
    if not isinstance(model, OpenClipModel):
        msg = f"{name} is no model of open_clip"
        raise CapError(msg)
    learn, measure = _photos(workspace, name, clusters, parameters, progress)
    original = {key: value.clone() for key, value in model.network.state_dict().items()}
    steps, size = _steps(len(learn), parameters.batch_size)
    settings = _settings(model, parameters, steps * parameters.epochs)
    medoids = torch.tensor(workspace.read(f"discoveries/{name}")["embedding"].to_pylist())
    trainer = Trainer(
        model.network,
        torch.from_numpy(model.head),
        settings,
        max(photo.group for photo in (*learn, *measure)) + 1,
        medoids=(medoids, clusters),
    )
    story = _Story(run.folder / _STATE, len(learn), measure)
    done = story.restore(trainer)
    if done < 0:
        story.tell(0, model, None, parameters)
        story.save(trainer)
        done = 0
    way = _embedded(workspace, name) if settings.uses_regions else None
    order = [
        photo
        for epoch in range(done + 1, parameters.epochs + 1)
        for photo in _epoch(learn, epoch, parameters)[: steps * size]
    ]
    told: list[Losses] = []
    unreadable: set[str] = set()
    with progress.task("mitigate", parameters.epochs * steps, done * steps) as advance:
        every = batches(model, order, batch_size=size, regions=way, workers=parameters.workers)
        for number, (batch, wrong) in enumerate(every, start=1):
            unreadable.update(wrong)
            if batch is not None:
                told.append(trainer.step(batch))
            advance(1)
            if number % steps == 0:
                story.tell(done + number // steps, model, told, parameters)
                story.save(trainer)
                told = []
    for problem in sorted(unreadable):
        progress.note(f"not learned from: {problem}")
    _write(model, original, parameters.interpolate, file)
    story.finish(_load(workspace, receipt, file, parameters), parameters)
    return from_rows(story.rows, MITIGATIONS.schema)


def _steps(photos: int, most: int) -> tuple[int, int]:
    """Steps of an epoch, and photos of each, which are `most` at most.

    They are of one size, since losses compare the photos of a batch, so that an epoch leaves out
    fewer photos than it has steps, and others each time.
    """
    steps = math.ceil(photos / most)
    return steps, photos // steps


def _epoch(
    photos: Sequence[LabelledPhoto], number: int, parameters: MitigateParameters
) -> list[LabelledPhoto]:
    balanced = parameters.method == "upsample"
    return epoch_order(photos, number, parameters.seed, balanced=balanced)


def _photos(
    workspace: Workspace,
    name: str,
    clusters: Sequence[int],
    parameters: MitigateParameters,
    progress: Progress,
) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """Photos to learn from, and those to measure on."""
    check_discoveries(workspace, name)
    found = workspace.read(f"discoveries/{name}")
    chosen = found.filter(pc.is_in(found["cluster"], pa.array(list(clusters), pa.int32())))
    bad = {
        (member["photo_id"], member["region"])
        for members in chosen["members"].to_pylist()
        for member in members
    }
    photos = workspace.read("photos")
    regions = workspace.read(f"regions/{name}")
    kept, _ = kept_photos(workspace)
    there = pc.is_in(regions["photo_id"], kept["photo_id"].combine_chunks())
    gone = pc.count_distinct(regions.filter(pc.invert(there))["photo_id"]).as_py()
    if gone:
        progress.note(
            f"mitigate: {gone} photos whose regions were looked at are left out, since they are "
            "no longer stored, or repeat others; `cap discover` looks again"
        )
    every = labelled(kept, regions, bad, PhotoSource.of(workspace.photos, None))
    split = workspace.read("split") if workspace.has("split") else None
    apart = kept_apart(photos, split, parameters.held_out, parameters.seed)
    unseen = by_the_same_observers(photos, apart)
    learn = [photo for photo in every if photo.photo_id not in unseen]
    measure = [photo for photo in every if photo.photo_id in apart]
    if not learn or not measure:
        what = "learn from" if not learn else "measure on"
        msg = f"there is no photo left to {what}; {_why_none(photos, every, split, apart)}"
        raise CapError(msg)
    return learn, measure


def _why_none(
    photos: pa.Table, every: Sequence[LabelledPhoto], split: pa.Table | None, apart: set[str]
) -> str:
    """Why no photo is left to learn from, or to measure on, and what helps."""
    looked = {photo.photo_id for photo in every}
    if split is not None and "test" in split["partition"].to_pylist():
        if not looked & apart:
            return (
                "`cap discover` has looked at none of the split's test photos; run `cap score` and "
                "`cap discover` again"
            )
        return (
            "whoever took those that were looked at has taken test photos of the split too; "
            "collect photos of other observers"
        )
    own = pc.is_in(photos["photo_id"], pa.array(sorted(looked), pa.string()))
    who = observers(photos.filter(own))
    if pc.count_distinct(who).as_py() == 1:
        return "one observer has taken all that were looked at; collect photos of others"
    return "choose another --held-out"


def _settings(model: OpenClipModel, parameters: MitigateParameters, steps: int) -> Settings:
    return Settings(
        method=parameters.method,
        contrast=parameters.contrast,
        weight=parameters.loss_weight,
        choices=Choices(
            parameters.temperature,
            parameters.candidates,
            parameters.reduction,
            parameters.all_spurious,
            parameters.spurious_gradient,
        ),
        assign=parameters.assign,
        learning_rate=parameters.learning_rate,
        weight_decay=parameters.weight_decay,
        steps=steps,
        device=str(model.description["device"]),
        precision=str(model.description["precision"]),
    )


def _embedded(workspace: Workspace, name: str) -> str:
    """How the model looked at regions: `crop` or `pool`."""
    receipt = workspace.receipt(f"regions/{name}")
    return "crop" if receipt is None else str(receipt.parameters["embed"])


class _Story:
    """The rows of an attempt, kept with the state of the training after each epoch."""

    def __init__(self, file: Path, trained_on: int, measure: Sequence[LabelledPhoto]) -> None:
        self._file = file
        self._trained_on = trained_on
        self._measure = measure
        self.rows: list[Row] = []

    def restore(self, trainer: Trainer) -> int:
        """Go on from an earlier attempt; gives the epochs that are done, or -1 without one."""
        if not self._file.is_file():
            return -1
        # An attempt may go on on another device than it was begun on.
        kept = torch.load(self._file, map_location="cpu", weights_only=True)
        trainer.restore(kept["trainer"])
        self.rows = kept["rows"]
        return len(self.rows) - 1

    def save(self, trainer: Trainer) -> None:
        """Keep the state for a later attempt."""
        with replacing(self._file) as temporary:
            torch.save({"trainer": trainer.state(), "rows": self.rows}, temporary)

    def tell(
        self,
        epoch: int,
        model: Model,
        losses: Sequence[Losses] | None,
        parameters: MitigateParameters,
    ) -> None:
        """Add the row of an epoch."""
        told = {}
        if losses:
            told = {
                name: float(np.mean([getattr(step, field) for step in losses]))
                for name, field in {"loss": "total", **{n: n for n in _PARTS}}.items()
            }
        row = {"epoch": epoch, "trained_on": self._trained_on, **told}
        self.rows.append({**row, **_measured(model, self._measure, parameters)})

    def finish(self, saved: Model, parameters: MitigateParameters) -> None:
        """See to it that the last row is of the checkpoint that was written."""
        if parameters.interpolate == 1:
            self.rows[-1] |= _measured(saved, self._measure, parameters)
        else:
            self.tell(len(self.rows), saved, None, parameters)


_PARTS = tuple(name for name in asdict(Losses(0, 0)) if name != "total")


def _measured(model: Model, photos: Sequence[LabelledPhoto], parameters: MitigateParameters) -> Row:
    """Accuracy on photos, and that of the group where it is lowest."""
    right: list[bool] = []
    seen: list[LabelledPhoto] = []
    errors: list[str] = []
    results = score_photos(
        model, photos, batch_size=parameters.batch_size, engine=LocalEngine(parameters.workers)
    )
    by_id = {photo.photo_id: photo for photo in photos}
    for batch in results:
        for scored in batch:
            if scored.scores is not None:
                photo = by_id[scored.photo_id]
                seen.append(photo)
                right.append(int(scored.scores.argmax()) == photo.label)
            else:
                errors.append(f"{scored.photo_id}: {scored.error}")
    if not seen:
        if all(error.endswith(NOT_A_NUMBER) for error in errors):
            msg = (
                f"the model gives no numbers for any of {len(errors)} photos kept apart; if it "
                "did so before, try a smaller --learning-rate"
            )
            raise CapError(msg)
        msg = (
            f"none of {len(errors)} photos kept apart could be read, such as {errors[0]}; bring "
            "them back into the workspace's photos, or collect and score others"
        )
        raise CapError(msg)
    row: Row = {"photos": len(seen), "accuracy": float(np.mean(right))}
    groups = np.array([photo.group for photo in seen])
    correct = np.array(right)
    counts = np.bincount(groups)
    large = np.flatnonzero(counts >= _SMALLEST_GROUP)
    if len(large):
        worst = min(large.tolist(), key=lambda group: float(correct[groups == group].mean()))
        photo = seen[int(np.argmax(groups == worst))]
        row |= {
            "worst_accuracy": float(correct[groups == worst].mean()),
            "worst_class": photo.class_name,
            "worst_has": any(photo.spurious),
            "worst_photos": int(counts[worst]),
        }
    return row


def _write(
    model: OpenClipModel, original: dict[str, torch.Tensor], share: float, file: Path
) -> None:
    tensors = interpolated(original, model.network.state_dict(), share)
    write_checkpoint(file, tensors, model.metadata)


def _load(
    workspace: Workspace, receipt: Receipt, file: Path, parameters: MitigateParameters
) -> Model:
    """The checkpoint that was written, as `cap score` would load it."""
    spec = ModelSpec.parse(spec_of(receipt, parameters.model))
    options = options_of(
        workspace, receipt, device=parameters.device, precision=parameters.precision
    )
    return load_model(
        ModelSpec(spec.family, spec.architecture, str(file)), workspace.label_space, options
    )
