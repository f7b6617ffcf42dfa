"""Ask the iNaturalist API which photos there are: class by class, newest first.

A class's taxa are looked up by scientific name; their observations are paged through by falling id,
which reaches beyond the 10,000 results that pages reach. Requests go through pyinaturalist's
session, which keeps to a number per minute and remembers answers; every attempt counts, and a
request that failed for now is made again after a while.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import platformdirs
import pyarrow as pa

# Not where it is used: requests-cache keeps alive whoever was calling when it was imported, and
# with the callers all tables that they had.
from pyinaturalist.session import ClientSession, FileLockSQLiteBucket
from pyrate_limiter import BucketFullException, Limiter, RequestRate

from manifests.errors import CapError, FetchError
from manifests.fetch import USER_AGENT, explained, local_addresses, refusal, retrying
from manifests.tables import from_rows
from manifests.vocabulary import License, Taxon, attribution_text, licenses
from pipeline.collect.listing import LISTING, PER_CLASS, choose_diverse, left_out_text

if TYPE_CHECKING:
    from manifests.workspace import Workspace
    from pipeline.parameters import CollectParameters

__all__ = [
    "IDS_PER_REQUEST",
    "Api",
    "Query",
    "ResolvedTaxon",
    "cache_folder",
    "license_of",
    "list_class",
    "open_api",
    "photo_rows",
    "photo_url",
]

_PER_PAGE = 200
_NO_LIMIT = 1e9
"""A share of a class that nobody reaches."""

IDS_PER_REQUEST = 30
_ANIMALIA = 1
_PER_DAY = 9_500
"""Requests a day; iNaturalist asks for fewer than 10,000."""

_TAXA_KEPT = datetime.timedelta(days=30)
_PAGES_KEPT = datetime.timedelta(hours=1)
_SIZE = re.compile(r"/(?:square|thumb|small|medium|large|original)(\.\w+)(?=$|\?)")


def cache_folder() -> Path:
    """Where it is written down how much was asked of whom: one place for all workspaces.

    Raises
    ------
    CapError
        If it cannot be made.
    """
    folder = platformdirs.user_cache_path("cap")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = (
            f"{folder}, where requests are counted, cannot be made ({error.strerror or error}); "
            "name another place with the variable XDG_CACHE_HOME"
        )
        raise CapError(msg) from error
    return folder


@dataclass(frozen=True)
class ResolvedTaxon:
    """A taxon as the API knows it."""

    id: int
    name: str
    rank: str


class Api:
    """The iNaturalist API, asked politely; a context, `with Api(…) as api: …`.

    Parameters
    ----------
    url
        Its address, such as https://api.inaturalist.org/v1.
    requests_per_minute
        Most requests in any minute, failed ones included.
    answers
        Database of answers already given.
    """

    def __init__(self, url: str, requests_per_minute: int, answers: Path) -> None:
        local_addresses(url)
        if requests_per_minute < 1:
            msg = f"--requests-per-minute is {requests_per_minute}; it must be at least 1"
            raise CapError(msg)
        self._url = url.rstrip("/")
        self._session = _open_session(requests_per_minute, answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._session.cache.close()

    def get(
        self,
        path: str,
        query: Mapping[str, Any],
        *,
        keep: datetime.timedelta,
        again: bool = False,
    ) -> dict[str, Any]:
        """The answer to a request.

        Parameters
        ----------
        path
            Below the API's address.
        query
            The query's parameters.
        keep
            How long the answer may be used instead of asking again.
        again
            Ask even if the answer is kept.

        Raises
        ------
        CapError
            If the API cannot be reached, or does not answer as it should.
        """
        attempts = iter(range(100))
        try:
            answer: dict[str, Any] = retrying(time.sleep)(
                # A cut-off answer is kept before it is looked at, so a repetition asks again.
                lambda: self._attempt(path, keep, again or next(attempts) > 0, query)
            )
        except FetchError as error:
            msg = f"{self._url}/{path}: {error}; try again later with the same command"
            raise CapError(msg) from error
        return answer

    def _attempt(
        self, path: str, keep: datetime.timedelta, again: bool, query: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            with explained():
                response = self._session.request(
                    "GET",
                    f"{self._url}/{path}?{urlencode(query, safe=',')}",
                    expire_after=keep,
                    force_refresh=again,
                    raise_for_status=False,
                )
        except BucketFullException as error:
            msg = "the day's requests to iNaturalist are used up; go on tomorrow"
            raise CapError(msg) from error
        if response.status_code != 200:  # noqa: PLR2004
            raise refusal(response.status_code, response.headers.get("Retry-After"))
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            msg = "the answer is not what the iNaturalist API gives"
            raise FetchError(msg, transient=True)
        return answer

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Say in one line that an answer lacks what iNaturalist's answers have."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            msg = f"{self._url} does not answer like iNaturalist ({reason}); is it its API?"
            raise CapError(msg) from error

    def resolve(self, taxon: Taxon) -> ResolvedTaxon | None:
        """The taxon in use by that name, among the animals; None where there is none.

        A name that a plant has too, or that is no longer in use, does not mislead.
        """
        query = {"q": taxon.name, "is_active": "true", "per_page": str(_PER_PAGE)}
        if taxon.rank is not None:
            query["rank"] = taxon.rank
        answer = self.get("taxa", query, keep=_TAXA_KEPT)
        with self.reading():
            for found in answer["results"]:
                if (
                    found["name"].casefold() == taxon.name.casefold()
                    and found.get("is_active", True)
                    and _ANIMALIA in found.get("ancestor_ids", ())
                    and taxon.rank in {None, found["rank"]}
                ):
                    return ResolvedTaxon(int(found["id"]), found["name"], found["rank"])
        return None

    def count(self, query: Query) -> int:
        """How many observations there are."""
        answer = self.get("observations", {**query.plain(), "per_page": 0}, keep=_PAGES_KEPT)
        with self.reading():
            return int(answer["total_results"])

    def observations(self, query: Query) -> Iterator[list[dict[str, Any]]]:
        """Pages of observations, newest first, without an end to how far they reach."""
        order = {"order_by": "id", "order": "desc", "per_page": str(_PER_PAGE)}
        below: dict[str, str] = {}
        while True:
            answer = self.get("observations", query.plain() | order | below, keep=_PAGES_KEPT)
            page = answer["results"]
            yield page
            if len(page) < _PER_PAGE:
                return
            with self.reading():
                lowest = min(int(observation["id"]) for observation in page)
            if lowest >= int(below.get("id_below", lowest + 1)):
                msg = f"{self._url} gives the same observations again; its paging is broken"
                raise CapError(msg)
            below = {"id_below": str(lowest)}

    def by_id(self, observation_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Observations as they are now, by id; those that are gone are missing."""
        query = {"id": ",".join(observation_ids), "per_page": _PER_PAGE}
        answer = self.get("observations", query, keep=_PAGES_KEPT, again=True)
        with self.reading():
            return {str(observation["id"]): observation for observation in answer["results"]}


def _open_session(requests_per_minute: int, answers: Path) -> ClientSession:
    folder = cache_folder()
    answers.parent.mkdir(parents=True, exist_ok=True)
    # A minute here is a second longer, because requests do not take equally long to arrive.
    rates = [RequestRate(requests_per_minute, 61)]
    if requests_per_minute >= 6:  # noqa: PLR2004 - a sixth of them in a sixth of the time
        rates.insert(0, RequestRate(-(-requests_per_minute // 6), 10))
    if requests_per_minute < _PER_DAY:
        rates.append(RequestRate(_PER_DAY, 86400))
    bucket = {
        "path": str(folder / "inaturalist-requests.db"),
        "lock_path": str(folder / "inaturalist-requests.lock"),
    }
    session = ClientSession(
        cache_file=str(answers),
        cache_control=False,
        limiter=Limiter(
            *rates, bucket_class=FileLockSQLiteBucket, bucket_kwargs=bucket, time_function=time.time
        ),
        # Every repetition must count as a request, so the session itself makes none.
        max_retries=0,
        user_agent=USER_AGENT,
    )
    session.settings.stale_if_error = False
    session.max_delay = 120
    return session


def open_api(workspace: Workspace, parameters: CollectParameters) -> Api:
    """The API that the parameters name, with the workspace's store of answers."""
    answers = workspace.cache / "inaturalist-answers.sqlite"
    return Api(parameters.api_url, parameters.requests_per_minute, answers)


@dataclass(frozen=True)
class Query:
    """Which observations to ask for."""

    taxon_ids: tuple[int, ...]
    quality: str
    captive: str
    licenses: tuple[str, ...]
    places: tuple[str, ...]
    since: str | None
    until: str | None

    @classmethod
    def of(
        cls, taxa: Sequence[ResolvedTaxon], allowed: tuple[str, ...], parameters: CollectParameters
    ) -> Query:
        """The query for a class's taxa."""
        return cls(
            taxon_ids=tuple(taxon.id for taxon in taxa),
            quality=parameters.quality,
            captive=parameters.captive,
            licenses=allowed,
            places=parameters.places,
            since=parameters.since,
            until=parameters.until,
        )

    def plain(self) -> dict[str, str]:
        """The query's parameters, in the API's words."""
        plain = {"taxon_id": ",".join(map(str, self.taxon_ids)), "photos": "true"}
        if self.quality != "any":
            plain["quality_grade"] = self.quality
        if self.captive != "yes":
            plain["captive"] = "true" if self.captive == "only" else "false"
        # The API has no word for photos without a licence, so these are told apart here.
        if all(code.startswith("cc") for code in self.licenses):
            plain["photo_license"] = ",".join(self.licenses)
        named = {"place_id": ",".join(self.places), "d1": self.since, "d2": self.until}
        return plain | {name: value for name, value in named.items() if value}


def photo_url(url: object, size: str) -> str | None:
    """The address of a photo in another size; None for an address without sizes in it."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return None
    changed, count = _SIZE.subn(rf"/{size}\1", url)
    return changed if count == 1 else None


def license_of(photo: Mapping[str, Any]) -> str:
    """The licence code of a photo in an answer; no licence means all rights reserved."""
    code = str(photo.get("license_code") or "all-rights-reserved").casefold()
    known: Mapping[str, License] = licenses()
    return code if code in known else "unknown"


def _time(text: object) -> datetime.datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def photo_rows(
    observation: Mapping[str, Any], size: str, allowed: Sequence[str]
) -> list[dict[str, Any]]:
    """Columns of the listing for each photo of an observation that may be taken, in its order.

    Parameters
    ----------
    observation
        As the API gives it.
    size
        `original`, `large` or `medium`.
    allowed
        Licence codes.
    """
    user = observation.get("user") or {}
    taxon = observation.get("taxon") or {}
    creator = str(user.get("name") or user.get("login") or "unknown")
    shared = {
        "observation_id": str(observation["id"]),
        "taxon": taxon.get("name"),
        "taxon_id": None if taxon.get("id") is None else str(taxon["id"]),
        "taxon_rank": taxon.get("rank"),
        "creator": creator,
        "creator_id": None if user.get("id") is None else str(user["id"]),
        "observed_at": _time(observation.get("time_observed_at") or observation.get("observed_on")),
        "uploaded_at": _time(observation.get("created_at")),
    }
    rows = []
    for photo in observation.get("photos") or ():
        url, code = photo_url(photo.get("url"), size), license_of(photo)
        if url is not None and code in allowed and not photo.get("hidden"):
            rows.append(
                {
                    **shared,
                    "photo_id": f"inaturalist:{int(photo['id'])}",
                    "url": url,
                    "license": code,
                    "attribution": attribution_text(creator, code),
                }
            )
    return rows


def list_class(
    api: Api,
    label: tuple[int, str],
    query: Query,
    parameters: CollectParameters,
    say: Callable[[str], None],
) -> pa.Table:
    """The photos to ask for of one class.

    Parameters
    ----------
    api
        The API.
    label
        Index and name of the class.
    query
        Which observations to look at.
    parameters
        Size, number and diversity.
    say
        Told what a person should know.

    Returns
    -------
    pyarrow.Table
        Schema `LISTING`, newest first.

    Raises
    ------
    CapError
        If the API does not answer, or not as it should.
    """
    wanted = parameters.per_class or PER_CLASS
    rows: list[dict[str, Any]] = []
    candidates: list[tuple[str | None, str | None]] = []
    chosen: list[int] = []
    per_observation = parameters.photos_per_observation
    for page in api.observations(query):
        with api.reading():
            for observation in page:
                rows += photo_rows(observation, parameters.size, query.licenses)
        candidates = [(row["observation_id"], row["creator_id"]) for row in rows]
        chosen = choose_diverse(candidates, wanted, per_observation, parameters.observer_share)
        if len(chosen) == wanted:
            break
    left_out = len(choose_diverse(candidates, wanted, per_observation, _NO_LIMIT)) - len(chosen)
    if left_out:
        say(left_out_text(label[1], left_out, parameters.observer_share))
    named = {"class_index": label[0], "class_name": label[1]}
    return from_rows([{**rows[position], **named} for position in chosen], LISTING)
