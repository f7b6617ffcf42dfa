"""Which photos are judged, and how well the model does in each group of them.

A photo is judged when it was stored, repeats no other, was kept by people with a background, and
was scored. A group is the judged photos of one class on one background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import CapError
from manifests.metrics import wilson

__all__ = ["group_accuracies", "judged_photos"]


def judged_photos(
    photos: pa.Table,
    duplicates: pa.Table,
    labels: pa.Table,
    predictions: pa.Table,
    *,
    exclude_mixed: bool = False,
) -> pa.Table:
    """Photos that count, with their background and whether the model was right.

    Parameters
    ----------
    photos, duplicates, labels, predictions
        The tables; `predictions` of one run.
    exclude_mixed
        Whether photos with a second background are left out.

    Returns
    -------
    Table
        Columns of `photos` with `background` and `correct`, one row per judged photo, by photo_id.

    Raises
    ------
    CapError
        If the predictions are over another label space, or photos that people kept were not
        scored.
    """
    kept = labels.filter(
        pc.and_(pc.equal(labels["decision"], "keep"), pc.is_valid(labels["background"]))
    )
    if exclude_mixed:
        kept = kept.filter(pc.is_null(kept["background_second"]))
    unique = duplicates.filter(pc.is_in(duplicates["relation"], pa.array(["unique", "keeper"])))
    stored = photos.filter(
        pc.and_(pc.equal(photos["status"], "ok"), pc.is_valid(photos["class_index"]))
    )
    stored = stored.filter(pc.is_in(stored["photo_id"], unique["photo_id"].combine_chunks()))
    tagged = stored.join(kept.select(["photo_id", "background"]), "photo_id", join_type="inner")
    if not tagged.num_rows:
        tagged_how = "tagged with one background" if exclude_mixed else "tagged"
        msg = (
            f"no photo is kept, unique and {tagged_how}; run `cap annotate import FILE`, see "
            "`cap status`"
        )
        raise CapError(msg)
    judged = _with_predictions(tagged, predictions)
    return judged.filter(pc.is_valid(judged["correct"])).sort_by("photo_id")


def _with_predictions(tagged: pa.Table, predictions: pa.Table) -> pa.Table:
    scored = predictions.select(["photo_id", "correct"]).append_column(
        "scored", pc.equal(predictions["status"], "ok")
    )
    judged = tagged.join(scored, "photo_id", join_type="left outer")
    missing = judged.filter(pc.is_null(judged["scored"]))
    if missing.num_rows:
        msg = (
            f"{missing.num_rows} tagged photos were not scored, such as "
            f"{missing['photo_id'][0]}; run `cap score` again"
        )
        raise CapError(msg)
    answered = judged.filter(judged["scored"])
    if answered.num_rows and answered["correct"].null_count == answered.num_rows:
        space = predictions["label_space"][0].as_py()
        msg = f"the predictions are over {space}, which does not hold the photos' classes"
        raise CapError(msg)
    return judged.drop_columns(["scored"])


def group_accuracies(judged: pa.Table, run: str) -> list[dict[str, Any]]:
    """Rows of `groups`, by class index and background.

    Parameters
    ----------
    judged
        As `judged_photos` gives it.
    run
        Name of the scoring run.
    """
    counted = (
        judged.group_by(["class_index", "background"])
        .aggregate([("correct", "count"), ("correct", "sum"), ("class_name", "min")])
        .sort_by([("class_index", "ascending"), ("background", "ascending")])
    )
    photos = counted["correct_count"].to_numpy().astype(np.int64)
    correct = counted["correct_sum"].to_numpy().astype(np.int64)
    low, high = wilson(correct, photos)
    return [
        {
            "run": run,
            "class_index": row["class_index"],
            "class_name": row["class_name_min"],
            "background": row["background"],
            "photos": int(photos[i]),
            "correct": int(correct[i]),
            "accuracy": float(correct[i] / photos[i]),
            "ci_low": float(low[i]),
            "ci_high": float(high[i]),
        }
        for i, row in enumerate(counted.to_pylist())
    ]
