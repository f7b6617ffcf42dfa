"""Read what Label Studio stores, and refuse what the screen cannot have given.

The server stores whatever it is sent, so each answer is read with suspicion: an unknown label, two
backgrounds or no decision make a complaint with the place to look, never a row.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from annotation.screen import NONE_FITS, REASONS, SHOWS
from manifests.errors import CapError
from manifests.vocabulary import backgrounds

__all__ = ["AnswerError", "Confirmed", "Given", "Said", "read_answer", "read_confirmation"]


class AnswerError(CapError):
    """An answer on the server is none that the screen can give."""


@dataclass(frozen=True)
class Given:
    """What every answer has, whatever was asked.

    Attributes
    ----------
    answer_id
        The server's id of the answer.
    user_id
        The server's id of who gave it.
    """

    answer_id: int
    user_id: int
    note: str | None
    seconds: float | None
    created_at: datetime.datetime
    updated_at: datetime.datetime


@dataclass(frozen=True)
class Said(Given):
    """What one answer on the labelling screen says.

    Attributes
    ----------
    decision
        `keep`, `reject` or `skip`.
    """

    decision: str
    background: str | None
    background_second: str | None
    reject_reasons: list[str] | None


@dataclass(frozen=True)
class Confirmed(Given):
    """What one answer on the screen of a discovery says.

    Attributes
    ----------
    shows
        Whether the photo shows what the regions have in common; None where it was skipped.
    """

    shows: bool | None


def _chosen(result: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Choices and texts by the name of their control."""
    chosen: dict[str, list[str]] = {}
    for part in result:
        value = part["value"]
        texts = value["text"] if "text" in value else value["choices"]
        texts = [texts] if isinstance(texts, str) else texts
        chosen.setdefault(str(part["from_name"]), []).extend(map(str, texts))
    return chosen


def _one(chosen: Mapping[str, list[str]], control: str, known: set[str]) -> str | None:
    values = list(dict.fromkeys(chosen.get(control, ())))
    for value in values:
        if value not in known:
            msg = f"{control} {value!r} is not on the screen"
            raise AnswerError(msg)
    if len(values) > 1:
        msg = f"{control} has {len(values)} values: {', '.join(values)}"
        raise AnswerError(msg)
    return values[0] if values else None


def _kept(chosen: Mapping[str, list[str]]) -> tuple[str | None, str | None]:
    names = {background.name for background in backgrounds()}
    first = _one(chosen, "background", names | {NONE_FITS})
    if first is None:
        msg = "it keeps the photo and names no background"
        raise AnswerError(msg)
    second = _one(chosen, "background_second", names)
    if first == NONE_FITS:
        return None, second
    return first, None if second == first else second


def _reasons(chosen: Mapping[str, list[str]]) -> list[str]:
    known = [reason.name for reason in REASONS]
    reasons = chosen.get("reject_reasons", [])
    unknown = [reason for reason in reasons if reason not in known]
    if unknown:
        msg = f"reject_reasons {unknown[0]!r} is not on the screen"
        raise AnswerError(msg)
    return [reason for reason in known if reason in reasons]


def _opened(answer: Mapping[str, Any]) -> tuple[bool, dict[str, list[str]], dict[str, Any]]:
    """Whether it is a skip, what was chosen, and what every answer has."""
    try:
        skipped = bool(answer["was_cancelled"])
        # What was filled in before somebody skipped the photo is no answer.
        chosen = {} if skipped else _chosen(answer["result"])
        seconds = answer.get("lead_time")
        note = " ".join(text.strip() for text in chosen.get("note", ())).strip()
        common: dict[str, Any] = {
            "answer_id": int(answer["id"]),
            "user_id": int(answer["completed_by"]),
            "note": note or None,
            "seconds": None if seconds is None else float(seconds),
            "created_at": datetime.datetime.fromisoformat(answer["created_at"]),
            "updated_at": datetime.datetime.fromisoformat(answer["updated_at"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"it has another form than the screen gives ({error!r})"
        raise AnswerError(msg) from error
    return skipped, chosen, common


def read_answer(answer: Mapping[str, Any]) -> Said:
    """Read one annotation of the server, given on the labelling screen.

    Parameters
    ----------
    answer
        Label Studio's annotation: `id`, `completed_by`, `was_cancelled`, `lead_time`, `result`,
        `created_at` and `updated_at`.

    Raises
    ------
    AnswerError
        If it is none that the labelling screen can give; the message says why.
    """
    skipped, chosen, common = _opened(answer)
    decision = "skip" if skipped else _one(chosen, "decision", {"keep", "reject"})
    if decision is None:
        msg = "it neither keeps nor rejects the photo"
        raise AnswerError(msg)
    background, second = _kept(chosen) if decision == "keep" else (None, None)
    return Said(
        decision=decision,
        background=background,
        background_second=second,
        reject_reasons=_reasons(chosen) if decision == "reject" else None,
        **common,
    )


def read_confirmation(answer: Mapping[str, Any]) -> Confirmed:
    """Read one annotation of the server, given on the screen of a discovery.

    Parameters
    ----------
    answer
        As for `read_answer`.

    Raises
    ------
    AnswerError
        If it is none that this screen can give; the message says why.
    """
    skipped, chosen, common = _opened(answer)
    said = _one(chosen, SHOWS, {"yes", "no"})
    if said is None and not skipped:
        msg = "it says neither yes nor no"
        raise AnswerError(msg)
    return Confirmed(shows=None if said is None else said == "yes", **common)
