"""Stages that touch photos in one table: their rates, limits and peers, and how cost grows.

Runs the scripts beside this one, each of which measures a stage, its limit and its peers in turns
on this machine. Ratios and rates are kept in `history.jsonl`, and compared with earlier runs on
the same kind of processor: a ratio that is a tenth worse than their median is marked, while rates,
which vary with whatever else the machine does, are told beside theirs.
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
HEAVIER = 1.0
"""Kilobytes of memory for each further photo, beyond that median, that are marked."""
_TIME, _MEMORY = "growth of time", "growth of memory, kB a photo"


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


def collected(*, short: bool) -> Iterator[Line]:
    """Photos fetched from a local server, which gives so many a second."""
    rates = script("download", *(("--turns", "1") if short else ()))["rates"]
    peers = {name: rate for name, rate in rates.items() if name not in {"cap", "limit"}}
    yield line("collect", rates["cap"], "the server", rates["limit"], peers)


def hashed(*, short: bool) -> Iterator[Line]:
    """Photos hashed."""
    rates = script("hashing", *(("--copies", "2", "--rounds", "1") if short else ()))
    peers = {name: rates[name] for name in ("imagededup", "imagehash")}
    yield line("dedup", rates["cap"], "decoding alone", rates["decode"], peers)


def scored(*, short: bool) -> Iterator[Line]:
    """Photos scored on this machine's CPU."""
    peers = ("clip_benchmark", "clip_benchmark_float32")
    few = ("--turns", "1", "--photos", "160") if short else ()
    for name, own in script("scoring", *few).items():
        # Medians of each turn's own ratios, which a change of the machine's speed leaves alone.
        beside = {peer: own[f"cap / {peer}"] for peer in peers if peer in own}
        share = own["cap / forward"]
        yield Line(f"score {name}", own["cap"], "the forward pass", own["forward"], share, beside)


def released(*, short: bool) -> Iterator[Line]:
    """Photos written into a release, and read from it."""
    some = ("--count", "1000", "--rounds", "1") if short else ()
    read = script("loading", "--links", "1000", *some)
    alone = read["photos"] / read["bytes_alone_seconds"]
    rate = read["photos"] / read["release_seconds"]
    yield line("release", rate, "writing the bytes", alone, {})
    own = read["one by one"]
    peers = {"datasets": own["datasets"]}
    yield line("load", own["cap"], "decoding alone", own["simplejpeg"], peers)


def engines(*, short: bool) -> Iterator[Line]:
    """Photos scored by a Ray cluster on this machine."""
    few = ("--turns", "1", "--photos", "128") if short else ("--photos", "320")
    for name, own in script("scoring", "--ray", *few).items():
        for title, ray in (("on Ray", "ray"), ("on Ray, started", "ray_further")):
            local = ray.replace("ray", "local")
            share = own[f"{ray} / {local}"]
            yield Line(f"score {name} {title}", own[ray], "the local engine", own[local], share, {})


PARTS = {
    "collect": collected,
    "dedup": hashed,
    "score": scored,
    "release": released,
    "ray": engines,
}


def growth(*, short: bool) -> dict[str, float]:
    """How the cost of a further photo grows, and its kilobytes."""
    found = script("growth", *(("--photos", "100") if short else ()))["growth"]
    return {
        f"{stage}: {title}": own[name]
        for stage, own in found.items()
        for title, name in ((_TIME, "time"), (_MEMORY, "kilobytes"))
    }


def machine() -> str:
    """What this machine computes on."""
    info = Path("/proc/cpuinfo").read_text("utf-8")
    name = next((row for row in info.splitlines() if row.startswith("model name")), "unknown")
    return f"{len(os.sched_getaffinity(0))} cores, {name.partition(':')[2].strip() or name}"


def earlier(history: Path, on: str) -> dict[str, list[float]]:
    """Figures and rates of earlier runs on such machines."""
    found: dict[str, list[float]] = {}
    if not history.exists():
        return found
    for text in history.read_text("utf-8").splitlines():
        run = json.loads(text)
        if run["machine"] == on and not run["short"]:
            for name, value in (run["figures"] | run["rates"]).items():
                found.setdefault(name, []).append(value)
    return found


def is_worse(name: str, value: float, before: float) -> bool:
    """Whether a figure is worse than before: growth is better the smaller, others the larger."""
    if name.endswith(_MEMORY):
        return value > before + HEAVIER
    return value > before / SLOWER if name.endswith(_TIME) else value < before * SLOWER


def table(measured: list[Line], figures: Mapping[str, float], past: dict[str, list[float]]) -> str:
    """Everything, as Markdown."""
    medians = {name: statistics.median(values) for name, values in past.items()}
    rows = []
    if measured:
        rows += ["| stage | photos/s | earlier | limit | of it | times its peer |"]
        rows += ["|---|---|---|---|---|---|"]
    for one in measured:
        beside = ", ".join(f"{name} {times:.2f}" for name, times in one.beside.items())
        before = f"{medians[one.stage]:,.1f}" if one.stage in medians else ""
        rows.append(
            f"| {one.stage} | {one.rate:,.1f} | {before} | {one.limit} {one.limit_rate:,.1f} "
            f"| {one.share:.3f} | {beside} |"
        )
    rows += ["", "| figure | now | earlier | |", "|---|---|---|---|"]
    for name, value in figures.items():
        told = f"{medians[name]:.3f}" if name in medians else ""
        mark = "worse" if name in medians and is_worse(name, value, medians[name]) else ""
        rows.append(f"| {name} | {value:.3f} | {told} | {mark} |")
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option(
    "--part",
    "parts",
    type=click.Choice([*PARTS, "growth"]),
    multiple=True,
    default=[*PARTS, "growth"],
    help="Measure only this; may be given several times.",
)
@click.option("--short", is_flag=True, help="A tenth of the work; not to be compared.")
@click.option(
    "--history",
    type=click.Path(path_type=Path, dir_okay=False),
    default=HISTORY,
    help="Where figures are kept.",
)
def main(parts: tuple[str, ...], history: Path, *, short: bool) -> None:
    """Measure all, print the table, and keep the figures, also where a script failed."""
    past = earlier(history, machine())
    measured: list[Line] = []
    figures: dict[str, float] = {}
    failed: list[str] = []
    for part in parts:
        try:
            if part == "growth":
                figures |= growth(short=short)
            else:
                measured += PARTS[part](short=short)
        except subprocess.CalledProcessError:
            failed.append(part)
    for one in measured:
        figures |= one.figures
    click.echo(table(measured, figures, past))
    run = {
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": __version__,
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "short": short,
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "rates": {one.stage: round(one.rate, 1) for one in measured},
    }
    with history.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(run) + "\n")
    if failed:
        msg = f"not measured, since a script failed: {', '.join(failed)}"
        raise click.ClickException(msg)


if __name__ == "__main__":
    main()
