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
from manifests.kept import GOING_ON, check_compared
from manifests.metrics import wilson
from manifests.schema import SPLIT

__all__ = ["group_accuracies", "judged_photos", "tagged_photos"]


def tagged_photos(photos: pa.Table, duplicates: pa.Table, labels: pa.Table) -> pa.Table:
    """Photos that are stored, repeat no other, and were kept by people with a background.

    Returns
    -------
    Table
        The columns of `photos` that a split has, `background` and `background_second`, by
        photo_id.

    Raises
    ------
    CapError
        If there is none, or some have been collected since duplicates were looked for.
    """
    kept = labels.filter(
        pc.and_(pc.equal(labels["decision"], "keep"), pc.is_valid(labels["background"]))
    )
    unique = duplicates.filter(pc.is_in(duplicates["relation"], pa.array(GOING_ON)))
    # A million rows of columns that nobody asks for are most of a gigabyte.
    wanted = [name for name in SPLIT.schema.names if name in photos.column_names]
    stored = photos.filter(
        pc.and_(pc.equal(photos["status"], "ok"), pc.is_valid(photos["class_index"]))
    ).select(wanted)
    said = stored.filter(pc.is_in(stored["photo_id"], kept["photo_id"].combine_chunks()))
    check_compared(said, photos.filter(pc.equal(photos["status"], "ok")), duplicates)
    stored = stored.filter(pc.is_in(stored["photo_id"], unique["photo_id"].combine_chunks()))
    tags = kept.select(["photo_id", "background", "background_second"])
    tagged = stored.join(tags, "photo_id", join_type="inner")
    if not tagged.num_rows:
        msg = (
            "no photo is kept, unique and tagged; run `cap annotate import FILE`, see `cap status`"
        )
        raise CapError(msg)
    return tagged.sort_by("photo_id")


def judged_photos(tagged: pa.Table, predictions: pa.Table) -> pa.Table:
    """Tagged photos with whether the model was right; those that it could not read are left out.

    Parameters
    ----------
    tagged
        As `tagged_photos` gives them.
    predictions
        Of one run.

    Returns
    -------
    Table
        The columns of `tagged` and `correct`, by photo_id.

    Raises
    ------
    CapError
        If the predictions are over another label space, or photos were not scored, or none could
        be.
    """
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
    if not answered.num_rows:
        msg = "the model failed on every tagged photo; `cap status --failures` says why"
        raise CapError(msg)
    if answered["correct"].null_count == answered.num_rows:
        space = predictions["label_space"][0].as_py()
        msg = f"the predictions are over {space}, which does not hold the photos' classes"
        raise CapError(msg)
    judged = judged.drop_columns(["scored"])
    return judged.filter(pc.is_valid(judged["correct"])).sort_by("photo_id")


def group_accuracies(judged: pa.Table, run: str) -> list[dict[str, Any]]:
    """Rows of `groups`, by class index and background.

    Parameters
    ----------
    judged
        As `judged_photos` gives it; with a column `partition`, what is in validation is counted
        too.
    run
        Name of the scoring run.
    """
    counts = [("correct", "count"), ("correct", "sum"), ("class_name", "min")]
    divided = "partition" in judged.column_names
    if divided:
        chooses = pc.equal(judged["partition"], "validation")
        judged = judged.append_column("validation_photos", chooses.cast(pa.int32()))
        right = pc.and_(chooses, judged["correct"]).cast(pa.int32())
        judged = judged.append_column("validation_correct", right)
        counts += [("validation_photos", "sum"), ("validation_correct", "sum")]
    counted = (
        judged.group_by(["class_index", "background"])
        .aggregate(counts)
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
            "validation_photos": row.get("validation_photos_sum"),
            "validation_correct": row.get("validation_correct_sum"),
        }
        for i, row in enumerate(counted.to_pylist())
    ]
