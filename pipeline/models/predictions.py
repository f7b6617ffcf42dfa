"""From scores over a label space to predictions, with the rank and the margin of the true class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from manifests.vocabulary import LabelSpace

__all__ = ["predictions_from"]


def predictions_from(
    class_indices: Sequence[int | None], scores: NDArray[np.float32], labels: LabelSpace
) -> list[dict[str, Any]]:
    """Columns of `predictions` that follow from scores.

    Parameters
    ----------
    class_indices
        Index of each photo's class in the label space; None where it is not among them.
    scores
        Scores over the label space, of shape (photos, labels).
    labels
        The label space.

    Notes
    -----
    Among equal scores the lowest index is predicted. A target's rank is 1 plus the number of
    classes with a higher score, or an equal one at a lower index, so that rank 1 means correct.
    """
    best = scores.argmax(axis=1)
    rows = []
    for row, target in enumerate(class_indices):
        predicted = int(best[row])
        found: dict[str, Any] = {
            "predicted_index": predicted,
            "predicted_name": labels.names[predicted],
        }
        if target is not None:
            own = scores[row, target]
            ahead = (scores[row] > own) | ((scores[row] == own) & (np.arange(len(labels)) < target))
            others = np.delete(scores[row], target)
            found |= {
                "correct": predicted == target,
                "target_rank": int(ahead.sum()) + 1,
                "target_score": float(own),
                "margin": float(own - others.max()) if len(others) else None,
            }
        rows.append(found)
    return rows
