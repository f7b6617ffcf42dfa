"""Planted shortcuts: found by whom, and trained away by what, over many settings.

Tunes the baselines on settings of their own, runs every method on the others, and prints a table
of means with 95 % intervals from settings drawn anew, as Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from .discovery import BASELINES
from .mitigation import WEIGHTS
from .settings import VALID_GAP, Choices, Effort, run, settings, try_choices, tuning_settings
from .tables import discovery_table, invalid_table, mitigation_table
from .work import each

Row = dict[str, Any]


def _told(rows: Iterable[Row], count: int) -> list[Row]:
    found = []
    for number, row in enumerate(rows, start=1):
        click.echo(f"{number} of {count}: gap {row['gap']:.2f}", err=True)
        found.append(row)
    return found


def tuned(rows: list[Row]) -> dict[str, Choices]:
    """What is best on average over the valid settings of each world."""
    best = {}
    for world in dict.fromkeys(row["world"] for row in rows):
        valid = [row for row in rows if row["world"] == world and row["gap"] >= VALID_GAP]
        baselines = {
            name: grid[_best([row["precision"][name] for row in valid])]
            for name, (_, grid) in BASELINES.items()
        }
        worst = [row["worst"] for row in valid if row["worst"] is not None]
        best[world] = Choices(baselines, WEIGHTS[_best(worst)])
    return best


def _best(values: list[list[float]]) -> int:
    """The choice with the highest mean; the first where there is nothing to tell them apart."""
    return int(np.mean(values, axis=0).argmax()) if values else 0


@click.command(help=__doc__)
@click.option("--count", default=50, show_default=True, help="settings, half of each world")
@click.option("--workers", default=2, show_default=True, help="processes, with a thread each")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="also write every setting's row, as JSON",
)
def main(count: int, workers: int, out: Path | None) -> None:
    """Run it."""
    grids = {name: grid for name, (_, grid) in BASELINES.items()}
    effort, apart, every = Effort(), tuning_settings(), settings(count)
    tuning = each(partial(try_choices, grids=grids, effort=effort), apart, workers)
    choices = tuned(_told(tuning, len(apart)))
    rows = _told(each(partial(run, choices=choices, effort=effort), every, workers), count)
    if out is not None:
        told = {world: asdict(own) for world, own in choices.items()}
        out.write_text(json.dumps({"choices": told, "rows": rows}, indent=1) + "\n")
    for world, own in choices.items():
        print(f"Tuned on {world}: {json.dumps(asdict(own))}\n")
    for table in (discovery_table, mitigation_table, invalid_table):
        print(table(rows) + "\n")


if __name__ == "__main__":
    main()
