"""The results of one command, as lines for people and facts for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.robustness import effective_robustness
from manifests.schema import RESULTS
from manifests.tables import from_rows
from pipeline.evaluate.results import tidy

__all__ = ["summary"]

_SAME, _OTHER = "error_same_family", "error_other_family"


def summary(
    evaluations: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]], folder: Path
) -> tuple[str, dict[str, Any]]:
    """Text and facts.

    Parameters
    ----------
    evaluations
        Contents of the evaluations' files.
    comparisons
        Rows of `comparisons` between them.
    folder
        Where the results lie.
    """
    first = evaluations[0]
    models = len({e["model"]["digest"] for e in evaluations})
    space = first["label_space"]
    fewest, most = space["compete"]
    compete = f"1 of {most}" if fewest == most else f"1 of {fewest} to {most}"
    head = (
        f"{models} {'model' if models == 1 else 'models'} on {first['release']['photos']} photos "
        f"of {first['release']['name']}, {space['name']} ({compete}); results in {folder}"
    )
    distances = _distances(evaluations)
    lines = [
        line
        for evaluation in evaluations
        for line in _lines(evaluation, distances.get(evaluation["evaluation"]))
    ]
    lines += [_against(row) for row in comparisons if _is_headline(row)]
    facts = {
        "results": str(folder),
        "evaluations": [
            {
                "evaluation": e["evaluation"],
                "model": e["model"]["name"],
                "label_space": e["label_space"]["name"],
                "partition": e["parameters"]["partition"],
                "chose_pairs": e["chose_pairs"],
                "measures": e["measures"],
                "effective_robustness": distances.get(e["evaluation"]),
            }
            for e in evaluations
        ],
        "comparisons": list(comparisons),
    }
    return "\n".join([head, *(f"  {line}" for line in lines)]), facts


def _distances(evaluations: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How far each model lies from the paper's line through ImageNet models, where it has one."""
    found = {}
    for evaluation in evaluations:
        results = from_rows(tidy(evaluation), RESULTS.schema)
        space = evaluation["label_space"]["name"]
        for point in effective_robustness(results, label_space=space).points.to_pylist():
            if point["source"] == "results" and point["distance"] is not None:
                found[evaluation["evaluation"]] = point["distance"]
    return found


def _interval(numbers: dict[str, Any]) -> str:
    return f"[{100 * numbers['ci_low']:z.1f}, {100 * numbers['ci_high']:z.1f}]"


def _lines(evaluation: dict[str, Any], distance: float | None) -> list[str]:
    measures = evaluation["measures"]
    accuracy = measures["accuracy"]
    partition = evaluation["parameters"]["partition"]
    where = "" if partition == "all" else f" ({partition} photos)"
    groups = [
        f"{group} {100 * accuracy[group]['value']:.1f} % {_interval(accuracy[group])}"
        for group in ("common", "counter")
        if group in accuracy
    ]
    lines = [f"{evaluation['model']['name']}{where}: {', '.join(groups)}"]
    if "drop" in accuracy:
        drop = accuracy["drop"]
        lines[0] += f", drop {100 * drop['value']:z.1f} points {_interval(drop)}"
    if _SAME in measures and "drop" in measures[_SAME]:
        same, other = (100 * measures[name]["drop"]["value"] for name in (_SAME, _OTHER))
        errors = [100 * measures[_SAME][g]["value"] for g in ("common", "counter")]
        everything = [100 * (1 - accuracy[g]["value"]) for g in ("common", "counter")]
        lines.append(
            f"  of the drop, {same:z.1f} points are confusions within the family and {other:z.1f} "
            f"are not (errors: {errors[0]:.1f} of {everything[0]:.1f} % in common, "
            f"{errors[1]:.1f} of {everything[1]:.1f} % in counter within the family)"
        )
    if distance is not None:
        where = "above" if distance > 0 else "below"
        lines.append(
            f"  counter accuracy {abs(100 * distance):.1f} points {where} the paper's line through "
            "ImageNet models (on CounterAnimal's photos)"
        )
    return lines


def _is_headline(row: dict[str, Any]) -> bool:
    return bool(row["measure"] == "accuracy" and row["group"] == "drop")


def _against(row: dict[str, Any]) -> str:
    return (
        f"drop of {row['model']} minus that of {row['other_model']}: "
        f"{100 * row['difference']:z.1f} points {_interval(row)}"
    )
