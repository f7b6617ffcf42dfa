"""Make the demo's workspace, and compare what the stages find in it with what was planted."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.vocabulary import label_space
from manifests.workspace import Workspace
from pipeline.demo.render import make_world, render_photos, write_table
from pipeline.demo.train import train
from pipeline.recipes import write_recipe

if TYPE_CHECKING:
    from manifests.progress import Progress

__all__ = ["Finding", "compare", "prepare", "serving", "tell_requests"]

_PHOTOS, _TAGS, _TAGS_BY_DIGEST = "animals", "tags.tsv", "tags-by-digest.tsv"
_CLASSES = "label_space.csv"
_REQUESTS = "requests.jsonl"

_DRAWING = ".drawing"
"""There while the photos are drawn, so that what a stopped demo has left is known as a demo's."""

_FAULT_RATE = 0.02
"""Share of the photos that meets each kind of fault, and of the API's requests."""

_STALL_SECONDS = 2.0
_LATENCY_SECONDS = 0.05


def prepare(folder: Path, seed: int, plant: str, progress: Progress) -> None:
    """Render the photos and train the model, where that is not done already.

    Raises
    ------
    CapError
        If the folder holds another demo, or what is none.
    """
    world = make_world(seed, plant)
    planted, drawing = folder / "planted.json", folder / _DRAWING
    if planted.is_file():
        made = json.loads(planted.read_text("utf-8"))
        if (made["seed"], made["plant"]) != (seed, plant):
            msg = f"{folder} holds the demo of seed {made['seed']}, {made['plant']}; name another"
            raise CapError(msg)
    else:
        if not drawing.is_file():
            _refuse_what_is_no_demo(folder)
        progress.note(f"demo: drawing animals into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        drawing.touch()
        render_photos(world, folder / _PHOTOS)
    drawing.unlink(missing_ok=True)
    if not (folder / "toy.safetensors").is_file():
        progress.note("demo: training a tiny CLIP on the toy world (under a minute)")
        train(world, folder)


def _refuse_what_is_no_demo(folder: Path) -> None:
    """See that nothing of a person's own would be overwritten."""
    for name in ("cap.toml", _TAGS, _CLASSES, _PHOTOS):
        if (folder / name).exists():
            msg = f"{folder} has a {name} that is of no demo; name a folder that is not there yet"
            raise CapError(msg)


@contextlib.contextmanager
def serving(folder: Path, source: str, progress: Progress) -> Iterator[None]:
    """Keep the source of the photos open, and write the recipe where there is none.

    The source `inaturalist` is a local stand-in for iNaturalist with its limits and with faults; it
    comes back at the address that the recipe names.

    Raises
    ------
    CapError
        If the folder holds a demo with another source, its recipe does not tell, or that address is
        taken.
    """
    known = _known_source(folder)
    if known is not None and known["source"] != source:
        msg = f"{folder} holds a demo that collects from {known['source']}; name another folder"
        raise CapError(msg)
    if source == "folder":
        if known is None:
            write_recipe(folder, "demo")
        yield
        return
    with _local_inaturalist(folder, None if known is None else known["api_url"]) as url:
        if known is None:
            _write_tags_by_digest(folder)
            write_recipe(folder, "demo-inaturalist", api_url=f"{url}/v1")
        progress.note(f"demo: a local iNaturalist answers at {url}, with faults")
        yield


def _known_source(folder: Path) -> dict[str, Any] | None:
    """What the recipe tells of the source; None where there is no recipe yet."""
    recipe = folder / "cap.toml"
    if not recipe.is_file():
        return None
    collect: dict[str, Any] = Workspace(folder).recipe.get("collect", {})
    needed = ("source", "api_url") if collect.get("source") == "inaturalist" else ("source",)
    for name in needed:
        if name not in collect:
            msg = f"{recipe} has no {name} under [collect]; remove it to let the demo write its own"
            raise CapError(msg)
    return collect


@contextlib.contextmanager
def _local_inaturalist(folder: Path, api_url: str | None) -> Iterator[str]:
    from pipeline.demo.server import (
        API_FAULTS,
        HEALING_PHOTO_FAULTS,
        Faults,
        ServerSettings,
        folder_catalogue,
        server_process,
    )

    catalogue = folder_catalogue(folder / _PHOTOS, label_space(_CLASSES, folder))
    faults = Faults(
        photo_rates=dict.fromkeys(HEALING_PHOTO_FAULTS, _FAULT_RATE),
        api_rates=dict.fromkeys(API_FAULTS, _FAULT_RATE),
        stall_seconds=_STALL_SECONDS,
    )
    settings = ServerSettings(
        latency=_LATENCY_SECONDS,
        faults=faults,
        log_file=folder / _REQUESTS,
        port=urlsplit(api_url).port or 0 if api_url else 0,
    )
    try:
        with server_process(catalogue, settings) as url:
            yield url
    except EOFError as error:
        msg = f"the local iNaturalist could not start at {api_url}; remove {folder} and try again"
        raise CapError(msg) from error


def _write_tags_by_digest(folder: Path) -> None:
    """The tags by the digest of each photo, since a photo from iNaturalist has no file name."""
    with (folder / _TAGS).open(encoding="utf-8", newline="") as handle:
        rows = [
            {"sha256": _sha256(folder / _PHOTOS / row["path"]), "background": row["background"]}
            for row in csv.DictReader(handle, delimiter="\t")
        ]
    write_table(folder / _TAGS_BY_DIGEST, ("sha256", "background"), rows)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tell_requests(folder: Path) -> str:
    """What the local iNaturalist was asked, as a sentence."""
    from pipeline.demo.server import RequestLog

    log = RequestLog.read(folder / _REQUESTS)
    api = sum(record.path.startswith("/v1/") for record in log.records)
    faults = sum(log.faults_seen().values())
    return (
        f"the local iNaturalist was asked {api} questions, at most "
        f"{log.requests_in_any(60)} in any minute (60 are allowed), and for "
        f"{len(log.records) - api} photos; {faults} requests met a fault"
    )


@dataclass(frozen=True)
class Finding:
    """One thing that was planted, what was found of it, and whether they are the same."""

    what: str
    planted: str
    found: str

    @property
    def same(self) -> bool:
        """Whether the stages found what was planted."""
        return self.planted == self.found


def compare(workspace: Workspace) -> list[Finding]:
    """Planted against found: the pair of every class, the copies, and the unreadable files."""
    planted: dict[str, Any] = json.loads((workspace.root / "planted.json").read_text("utf-8"))
    pairs = {row["class_name"]: row for row in workspace.read("pairs").to_pylist()}
    findings = []
    for name in workspace.label_space.names:
        pair = planted["pairs"].get(name)
        row = pairs[name]
        found = f"{row['common_background']} > {row['counter_background']}"
        findings.append(
            Finding(
                what=name,
                planted=f"{pair['common']} > {pair['counter']}" if pair else "none",
                found=found if row["selected"] else "none",
            )
        )
    return [*findings, *_compare_files(workspace, planted)]


def _compare_files(workspace: Workspace, planted: dict[str, Any]) -> list[Finding]:
    """Files are known by their digests, since not every source tells their names."""
    photos = workspace.read("photos")
    digest_of = dict(zip(photos["photo_id"].to_pylist(), photos["sha256"].to_pylist(), strict=True))
    keepers: dict[str, set[str]] = {}
    for row in workspace.read("duplicates").to_pylist():
        keepers.setdefault(digest_of[row["photo_id"]], set()).add(row["keeper"])
    folder = workspace.root / _PHOTOS
    copies = [pair for kind in ("exact", "near") for pair in planted[kind]]
    merged = sum(
        len(keepers[_sha256(folder / pair["photo"])] | keepers[_sha256(folder / pair["copy"])]) == 1
        for pair in copies
    )
    failed = photos.filter(pc.equal(photos["status"], "failed"))["sha256"].to_pylist()
    names = {_sha256(folder / name): name for name in planted["unreadable"]}
    return [
        Finding("copies", f"{len(copies)} pairs", f"{merged} pairs"),
        Finding(
            "unreadable files",
            _listed(names.values()),
            _listed(names.get(digest, "another") for digest in failed),
        ),
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
