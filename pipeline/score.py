"""Score: what one model says of each kept photo, into `predictions/<run>`.

The stage reads `photos` and, where dedup has run, leaves out duplicates. Photos are scored batch by
batch; a photo that cannot be read becomes a failed row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.kept import kept_photos
from manifests.schema import PREDICTIONS
from manifests.tables import from_rows, misnumbered
from manifests.vocabulary import LabelSpace, label_space
from manifests.workspace import Job, Outcome, Run
from pipeline.engine import engine_for
from pipeline.models.predictions import predictions_from
from pipeline.photo_source import PhotoSource

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.engine import Engine
    from pipeline.models import Model
    from pipeline.models.scoring import Scored
    from pipeline.parameters import ScoreParameters

__all__ = ["score"]


@dataclass(frozen=True)
class _Target:
    """How predictions become rows: the label space, and what is stored beside the target."""

    labels: LabelSpace
    knows_class: bool
    save_scores: bool
    save_embeddings: bool


@dataclass(frozen=True)
class _Scorer:
    """What scores, where, and what."""

    model: Model
    engine: Engine
    source: PhotoSource


def _rows(
    photos: Sequence[dict[str, Any]], scored: Sequence[Scored], target: _Target
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for photo, result in zip(photos, scored, strict=True):
        row = {"photo_id": photo["photo_id"], "label_space": target.labels.name}
        if result.scores is None:
            rows.append({**row, "status": "failed", "error": result.error})
            continue
        index = photo["class_index"] if target.knows_class else None
        (found,) = predictions_from([index], result.scores[None, :], target.labels)
        row |= {"status": "ok", **found}
        if target.save_scores:
            row["scores"] = result.scores
        if target.save_embeddings and result.embedding is not None:
            row["embedding"] = result.embedding.astype(np.float16)
        rows.append(row)
    return rows


def _schema(target: _Target, embedding_dim: int | None) -> pa.Schema:
    fields = [f for f in PREDICTIONS.schema if f.name not in PREDICTIONS.optional]
    if target.save_scores:
        fields.append(PREDICTIONS.schema.field("scores"))
    if target.save_embeddings and embedding_dim is not None:
        vector = pa.list_(pa.float16(), embedding_dim)
        fields.append(PREDICTIONS.schema.field("embedding").with_type(vector))
    return pa.schema(fields)


def score(workspace: Workspace, parameters: ScoreParameters, progress: Progress) -> Outcome:
    """Score the kept photos with one model over one label space."""
    from pipeline.models import ModelOptions, ModelSpec, load_for

    if parameters.model is None:
        msg = "scoring needs --model SPEC, such as open_clip:ViT-B-32-quickgelu:laion400m_e31"
        raise CapError(msg)
    spec = ModelSpec.parse(parameters.model)
    own = workspace.label_space
    named = parameters.label_space
    labels = own if named is None else label_space(named)
    photos, inputs = kept_photos(workspace)
    if not photos.num_rows:
        msg = "there is no photo to score; see `cap status --failures`"
        raise CapError(msg)
    if labels.digest == own.digest:
        _check_classes(workspace, photos)
    options = ModelOptions(
        device=parameters.device,
        precision=parameters.precision,
        prompts=parameters.prompts,
        cache_dir=workspace.cache / "text",
        reduced=parameters.decode == "reduced",
        compile=parameters.compile,
    )
    source = PhotoSource.of(workspace.photos, parameters.photos_at)
    with engine_for(parameters, progress, source.folder) as engine:
        model = load_for(engine, spec, labels, options)
        target = _Target(
            labels,
            knows_class=labels.digest == own.digest,
            save_scores=parameters.save_scores,
            save_embeddings=parameters.save_embeddings,
        )
        name = f"{spec.slug}-{model.digest[:8]}"
        job = _job(name, parameters, inputs, model, options.template(labels))
        run = workspace.begin(job)
        if not run.fresh:
            scorer = _Scorer(model, engine, source)
            _score_batches(run, photos, scorer, target, parameters, progress)
    return _outcome(workspace, name, fresh=run.fresh)


def _check_classes(workspace: Workspace, photos: pa.Table) -> None:
    """See that the classes of photos are numbered as the label space numbers them.

    Raises
    ------
    CapError
        If it was another when they were collected; one that has grown at its end is none.
    """
    labels = workspace.label_space
    known = photos.filter(pc.is_valid(photos["class_index"]))
    receipt = workspace.receipt("photos") if workspace.state("photos") == "fresh" else None
    # Whoever brought other rows may have used names of their own.
    sources = pa.array(list(receipt.sources) if receipt else [], pa.string())
    collected = pc.is_in(known["source"], sources)
    others = [
        *misnumbered(known.filter(collected), labels, exactly=True),
        *misnumbered(known.filter(pc.invert(collected)), labels, exactly=False),
    ]
    if others:
        index, name = others[0]
        msg = (
            f"the photos were collected over another label space: class {index} is called {name!r} "
            f"there, and not so in {labels.name}; run `cap collect` again"
        )
        raise CapError(msg)


def _job(
    name: str,
    parameters: ScoreParameters,
    inputs: dict[str, str],
    model: Model,
    template: str | None,
) -> Job:
    return Job(
        table=f"predictions/{name}",
        stage="score",
        parameters={
            "model": str(parameters.model),
            "digest": model.digest,
            "prompts": template,
            "precision": model.description["precision"],
            "save_scores": parameters.save_scores,
            "save_embeddings": parameters.save_embeddings,
        },
        inputs=inputs,
        model=model.description,
        packages=("torch", "open_clip_torch", "timm", "pillow", "numpy", "pyarrow"),
    )


def _score_batches(
    run: Run,
    photos: pa.Table,
    scorer: _Scorer,
    target: _Target,
    parameters: ScoreParameters,
    progress: Progress,
) -> None:
    from pipeline.models.cache import VectorCache, score_once
    from pipeline.models.scoring import StoredPhotos, score_photos

    unit = parameters.batch_size
    source = scorer.source
    refs = StoredPhotos(photos, source)
    every = range(len(refs))
    batches = [batch for _, batch in run.open_batches(every, unit)]
    # One pass over all that is left, so that the decoding workers start only once.
    score = partial(
        score_photos,
        scorer.model,
        batch_size=unit,
        engine=scorer.engine,
        threads=source.threads,
    )
    results: Iterator[list[Scored]]
    if scorer.model.head is None and parameters.save_embeddings:
        # The cache has a classifier's logits alone.
        wanted = refs.take(np.array(run.pending(every, unit), np.int64))
        stream = itertools.chain.from_iterable(score(wanted))
        results = (list(itertools.islice(stream, len(batch))) for batch in batches)
    else:
        cache = VectorCache(run.workspace.cache / "vectors", scorer.model)
        results = score_once(scorer.model, refs, batches, cache, score)
    schema = _schema(target, scorer.model.embedding_dim)
    told = photos.select(["photo_id", "class_index"])
    for index, batch in run.batches(every, unit, progress):
        own = told.slice(batch[0], len(batch)).to_pylist()
        run.save(index, from_rows(_rows(own, next(results), target), schema))
    run.commit(run.saved())


def _outcome(workspace: Workspace, name: str, *, fresh: bool) -> Outcome:
    table = workspace.read(f"predictions/{name}")
    failed = pc.sum(pc.equal(table["status"], "failed")).as_py()
    right, judged = pc.sum(table["correct"]).as_py(), pc.count(table["correct"]).as_py()
    accuracy = f"; {right / judged:.1%} of {judged} correct" if judged else ""
    hint = f", {failed} failed (`cap status --failures` says why)" if failed else ""
    text = f"{table.num_rows - failed} photos as {name}{accuracy}{hint}"
    facts = {"run": name, "ok": table.num_rows - failed, "failed": failed}
    if judged:
        facts["accuracy"] = right / judged
    return Outcome("score", text, facts, fresh)
