"""One URL to verified bytes: what arrives, what is refused, and what is tried again."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

import pytest
from catalogues import body, photo_catalogue

from manifests.errors import CapError, FetchError
from manifests.fetch import Limits, fetch, local_addresses, open_session, refusal
from pipeline.demo.server import PHOTO_FAULTS, Fault, Faults, LocalINaturalist, ServerSettings

QUICK = Limits(max_bytes=2_000_000, connect_seconds=2, read_seconds=0.5, total_seconds=3)
LOOPBACK = frozenset({"127.0.0.1"})

REASONS = {
    Fault.TOO_MANY_REQUESTS: ("too many requests (429)", True),
    Fault.SERVER_ERROR: ("server error (500)", True),
    Fault.UNAVAILABLE: ("server error (503)", True),
    Fault.S3_SLOW_DOWN: ("server error (503)", True),
    Fault.S3_ERROR: ("not the photo: an XML message came instead", True),
    Fault.HTML_PAGE: ("not the photo: a web page (HTML) came instead", True),
    Fault.RESET: ("connection lost: ", True),
    Fault.RESET_MIDWAY: ("connection lost: ", True),
    Fault.TRUNCATED: ("connection lost: the body was cut short", True),
    Fault.STALL: ("timed out: no bytes came in time", True),
    Fault.NOT_FOUND: ("not found (404)", False),
    Fault.FORBIDDEN: ("not allowed (403)", False),
    Fault.GONE: ("gone (410)", False),
    Fault.ENDLESS: ("too large: more than 2 MB", False),
    Fault.REDIRECT_TO_FILE: ("refused: a redirect to what is not http or https", False),
    Fault.REDIRECT_LOOP: ("redirected more than 5 times", False),
}
HARMLESS = {Fault.WRONG_TYPE, Fault.REDIRECT}
SEEN_BY_DECODING = {Fault.CUT_SHORT, Fault.LFS_POINTER, Fault.ONE_PIXEL}
TO_OTHER_HOSTS = {Fault.REDIRECT_TO_METADATA, Fault.REDIRECT_ELSEWHERE}


def serving(fault: Fault | None = None, elsewhere: str = "") -> LocalINaturalist:
    faults = Faults(
        permanent={1: fault} if fault else {}, stall_seconds=5, elsewhere=elsewhere, retry_after=7
    )
    return LocalINaturalist(photo_catalogue(1), ServerSettings(faults=faults))


def fetched(url: str, target: Path, allowed: frozenset[str] = LOOPBACK, **more):
    with open_session(2, allowed) as session:
        return fetch(url, target, session, QUICK, **more)


def test_a_photo_arrives_whole_with_its_digest(tmp_path):
    pieces = []
    with serving() as server:
        got = fetched(server.photo_url(1), tmp_path / "photo", received=pieces.append)
    assert got.file.read_bytes() == body(1)
    assert got.sha256 == hashlib.sha256(body(1)).hexdigest()
    assert got.bytes == sum(pieces) == len(body(1))
    assert [path.name for path in tmp_path.iterdir()] == ["photo"]


def test_every_fault_that_a_photo_can_meet_is_covered_here():
    assert set(PHOTO_FAULTS) == REASONS.keys() | HARMLESS | SEEN_BY_DECODING | TO_OTHER_HOSTS


@pytest.mark.parametrize("fault", REASONS)
def test_a_fault_leaves_no_file_and_says_what_it_was(fault, tmp_path):
    with serving(fault) as server, pytest.raises(FetchError) as caught:
        fetched(server.photo_url(1), tmp_path / "photo")
    reason, transient = REASONS[fault]
    assert str(caught.value).startswith(reason)
    assert caught.value.transient == transient
    assert caught.value.retry_after == (7 if fault is Fault.TOO_MANY_REQUESTS else None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", sorted(HARMLESS))
def test_a_redirect_and_a_wrong_type_do_no_harm(fault, tmp_path):
    with serving(fault) as server:
        assert fetched(server.photo_url(1), tmp_path / "photo").bytes == len(body(1))


def test_a_redirect_to_the_machines_own_network_is_refused_before_anything_is_said(tmp_path):
    with socket.create_server(("127.0.0.2", 0)) as neighbour:
        elsewhere = f"http://127.0.0.2:{neighbour.getsockname()[1]}/admin"
        with serving(Fault.REDIRECT_ELSEWHERE, elsewhere) as server:
            with pytest.raises(FetchError, match="private or loopback") as caught:
                fetched(server.photo_url(1), tmp_path / "photo")
            assert not caught.value.transient
        with neighbour.accept()[0] as connection:
            assert connection.recv(1000) == b""


def test_a_redirect_to_where_the_callers_own_server_is_works(tmp_path):
    with (
        serving() as neighbour,
        serving(Fault.REDIRECT_ELSEWHERE, neighbour.photo_url(1)) as server,
    ):
        assert fetched(server.photo_url(1), tmp_path / "photo").bytes == len(body(1))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_a_loopback_address_is_refused_unless_it_is_allowed(host, tmp_path):
    with serving() as server:
        url = server.photo_url(1).replace("127.0.0.1", host)
        with pytest.raises(FetchError, match="private or loopback"):
            fetched(url, tmp_path / "photo", frozenset())
        assert not server.log.records


def test_a_name_that_resolves_to_loopback_is_refused_however_it_is_called(tmp_path, monkeypatch):
    # A rebinding name server gives a public address first, and a private one when it is used.
    with serving() as server:
        real = socket.getaddrinfo

        def rebinding(host, *arguments, **more):
            return real("127.0.0.1" if host == "photos.example" else host, *arguments, **more)

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        with pytest.raises(FetchError, match="private or loopback"):
            fetched(
                server.photo_url(1).replace("127.0.0.1", "photos.example"),
                tmp_path / "photo",
                frozenset({"203.0.113.7"}),
            )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "not http or https"),
        ("ftp://127.0.0.1/x", "not http or https"),
        ("photos/1.jpg", "not http or https"),
        ("http://", "no valid URL"),
        ("http://127.0.0.1:1/x", "connection lost: Connection refused"),
    ],
)
def test_an_address_that_cannot_be_asked_is_one_sentence(url, reason, tmp_path):
    with pytest.raises(FetchError, match=reason):
        fetched(url, tmp_path / "photo")


def test_bytes_with_another_digest_are_not_kept(tmp_path):
    right = hashlib.sha256(body(1)).hexdigest()
    with serving() as server:
        fetched(server.photo_url(1), tmp_path / "photo", sha256=right)
        with pytest.raises(FetchError, match="another sha256"):
            fetched(server.photo_url(1), tmp_path / "other", sha256="0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["photo"]


def test_a_trickle_does_not_outlast_the_deadline(tmp_path):
    """A server that sends a byte now and then never lets a read time out."""
    import threading

    def trickle(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(100):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        begun = time.monotonic()
        limits = Limits(1000, 1, 0.5, total_seconds=0.6)
        with open_session(1, LOOPBACK) as session, pytest.raises(FetchError, match="not whole"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/", tmp_path / "p", session, limits)
        assert time.monotonic() - begun < 3
        thread.join()


@pytest.mark.parametrize(
    ("status", "header", "transient", "seconds"),
    [
        (429, "12", True, 12),
        (503, "Wed, 21 Oct 2015 07:28:00 GMT", True, 0),
        (503, "soon", True, None),
        (404, "12", False, None),
        (418, None, False, None),
    ],
)
def test_a_status_says_whether_and_when_to_ask_again(status, header, transient, seconds):
    error = refusal(status, header)
    assert (error.transient, error.retry_after) == (transient, seconds)
    assert str(status) in str(error)


def test_the_servers_own_addresses_are_those_a_person_named():
    assert local_addresses("http://127.0.0.1:8000/v1") == {"127.0.0.1"}
    assert "127.0.0.1" in local_addresses("http://localhost/")
    assert not local_addresses("http://8.8.8.8/")
    with pytest.raises(CapError, match="write http"):
        local_addresses("file:///tmp")
    with pytest.raises(CapError, match="must not hold a name or a password") as caught:
        local_addresses("https://ann:secret@example.org/v1")
    assert "secret" not in str(caught.value)
