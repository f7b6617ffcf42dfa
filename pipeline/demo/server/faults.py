"""How the local server misbehaves: which fault meets which request, and what it does to the answer.

`Faults` is the plan, made of a seed and nothing else that changes, so that two servers with one
plan misbehave alike in whatever order they are asked. Given a photo's id (or the number of an API
request) and how often it was asked for before, the plan names a fault or none; `spoil` turns the
answer that would have been right into the one that is sent. Faults heal after a number of times,
except those that the plan calls permanent.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from http import HTTPStatus

__all__ = [
    "API_FAULTS",
    "HEALING_PHOTO_FAULTS",
    "PHOTO_FAULTS",
    "Answer",
    "Ending",
    "Fault",
    "Faults",
    "error_answer",
    "spoil",
]


class Fault(StrEnum):
    """Everything that can go wrong with an answer."""

    TOO_MANY_REQUESTS = "too-many-requests"
    """429 with Retry-After."""
    SERVER_ERROR = "server-error"
    """500."""
    BAD_GATEWAY = "bad-gateway"
    """502 with an HTML page."""
    UNAVAILABLE = "unavailable"
    """503 without Retry-After."""
    S3_SLOW_DOWN = "s3-slow-down"
    """503 with the XML error of S3."""
    S3_ERROR = "s3-error"
    """200 with the XML error of S3."""
    HTML_PAGE = "html-page"
    """200 with an HTML page that calls itself the type of the right answer."""
    WRONG_TYPE = "wrong-type"
    """The right bytes, called text/plain."""
    RESET = "reset"
    """The connection is reset before anything is sent."""
    RESET_MIDWAY = "reset-midway"
    """The connection is reset after half of the body."""
    TRUNCATED = "truncated"
    """The connection is closed after half of the body that Content-Length announces."""
    CUT_SHORT = "cut-short"
    """Half of the body, announced as half: only decoding shows it."""
    STALL = "stall"
    """Half of the body, then nothing for `stall_seconds`, then the connection is closed."""
    REDIRECT = "redirect"
    """302 to another path of this server, where the photo is."""
    NOT_FOUND = "not-found"
    """404."""
    FORBIDDEN = "forbidden"
    """403."""
    GONE = "gone"
    """410."""
    LFS_POINTER = "lfs-pointer"
    """200 with the pointer text of Git LFS."""
    ONE_PIXEL = "one-pixel"
    """200 with an image of one pixel."""
    ENDLESS = "endless"
    """A body without length or end, until the client hangs up."""
    REDIRECT_TO_FILE = "redirect-to-file"
    """302 to file:///etc/passwd."""
    REDIRECT_TO_METADATA = "redirect-to-metadata"
    """302 to the metadata address of cloud machines, 169.254.169.254."""
    REDIRECT_ELSEWHERE = "redirect-elsewhere"
    """302 to the plan's `elsewhere`."""
    REDIRECT_LOOP = "redirect-loop"
    """302 to the address that was asked for."""


API_FAULTS = (
    Fault.TOO_MANY_REQUESTS,
    Fault.SERVER_ERROR,
    Fault.BAD_GATEWAY,
    Fault.RESET,
    Fault.STALL,
    Fault.CUT_SHORT,
)
"""Faults of answers with JSON; they heal."""

HEALING_PHOTO_FAULTS = (
    Fault.TOO_MANY_REQUESTS,
    Fault.SERVER_ERROR,
    Fault.UNAVAILABLE,
    Fault.S3_SLOW_DOWN,
    Fault.S3_ERROR,
    Fault.HTML_PAGE,
    Fault.WRONG_TYPE,
    Fault.RESET,
    Fault.RESET_MIDWAY,
    Fault.TRUNCATED,
    Fault.STALL,
    Fault.REDIRECT,
)
"""Faults that a photo may meet for some time, by chance or by name."""

PHOTO_FAULTS = (
    *HEALING_PHOTO_FAULTS,
    Fault.CUT_SHORT,
    Fault.NOT_FOUND,
    Fault.FORBIDDEN,
    Fault.GONE,
    Fault.LFS_POINTER,
    Fault.ONE_PIXEL,
    Fault.ENDLESS,
    Fault.REDIRECT_TO_FILE,
    Fault.REDIRECT_TO_METADATA,
    Fault.REDIRECT_ELSEWHERE,
    Fault.REDIRECT_LOOP,
)
"""Faults that a photo may have for ever, by name."""


@dataclass(frozen=True)
class Faults:
    """The plan.

    Attributes
    ----------
    seed
        What chance is drawn from: `random.Random(f"{seed}:{photo_id}")` for a photo,
        `random.Random(f"{seed}:api:{number}")` for an API request.
    photo_rates
        Probability of each of `HEALING_PHOTO_FAULTS`, 0..1, for a photo that `photos` and
        `permanent` do not name; a photo has at most one.
    photos
        One of `HEALING_PHOTO_FAULTS` for each photo id named.
    permanent
        One of `PHOTO_FAULTS`, for ever, for each photo id named.
    api_rates
        Probability of each of `API_FAULTS` for an API request that `api` does not name.
    api
        One of `API_FAULTS` by number of the API request, from 1; a request that is repeated word
        by word keeps its number, so that it heals too.
    times
        How often a fault happens to a photo or an API request before it heals.
    retry_after
        Seconds that a 429 names.
    stall_seconds
        How long a stall lasts; more than the client's read timeout.
    elsewhere
        Where `Fault.REDIRECT_ELSEWHERE` leads.

    Raises
    ------
    ValueError
        If a fault is named where it cannot be, or probabilities add up to more than 1.
    """

    seed: int = 0
    photo_rates: Mapping[Fault, float] = field(default_factory=dict)
    photos: Mapping[int, Fault] = field(default_factory=dict)
    permanent: Mapping[int, Fault] = field(default_factory=dict)
    api_rates: Mapping[Fault, float] = field(default_factory=dict)
    api: Mapping[int, Fault] = field(default_factory=dict)
    times: int = 1
    retry_after: int = 1
    stall_seconds: float = 60.0
    elsewhere: str = ""

    def __post_init__(self) -> None:
        for named, known in (
            (self.photo_rates, HEALING_PHOTO_FAULTS),
            (self.photos.values(), HEALING_PHOTO_FAULTS),
            (self.permanent.values(), PHOTO_FAULTS),
            (self.api_rates, API_FAULTS),
            (self.api.values(), API_FAULTS),
        ):
            if wrong := set(named) - set(known):
                msg = f"{sorted(wrong)} cannot happen there; choose from {', '.join(known)}"
                raise ValueError(msg)
        if sum(self.photo_rates.values()) > 1 or sum(self.api_rates.values()) > 1:
            msg = "the probabilities of the faults add up to more than 1"
            raise ValueError(msg)

    def of_photo(self, photo_id: int, turn: int) -> Fault | None:
        """The fault of a photo that was asked for `turn` times before."""
        if photo_id in self.permanent:
            return self.permanent[photo_id]
        if turn >= self.times:
            return None
        chance = _draw(f"{self.seed}:{photo_id}", self.photo_rates)
        return self.photos.get(photo_id, chance)

    def of_api_request(self, number: int, turn: int) -> Fault | None:
        """The fault of API request `number` that was made `turn` times before."""
        if turn >= self.times:
            return None
        return self.api.get(number, _draw(f"{self.seed}:api:{number}", self.api_rates))


def _draw(seed: str, rates: Mapping[Fault, float]) -> Fault | None:
    """One fault by its probability, or none; the same whatever order the rates are given in."""
    point = random.Random(seed).random()  # noqa: S311 - nothing secret
    for fault in Fault:
        point -= rates.get(fault, 0.0)
        if point < 0:
            return fault
    return None


class Ending(Enum):
    """What becomes of the connection after an answer."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"
    ENDLESS = "endless"


@dataclass(frozen=True)
class Answer:
    """What is sent.

    `status` None sends nothing at all; `sent` is how many bytes of the body leave, None for all.
    """

    status: int | None
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: int | None = None
    ending: Ending = Ending.KEEP


def error_answer(status: HTTPStatus, message: str, headers: Mapping[str, str]) -> Answer:
    """An error in the JSON of the real API."""
    body = json.dumps({"error": message, "status": status.value}).encode()
    return Answer(status, body, "application/json; charset=utf-8", headers)


def _s3(status: HTTPStatus, code: str, message: str) -> Answer:
    """An error in the XML of S3."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        "<RequestId>0DEC0DE</RequestId><HostId>localhost</HostId></Error>"
    )
    return Answer(status, body.encode(), "application/xml")


def _to(location: str) -> Answer:
    return Answer(HTTPStatus.FOUND, headers={"Location": location})


_HTML = b"""<!DOCTYPE html>
<html><head><title>Please wait</title></head>
<body><h1>We'll be right back</h1><p>Something is being mended.</p></body></html>
"""
_LFS_POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 1234567
"""
_ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)


def _replaced(fault: Fault, plan: Faults, right: Answer, path: str) -> Answer | None:
    """The answer sent in place of the right one; None for faults that keep some of it."""
    no_key = ("NoSuchKey", "The specified key does not exist.")
    return {
        Fault.TOO_MANY_REQUESTS: error_answer(
            HTTPStatus.TOO_MANY_REQUESTS,
            "Too Many Requests",
            {"Retry-After": str(plan.retry_after)},
        ),
        Fault.SERVER_ERROR: Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"Internal Server Error\n"),
        Fault.BAD_GATEWAY: Answer(HTTPStatus.BAD_GATEWAY, _HTML, "text/html"),
        Fault.UNAVAILABLE: Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"Service Unavailable\n"),
        Fault.S3_SLOW_DOWN: _s3(
            HTTPStatus.SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate."
        ),
        Fault.S3_ERROR: _s3(
            HTTPStatus.OK, "InternalError", "We encountered an internal error. Please try again."
        ),
        Fault.HTML_PAGE: Answer(HTTPStatus.OK, _HTML, right.content_type),
        Fault.RESET: Answer(None, ending=Ending.RESET),
        Fault.REDIRECT: _to(f"/moved{path}"),
        Fault.NOT_FOUND: _s3(HTTPStatus.NOT_FOUND, *no_key),
        Fault.FORBIDDEN: _s3(HTTPStatus.FORBIDDEN, "AccessDenied", "Access Denied"),
        Fault.GONE: Answer(HTTPStatus.GONE, b"Gone\n"),
        Fault.LFS_POINTER: Answer(HTTPStatus.OK, _LFS_POINTER, right.content_type),
        Fault.ONE_PIXEL: Answer(HTTPStatus.OK, _ONE_PIXEL, "image/png"),
        Fault.REDIRECT_TO_FILE: _to("file:///etc/passwd"),
        Fault.REDIRECT_TO_METADATA: _to("http://169.254.169.254/latest/meta-data/"),
        Fault.REDIRECT_ELSEWHERE: _to(plan.elsewhere),
        Fault.REDIRECT_LOOP: _to(path),
    }.get(fault)


def spoil(right: Answer, fault: Fault, plan: Faults, path: str) -> Answer:
    """The answer to send instead of the right one to the question at `path`."""
    replaced = _replaced(fault, plan, right, path)
    if replaced is not None:
        return replaced
    half = len(right.body) // 2
    if fault is Fault.WRONG_TYPE:
        return replace(right, content_type="text/plain")
    if fault is Fault.CUT_SHORT:
        return replace(right, body=right.body[:half])
    ending = {
        Fault.RESET_MIDWAY: Ending.RESET,
        Fault.TRUNCATED: Ending.CLOSE,
        Fault.STALL: Ending.STALL,
        Fault.ENDLESS: Ending.ENDLESS,
    }[fault]
    return replace(right, sent=None if fault is Fault.ENDLESS else half, ending=ending)
