"""Stages that touch photos in one table: their rates, limits and peers, and how cost grows.

Runs the scripts beside this one, each of which measures a stage, its limit and its peers in turns
on this machine. What is compared from run to run are ratios, which are kept in `history.jsonl`: a
figure that is a tenth worse than the median of earlier runs is marked.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from manifests import __version__

HERE = Path(__file__).resolve().parent
HISTORY = HERE / "history.jsonl"
SLOWER = 0.9
"""A figure below this share of the median of earlier ones is marked."""


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes
    ----------
    stage
        What was measured.
    rate
        Photos per second.
    limit, limit_rate
        What it cannot be faster than, and that in photos per second.
    share
        What it reaches of the limit.
    beside
        How many times as fast as its peers it is.
    """

    stage: str
    rate: float
    limit: str
    limit_rate: float
    share: float
    beside: Mapping[str, float]

    @property
    def figures(self) -> dict[str, float]:
        """The ratios, by name."""
        found = {f"{self.stage}: of {self.limit}": self.share}
        return found | {f"{self.stage}: beside {name}": x for name, x in self.beside.items()}


def line(
    stage: str, rate: float, limit: str, limit_rate: float, peers: Mapping[str, float]
) -> Line:
    """A line from photos per second alone, those of the peers included."""
    beside = {name: rate / own for name, own in peers.items()}
    return Line(stage, rate, limit, limit_rate, rate / limit_rate, beside)


def script(name: str, *arguments: str) -> Any:
    """What a script measures, from its JSON."""
    click.echo(f"{name} …", err=True)
    command = [sys.executable, HERE / f"{name}.py", "--json", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def lines(*, short: bool) -> Iterator[Line]:
    """Every such stage; `short` takes a tenth of the photos."""
    few = ("--turns", "1") if short else ()
    fetched = script("download", *few)
    peers = {n: r for n, r in fetched["rates"].items() if n not in {"cap", "limit"}}
    yield line("collect", fetched["rates"]["cap"], "the server", fetched["rates"]["limit"], peers)
    hashed = script("hashing", *(("--copies", "2", "--rounds", "1") if short else ()))
    peers = {name: hashed[name] for name in ("imagededup", "imagehash")}
    yield line("dedup", hashed["cap"], "decoding alone", hashed["decode"], peers)
    scored = script("scoring", *((*few, "--photos", "160") if short else ()))
    for name, own in scored.items():
        # Medians of each turn's own ratios, which a change of the machine's speed leaves alone.
        peers = ("clip_benchmark", "clip_benchmark_float32")
        beside = {peer: own[f"cap / {peer}"] for peer in peers if peer in own}
        share = own["cap / forward"]
        yield Line(f"score {name}", own["cap"], "the forward pass", own["forward"], share, beside)
    some = ("--count", "1000", "--rounds", "1") if short else ()
    read = script("loading", "--links", "1000", *some)
    alone = read["photos"] / read["bytes_alone_seconds"]
    released = read["photos"] / read["release_seconds"]
    yield line("release", released, "writing the bytes", alone, {})
    loaded = read["one by one"]
    peers = {"datasets": loaded["datasets"]}
    yield line("load", loaded["cap"], "decoding alone", loaded["simplejpeg"], peers)
    engines = script(
        "scoring", "--ray", *((*few, "--photos", "128") if short else ("--photos", "320"))
    )
    for name, own in engines.items():
        for title, key in (("on Ray", "ray"), ("on Ray, started", "ray_further")):
            local = key.replace("ray", "local")
            share = own[f"{key} / {local}"]
            yield Line(f"score {name} {title}", own[key], "the local engine", own[local], share, {})


def growth(*, short: bool) -> dict[str, float]:
    """Seconds of 16 times the photos over 16 times the seconds, and memory likewise."""
    found = script("growth", *(("--photos", "100") if short else ()))["stages"]
    figures = {}
    for stage, steps in found.items():
        first, last = steps[0], steps[-1]
        figures[f"{stage}: growth of time"] = last["seconds"] / first["seconds"] / 16
        figures[f"{stage}: growth of memory"] = last["gigabytes"] / first["gigabytes"]
    return figures


def earlier(history: Path, cores: int) -> dict[str, list[float]]:
    """Figures of earlier runs on machines with as many cores."""
    found: dict[str, list[float]] = {}
    if not history.exists():
        return found
    for line in history.read_text("utf-8").splitlines():
        run = json.loads(line)
        if run["cores"] == cores and not run["short"]:
            for name, value in run["figures"].items():
                found.setdefault(name, []).append(value)
    return found


def table(measured: list[Line], figures: Mapping[str, float], past: dict[str, list[float]]) -> str:
    """Everything, as Markdown."""
    rows = ["| stage | photos/s | limit | of it | beside |", "|---|---|---|---|---|"]
    for one in measured:
        beside = ", ".join(f"{name} {times:.2f}" for name, times in one.beside.items())
        rows.append(
            f"| {one.stage} | {one.rate:,.1f} | {one.limit} {one.limit_rate:,.1f} "
            f"| {one.share:.3f} | {beside} |"
        )
    rows += ["", "| figure | now | median of earlier runs | |", "|---|---|---|---|"]
    for name, value in figures.items():
        before = statistics.median(past[name]) if name in past else None
        mark = ""
        if before is not None:
            # Growth is better the smaller it is, all other figures the larger.
            better = before / value if "growth" in name else value / before
            mark = "worse" if better < SLOWER else ""
        told = "" if before is None else f"{before:.3f}"
        rows.append(f"| {name} | {value:.3f} | {told} | {mark} |")
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--short", is_flag=True, help="A tenth of the work; not to be compared.")
@click.option(
    "--history",
    type=click.Path(path_type=Path, dir_okay=False),
    default=HISTORY,
    help="Where figures are kept.",
)
def main(history: Path, *, short: bool) -> None:
    """Measure all, print the table, and keep the figures."""
    cores = len(os.sched_getaffinity(0))
    past = earlier(history, cores)
    measured = list(lines(short=short))
    figures = growth(short=short)
    for one in measured:
        figures |= one.figures
    click.echo(table(measured, figures, past))
    run = {
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": __version__,
        "cores": cores,
        "load": round(os.getloadavg()[0], 1),
        "short": short,
        "figures": {name: round(value, 4) for name, value in figures.items()},
    }
    with history.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(run) + "\n")


if __name__ == "__main__":
    main()
