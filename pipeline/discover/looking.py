"""What the model makes of each region, into `regions/<run>`, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy.special import softmax

from manifests.errors import CapError
from manifests.schema import REGIONS
from manifests.tables import from_rows, write_bytes
from manifests.workspace import Job
from pipeline.discover.regions import (
    Boxes,
    boxes_digest,
    boxes_from,
    grid_boxes,
    read_boxes,
    seen_boxes,
)
from pipeline.discover.scored import ScoredPhotos
from pipeline.engine import engine_for
from pipeline.photo_source import PhotoSource
from pipeline.runs import load_scorer, scorer

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Run, Workspace
    from pipeline.engine import Engine
    from pipeline.models import Model
    from pipeline.models.scoring import ScoredRegions
    from pipeline.parameters import DiscoverParameters

__all__ = ["look"]

_TEMPERATURES = {"cosine": 0.07, "logit": 1.0}
"""Of the softmax over labels; that of cosines is RaVL's."""


def look(
    workspace: Workspace,
    photos: ScoredPhotos,
    parameters: DiscoverParameters,
    progress: Progress,
) -> bool:
    """Let the run's model look at the regions of its photos; True if that was done before.

    Raises
    ------
    CapError
        If the model or the boxes cannot be had, or the model gives no embeddings.
    """
    receipt = scorer(workspace, photos.run)
    boxes, inputs = None, dict(photos.inputs)
    if parameters.boxes is not None:
        boxes = boxes_from(read_boxes(Path(parameters.boxes)), photos.rows)
        inputs["boxes"] = boxes_digest(boxes)
    job = Job(
        table=f"regions/{photos.run}",
        stage="discover",
        parameters={
            "grid": parameters.grid if boxes is None else None,
            "embed": parameters.embed,
            "precision": parameters.precision,
            **({"boxes": "as far as seen"} if boxes and parameters.embed == "pool" else {}),
        },
        inputs=inputs,
        model=receipt.model,
        packages=("torch", "open_clip_torch", "timm", "pillow", "numpy", "pyarrow"),
    )
    run = workspace.begin(job)
    if run.fresh:
        return True
    source = PhotoSource.of(workspace.photos, parameters.photos_at)
    with engine_for(parameters, progress, source.folder) as engine:
        # What `auto` meant when the run began, so that all its batches are of one precision.
        begun = run.folder / "precision"
        model = load_scorer(
            workspace,
            receipt,
            parameters.model,
            engine,
            device=parameters.device,
            precision=begun.read_text() if begun.exists() else parameters.precision,
        )
        write_bytes(begun, model.description["precision"].encode())
        if model.embedding_dim is None:
            msg = f"{model.name} gives no embeddings, so that its regions cannot be clustered"
            raise CapError(msg)
        rows = photos.rows.select(["photo_id", "width", "height"]).to_pylist()
        if boxes is None:
            boxes = grid_boxes(rows, model.frame, parameters.grid)
        elif parameters.embed == "pool":
            boxes = _seen(boxes, rows, model, progress)
        _score_batches(run, photos, boxes, _Looker(model, engine, source, parameters), progress)
    return False


def _seen(
    boxes: Boxes, photos: Sequence[Mapping[str, Any]], model: Model, progress: Progress
) -> Boxes:
    """The boxes as far as the model sees them, since features are pooled over nothing else.

    Raises
    ------
    CapError
        If it sees nothing of any.
    """
    found = seen_boxes(boxes, photos, model.frame)
    every, left = (sum(map(len, some.values())) for some in (boxes, found))
    if not left:
        msg = (
            f"{model.name} sees nothing of the {every} boxes, which lie outside of the middle "
            "that it crops of each photo; use --embed crop"
        )
        raise CapError(msg)
    if left < every:
        progress.note(
            f"discover: {every - left} of {every} boxes are left out, since they lie outside of "
            "what the model sees of their photos"
        )
    return found


@dataclass(frozen=True)
class _Looker:
    """What looks at regions, where, of which photos, and how."""

    model: Model
    engine: Engine
    source: PhotoSource
    parameters: DiscoverParameters


def _score_batches(
    run: Run, photos: ScoredPhotos, boxes: Boxes, looker: _Looker, progress: Progress
) -> None:
    from pipeline.models.scoring import RegionsRef, score_regions

    model, parameters = looker.model, looker.parameters
    source = looker.source
    told = ["photo_id", "path", "sha256", "width", "height", "predicted_index"]
    items = [row for row in photos.rows.select(told).to_pylist() if row["photo_id"] in boxes]
    refs = [
        RegionsRef(
            item["photo_id"],
            source.locate(item["path"], item["sha256"]),
            (item["width"], item["height"]),
            boxes[item["photo_id"]],
        )
        for item in run.pending(items, parameters.batch_size)
    ]
    # One pass over all that is left, so that the decoding workers start only once.
    results = itertools.chain.from_iterable(
        score_regions(
            model,
            refs,
            pooled=parameters.embed == "pool",
            batch_size=parameters.batch_size,
            engine=looker.engine,
            threads=source.threads,
        )
    )
    schema = _schema(int(model.embedding_dim or 0))
    temperature = _TEMPERATURES[model.score_kind]
    for index, batch in run.batches(items, parameters.batch_size, progress):
        rows: list[dict[str, Any]] = []
        for item, scored in zip(batch, itertools.islice(results, len(batch)), strict=True):
            rows += _rows(item, boxes[item["photo_id"]], scored, temperature)
        run.save(index, from_rows(rows, schema))
    run.commit(run.saved())


def _schema(dim: int) -> pa.Schema:
    vector = pa.list_(pa.float16(), dim)
    return pa.schema([f.with_type(vector) if f.name == "embedding" else f for f in REGIONS.schema])


def _rows(
    photo: Mapping[str, Any], boxes: tuple[Any, ...], scored: ScoredRegions, temperature: float
) -> list[dict[str, Any]]:
    if scored.scores is None or scored.embeddings is None:
        failed = {"photo_id": photo["photo_id"], "region": 0}
        return [{**failed, "status": "failed", "error": scored.error}]
    shares = softmax(scored.scores.astype(np.float64) / temperature, axis=1)
    return [
        {
            "photo_id": photo["photo_id"],
            "region": number,
            "status": "ok",
            **{side: int(edge) for side, edge in box._asdict().items()},
            "probability": share,
            "embedding": embedding.astype(np.float16),
        }
        for number, (box, share, embedding) in enumerate(
            zip(boxes, shares[:, photo["predicted_index"]], scored.embeddings, strict=True)
        )
    ]
