"""Questions of iNaturalist's API v1, answered from a catalogue in the form of the real one.

Given a path below `/v1` and its query, gives the JSON to answer with, or a `Refusal` with the
status and the words of the real API. Stricter than the real one in two ways, so that a test
notices what would pass unnoticed there: a parameter that is not understood is refused instead of
ignored, and so is a page of more than 200 results instead of cut to 200.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from http import HTTPStatus
from typing import Any, TypeVar

from pipeline.demo.server.catalogue import (
    RANK_LEVELS,
    Catalogue,
    Observation,
    Observer,
    Photo,
    Taxon,
)

__all__ = ["MAX_PER_PAGE", "MAX_RESULT_WINDOW", "Refusal", "answer"]

MAX_PER_PAGE = 200
MAX_RESULT_WINDOW = 10_000
"""Results that pages reach; beyond them a client goes on with `id_below` or `id_above`."""

_DEFAULT_PER_PAGE = 30
_PAGING = frozenset({"page", "per_page"})

_Row = TypeVar("_Row")
Json = dict[str, Any]


class Refusal(Exception):
    """A question that is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def _unprocessable(message: str) -> Refusal:
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, message)


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        msg = f"{text!r} is no whole number"
        raise _unprocessable(msg)
    return int(text)


def _numbers(text: str) -> frozenset[int]:
    return frozenset(map(_number, text.split(",")))


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        msg = f"{text!r} is no day (YYYY-MM-DD)"
        raise _unprocessable(msg) from error


def _one_of(text: str, *choices: str) -> str:
    if text not in choices:
        msg = f"{text!r} is none of {', '.join(choices)}"
        raise _unprocessable(msg)
    return text


# What follows turns the value of a parameter into a test of an observation or a taxon.


def _in_taxa(text: str) -> Callable[[Observation], bool]:
    wanted = _numbers(text)
    return lambda row: not wanted.isdisjoint(row.taxon.ancestor_ids)


def _with_photos(text: str) -> Callable[[Observation], bool]:
    wanted = _one_of(text, "true", "false") == "true"
    return lambda row: bool(row.photos) == wanted


def _of_quality(text: str) -> Callable[[Observation], bool]:
    wanted = {_one_of(part, "research", "needs_id", "casual") for part in text.split(",")}
    return lambda row: row.quality_grade in wanted


def _captive(text: str) -> Callable[[Observation], bool]:
    if _one_of(text, "true", "false", "any") == "any":
        return lambda _: True
    return lambda row: row.captive == (text == "true")


def _with_photo_license(text: str) -> Callable[[Observation], bool]:
    wanted = frozenset(text.lower().split(","))
    return lambda row: any(photo.license_code in wanted for photo in row.photos)


def _in_places(text: str) -> Callable[[Observation], bool]:
    wanted = _numbers(text)
    return lambda row: not wanted.isdisjoint(row.place_ids)


def _since(text: str) -> Callable[[Observation], bool]:
    first = _day(text)
    return lambda row: row.observed_on is not None and row.observed_on >= first


def _until(text: str) -> Callable[[Observation], bool]:
    last = _day(text)
    return lambda row: row.observed_on is not None and row.observed_on <= last


def _with_id(text: str) -> Callable[[Observation], bool]:
    wanted = _numbers(text)
    return lambda row: row.id in wanted


def _above(text: str) -> Callable[[Observation], bool]:
    bound = _number(text)
    return lambda row: row.id > bound


def _below(text: str) -> Callable[[Observation], bool]:
    bound = _number(text)
    return lambda row: row.id < bound


_OBSERVATION_FILTERS: Mapping[str, Callable[[str], Callable[[Observation], bool]]] = {
    "taxon_id": _in_taxa,
    "photos": _with_photos,
    "quality_grade": _of_quality,
    "captive": _captive,
    "photo_license": _with_photo_license,
    "place_id": _in_places,
    "d1": _since,
    "d2": _until,
    "id": _with_id,
    "id_above": _above,
    "id_below": _below,
}

_ORDERS: Mapping[str, Callable[[Observation], Any]] = {
    "id": lambda row: row.id,
    "created_at": lambda row: (row.created_at, row.id),
    "observed_on": lambda row: (row.observed_on or date.min, row.id),
}


def _like(text: str) -> Callable[[Taxon], bool]:
    """Whether each word asked for begins a word of the scientific or of the common name."""
    wanted = text.casefold().split()

    def matches(taxon: Taxon) -> bool:
        names = (taxon.name, taxon.common_name or "")
        return any(
            all(any(word.startswith(part) for word in name.casefold().split()) for part in wanted)
            for name in names
        )

    return matches


def _of_rank(text: str) -> Callable[[Taxon], bool]:
    wanted = frozenset(text.split(","))
    return lambda taxon: taxon.rank in wanted


def _active(text: str) -> Callable[[Taxon], bool]:
    if _one_of(text, "true", "false", "any") == "any":
        return lambda _: True
    return lambda taxon: taxon.is_active == (text == "true")


_TAXON_FILTERS: Mapping[str, Callable[[str], Callable[[Taxon], bool]]] = {
    "q": _like,
    "rank": _of_rank,
    "is_active": _active,
}


def _select(
    rows: Sequence[_Row],
    query: Mapping[str, str],
    filters: Mapping[str, Callable[[str], Callable[[_Row], bool]]],
) -> list[_Row]:
    tests = [filters[name](value) for name, value in query.items() if name in filters]
    return [row for row in rows if all(test(row) for test in tests)]


def _check_names(query: Mapping[str, str], known: frozenset[str]) -> None:
    for name in query:
        if name not in known:
            msg = f"the parameter {name!r} is not understood here; there are {sorted(known)}"
            raise _unprocessable(msg)


def _page(rows: Sequence[_Row], query: Mapping[str, str], as_json: Callable[[_Row], Json]) -> Json:
    page = _number(query.get("page", "1"))
    per_page = _number(query.get("per_page", str(_DEFAULT_PER_PAGE)))
    if page < 1 or per_page > MAX_PER_PAGE:
        msg = f"page starts at 1 and per_page ends at {MAX_PER_PAGE}; got {page} and {per_page}"
        raise _unprocessable(msg)
    if page * per_page > MAX_RESULT_WINDOW:
        msg = (
            "Result window is too large, page x per_page must be less than or equal to "
            f"{MAX_RESULT_WINDOW}"
        )
        raise Refusal(HTTPStatus.FORBIDDEN, msg)
    shown = rows[(page - 1) * per_page : page * per_page]
    return {
        "total_results": len(rows),
        "page": page,
        "per_page": per_page,
        "results": [as_json(row) for row in shown],
    }


def _attribution(observer: Observer, license_code: str | None) -> str:
    name = observer.name or observer.login
    if license_code is None:
        return f"(c) {name}, all rights reserved"
    if license_code == "cc0":
        return f"{name}, no rights reserved (CC0)"
    return f"(c) {name}, some rights reserved ({license_code.upper().replace('-', ' ', 1)})"


def _photo_json(photo: Photo, observer: Observer, url: str) -> Json:
    address = f"{url}/photos/{photo.id}/square.{photo.extension}"
    size = photo.dimensions
    return {
        "id": photo.id,
        "license_code": photo.license_code,
        "attribution": _attribution(observer, photo.license_code),
        # As in the real answers, the address of a photo that is not free has a query.
        "url": address if photo.license_code else f"{address}?{photo.id}",
        "original_dimensions": None if size is None else {"width": size[0], "height": size[1]},
        "flags": [],
    }


def _taxon_json(taxon: Taxon) -> Json:
    common = {} if taxon.common_name is None else {"preferred_common_name": taxon.common_name}
    return {
        "id": taxon.id,
        "name": taxon.name,
        "rank": taxon.rank,
        "rank_level": RANK_LEVELS[taxon.rank],
        "ancestor_ids": list(taxon.ancestor_ids),
        "is_active": taxon.is_active,
        **common,
    }


def _observation_json(row: Observation, url: str) -> Json:
    uri = f"{url}/observations/{row.id}"
    seen = row.time_observed_at
    return {
        "id": row.id,
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, str(row.id))),
        "quality_grade": row.quality_grade,
        "captive": row.captive,
        "created_at": row.created_at.isoformat(timespec="seconds"),
        "time_observed_at": seen and seen.isoformat(timespec="seconds"),
        "observed_on": row.observed_on and row.observed_on.isoformat(),
        "license_code": row.photos[0].license_code if row.photos else None,
        "taxon": _taxon_json(row.taxon),
        "user": {"id": row.observer.id, "login": row.observer.login, "name": row.observer.name},
        "place_ids": list(row.place_ids),
        "photos": [_photo_json(photo, row.observer, url) for photo in row.photos],
        "uri": uri,
    }


def _observations(catalogue: Catalogue, query: Mapping[str, str], url: str) -> Json:
    _check_names(query, frozenset(_OBSERVATION_FILTERS) | _PAGING | {"order", "order_by"})
    for taxon in sorted(_numbers(query["taxon_id"])) if "taxon_id" in query else ():
        if taxon not in catalogue.taxon:
            msg = f"Unknown taxon_id {taxon}"
            raise _unprocessable(msg)
    key = _ORDERS[_one_of(query.get("order_by", "created_at"), *_ORDERS)]
    descending = _one_of(query.get("order", "desc"), "asc", "desc") == "desc"
    rows = _select(catalogue.observations, query, _OBSERVATION_FILTERS)
    rows.sort(key=key, reverse=descending)
    return _page(rows, query, lambda row: _observation_json(row, url))


def _counted(catalogue: Catalogue) -> Callable[[Taxon], Json]:
    return lambda taxon: {
        **_taxon_json(taxon),
        "observations_count": catalogue.observed[taxon.id],
    }


def _taxa(catalogue: Catalogue, query: Mapping[str, str]) -> Json:
    _check_names(query, frozenset(_TAXON_FILTERS) | _PAGING)
    taxa = _select(catalogue.taxa, query, _TAXON_FILTERS)
    taxa.sort(key=lambda taxon: (-catalogue.observed[taxon.id], taxon.id))
    return _page(taxa, query, _counted(catalogue))


def _taxa_by_id(catalogue: Catalogue, ids: str) -> Json:
    wanted = _numbers(ids)
    taxa = [taxon for taxon in catalogue.taxa if taxon.id in wanted]

    def with_ancestors(taxon: Taxon) -> Iterator[Json]:
        for ancestor in taxon.ancestor_ids[:-1]:
            if ancestor in catalogue.taxon:
                yield _counted(catalogue)(catalogue.taxon[ancestor])

    def as_json(taxon: Taxon) -> Json:
        return {**_counted(catalogue)(taxon), "ancestors": list(with_ancestors(taxon))}

    return _page(taxa, {}, as_json)


def answer(catalogue: Catalogue, path: str, query: Mapping[str, str], url: str) -> Json:
    """The JSON that answers a question.

    Parameters
    ----------
    catalogue
        What there is.
    path
        `/taxa`, `/taxa/ID,ID`, or `/observations`.
    query
        Parameters, several values of one separated by commas.
    url
        Address of this server, for the photos.

    Raises
    ------
    Refusal
        If the real API would answer with an error, or the question is not understood.
    """
    if path == "/observations":
        return _observations(catalogue, query, url)
    if path == "/taxa":
        return _taxa(catalogue, query)
    if path.startswith("/taxa/"):
        return _taxa_by_id(catalogue, path.removeprefix("/taxa/"))
    msg = "Not Found"
    raise Refusal(HTTPStatus.NOT_FOUND, msg)
