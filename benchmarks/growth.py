"""How the cost of stages grows: each of them on 1, 4 and 16 times the photos.

The photos are the shared ones over and over, each time with a comment of its own, so that every
file has other bytes. Each stage is the `cap` command, in a fresh workspace and process; its seconds
and its largest memory are told. The model is tiny: what grows is the work around it. Growth of time
is what a further photo costs between 4 and 16 times the photos over what it costs between 1 and 4,
so that the time of starting counts on neither side: 1 is in proportion. Kilobytes are the memory
for each further photo between 4 and 16 times as many.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos"
STEPS = (1, 4, 16)
_COMMENT = b"\xff\xfe"
"""The marker of a JPEG's comment, which may stand right after the file's first two bytes."""

TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "patch_size": 8,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_photos(folder: Path, count: int) -> None:
    """So many JPEGs, below a folder for each class."""
    files = sorted(PHOTOS.rglob("*.jpg"))
    for number in range(count):
        file = files[number % len(files)]
        data = file.read_bytes()
        text = f"{number}".encode()
        comment = _COMMENT + (len(text) + 2).to_bytes(2) + text
        target = folder / file.parent.name / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data[:2] + comment + data[2:])


def write_model(folder: Path) -> str:
    """A tiny CLIP with random weights; its SPEC."""
    import open_clip
    from safetensors.torch import save_file

    (folder / "tiny.json").write_text(json.dumps(TINY))
    tensors = open_clip.CLIP(**TINY).state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "tiny.safetensors")
    return f"open_clip:{folder / 'tiny.json'}:{folder / 'tiny.safetensors'}"


def run(workspace: Path, *arguments: str) -> dict[str, float]:
    """Seconds and largest gigabytes of a command."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "--workspace", workspace, *arguments],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return {"seconds": time.perf_counter() - begun, "gigabytes": _gigabytes(usage)}


def _gigabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 1024**2


def measure(count: int) -> dict[str, list[dict[str, float]]]:
    """Each stage at each step, of which the first has `count` photos."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: what this one holds counts as the most that a command had, which
        # begins as a copy of it.
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            spec = apart.submit(write_model, folder).result()
        for step in STEPS:
            photos, workspace = folder / f"photos-{step}", folder / f"workspace-{step}"
            write_photos(photos, count * step)
            workspace.mkdir()
            (workspace / "cap.toml").write_text("")
            # In one process each, since the largest of several hides how the others grow; all are
            # scored, since copies are looked for later.
            stages = {
                "collect": ("collect", "--root", str(photos), "--workers", "1"),
                "score": ("score", "--model", spec, "--device", "cpu"),
                "dedup": ("dedup", "--workers", "1"),
            }
            for stage, arguments in stages.items():
                found.setdefault(stage, []).append(run(workspace, *arguments))
    return found


def growth(steps: list[dict[str, float]], count: int) -> dict[str, float]:
    """How the cost of a further photo grows, and its memory."""
    first, middle, last = steps
    photos = [count * step for step in STEPS]
    early = (middle["seconds"] - first["seconds"]) / (photos[1] - photos[0])
    late = (last["seconds"] - middle["seconds"]) / (photos[2] - photos[1])
    more = 1024**2 * (last["gigabytes"] - middle["gigabytes"])
    return {"time": late / early, "kilobytes": more / (photos[2] - photos[1])}


@click.command(help=__doc__)
@click.option("--photos", "count", default=500, show_default=True, help="Photos of the first step.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(count: int, *, as_json: bool) -> None:
    """Measure."""
    if not PHOTOS.is_dir():
        msg = "the real photos are not at ../shared/data/photos"
        raise click.ClickException(msg)
    found = measure(count)
    grown = {stage: growth(steps, count) for stage, steps in found.items()}
    if as_json:
        click.echo(json.dumps({"photos": count, "stages": found, "growth": grown}))
        return
    for stage, steps in found.items():
        for step, told in zip(STEPS, steps, strict=True):
            click.echo(
                f"{stage:10}{count * step:8} photos {told['seconds']:8.2f} s "
                f"{told['gigabytes']:6.2f} GB"
            )
        own = grown[stage]
        click.echo(f"{stage:10}growth {own['time']:.2f}, {own['kilobytes']:.2f} kB a photo")


if __name__ == "__main__":
    main()
