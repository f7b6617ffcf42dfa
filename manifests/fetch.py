"""One URL to verified bytes in a file.

Given a URL and a place for the bytes, a fetch streams them into a temporary file beside that place,
checks length, size and, where it is known, digest, and moves the file there when it is whole. What
goes wrong is a `FetchError` that tells whether asking again may help; `retrying` asks again.
Politeness and budgets are the caller's.

Only http and https are spoken, and no server on a private or loopback address is talked to unless
the caller's own server is there: neither a URL in somebody's answer nor a redirect can make this
machine ask its neighbours.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from manifests import __version__
from manifests.errors import CapError, FetchError

if TYPE_CHECKING:
    import requests
    import urllib3

__all__ = [
    "LONGEST_PAUSE",
    "USER_AGENT",
    "Fetched",
    "Limits",
    "explained",
    "fetch",
    "local_addresses",
    "open_session",
    "refusal",
    "retrying",
]

USER_AGENT = f"counteranimal-pipeline/{__version__}"

LONGEST_PAUSE = 900.0
"""Seconds that a host may ask for; whoever asks for more is left alone."""

_ATTEMPTS = 5
_LONGEST_BACKOFF = 30.0
_CHUNK = 2**18
_BLOCK = 2**20
_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT, _SERVER_ERROR = 429, 408, 500
_REASONS = {
    401: "not allowed (401)",
    403: "not allowed (403)",
    404: "not found (404)",
    410: "gone (410)",
    429: "too many requests (429)",
}


@dataclass(frozen=True)
class Limits:
    """When to give up on a URL.

    Attributes
    ----------
    max_bytes
        Largest body.
    connect_seconds, read_seconds
        Longest wait for the connection, and for the next bytes.
    total_seconds
        Longest time for the whole body.
    redirects
        Most redirects to follow.
    """

    max_bytes: int = 50_000_000
    connect_seconds: float = 10
    read_seconds: float = 30
    total_seconds: float = 300
    redirects: int = 5


@dataclass(frozen=True)
class Fetched:
    """Bytes that arrived: where they lie, their sha256, and their number."""

    file: Path
    sha256: str
    bytes: int


def _addresses(host: str) -> frozenset[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(entry[4][0]) for entry in found)


def local_addresses(url: str) -> frozenset[str]:
    """Private and loopback addresses of the server that a person named, for `open_session`.

    Raises
    ------
    CapError
        If the URL is not http or https, or holds credentials.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"{url!r} is no address to ask; write http://… or https://…"
        raise CapError(msg)
    if parts.username or parts.password:
        msg = "an address must not hold a name or a password; they would end up in receipts"
        raise CapError(msg)
    return frozenset(a for a in _addresses(parts.hostname) if not _is_public(a))


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    ip = mapped or ip
    return ip.is_global and not ip.is_multicast


def _refuse(address: str, allowed: frozenset[str]) -> None:
    if not (address in allowed or _is_public(address)):
        msg = "refused: the address leads to a private or loopback network"
        raise FetchError(msg)


def open_session(connections: int, allowed: frozenset[str] = frozenset()) -> requests.Session:
    """A session that keeps up to `connections` connections per host open.

    The address that a connection really leads to is checked, so that a name that resolves
    differently the second time gains nothing. Behind a proxy, the proxy decides.

    Parameters
    ----------
    connections
        Connections per host to keep.
    allowed
        Private or loopback addresses that may be talked to; see `local_addresses`.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class CheckedHTTPConnection(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            _refuse(self.sock.getpeername()[0], allowed)

    class CheckedHTTPSConnection(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            _refuse(self.sock.getpeername()[0], allowed)

    class CheckedHTTPPool(HTTPConnectionPool):
        ConnectionCls = CheckedHTTPConnection

    class CheckedHTTPSPool(HTTPSConnectionPool):
        ConnectionCls = CheckedHTTPSConnection

    class CheckedAdapter(HTTPAdapter):
        def init_poolmanager(self, *args: object, **kwargs: object) -> None:
            super().init_poolmanager(*args, **kwargs)  # type: ignore[arg-type]
            self.poolmanager.pool_classes_by_scheme = {
                "http": CheckedHTTPPool,
                "https": CheckedHTTPSPool,
            }

    session = requests.Session()
    # requests would look through the environment for every photo; `_answer` asks it once a host.
    session.trust_env = False
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
    # A photo is worth no compression, and a compressed body may be any size.
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, CheckedAdapter(pool_connections=16, pool_maxsize=connections))
    return session


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    moment = email.utils.parsedate_tz(text)
    return None if moment is None else max(0.0, email.utils.mktime_tz(moment) - time.time())


def refusal(status: int, retry_after: str | None = None) -> FetchError:
    """What an HTTP status other than 200 means for the one who asked.

    Parameters
    ----------
    status
        The status.
    retry_after
        The header of that name.
    """
    transient = status in {_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT} or status >= _SERVER_ERROR
    kind = "server error" if status >= _SERVER_ERROR else "unexpected answer"
    return FetchError(
        _REASONS.get(status, f"{kind} ({status})"),
        transient=transient,
        retry_after=_retry_after(retry_after) if transient else None,
    )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of requests and urllib3 into `FetchError`."""
    import requests
    import urllib3

    try:
        yield
    except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as error:
        msg = "refused: the address is not http or https"
        raise FetchError(msg) from error
    except (requests.exceptions.InvalidURL, urllib3.exceptions.LocationParseError) as error:
        msg = "refused: the address is no valid URL"
        raise FetchError(msg) from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        msg = "timed out: no bytes came in time"
        raise FetchError(msg, transient=True) from error
    # requests lets some of urllib3's errors through.
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        msg = f"connection lost: {_cause(error)}"
        raise FetchError(msg, transient=True) from error


def _cause(error: BaseException) -> str:
    """What lies below the layers of an error: mostly, what the operating system says."""
    from urllib3.exceptions import IncompleteRead

    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, IncompleteRead):
            return "the body was cut short"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the server hung up"


@functools.lru_cache(maxsize=256)
def _proxies(scheme: str, host: str) -> dict[str, str]:
    """The proxies that the environment names for a server."""
    import requests.utils

    return dict(requests.utils.get_environ_proxies(f"{scheme}://{host}/"))


def _request(session: requests.Session, url: str) -> requests.PreparedRequest:
    """A GET with the session's headers and nothing else, which takes half of its own way."""
    import requests

    request = requests.PreparedRequest()
    request.method = "GET"
    request.prepare_url(url, None)
    request.headers = session.headers.copy()  # type: ignore[assignment]
    return request


@contextlib.contextmanager
def _answer(session: requests.Session, url: str, limits: Limits) -> Iterator[requests.Response]:
    """The final answer to a GET, after redirects, with its body unread."""
    for _ in range(limits.redirects + 1):
        parts = urlsplit(url)
        # A session would read the body of a redirect, however long it is; its adapter does not.
        response = session.get_adapter(url).send(
            _request(session, url),
            stream=True,
            timeout=(limits.connect_seconds, limits.read_seconds),
            verify=session.verify,
            proxies=_proxies(parts.scheme, parts.netloc),
        )
        target = session.get_redirect_target(response)
        if target is None:
            try:
                yield response
            finally:
                response.close()
            return
        response.close()
        url = urljoin(url, target)
        if urlsplit(url).scheme not in {"http", "https"}:
            msg = "refused: a redirect to what is not http or https"
            raise FetchError(msg)
    msg = f"redirected more than {limits.redirects} times"
    raise FetchError(msg)


def _chunks(
    body: urllib3.response.BaseHTTPResponse, limits: Limits, received: Callable[[int], None]
) -> Iterator[bytes]:
    deadline = time.monotonic() + limits.total_seconds
    total = 0
    # read1 gives what is there, so that a trickle cannot outlast the deadline.
    while chunk := body.read1(_CHUNK):
        total += len(chunk)
        received(len(chunk))
        if total > limits.max_bytes:
            msg = f"too large: more than {limits.max_bytes / 1e6:g} MB"
            raise FetchError(msg)
        if time.monotonic() > deadline:
            msg = f"timed out: not whole after {limits.total_seconds:g} s"
            raise FetchError(msg, transient=True)
        yield chunk


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Chunks put together, so that a thread that fetches gives way to others less often."""
    block = bytearray()
    for chunk in chunks:
        block += chunk
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _check_start(start: bytes) -> None:
    """Whether a body begins like a page or an error message, which servers send with status 200."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        msg = "not the photo: a web page (HTML) came instead"
        raise FetchError(msg, transient=True)
    if text.startswith((b"<?xml", b"<error")):
        msg = "not the photo: an XML message came instead"
        raise FetchError(msg, transient=True)


def fetch(
    url: str,
    target: Path,
    session: requests.Session,
    limits: Limits,
    *,
    sha256: str | None = None,
    received: Callable[[int], None] = lambda count: None,
) -> Fetched:
    """Fetch a photo's bytes into a file that is either absent or whole.

    The file is not synced to the disk: whoever keeps it for good does that.

    Parameters
    ----------
    url
        Where the bytes are.
    target
        The file to make; a temporary one lies beside it meanwhile.
    session
        As `open_session` gives it.
    limits
        When to give up.
    sha256
        The digest that the bytes must have, if it is known.
    received
        Called with the number of bytes of each piece that arrives, also of a body that fails.

    Raises
    ------
    FetchError
        If the bytes did not come, not all of them, too many, or not those of a photo.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        digest, size = _receive(url, part, session, limits, received)
        if not size:
            msg = "empty: no bytes came"
            raise FetchError(msg, transient=True)
        if sha256 is not None and digest != sha256:
            msg = "not the photo: its bytes have another sha256"
            raise FetchError(msg)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return Fetched(target, digest, size)


def _receive(
    url: str,
    part: Path,
    session: requests.Session,
    limits: Limits,
    received: Callable[[int], None],
) -> tuple[str, int]:
    """Write a body into a file; gives its sha256 and its size."""
    digest, size = hashlib.sha256(), 0
    with explained(), _answer(session, url, limits) as response, part.open("wb") as file:
        if response.status_code != 200:  # noqa: PLR2004 - the one status with a body to keep
            raise refusal(response.status_code, response.headers.get("Retry-After"))
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > limits.max_bytes:
            msg = f"too large: more than {limits.max_bytes / 1e6:g} MB"
            raise FetchError(msg)
        for block in _blocks(_chunks(response.raw, limits, received)):
            if not size:
                _check_start(block)
            digest.update(block)
            size += len(block)
            file.write(block)
    return digest.hexdigest(), size


def retrying(sleep: Callable[[float], None], *, attempts: int = _ATTEMPTS) -> Any:
    """A `tenacity.Retrying` for what can succeed later, with random waits that grow.

    A server's own Retry-After is honoured; one that is too long ends the trying.

    Parameters
    ----------
    sleep
        Waits for a number of seconds.
    attempts
        Attempts in all.
    """
    import tenacity

    def may_help(error: BaseException) -> bool:
        return (
            isinstance(error, FetchError)
            and error.transient
            and (error.retry_after or 0) <= LONGEST_PAUSE
        )

    backoff = tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_BACKOFF)

    def seconds(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, FetchError) else None
        return backoff(state) + (asked or 0)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_help),
        wait=seconds,
        stop=tenacity.stop_after_attempt(attempts),
        sleep=sleep,
        reraise=True,
    )
