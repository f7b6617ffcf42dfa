"""Which scoring run a person means by a model's SPEC or a run's name, and the run's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manifests.errors import CapError

if TYPE_CHECKING:
    from manifests.workspace import Receipt, Workspace
    from pipeline.engine import Engine
    from pipeline.models import Model, ModelOptions

__all__ = ["check_discoveries", "load_scorer", "options_of", "run_for", "scorer", "spec_of"]


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


def spec_of(receipt: Receipt, named: str | None) -> str:
    """The SPEC of a run's model: the one that a person named, else that which the run was given."""
    run = receipt.table.removeprefix("predictions/")
    return str(receipt.parameters["model"]) if named is None or named == run else named


def options_of(
    workspace: Workspace, receipt: Receipt, *, device: str, precision: str
) -> ModelOptions:
    """How the model of a run is loaded: with the run's prompts."""
    from pipeline.models import ModelOptions

    return ModelOptions(
        device=device,
        precision=precision,
        prompts=receipt.parameters["prompts"],
        reduced="decoded_at_least" in (receipt.model or {}).get("preprocessing", {}),
        cache_dir=workspace.cache / "text",
    )


def load_scorer(
    workspace: Workspace,
    receipt: Receipt,
    named: str | None,
    engine: Engine,
    *,
    device: str,
    precision: str,
) -> Model:
    """The model of a run, over the label space and with the prompts of the run.

    Parameters
    ----------
    workspace
        Where the run lies.
    receipt
        The run's, as `scorer` gives it.
    named
        The SPEC, or the run's name, that a person gave, if any.
    engine
        What it is loaded for.
    device, precision
        As in `ModelOptions`.

    Raises
    ------
    CapError
        If it cannot be loaded, or is no longer what it was.
    """
    from pipeline.models import ModelSpec, load_for

    text = spec_of(receipt, named)
    options = options_of(workspace, receipt, device=device, precision=precision)
    model = load_for(engine, ModelSpec.parse(text), workspace.label_space, options)
    if model.digest != receipt.parameters["digest"]:
        run = receipt.table.removeprefix("predictions/")
        msg = f"{text} is no longer the model that made {run}; run `cap score --model {text}` again"
        raise CapError(msg)
    return model


def check_discoveries(workspace: Workspace, run: str) -> None:
    """See that what was discovered of a run is of the regions that there are now.

    Raises
    ------
    CapError
        If regions were made anew, and clustering them was not brought to its end.
    """
    if not workspace.follows(f"discoveries/{run}", f"regions/{run}"):
        msg = f"discoveries/{run} is of other regions than regions/{run}; run `cap discover`"
        raise CapError(msg)
