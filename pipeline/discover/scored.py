"""The photos whose predictions are to be explained, and the model that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.kept import kept_photos

if TYPE_CHECKING:
    from manifests.workspace import Receipt, Workspace
    from pipeline.models import Model
    from pipeline.parameters import DiscoverParameters

__all__ = ["ScoredPhotos", "load_scorer", "scored_photos", "scorer"]


@dataclass(frozen=True)
class ScoredPhotos:
    """Kept photos of known class that a run has scored.

    Attributes
    ----------
    run
        Name of the run.
    rows
        Rows of `photos` with `predicted_index` and `correct` of the run, by photo_id.
    inputs
        Digests of the tables that they come from.
    """

    run: str
    rows: pa.Table
    inputs: Mapping[str, str]


def scored_photos(workspace: Workspace, run: str) -> ScoredPhotos:
    """The photos that a run has scored.

    Raises
    ------
    CapError
        If there is none whose class the run could have named.
    """
    photos, inputs = kept_photos(workspace)
    table = f"predictions/{run}"
    said = workspace.read(table)
    judged = said.filter(pc.is_valid(said["correct"]))
    at = pc.index_in(photos["photo_id"], judged["photo_id"].combine_chunks())
    rows = photos.filter(at.is_valid())
    if not rows.num_rows:
        msg = f"{run} has scored no kept photo whose class is among its labels"
        raise CapError(msg)
    for name in ("predicted_index", "correct"):
        rows = rows.append_column(name, judged[name].take(at.drop_null()))
    return ScoredPhotos(run, rows, {**inputs, "predictions": workspace.digest(table)})


def scorer(workspace: Workspace, run: str) -> Receipt:
    """The receipt of a run, which says what model it was.

    Raises
    ------
    CapError
        If it has none.
    """
    receipt = workspace.receipt(f"predictions/{run}")
    if receipt is None or receipt.model is None:
        msg = (
            f"predictions/{run} was put there by other means, so that its model is not known; "
            "score the photos with `cap score --model SPEC`"
        )
        raise CapError(msg)
    return receipt


def load_scorer(workspace: Workspace, receipt: Receipt, parameters: DiscoverParameters) -> Model:
    """The model of a run, over the label space and with the prompts of the run.

    Raises
    ------
    CapError
        If it cannot be loaded, or is no longer what it was.
    """
    from pipeline.models import ModelOptions, ModelSpec, load_model

    run = receipt.table.removeprefix("predictions/")
    named = parameters.model
    # A run's name is no SPEC; the SPEC that it was given is in its receipt.
    text = str(receipt.parameters["model"]) if named is None or named == run else named
    options = ModelOptions(
        device=parameters.device,
        precision=parameters.precision,
        prompts=receipt.parameters["prompts"],
        cache_dir=workspace.cache / "text",
    )
    model = load_model(ModelSpec.parse(text), workspace.label_space, options)
    if model.digest != receipt.parameters["digest"]:
        msg = f"{text} is no longer the model that made {run}; run `cap score --model {text}` again"
        raise CapError(msg)
    return model
