"""Read tags from a file: one row per photo, with the background that somebody saw.

A file is CSV, TSV or Parquet with a column `photo_id`, `path` or `sha256` (the first of them that
it has is used) and a column `background`; `decision`, `annotator`, `round`, `reject_reasons`
(separated by `|`), `background_second` and `note` are read if they are there, so that what
`cap annotate export` wrote can come back. A row without a background and without a decision is a
`skip`: the annotator could not tell.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from annotation.labels import refuse_doubled, settle_labels
from annotation.parameters import ImportParameters
from annotation.photo_rows import PhotoRows, photo_lookup, read_photo_rows
from manifests.errors import CapError, UnknownNameError
from manifests.schema import ANNOTATIONS
from manifests.tables import count_by, from_rows, table_digest
from manifests.vocabulary import resolve_background
from manifests.workspace import Job, Outcome, now

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["import_tags", "read_tags", "tags_to_annotations"]

Rows = Sequence[Mapping[str, Any]]

_REASONS = ("label_noise", "feature_noise", "ambiguity", "clarity")


def read_tags(path: Path) -> PhotoRows:
    """The rows of a tags file.

    Raises
    ------
    CapError
        If it cannot be read, is empty, or lacks a column that names the photo or the background.
    """
    return read_photo_rows(path, "tags", ("background",))


def _answer(row: Mapping[str, str]) -> dict[str, Any]:
    """Round, decision, background and reasons of one row of the file."""
    text = row.get("background", "")
    background = resolve_background(text) if text else None
    second = row.get("background_second", "")
    decision = row.get("decision", "").casefold() or ("keep" if background else "skip")
    if decision not in ANNOTATIONS.choices["decision"]:
        msg = f"no decision {decision!r}; it is keep, reject or skip"
        raise UnknownNameError(msg)
    turn = row.get("round", "").casefold() or "first"
    if turn not in ANNOTATIONS.choices["round"]:
        msg = f"no round {turn!r}; it is first or adjudication"
        raise UnknownNameError(msg)
    reasons = [r.strip() for r in row.get("reject_reasons", "").split("|") if r.strip()]
    unknown = [reason for reason in reasons if reason not in _REASONS]
    if unknown:
        msg = f"no reject reason {unknown[0]!r}; they are {', '.join(_REASONS)}"
        raise UnknownNameError(msg)
    kept = decision == "keep"
    return {
        "round": turn,
        "decision": decision,
        "background": background if kept else None,
        "background_second": resolve_background(second) if kept and second else None,
        "reject_reasons": reasons if decision == "reject" else None,
        "note": row.get("note") or None,
    }


def tags_to_annotations(
    tags: PhotoRows, photos: pa.Table, annotator: str, created_at: datetime.datetime
) -> tuple[pa.Table, list[str]]:
    """Annotations from a file's rows, and what the file says of photos that are not there.

    Parameters
    ----------
    tags
        The file.
    photos
        The photos table.
    annotator
        Who tagged, where a row does not say.
    created_at
        Time to record.

    Raises
    ------
    CapError
        If a background, decision, round or reason is unknown (the line is named), or one annotator
        says two different things of one photo.
    """
    lookup = photo_lookup(photos, tags.identity)
    found: dict[tuple[str, str, str], tuple[dict[str, Any], int]] = {}
    unknown = []
    for line, row in tags.rows:
        try:
            answer = _answer(row)
        except UnknownNameError as error:
            msg = f"{tags.name}, line {line}: {error}"
            raise CapError(msg) from error
        who = row.get("annotator") or annotator
        photo_ids = lookup.get(row[tags.identity], [])
        if not photo_ids:
            unknown.append(row[tags.identity])
        for photo_id in photo_ids:
            key = (photo_id, who, answer["round"])
            earlier, earlier_line = found.setdefault(key, (answer, line))
            if earlier != answer:
                msg = (
                    f"{tags.name}, line {line}: {who} tagged {photo_id} differently in line "
                    f"{earlier_line}; keep one of the two"
                )
                raise CapError(msg)
    rows = [
        {
            **answer,
            "photo_id": photo_id,
            "annotator": who,
            "created_at": created_at,
            "source": f"import:{tags.name}",
            "source_id": str(line),
        }
        for (photo_id, who, _), (answer, line) in found.items()
    ]
    return from_rows(rows, ANNOTATIONS.schema), unknown


def _check_unknown(unknown: Sequence[str], tags: PhotoRows, *, skip: bool) -> None:
    if unknown and (not skip or len(unknown) == len(tags.rows)):
        first = ", ".join(repr(name) for name in unknown[:3])
        msg = (
            f"{tags.name} tags {len(unknown)} photos that the workspace does not have ({first}); "
            "collect them, or leave them out with --skip-unknown"
        )
        raise CapError(msg)


_KEY = ("photo_id", "annotator", "round")
_SAID = ("decision", "background", "background_second")


@dataclass(frozen=True)
class _Replaced:
    """Answers of an earlier file of the same name: how many are gone, and how many are others."""

    gone: int = 0
    changed: int = 0

    def __str__(self) -> str:
        """As the end of a sentence; empty where all stand."""
        if not self.gone and not self.changed:
            return ""
        return f"; of the earlier answers {self.gone} fall away and {self.changed} change"


def _replaced(earlier: Rows, new: Rows) -> _Replaced:
    said = {tuple(row[k] for k in _KEY): [row[k] for k in _SAID] for row in new}
    now = [said.get(tuple(row[k] for k in _KEY)) for row in earlier]
    changed = [s != [row[k] for k in _SAID] for row, s in zip(earlier, now, strict=True) if s]
    return _Replaced(now.count(None), sum(changed))


def _refuse_namesake(earlier: Rows, new: Rows, name: str) -> None:
    """Refuse a file of the same name as an earlier one of which no answer is left.

    Parameters
    ----------
    earlier, new
        The answers of both; of the earlier ones, those about photos that the workspace has.
    name
        The name of the file.

    Raises
    ------
    CapError
        If its rows would take the place of theirs.
    """
    keys = ({tuple(row[k] for k in _KEY) for row in rows} for rows in (earlier, new))
    if not set.isdisjoint(*keys):
        # A newer version of the file, which may have lost answers, and people.
        return
    before, after = ({row["annotator"] for row in rows} for rows in (earlier, new))
    missing = before - after
    if missing:
        msg = (
            f"an earlier {name} has the answers of {', '.join(sorted(missing))}, which these of "
            f"{', '.join(sorted(after))} would replace; give this file another name"
        )
        raise CapError(msg)
    # A name that was taken from the file's tells nothing of who has tagged.
    photos = ({row["photo_id"] for row in rows} for rows in (earlier, new))
    if before == after == {Path(name).stem} and set.isdisjoint(*photos):
        msg = (
            f"an earlier {name} has tags of {len(earlier)} other photos, which these would "
            "replace; give this file another name, or put all tags into one file"
        )
        raise CapError(msg)


def _check_earlier(
    workspace: Workspace, annotations: pa.Table, photos: pa.Table, name: str
) -> _Replaced:
    """What becomes of the answers of an earlier file of the same name.

    Raises
    ------
    CapError
        If they seem to be another file's.
    """
    if not workspace.has("annotations"):
        return _Replaced()
    standing = workspace.read("annotations")
    own = pc.equal(standing["source"], f"import:{name}")
    there = pc.is_in(standing["photo_id"], photos["photo_id"].combine_chunks())
    earlier = standing.filter(pc.and_(own, there)).to_pylist()
    new = annotations.to_pylist()
    answers = [
        sorted(str([row[k] for k in ("photo_id", *_SAID)]) for row in r) for r in (earlier, new)
    ]
    # The same answers are the same person's, under another name.
    if not earlier or answers[0] == answers[1]:
        return _Replaced()
    _refuse_namesake(earlier, new, name)
    return _replaced(earlier, new)


def import_tags(workspace: Workspace, parameters: ImportParameters, progress: Progress) -> Outcome:
    """Bring a file's tags into `annotations` and settle `labels` from all annotations."""
    del progress
    if parameters.file is None:
        msg = "name the file with the tags: `cap annotate import FILE`"
        raise CapError(msg)
    path = Path(parameters.file)
    tags = read_tags(path)
    annotator = parameters.annotator or path.stem
    photos = workspace.read("photos")
    annotations, unknown = tags_to_annotations(tags, photos, annotator, now())
    _check_unknown(unknown, tags, skip=parameters.skip_unknown)
    advice = f"name whoever made {tags.name} with --annotator"
    refuse_doubled(workspace, annotations, f"import:{tags.name}", advice)
    replaced = _check_earlier(workspace, annotations, photos, tags.name)
    job = Job(
        table="annotations",
        stage="annotate import",
        source=f"import:{tags.name}",
        parameters={"annotator": annotator, "skip_unknown": parameters.skip_unknown},
        inputs={"tags": table_digest(annotations)},
    )
    run = workspace.begin(job)
    if not run.fresh:
        run.commit(annotations)
    settled = settle_labels(workspace)
    labels = workspace.read("labels")
    decided = count_by(labels, "decision")
    facts = {
        "tags": annotations.num_rows,
        "labels": labels.num_rows,
        "unknown": len(unknown),
        **asdict(replaced),
    }
    left_out = f"; {len(unknown)} tags of unknown photos left out" if unknown else ""
    text = (
        f"{annotations.num_rows} tags; {decided.get('keep', 0)} photos kept, "
        f"{decided.get('reject', 0)} rejected{left_out}{replaced}"
    )
    return Outcome("annotate import", text, {**facts, **decided}, run.fresh and settled)
