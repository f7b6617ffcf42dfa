"""Mitigate: fine-tune a model so that it leans less on what `cap discover` found.

The stage reads the photos that a discovery looked at, their regions, and which of these are in the
clusters that are called spurious. It fine-tunes the image tower of the run's open_clip model with
RaVL's region-aware losses, or a baseline, and measures it after each epoch on photos kept apart. It
writes an ordinary checkpoint into `models/`, and its story into `mitigations/<name>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from manifests.errors import CapError
from manifests.kept import kept_photos
from manifests.workspace import Job, Outcome
from pipeline.runs import run_for, scorer, spec_of

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import MitigateParameters

__all__ = ["mitigate"]

_NO_MATTER = {"model", "discovery", "workers", "device"}
"""Parameters that do not decide what comes out, or that inputs stand for."""

_TABLES = ("regions", "discoveries", "predictions")


def mitigate(workspace: Workspace, parameters: MitigateParameters, progress: Progress) -> Outcome:
    """Fine-tune the model of a run on the photos that were looked at."""
    from pipeline.models import ModelSpec

    _check(parameters)
    name = run_for(workspace, parameters.model)
    receipt = scorer(workspace, name)
    if receipt.model is None or receipt.model["family"] != "open_clip":
        msg = f"{name} is of a model without captions; only open_clip's models can be fine-tuned"
        raise CapError(msg)
    clusters = _clusters(workspace, name, parameters.discovery)
    job = _job(workspace, name, clusters, receipt.model, parameters)
    file = workspace.root / "models" / f"{job.table.partition('/')[2]}.safetensors"
    if workspace.has(job.table) and not file.is_file():
        progress.note(f"mitigate: {file.name} is gone, so that the model is fine-tuned again")
        workspace.receipt_path(job.table).unlink(missing_ok=True)
        workspace.table_path(job.table).unlink()
    spec = ModelSpec.parse(spec_of(receipt, parameters.model))
    run = workspace.begin(job)
    if not run.fresh:
        from pipeline.mitigate.run import fine_tune

        run.commit(fine_tune(run, receipt, clusters, file, parameters, progress))
    return _outcome(workspace, job.table, str(replace(spec, weights=str(file))), fresh=run.fresh)


def _check(parameters: MitigateParameters) -> None:
    """Refuse what cannot be.

    Raises
    ------
    CapError
        The message names the option.
    """
    for name in ("interpolate", "loss_weight", "held_out"):
        if not 0 <= getattr(parameters, name) <= 1:
            option = f"--{name.replace('_', '-')}"
            msg = f"{option} is a fraction from 0 to 1, not {getattr(parameters, name)}"
            raise CapError(msg)
    for name in ("epochs", "batch_size", "learning_rate", "temperature"):
        if getattr(parameters, name) <= 0:
            option = f"--{name.replace('_', '-')}"
            msg = f"{option} is a number above 0, not {getattr(parameters, name)}"
            raise CapError(msg)


def _clusters(workspace: Workspace, run: str, asked: Sequence[str]) -> tuple[int, ...]:
    """The clusters that are called spurious.

    Raises
    ------
    CapError
        If there is no such cluster, or none is named and none was kept.
    """
    found = workspace.read(f"discoveries/{run}").select(["cluster", "rank"]).to_pylist()
    numbers = {str(row["cluster"]): row["cluster"] for row in found}
    if not asked:
        first = [row["cluster"] for row in found if row["rank"] == 1]
        if not first:
            msg = (
                f"`cap discover` has kept no cluster of {run}; name one of {len(found)} with "
                "--discovery if it is spurious nevertheless"
            )
            raise CapError(msg)
        return tuple(first)
    unknown = [text for text in asked if text not in numbers]
    if unknown:
        msg = (
            f"{run} has no cluster {unknown[0]!r}; its clusters are 0 to {len(found) - 1}, and "
            "`cap report` shows those that were kept"
        )
        raise CapError(msg)
    return tuple(sorted({numbers[text] for text in asked}))


def _job(
    workspace: Workspace,
    run: str,
    clusters: tuple[int, ...],
    model: Mapping[str, Any],
    parameters: MitigateParameters,
) -> Job:
    chosen = {
        **{name: value for name, value in asdict(parameters).items() if name not in _NO_MATTER},
        "run": run,
        "clusters": list(clusters),
    }
    inputs = {
        **kept_photos(workspace)[1],
        **{table: workspace.digest(f"{table}/{run}") for table in _TABLES},
    }
    if workspace.has("split"):
        inputs["split"] = workspace.digest("split")
    text = json.dumps([chosen, inputs, model["weights_sha256"]], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Job(
        table=f"mitigations/{parameters.method}-{digest}",
        stage="mitigate",
        parameters=chosen,
        inputs=inputs,
        seed=parameters.seed,
        model=model,
        packages=("torch", "open_clip_torch", "pillow", "numpy", "pyarrow"),
    )


def _outcome(workspace: Workspace, table: str, spec: str, *, fresh: bool) -> Outcome:
    rows = workspace.read(table).to_pylist()
    before, after = rows[0], rows[-1]
    text = (
        f"on {after['photos']} photos kept apart, accuracy {_change(before, after, 'accuracy')}, "
        f"in the worst group {_change(before, after, 'worst_accuracy')}; "
        f"score it with `cap score --model {spec}`"
    )
    measured = ("accuracy", "worst_accuracy", "worst_class", "worst_has", "worst_photos")
    facts = {
        "model": spec,
        "trained_on": after["trained_on"],
        "photos": after["photos"],
        "before": {name: before[name] for name in measured},
        "after": {name: after[name] for name in measured},
    }
    return Outcome("mitigate", text, facts, fresh)


def _change(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    told = [
        "unknown (all are small)" if row[name] is None else f"{row[name]:.1%}"
        for row in (before, after)
    ]
    return f"from {told[0]} to {told[1]}"
