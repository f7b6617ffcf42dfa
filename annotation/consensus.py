"""One answer per photo from what several people said.

An adjudication wins over first answers. Otherwise more than half of the people who decided must
agree, first on keeping the photo, then (among those who keep it) on the background; a photo without
such a majority stays unsettled. Who skips a photo has not decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

__all__ = ["NONE_FITS", "disputed", "settle"]

NONE_FITS = "none fits"
"""What is said of a photo that is kept without a background, where the table has null."""

Answer = dict[str, Any]


def _majority(values: Sequence[Hashable]) -> tuple[Hashable] | None:
    """The value that more than half hold, in a tuple because it may be None; None without one."""
    value, count = Counter(values).most_common(1)[0]
    return (value,) if 2 * count > len(values) else None


def _settle_photo(photo_id: str, answers: Sequence[Answer]) -> Answer | None:
    # Who skips a photo has not decided, in either round.
    every = [a for a in answers if a["decision"] != "skip"]
    adjudicated = [a for a in every if a["round"] == "adjudication"]
    decided = adjudicated or every
    if not decided:
        return None
    decision = _majority([a["decision"] for a in decided])
    if decision is None:
        return None
    agreeing = [a for a in decided if (a["decision"],) == decision]
    background = _majority([a["background"] for a in agreeing])
    if background is None:
        return None
    agreeing = [a for a in agreeing if (a["background"],) == background]
    second = _majority([a["background_second"] for a in agreeing])
    first_answers = [a for a in answers if a["round"] == "first" and a["decision"] != "skip"]
    same = [
        a for a in first_answers if ((a["decision"],), (a["background"],)) == (decision, background)
    ]
    return {
        "photo_id": photo_id,
        "decision": agreeing[0]["decision"],
        "background": agreeing[0]["background"],
        "background_second": second[0] if second is not None else None,
        "annotators": len({a["annotator"] for a in answers if a["decision"] != "skip"}),
        "agreement": len(same) / len(first_answers) if first_answers else 1.0,
        "settled_by": _settled_by(decided, adjudicated=bool(adjudicated)),
    }


def _settled_by(decided: Sequence[Answer], *, adjudicated: bool) -> str:
    if adjudicated:
        return "adjudication"
    if len(decided) > 1:
        return "majority"
    return "import" if decided[0]["source"].startswith("import:") else "single"


def _by_photo(annotations: pa.Table) -> Iterator[tuple[str, list[Answer]]]:
    rows = sorted(annotations.to_pylist(), key=itemgetter("photo_id", "round", "annotator"))
    for photo_id, answers in groupby(rows, key=itemgetter("photo_id")):
        yield photo_id, list(answers)


def settle(annotations: pa.Table) -> list[Answer]:
    """Rows of `labels` for the photos that the annotations settle, by photo_id."""
    settled = (_settle_photo(photo_id, answers) for photo_id, answers in _by_photo(annotations))
    return [label for label in settled if label is not None]


def disputed(annotations: pa.Table) -> dict[str, list[Answer]]:
    """Answers by photo_id, where two people or more decided and nothing settles it."""
    found = {}
    for photo_id, answers in _by_photo(annotations):
        decided = [answer for answer in answers if answer["decision"] != "skip"]
        people = {answer["annotator"] for answer in decided}
        if len(people) > 1 and _settle_photo(photo_id, answers) is None:
            found[photo_id] = decided
    return found
