"""The paper's three companion experiments, on data that is made here.

Runs them, writes a plot of each, and prints Markdown tables: means and 95 % intervals over seeds.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from . import colored_backgrounds, colored_digits, theorem

EXPERIMENTS = ("theorem", "digits", "backgrounds")


def report(name: str, seeds: range, out: Path) -> list[str]:
    """Run one experiment, write its plot and return its tables."""
    file = out / f"companion-{name}.png"
    if name == "theorem":
        found = theorem.run(seeds)
        theorem.plot(found, file)
        return [theorem.table(found), theorem.thresholds()]
    if name == "digits":
        found = colored_digits.run(seeds)
        colored_digits.plot(found, file)
        return [
            colored_digits.table(found),
            colored_digits.differences(found),
            colored_digits.by_rate(found),
        ]
    found = colored_backgrounds.run(seeds)
    colored_backgrounds.plot(found, file)
    return [colored_backgrounds.table(found), colored_backgrounds.rates(found)]


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(EXPERIMENTS), help="one of the three")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/companions"),
    show_default=True,
    help="folder for the plots",
)
def main(only: str | None, seeds: int, out: Path) -> None:
    """Print the tables."""
    import matplotlib as mpl
    import torch

    mpl.use("Agg")
    # The models are so small that more threads make them slower.
    torch.set_num_threads(1)
    for name in EXPERIMENTS if only is None else (only,):
        started = time.perf_counter()
        tables = report(name, range(seeds), out)
        click.echo(f"## {name}, {seeds} seeds, {time.perf_counter() - started:.0f} s\n")
        click.echo("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
