"""Discoveries by hand: clusters of regions of the twelve photos of three animals."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from annotators import Office

from manifests.schema import DISCOVERIES, PREDICTIONS, REGIONS
from manifests.tables import from_rows, write_table
from manifests.workspace import Workspace

RUN = "open_clip_toy-0a1b2c3d"

BEARS = [f"folder:ice bear/{n}.jpg" for n in range(4)]
LIONS = [f"folder:lion/{n}.jpg" for n in range(4)]
OTTERS = [f"folder:otter/{n}.jpg" for n in range(4)]

# Cluster 0 is in five photos, 1 in two, 2 in five others.
CLUSTERS = ([*BEARS, LIONS[0]], LIONS[1:3], [LIONS[3], *OTTERS])


def discover(
    workspace: Workspace, clusters: Sequence[Sequence[str]] = CLUSTERS, run: str = RUN
) -> None:
    """Tables of `cap discover`: each photo has a left and a right half.

    The left half of a photo is in the cluster that names the photo, the right half in none.
    """
    photos = workspace.read("photos").to_pylist()
    halves = [
        {
            "photo_id": row["photo_id"],
            "region": region,
            "status": "ok",
            "left": region * row["width"] // 2,
            "top": 0,
            "right": (region + 1) * row["width"] // 2,
            "bottom": row["height"],
            "probability": 0.5,
            "embedding": [1.0, 0.0],
        }
        for row in photos
        for region in (0, 1)
    ]
    write(workspace, f"regions/{run}", halves, REGIONS)
    rows = [cluster_row(number, members) for number, members in enumerate(clusters)]
    write(workspace, f"discoveries/{run}", rows, DISCOVERIES)


def discover_in(office: Office, study: Workspace) -> Workspace:
    """Discoveries in a study whose pictures, also those that are made later, the office serves."""
    shutil.rmtree(study.root / "photos")
    (study.root / "photos").symlink_to(office.root / "photos")
    discover(study)
    return study


def cluster_row(number: int, photo_ids: Sequence[str]) -> dict[str, object]:
    return {
        "cluster": number,
        "rank": number + 1,
        "class_index": 296,
        "class_name": "ice bear",
        "difference": 0.5,
        "gap": 0.4,
        "gap_ci_low": 0.2,
        "gap_ci_high": 0.6,
        "influence": 0.5,
        "p_value": 0.01,
        "q_value": 0.02,
        "regions": len(photo_ids),
        "photos": len(photo_ids),
        "embedding": [1.0, float(number)],
        "classes": [],
        "members": [
            {"photo_id": photo_id, "region": 0, "similarity": 1 - n / 100}
            for n, photo_id in enumerate(photo_ids)
        ],
    }


def predict(workspace: Workspace, correct: Mapping[str, bool], run: str = RUN) -> None:
    """A scoring run over classes that is right about some photos."""
    rows = [
        {
            "photo_id": photo_id,
            "status": "ok",
            "label_space": "imagenet1k",
            "predicted_index": 296,
            "predicted_name": "ice bear",
            "correct": right,
        }
        for photo_id, right in correct.items()
    ]
    write(workspace, f"predictions/{run}", rows, PREDICTIONS)


def write(workspace: Workspace, name: str, rows: list[dict], spec) -> None:
    path = workspace.table_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, from_rows(rows, spec.schema), spec)
