"""What a workspace holds: its tables, and for each class what was collected, lost and tagged."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from manifests.columns import columns
from manifests.progress import reason_of, tell_problems

if TYPE_CHECKING:
    from manifests.workspace import Workspace

__all__ = ["failures", "render", "status"]

_TABLES = (
    "photos",
    "duplicates",
    "annotations",
    "labels",
    "plan",
    "groups",
    "pairs",
    "split",
    "confirmations",
)
_TABLES_OF_RUNS = ("predictions", "regions", "discoveries", "mitigations")


def _of_runs(workspace: Workspace, *kinds: str) -> list[str]:
    """Names of the tables that there is one of for each run."""
    return [f"{kind}/{run}" for kind in kinds for run in workspace.runs(kind)]


def failures(workspace: Workspace) -> list[dict[str, str]]:
    """Every failed row: its table, photo_id and reason."""
    tables = ["photos", "duplicates", *_of_runs(workspace, "predictions", "regions")]
    found = []
    for name in tables:
        if workspace.has(name):
            table = workspace.read(name)
            failed = table.filter(pc.equal(table["status"], "failed"))
            found += [
                {"table": name, "photo_id": row["photo_id"], "error": row["error"]}
                for row in failed.select(["photo_id", "error"]).to_pylist()
            ]
    return found


def _tables(workspace: Workspace) -> list[dict[str, Any]]:
    rows = []
    for name in (*_TABLES, *_of_runs(workspace, *_TABLES_OF_RUNS)):
        state = workspace.state(name)
        if state == "missing" and name != "photos":
            continue
        rows.append(
            {
                "table": name,
                "state": state,
                "rows": workspace.read(name).num_rows if workspace.has(name) else 0,
            }
        )
    return rows


def _classes(workspace: Workspace) -> list[dict[str, Any]]:
    """Per class: asked for, stored, failed, duplicates, kept, rejected, open, and why failed."""
    if not workspace.has("photos"):
        return []
    asked = ["photo_id", "class_name", "status", "error"]
    photos = workspace.read("photos").select(asked).to_pylist()
    relation = _column(workspace, "duplicates", "relation")
    decision = _column(workspace, "labels", "decision")
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, Counter[str]] = {}
    for photo in photos:
        count = counts.setdefault(photo["class_name"], Counter())
        count["asked"] += 1
        count[photo["status"]] += 1
        related = relation.get(photo["photo_id"])
        if related in {"exact", "near"}:
            count["duplicates"] += 1
        elif photo["status"] == "ok":
            count[decision.get(photo["photo_id"]) or "open"] += 1
        else:
            reason = reason_of(photo["error"])
            reasons.setdefault(photo["class_name"], Counter())[reason] += 1
    names = ("asked", "ok", "failed", "duplicates", "keep", "reject", "open")
    return [
        {
            "class": name,
            **{kind: counts[name][kind] for kind in names},
            "why failed": tell_problems(reasons.get(name, {})),
        }
        for name in sorted(counts)
    ]


def _backgrounds(workspace: Workspace) -> list[dict[str, Any]]:
    """Photos per background over all classes, and how many of them dedup removed."""
    if not workspace.has("labels"):
        return []
    background = _column(workspace, "labels", "background")
    relation = _column(workspace, "duplicates", "relation")
    counts: dict[str, Counter[str]] = {}
    for photo_id, name in background.items():
        if name is not None:
            count = counts.setdefault(name, Counter())
            count["duplicates" if relation.get(photo_id) in {"exact", "near"} else "photos"] += 1
    return [
        {"background": k, "photos": counts[k]["photos"], "duplicates": counts[k]["duplicates"]}
        for k in sorted(counts)
    ]


def _column(workspace: Workspace, table: str, column: str) -> dict[str, str | None]:
    if not workspace.has(table):
        return {}
    rows = workspace.read(table)
    return dict(zip(rows["photo_id"].to_pylist(), rows[column].to_pylist(), strict=True))


def status(workspace: Workspace) -> dict[str, Any]:
    """Tables with their state, counts per class and per background, and the number of failures."""
    return {
        "workspace": str(workspace.root),
        "label_space": workspace.label_space.name,
        "tables": _tables(workspace),
        "classes": _classes(workspace),
        "backgrounds": _backgrounds(workspace),
        "failures": len(failures(workspace)),
    }


def render(facts: dict[str, Any]) -> str:
    """The status as a person reads it."""
    failed = facts["failures"]
    blocks = [
        [f"{facts['workspace']} ({facts['label_space']})"],
        columns(facts["tables"]),
        columns(facts["classes"]),
        columns(facts["backgrounds"]),
        [f"{failed} failed rows; `cap status --failures` lists them"] if failed else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)
