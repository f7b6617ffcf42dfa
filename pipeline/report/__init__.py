"""Report: one HTML page that shows what was collected, lost, tagged, chosen and found.

Given whatever tables the workspace has, writes a page that stands alone: pictures and figures are
in it, no script runs, nothing is loaded. Numbers are taken from the tables or computed from them by
`manifests/metrics.py`. A page that is there already, from the same tables and parameters, is fresh.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests import __version__
from manifests.errors import CapError
from manifests.schema import RESULTS
from manifests.tables import chosen_pairs, read_table, write_bytes
from manifests.workspace import Outcome
from pipeline.report.classes import (
    ClassFacts,
    Measured,
    accuracy_on_split,
    class_facts,
    heat_map,
    members,
)
from pipeline.report.collection import collection, copies, people
from pipeline.report.discoveries import Discoveries, discoveries
from pipeline.report.page import Facts, render
from pipeline.report.robustness import standing
from pipeline.report.strips import Strip, plan_strips, shot, strip

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace
    from pipeline.parameters import ReportParameters

__all__ = ["report"]

_TABLES = (
    "photos",
    "duplicates",
    "annotations",
    "labels",
    "groups",
    "pairs",
    "split",
    "confirmations",
)
_MARK = re.compile(rb'<meta name="cap-report" content="([0-9a-f]{64})">')
_MARK_WITHIN = 4096
"""Bytes at the beginning of a page that hold its mark."""

Row = dict[str, Any]


def report(workspace: Workspace, parameters: ReportParameters, progress: Progress) -> Outcome:
    """Write the page of a workspace."""
    out = (
        workspace.root / "reports" / "report.html"
        if parameters.out is None
        else Path(parameters.out).resolve()
    )
    tables = _Tables(workspace, parameters.model)
    mark = tables.mark(parameters.photos_per_group)
    fresh = _standing(out) == mark
    if not fresh:
        facts = _facts(tables, mark, parameters.photos_per_group, progress)
        write_bytes(out, render(facts).encode("utf-8", "replace"))
        if not facts.shareable:
            progress.note(
                "warning: the report shows photos whose licence does not allow sharing them; it "
                "says that it is not for redistribution"
            )
    return _outcome(tables, out, fresh=fresh)


def _outcome(tables: _Tables, out: Path, *, fresh: bool) -> Outcome:
    own = [pair for pair in tables.pairs if pair["run"] == tables.run]
    selected = [pair["class_name"] for pair in own if pair["selected"]]
    photos, size = tables.photos.num_rows, out.stat().st_size
    text = (
        f"{out} ({size / 1e6:.1f} MB): {photos} photos, {len(selected)} of {len(own)} classes "
        "selected; open it in a browser"
    )
    facts = {
        "out": str(out),
        "bytes": size,
        "run": tables.run,
        "photos": photos,
        "classes": len(own),
        "selected": selected,
    }
    return Outcome("report", text, facts, fresh)


def _standing(out: Path) -> str | None:
    """The mark of a page that is there already.

    Raises
    ------
    CapError
        If something else is there.
    """
    if not out.exists():
        return None
    try:
        with out.open("rb") as file:
            found = _MARK.search(file.read(_MARK_WITHIN))
    except OSError as error:
        msg = f"{out} cannot be read: {error.strerror or error}"
        raise CapError(msg) from error
    if found is None:
        msg = f"{out} exists and is no report of cap; name another file with --out"
        raise CapError(msg)
    return found[1].decode()


class _Tables:
    """What a workspace has of the tables that a report tells of; None for what it lacks."""

    def __init__(self, workspace: Workspace, model: str | None) -> None:
        self.workspace = workspace
        self.photos = workspace.read("photos")
        self.duplicates = self._read("duplicates")
        self.annotations = self._read("annotations")
        self.labels = self._read("labels")
        self.split = self._read("split")
        pairs = self._read("pairs")
        self.pairs = [] if pairs is None else pairs.to_pylist()
        self._choosers = [] if pairs is None else chosen_pairs(pairs)["run"].to_pylist()
        groups = self._read("groups")
        self.groups = [] if groups is None else groups.to_pylist()
        self.run = self._chosen_run(model)
        self._agreement_file = workspace.root / "results" / "agreement.json"
        self._results_file = workspace.root / "results" / "results.parquet"

    def _read(self, name: str) -> pa.Table | None:
        return self.workspace.read(name) if self.workspace.has(name) else None

    def _chosen_run(self, model: str | None) -> str | None:
        """The run that is told of: the one that is named, else the one that chose the pairs."""
        in_pairs = list(dict.fromkeys(pair["run"] for pair in self.pairs))
        if model is None:
            return next(iter(self._choosers), None)
        from pipeline.runs import run_for

        run = run_for(self.workspace, model)
        if in_pairs and run not in in_pairs:
            msg = f"the pairs tell nothing of {run}; they tell of {', '.join(in_pairs)}"
            raise CapError(msg)
        return run

    @property
    def runs(self) -> tuple[str, ...]:
        """Runs with pairs and predictions, the one that is told of first."""
        named = dict.fromkeys([self.run, *(pair["run"] for pair in self.pairs)])
        return tuple(r for r in named if r is not None and self.workspace.has(f"predictions/{r}"))

    def predictions(self, run: str) -> dict[str, Row]:
        """Scored rows of a run, by photo_id."""
        table = self.workspace.read(f"predictions/{run}")
        scored = table.filter(
            pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table["correct"]))
        )
        rows = scored.select(["photo_id", "correct", "predicted_name"]).to_pylist()
        return {row["photo_id"]: row for row in rows}

    @property
    def _discovered(self) -> tuple[str, ...]:
        """Tables of `cap discover` on the run, where both are there."""
        names = (f"discoveries/{self.run}", f"regions/{self.run}")
        return names if all(self.workspace.has(name) for name in names) else ()

    def discoveries(
        self, photos: Mapping[str, Row], predictions: Mapping[str, Row], *, shown: bool
    ) -> Discoveries | None:
        """What `cap discover` found of the run, if it was asked."""
        if not self._discovered:
            return None
        from pipeline.runs import check_discoveries

        check_discoveries(self.workspace, str(self.run))
        found, regions = (self.workspace.read(name) for name in self._discovered)
        said = self._read("confirmations")
        answers = [] if said is None else said.filter(pc.equal(said["run"], self.run)).to_pylist()
        store = self.workspace.photos if shown else None
        return discoveries(found, regions, photos, predictions, answers=answers, store=store)

    def agreement(self) -> Mapping[str, Any] | None:
        """What `cap annotate agreement` found, if it was asked."""
        if not self._agreement_file.is_file():
            return None
        try:
            found: Mapping[str, Any] = json.loads(self._agreement_file.read_bytes())
        except (OSError, ValueError) as error:
            msg = f"{self._agreement_file} cannot be read ({error}); run `cap annotate agreement`"
            raise CapError(msg) from error
        return found

    def agreement_stale(self, found: Mapping[str, Any] | None) -> bool:
        """Whether the agreement was measured on other answers than there are now."""
        return (
            found is not None
            and self.workspace.has("annotations")
            and found["inputs"]["annotations"] != self.workspace.digest("annotations")
        )

    def results(self) -> pa.Table | None:
        """What `cap evaluate` measured, if it was asked."""
        there = self._results_file.is_file()
        return read_table(self._results_file, RESULTS) if there else None

    def receipt(self, table: str) -> Mapping[str, Any]:
        """Receipt of a table as a dictionary; empty where there is none."""
        receipt = self.workspace.receipt(table)
        return {} if receipt is None else asdict(receipt)

    def mark(self, photos_per_group: int) -> str:
        """Digest of all that decides the page."""
        workspace = self.workspace
        names = [
            *(t for t in _TABLES if workspace.has(t)),
            *(f"predictions/{r}" for r in self.runs),
            *self._discovered,
        ]
        files = (self._agreement_file, self._results_file)
        made_from = {
            "cap_version": __version__,
            "name": workspace.root.name,
            "run": self.run,
            "photos_per_group": photos_per_group,
            "tables": {name: workspace.digest(name) for name in names},
            "parameters": self.receipt("pairs").get("parameters"),
            "files": [
                hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
            ],
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _facts(tables: _Tables, mark: str, photos_per_group: int, progress: Progress) -> Facts:
    predictions = {run: tables.predictions(run) for run in tables.runs}
    own = predictions.get(tables.run, {}) if tables.run is not None else {}
    classes = (
        class_facts(
            tables.run,
            tables.pairs,
            members(tables.photos, tables.labels, tables.split),
            own,
        )
        if tables.run is not None
        else ()
    )
    rows = {row["photo_id"]: row for row in tables.photos.to_pylist()}
    found = copies(tables.duplicates, rows) if tables.duplicates is not None else None
    agreement = tables.agreement()
    store = tables.workspace.photos
    accuracies = {}
    measured = None if tables.split is None else Measured.of(tables.split)
    if measured is not None:
        told = {run: accuracy_on_split(measured.photos, rows) for run, rows in predictions.items()}
        accuracies = {run: accuracy for run, accuracy in told.items() if accuracy is not None}
    return Facts(
        name=tables.workspace.root.name,
        version=__version__,
        mark=mark,
        collection=collection(
            tables.photos, tables.duplicates, tables.annotations, tables.labels, tables.split
        ),
        copies=found,
        pairs_of_copies=tuple(
            (shot(rows[copy], store), shot(rows[keeper], store), distance)
            for copy, keeper, distance in (found.examples if found and photos_per_group else ())
        ),
        people=people(tables.labels) if tables.labels is not None else None,
        agreement=agreement,
        agreement_stale=tables.agreement_stale(agreement),
        run=tables.run,
        model=tables.receipt(f"predictions/{tables.run}").get("model") or {},
        parameters=tables.receipt("pairs").get("parameters") or {},
        classes=classes,
        strips=_strips(tables, classes, rows, own, photos_per_group, progress),
        heat=heat_map(tables.run, tables.groups) if tables.groups and tables.run else None,
        measured=measured,
        accuracies=accuracies,
        models=standing(accuracies, tables.results(), tables.workspace.label_space.name),
        discoveries=tables.discoveries(rows, own, shown=bool(photos_per_group)),
        has_fresh=any(side.fresh is not None for c in classes for side in c.sides),
    )


def _strips(
    tables: _Tables,
    classes: tuple[ClassFacts, ...],
    photos: Mapping[str, Row],
    predictions: Mapping[str, Row],
    per_group: int,
    progress: Progress,
) -> dict[int, tuple[Strip, ...]]:
    """The photos of the first classes that have a pair, by class index."""
    paired = [facts for facts in classes if facts.sides]
    shown, at_most = plan_strips(len(paired), per_group)
    found = {}
    with progress.task("report", shown) as advance:
        for facts in paired[:shown]:
            found[facts.class_index] = tuple(
                strip(side.photo_ids, at_most, photos, predictions, tables.workspace.photos)
                for side in facts.sides
            )
            advance(1)
    return found
