"""The local iNaturalist itself: an HTTP server for a catalogue, on the loopback interface.

Given a catalogue and settings, `LocalINaturalist` answers in a thread of this process, and
`server_process` in a process of its own. It keeps iNaturalist's rules (a window of 10,000 results,
a number of API requests per minute), injects the faults that are planned, and logs every request.
Only the standard library is needed, since `cap demo` runs it too.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.demo.server import api
from pipeline.demo.server.catalogue import SIZES, Catalogue
from pipeline.demo.server.faults import Answer, Ending, Fault, Faults, error_answer, spoil
from pipeline.demo.server.log import RequestLog, RequestRecord

__all__ = ["LocalINaturalist", "ServerSettings", "serve_until_closed", "server_process"]

_API = "/v1"
_PHOTO = re.compile(rf"(?:/moved)?/photos/(\d{{1,18}})/({'|'.join(SIZES)})\.(\w+)")
_TYPES = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_CHUNK = 1 << 16
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class ServerSettings:
    """How a server behaves.

    Attributes
    ----------
    requests_per_minute
        API requests answered in any `window_seconds`; more get 429 with Retry-After. Photos and
        refused requests are not counted.
    window_seconds
        Length of that window: 60, unless a test has less time.
    latency
        Seconds that a photo keeps its client waiting.
    faults
        What goes wrong, and when.
    log_file
        File that each record of the log is appended to.
    port
        Port to listen on; 0 takes a free one.
    """

    requests_per_minute: int = 60
    window_seconds: float = 60.0
    latency: float = 0.0
    faults: Faults = field(default_factory=Faults)
    log_file: Path | None = None
    port: int = 0


class _Meter:
    """Counts the API requests that were let through in the window that ends now."""

    def __init__(self, at_most: int, window_seconds: float) -> None:
        self._at_most = at_most
        self._window = window_seconds
        self._passed: deque[float] = deque()

    def wait(self, moment: float) -> float:
        """Seconds until a request may pass; 0 lets this one pass."""
        while self._passed and moment - self._passed[0] >= self._window:
            self._passed.popleft()
        if len(self._passed) >= self._at_most:
            return self._passed[0] + self._window - moment
        self._passed.append(moment)
        return 0.0


class _Connections(ThreadingHTTPServer):
    """Accepts connections, one thread each, and ends those that are open when it is closed."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, owner: LocalINaturalist, port: int) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._change = threading.Condition()
        super().__init__(("127.0.0.1", port), _Conversation)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._change:
                self._open.discard(request)
                self._change.notify_all()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread of one connection."""
        with self._change:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; one that is to be reset must not say goodbye first."""
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go, and nobody needs to hear of it; other errors are printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End every open connection and wait for its thread."""
        with self._change:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._change.wait_for(lambda: not self._open, timeout=_STOP_SECONDS)


class _Conversation(BaseHTTPRequestHandler):
    """What is said on one connection."""

    server: _Connections
    protocol_version = "HTTP/1.1"
    server_version = "LocalINaturalist"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request, and log it."""
        owner = self.server.owner
        owner.log.begin()
        monotonic, wall = time.monotonic(), time.time()
        path, _, query = self.path.partition("?")
        photo = _PHOTO.fullmatch(path)
        self._status: int | None = None
        self._sent, complete = 0, False
        fault = None
        try:
            answer, fault = owner.answer(path, query)
            complete = self._send(answer)
        except ConnectionError:
            self.close_connection = True
        finally:
            owner.log.end(
                RequestRecord(
                    monotonic=monotonic,
                    wall=wall,
                    method=self.command,
                    path=path,
                    query=query,
                    photo_id=int(photo[1]) if photo else None,
                    status=self._status,
                    fault=fault,
                    sent=self._sent,
                    complete=complete,
                )
            )

    def _send(self, answer: Answer) -> bool:
        """Send an answer as it says, and tell whether its whole body was sent."""
        self.close_connection = self.close_connection or answer.ending is not Ending.KEEP
        if answer.status is not None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            if answer.ending is not Ending.ENDLESS:
                self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self._status = int(answer.status)
            self._write(answer.body[: answer.sent])
        if answer.ending is Ending.RESET:
            # Closing a socket that does not linger sends RST instead of FIN.
            no_linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        elif answer.ending is Ending.STALL:
            # Something comes when the client hangs up, or this server.
            self.connection.settimeout(self.server.owner.settings.faults.stall_seconds)
            with contextlib.suppress(TimeoutError):
                self.connection.recv(1)
        while answer.ending is Ending.ENDLESS:
            self._write(bytes(_CHUNK))
        return answer.ending is Ending.KEEP

    def _write(self, content: bytes) -> None:
        for start in range(0, len(content), _CHUNK):
            chunk = content[start : start + _CHUNK]
            self.wfile.write(chunk)
            self._sent += len(chunk)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: there is a log."""


class LocalINaturalist:
    """A local iNaturalist in a thread of this process, to be used as a context.

    Attributes
    ----------
    catalogue
        What it serves.
    settings
        How it behaves.
    log
        What it was asked.
    url
        Its address, `http://127.0.0.1:PORT`.

    Notes
    -----
    The API is at `/v1` (`taxa`, `taxa/ID`, `observations`), the photos at
    `/photos/ID/SIZE.EXTENSION`. Photos are not scaled: every size has the bytes of the original
    unless the photo names others.
    """

    def __init__(self, catalogue: Catalogue, settings: ServerSettings | None = None) -> None:
        self.catalogue = catalogue
        self.settings = settings or ServerSettings()
        self.log = RequestLog(file=self.settings.log_file)
        self._server = _Connections(self, self.settings.port)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # A short poll, so that leaving the context takes no half second.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._meter = _Meter(self.settings.requests_per_minute, self.settings.window_seconds)
        self._numbers: dict[str, int] = {}
        self._turns: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    @property
    def api_url(self) -> str:
        """Address of the API, as `cap collect --api-url` takes it."""
        return self.url + _API

    def photo_url(self, photo_id: int, size: str = "original") -> str:
        """Address of a photo in one of `SIZES`."""
        return f"{self.url}/photos/{photo_id}/{size}.{self.catalogue.photo[photo_id].extension}"

    def answer(self, path: str, query: str) -> tuple[Answer, Fault | None]:
        """What to send to a question, and the fault that was injected, if one was."""
        if path.startswith(f"{_API}/"):
            return self._answer_api(path, query)
        return self._answer_photo(path)

    def _turn(self, subject: str) -> int:
        """How often a subject was asked for before."""
        self._turns[subject] += 1
        return self._turns[subject] - 1

    def _answer_api(self, path: str, query: str) -> tuple[Answer, Fault | None]:
        target = f"{path}?{query}"
        with self._lock:
            wait = self._meter.wait(time.monotonic())
            if wait > 0:
                headers = {"Retry-After": str(math.ceil(wait))}
                return error_answer(
                    HTTPStatus.TOO_MANY_REQUESTS, "Too Many Requests", headers
                ), None
            number = self._numbers.setdefault(target, len(self._numbers) + 1)
            turn = self._turn(target)
        asked: dict[str, str] = {}
        for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
            asked[name] = f"{asked[name]},{value}" if name in asked else value
        try:
            found = api.answer(self.catalogue, path.removeprefix(_API), asked, self.url)
            right = Answer(HTTPStatus.OK, dumps(found).encode(), "application/json; charset=utf-8")
        except api.Refusal as refusal:
            right = error_answer(refusal.status, str(refusal), {})
        return self._spoiled(right, self.settings.faults.of_api_request(number, turn), path)

    def _answer_photo(self, path: str) -> tuple[Answer, Fault | None]:
        time.sleep(self.settings.latency)
        faults = self.settings.faults
        found = _PHOTO.fullmatch(path)
        photo = self.catalogue.photo.get(int(found[1])) if found else None
        if found is None or photo is None or found[3] != photo.extension:
            return spoil(Answer(HTTPStatus.OK), Fault.NOT_FOUND, faults, path), None
        body = photo.read(found[2])
        right = Answer(HTTPStatus.OK, body, _TYPES.get(photo.extension.lower(), "image/jpeg"))
        if path.startswith("/moved/"):
            return right, None
        with self._lock:
            turn = self._turn(f"photo {photo.id}")
        return self._spoiled(right, faults.of_photo(photo.id, turn), path)

    def _spoiled(
        self, right: Answer, fault: Fault | None, path: str
    ) -> tuple[Answer, Fault | None]:
        if fault is None:
            return right, None
        return spoil(right, fault, self.settings.faults, path), fault


def serve_until_closed(
    catalogue: Catalogue, settings: ServerSettings, connection: Connection
) -> None:
    """Serve in this process: send the address, then go on until the other end is closed.

    The target of `server_process`. It ends with the process that started it, however that ends.
    """
    with LocalINaturalist(catalogue, settings) as server:
        connection.send(server.url)
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            connection.recv()


@contextlib.contextmanager
def server_process(catalogue: Catalogue, settings: ServerSettings | None = None) -> Iterator[str]:
    """Serve in a process of its own; yields its address.

    With `log_file` in the settings, `RequestLog.read` tells what it was asked so far.
    """
    # A forked server would hold the other end of its own pipe, and so outlive its parent.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=serve_until_closed,
        args=(catalogue, settings or ServerSettings(), theirs),
        daemon=True,
    )
    process.start()
    theirs.close()
    try:
        yield str(ours.recv())
    finally:
        ours.close()
        process.join()
        process.close()
