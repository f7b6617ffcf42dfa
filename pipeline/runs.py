"""Which scoring run a person means by a model's SPEC or a run's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manifests.errors import CapError

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = ["run_for"]


def run_for(workspace: Workspace, model: str | None) -> str:
    """Name of the scoring run that a SPEC or a run's own name means.

    Runs over backgrounds, which are suggestions for annotators, are meant by their names only.

    Raises
    ------
    CapError
        If no classes were scored, or the SPEC fits no run or several.
    """
    from pipeline.models import ModelSpec

    if model is not None and model in workspace.runs():
        return model
    runs = tuple(run for run in workspace.runs() if not _suggests(workspace, run))
    if not runs:
        msg = "no predictions of classes yet; run `cap score --model SPEC` first"
        raise CapError(msg)
    if model is None:
        fitting = runs
    else:
        slug = ModelSpec.parse(model).slug
        fitting = tuple(run for run in runs if run.rpartition("-")[0] == slug)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        msg = f"{len(fitting)} runs fit; name one with --model: {', '.join(fitting)}"
    else:
        msg = f"{model} has not been scored; run `cap score --model {model}`, or name one of: "
        msg += ", ".join(runs)
    raise CapError(msg)


def _suggests(workspace: Workspace, run: str) -> bool:
    receipt = workspace.receipt(f"predictions/{run}")
    return bool(receipt and receipt.model and receipt.model["label_space"] == "backgrounds")
