"""Workspaces with invented tables, as large and as hostile as wanted, to report on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from manifests.metrics import newcombe, wilson
from manifests.photos import inspect_photo
from manifests.schema import (
    ANNOTATIONS,
    DUPLICATES,
    GROUPS,
    LABELS,
    PAIRS,
    PHOTOS,
    PREDICTIONS,
    SPLIT,
    TableSchema,
)
from manifests.tables import from_rows, write_table
from manifests.workspace import Receipt, Workspace

RUN, OTHER = "invented-run-00000001", "invented-run-00000002"
BACKGROUNDS = ("grass", "snow", "water")
PAIR = {"common": "grass", "counter": "water"}
LICENSES = ("cc0", "cc-by", "cc-by-nc")

Words = Callable[[str, int], str]
"""Text from outside: what kind of field it is for, and which row."""

Judged = tuple[str, str | None, bool]
"""A photo of a group: its id, its partition, and whether the model was right."""


def plain(kind: str, number: int) -> str:
    return f"{kind} {number}"


def _store(workspace: Workspace, number: int) -> dict:
    """One of a few small photos; rows share them, so that large workspaces are made quickly."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    data = buffer.getvalue()
    facts = inspect_photo(data)
    sha256, path = workspace.photos.add(data, facts)
    return {
        "sha256": sha256,
        "path": path,
        "bytes": len(data),
        "width": facts.width,
        "height": facts.height,
        "format": facts.format,
    }


def write(workspace: Workspace, name: str, rows: list[dict], spec: TableSchema) -> None:
    write_table(workspace.table_path(name), from_rows(rows, spec.schema), spec)


def invent(
    root: Path,
    *,
    classes: int,
    photos: int = 12,
    rule: str = "controlled",
    words: Words = plain,
    licenses: tuple[str, ...] = LICENSES,
) -> Workspace:
    """A workspace with every table, in which each class has `photos` on each of the backgrounds.

    Every third class is not selected; every seventh photo repeats the one before it, and every
    eleventh failed.
    """
    root.mkdir(parents=True)
    (root / "cap.toml").write_text('label_space = "imagenet1k"\n')
    workspace = Workspace(root)
    stored = [_store(workspace, number) for number in range(9)]
    rng = np.random.default_rng(0)
    rows, duplicates, labels = [], [], []
    predictions: dict[str, list[dict]] = {RUN: [], OTHER: []}
    counted: dict[tuple, list] = {}
    places = [(c, b, n) for c in range(classes) for b in range(3) for n in range(photos)]
    for number, (index, background, _) in enumerate(places):
        photo_id = words("photo_id", number)
        failed, copy = number % 11 == 10, number % 7 == 6
        rows.append(
            {
                "photo_id": photo_id,
                "source": "folder",
                "class_index": index,
                "class_name": words("class_name", index),
                "license": licenses[number % len(licenses)],
                "attribution": words("attribution", number) if number % 2 else None,
                "creator": words("creator", number),
                "creator_id": f"observer-{number % 17}",
                "url": words("url", number),
                "status": "failed" if failed else "ok",
                "error": words("error", number % 3) if failed else None,
                **({} if failed else stored[number % 9]),
            }
        )
        if failed:
            continue
        keeper = rows[-2]["photo_id"] if copy and rows[-2]["status"] == "ok" else photo_id
        relation = "unique" if keeper == photo_id else "near"
        duplicates.append(
            {
                "photo_id": photo_id,
                "status": "ok",
                "relation": relation,
                "keeper": keeper,
                "distance": None if relation == "unique" else number % 5,
            }
        )
        if relation == "near":
            continue
        labels.append(
            {
                "photo_id": photo_id,
                "decision": "keep" if number % 13 else "reject",
                "background": BACKGROUNDS[background] if number % 13 else None,
                "annotators": 1 + number % 2,
                "agreement": 1.0,
                "settled_by": "import",
            }
        )
        for run, answers in predictions.items():
            correct = bool(rng.random() < 0.9 - 0.35 * background)
            answers.append(
                {
                    "photo_id": photo_id,
                    "status": "ok",
                    "label_space": "imagenet1k",
                    "predicted_index": index if correct else index + 1,
                    "predicted_name": words("class_name" if correct else "said", index),
                    "correct": correct,
                }
            )
            if number % 13:
                place = run, index, BACKGROUNDS[background]
                judged = counted.setdefault(place, [])
                partition = ("validation", "test")[len(judged) % 2] if rule != "paper" else None
                judged.append((photo_id, partition, correct))
    by_id = {row["photo_id"]: row for row in rows}
    groups = [_group(place, found, words) for place, found in sorted(counted.items())]
    pairs = [_pair(run, i, counted, words) for run in (RUN, OTHER) for i in range(classes)]
    split = [
        {**by_id[photo_id], "group": group, "background": background, "partition": partition}
        for group, background in PAIR.items()
        for index in range(classes)
        if index % 3 != 2
        for photo_id, partition, _ in counted[RUN, index, background]
    ]
    write(workspace, "photos", rows, PHOTOS)
    write(workspace, "duplicates", duplicates, DUPLICATES)
    write(workspace, "annotations", _annotations(labels, words), ANNOTATIONS)
    write(workspace, "labels", labels, LABELS)
    for run, answers in predictions.items():
        write(workspace, f"predictions/{run}", answers, PREDICTIONS)
    write(workspace, "groups", groups, GROUPS)
    write(workspace, "pairs", pairs, PAIRS)
    write(workspace, "split", split, SPLIT)
    _settings(workspace, rule)
    return workspace


def _annotations(labels: list[dict], words: Words) -> list[dict]:
    """What two people say of each photo; now and then they differ."""
    answers = []
    for number, label in enumerate(labels):
        for annotator in ("ann", "bob"):
            kept = label["decision"] == "keep"
            differs = annotator == "bob" and number % 5 == 0
            answers.append(
                {
                    **{name: label[name] for name in ("photo_id", "decision")},
                    "background": "rock" if kept and differs else label["background"],
                    "reject_reasons": None if kept else ["clarity", words("reason", 0)],
                    "note": words("note", number),
                    "annotator": words(annotator, 0),
                    "round": "first",
                    "source": "import:tags.csv",
                }
            )
    return answers


def _group(place: tuple[str, int, str], found: list[Judged], words: Words) -> dict:
    run, index, background = place
    correct, photos = sum(right for *_, right in found), len(found)
    chose = [right for _, partition, right in found if partition == "validation"]
    low, high = wilson(np.asarray(correct), np.asarray(photos))
    return {
        "run": run,
        "class_index": index,
        "class_name": words("class_name", index),
        "background": background,
        "photos": photos,
        "correct": correct,
        "accuracy": correct / photos,
        "ci_low": float(low),
        "ci_high": float(high),
        "validation_photos": len(chose) if chose else None,
        "validation_correct": sum(chose) if chose else None,
    }


def _pair(run: str, index: int, counted: dict[tuple, list[Judged]], words: Words) -> dict:
    """The pair of a class, measured as the controlled rule does where the photos are parted."""
    row = {
        "run": run,
        "class_index": index,
        "class_name": words("class_name", index),
        "selected": index % 3 != 2,
        "reason": None if index % 3 != 2 else words("reason", index),
        "chosen_by": RUN,
    }
    fresh = []
    for group, background in PAIR.items():
        found = counted[run, index, background]
        chose = [right for _, partition, right in found if partition != "test"]
        test = [right for _, partition, right in found if partition == "test"]
        row[f"{group}_background"] = background
        row[f"{group}_photos"] = len(chose)
        row[f"{group}_accuracy"] = sum(chose) / len(chose)
        if test:
            row[f"{group}_test_photos"] = len(test)
            row[f"{group}_test_accuracy"] = sum(test) / len(test)
            fresh.append((np.asarray(sum(test)), np.asarray(len(test))))
    row["drop"] = row["common_accuracy"] - row["counter_accuracy"]
    if fresh:
        (common, counter) = fresh
        low, high = newcombe((common[0], counter[0]), (common[1], counter[1]))
        row |= {
            "drop_honest": row["common_test_accuracy"] - row["counter_test_accuracy"],
            "drop_ci_low": float(low),
            "drop_ci_high": float(high),
            "p_value": 0.001 * (index + 1),
            "q_value": min(1.0, 0.002 * (index + 1)),
            "only_its_own": index % 4 == 0,
        }
    return row


def _settings(workspace: Workspace, rule: str) -> None:
    """A receipt that tells how the pairs were chosen."""
    receipt = Receipt(
        table="pairs",
        stage="split",
        cap_version="0",
        parameters={"rule": rule, "min_photos": 8, "run": RUN},
        inputs={},
        rows={},
        digest=workspace.digest("pairs"),
        started_at="",
        ended_at="",
        versions={},
        work={},
    )
    workspace.receipt_path("pairs").write_text(json.dumps(asdict(receipt)))
