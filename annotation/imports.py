"""Read tags from a file: one row per photo, with the background that somebody saw.

A file is CSV, TSV or Parquet with a column `photo_id`, `path` or `sha256` (the first of them that
it has is used) and a column `background`; `decision`, `annotator`, `round`, `reject_reasons`
(separated by `|`), `background_second` and `note` are read if they are there, so that what
`cap annotate export` wrote can come back. A row without a background and without a decision is a
`skip`: the annotator could not tell.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotation.consensus import settle
from annotation.parameters import ImportParameters
from annotation.spreadsheet import unguarded
from manifests.errors import CapError, UnknownNameError
from manifests.schema import ANNOTATIONS, LABELS
from manifests.tables import count_by, from_rows, table_digest
from manifests.vocabulary import resolve_background
from manifests.workspace import Job, Outcome, now

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Workspace

__all__ = ["import_tags", "read_tags", "tags_to_annotations"]

_IDENTITIES = ("photo_id", "path", "sha256")
_REASONS = ("label_noise", "feature_noise", "ambiguity", "clarity")
_FOLDER = "folder:"


@dataclass(frozen=True)
class Tags:
    """The rows of a tags file as text, each with the line it stands on."""

    name: str
    rows: tuple[tuple[int, dict[str, str]], ...]

    @property
    def identity(self) -> str:
        """The column that names the photo."""
        return next(name for name in _IDENTITIES if name in self.rows[0][1])


def _read_text(path: Path, delimiter: str) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter=delimiter, restval="")
            rows = []
            for row in reader:
                if None in row:
                    msg = f"{path.name}, line {reader.line_num}: more cells than the header has"
                    raise CapError(msg)
                rows.append((reader.line_num, {k: unguarded(v).strip() for k, v in row.items()}))
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{path.name} is no text table in UTF-8 ({error})"
        raise CapError(msg) from error


def _read_parquet(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        msg = f"{path.name} is not a whole Parquet file"
        raise CapError(msg) from error
    return [
        (number, {key: _cell(value) for key, value in row.items()})
        for number, row in enumerate(rows, start=1)
    ]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return "|".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def read_tags(path: Path) -> Tags:
    """The rows of a tags file.

    Raises
    ------
    CapError
        If it cannot be read, is empty, or lacks a column that names the photo or the background.
    """
    if not path.is_file():
        msg = f"there is no tags file {path}"
        raise CapError(msg)
    if path.suffix == ".parquet":
        rows = _read_parquet(path)
    elif path.suffix in {".tsv", ".csv", ".txt"}:
        rows = _read_text(path, "," if path.suffix == ".csv" else "\t")
    else:
        msg = f"{path.name}: tags are read from .csv, .tsv and .parquet files"
        raise CapError(msg)
    if not rows:
        msg = f"{path.name} has no rows"
        raise CapError(msg)
    columns = rows[0][1]
    if "background" not in columns or not any(name in columns for name in _IDENTITIES):
        msg = f"{path.name} needs a column 'background' and one of {', '.join(_IDENTITIES)}"
        raise CapError(msg)
    return Tags(path.name, tuple(rows))


def _photo_lookup(photos: pa.Table, identity: str) -> dict[str, list[str]]:
    """photo_ids by what a file may call them; one digest may stand for several photos."""
    ids = photos["photo_id"].to_pylist()
    lookup: dict[str, list[str]] = {}
    if identity == "path":
        stored = zip(ids, photos["path"].to_pylist(), strict=True)
        for photo_id, path in stored:
            for name in {path, photo_id.removeprefix(_FOLDER)} - {None, photo_id}:
                lookup.setdefault(name, []).append(photo_id)
        return lookup
    for photo_id, name in zip(ids, photos[identity].to_pylist(), strict=True):
        if name is not None:
            lookup.setdefault(name, []).append(photo_id)
    return lookup


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
    tags: Tags, photos: pa.Table, annotator: str, created_at: datetime.datetime
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
    lookup = _photo_lookup(photos, tags.identity)
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


def _check_unknown(unknown: Sequence[str], tags: Tags, *, skip: bool) -> None:
    if unknown and (not skip or len(unknown) == len(tags.rows)):
        first = ", ".join(repr(name) for name in unknown[:3])
        msg = (
            f"{tags.name} tags {len(unknown)} photos that the workspace does not have ({first}); "
            "collect them, or leave them out with --skip-unknown"
        )
        raise CapError(msg)


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
    _check_other_sources(workspace, annotations, tags)
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
    facts = {"tags": annotations.num_rows, "labels": labels.num_rows, "unknown": len(unknown)}
    left_out = f"; {len(unknown)} tags of unknown photos left out" if unknown else ""
    text = (
        f"{annotations.num_rows} tags; {decided.get('keep', 0)} photos kept, "
        f"{decided.get('reject', 0)} rejected{left_out}"
    )
    return Outcome("annotate import", text, {**facts, **decided}, run.fresh and settled)


def _check_other_sources(workspace: Workspace, annotations: pa.Table, tags: Tags) -> None:
    """Refuse tags that another source has already, by the same annotator."""
    if not workspace.has("annotations"):
        return
    key = list(ANNOTATIONS.key)
    standing = workspace.read("annotations").select([*key, "source"]).to_pylist()
    own = f"import:{tags.name}"
    others = {tuple(r[k] for k in key): r["source"] for r in standing if r["source"] != own}
    for row in annotations.select(key).to_pylist():
        source = others.get(tuple(row[k] for k in key))
        if source is not None:
            msg = (
                f"{row['annotator']} has tagged {row['photo_id']} in {source} already; name "
                f"whoever made {tags.name} with --annotator"
            )
            raise CapError(msg)


def settle_labels(workspace: Workspace) -> bool:
    """Write `labels` from all annotations; gives whether they were up to date already."""
    job = Job(
        table="labels",
        stage="annotate import",
        parameters={},
        inputs={"annotations": workspace.digest("annotations")},
    )
    run = workspace.begin(job)
    if not run.fresh:
        run.commit(from_rows(settle(workspace.read("annotations")), LABELS.schema))
    return run.fresh
