"""Planted shortcuts: found by whom, and trained away by what, over many settings.

Tunes the baselines on settings of their own, runs every method on the others, and prints a table
of means with 95 % intervals from settings drawn anew, as Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from .discovery import BASELINES
from .settings import VALID_GAP, Effort, discover, run, settings
from .tables import discovery_table, invalid_table, mitigation_table
from .work import each

Row = dict[str, Any]


def _told(rows: Iterable[Row], count: int) -> list[Row]:
    found = []
    for number, row in enumerate(rows, start=1):
        click.echo(f"{number} of {count}: gap {row['gap']:.2f}", err=True)
        found.append(row)
    return found


def tuned(rows: list[Row]) -> dict[str, dict[str, float]]:
    """What is best on average over valid settings, for each baseline."""
    valid = [row for row in rows if row["gap"] >= VALID_GAP]
    best = {}
    for name, (_, grid) in BASELINES.items():
        means = np.mean([row["precision"][name] for row in valid], axis=0)
        best[name] = grid[int(means.argmax())]
    return best


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
    effort, apart, every = Effort(), settings(0, tuning=True), settings(count)
    tuning = each(partial(discover, choices=grids, effort=effort), apart, workers)
    choices = tuned(_told(tuning, len(apart)))
    rows = _told(each(partial(run, choices=choices, effort=effort), every, workers), count)
    if out is not None:
        out.write_text(json.dumps({"choices": choices, "rows": rows}, indent=1) + "\n")
    print(
        "Tuned: " + "; ".join(f"{name} {json.dumps(own)}" for name, own in choices.items()) + "\n"
    )
    for table in (discovery_table, mitigation_table, invalid_table):
        print(table(rows) + "\n")


if __name__ == "__main__":
    main()
