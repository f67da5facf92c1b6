"""Answers of hostile servers: compressed, endless, slow, lying, redirecting."""

import contextlib
import gzip
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Self

import httpx
import pytest

from sealserve.errors import UnavailableError
from sealserve.http_answer import (
    HttpEncodingError,
    HttpFailedError,
    HttpSizeError,
    HttpSlowError,
    request,
)

LIMIT = 4096
SECRET = "hvs.token"
OK = b"HTTP/1.1 200 OK\r\n"
Answering = Callable[[socket.socket], None]


class Server:
    """Answers each connection with the next of some answers, the last one again and again."""

    def __init__(self, *answers: bytes | Answering) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[bytes] = []
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                if self.stopped.is_set():
                    return
                self.asked.append(connection.recv(65536))
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        with socket.create_connection(self._listener.getsockname()):
            pass
        self._thread.join()
        self._listener.close()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10, trust_env=False) as made:
        yield made


def body(client: httpx.Client, *answers: bytes | Answering, seconds: float = 10, gunzip: bool = True) -> bytes:
    with Server(*answers) as server, request(client, "GET", server.url, seconds=seconds, redirects=3) as answer:
        return answer.body(LIMIT, gunzip=gunzip)


def encoded(content: bytes, encoding: str) -> bytes:
    return OK + f"Content-Encoding: {encoding}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def test_a_plain_answer_and_one_gzip_are_read(client: httpx.Client) -> None:
    assert body(client, OK + b"Content-Length: 5\r\n\r\nhello") == b"hello"
    assert body(client, OK + b"\r\nto the end") == b"to the end"
    assert body(client, encoded(b"hello", "identity")) == b"hello"
    for name in ("gzip", "x-gzip", " GZIP "):
        assert body(client, encoded(gzip.compress(b"hello" * 99), name)) == b"hello" * 99
    with Server(OK + b"\r\n") as server, request(client, "GET", server.url, seconds=10) as answer:
        assert answer.body(LIMIT) == b""
    (asked,) = server.asked
    assert b"accept-encoding: identity" in asked.lower()
    assert b"connection: close" in asked.lower()


BOMB = gzip.compress(bytes(2**26))  # 64 MiB in 64 KiB


@pytest.mark.parametrize(
    ("encoding", "content", "error"),
    [
        ("gzip, gzip", gzip.compress(gzip.compress(b"x")), HttpEncodingError),
        ("gzip, identity, gzip", gzip.compress(gzip.compress(b"x")), HttpEncodingError),
        ("deflate", zlib.compress(b"x"), HttpEncodingError),
        ("br", b"x", HttpEncodingError),
        ("zstd", b"x", HttpEncodingError),
        ("unknown", b"x", HttpEncodingError),
        ("gzip", gzip.compress(bytes(LIMIT + 1)), HttpSizeError),
        ("gzip", b"no gzip", HttpEncodingError),
        ("gzip", gzip.compress(b"hello")[:-1], HttpEncodingError),
        ("gzip", gzip.compress(b"hello") + b"more", HttpEncodingError),
        ("gzip", gzip.compress(b"hello") * 2, HttpEncodingError),
    ],
)
def test_compression_never_takes_more_than_the_limit(
    client: httpx.Client, encoding: str, content: bytes, error: type[UnavailableError]
) -> None:
    with pytest.raises(error) as caught:
        body(client, encoded(content, encoding))
    assert caught.value.code == error.code


def test_a_bomb_is_not_inflated(client: httpx.Client) -> None:
    with Server(OK + b"Content-Encoding: gzip\r\n\r\n" + BOMB) as server:
        tracemalloc.start()
        try:
            with request(client, "GET", server.url, seconds=10) as answer, pytest.raises(HttpSizeError):
                answer.body(LIMIT, gunzip=True)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2**23


def test_gzip_that_nobody_wants_is_refused(client: httpx.Client) -> None:
    with pytest.raises(
        HttpEncodingError, match=r"compressed \(gzip\), although the request accepts only identity"
    ) as caught:
        body(client, encoded(gzip.compress(b"x"), "gzip"), gunzip=False)
    assert caught.value.code == "http.content-encoding"
    with (
        Server(encoded(gzip.compress(b"x"), "gzip")) as server,
        request(client, "GET", server.url, seconds=10) as answer,
        pytest.raises(HttpEncodingError),
    ):
        list(answer.chunks(LIMIT))


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 999999\r\n\r\nx",  # is refused before it comes
        OK + b"\r\n" + b"x" * (LIMIT + 1),
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n" + b"c01\r\n" + b"x" * 3073,
    ],
)
def test_an_answer_that_is_too_large_is_left(client: httpx.Client, answer: bytes) -> None:
    with pytest.raises(HttpSizeError, match="more than 4,096 bytes") as caught:
        body(client, answer)
    assert caught.value.code == "http.too-large"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 100\r\n\r\nx",  # lies
        OK + b"Content-Length: -5\r\n\r\nx",
        OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"X: " + b"a" * 300_000 + b"\r\n\r\n",
        OK + b"".join(b"X%d: a\r\n" % number for number in range(30_000)) + b"\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 30 + b"\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 302 Found\r\nLocation: gopher://x/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 64 + b".example/\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_one_clear_error(client: httpx.Client, answer: bytes) -> None:
    with pytest.raises(HttpFailedError, match=r"^The server did not reply \(\w+: ") as caught:
        body(client, answer)
    assert caught.value.code == "http.failed"


def drip(begin: bytes, piece: bytes) -> Answering:
    def answer(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(piece)

    return answer


def slowly(begin: bytes, piece: bytes, pause: threading.Event) -> Answering:
    def answer(connection: socket.socket) -> None:
        connection.sendall(begin)
        while not pause.wait(0.02):
            connection.sendall(piece)

    return answer


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", b"H"),
        (OK + b"X: ", b"x"),
        (OK + b"\r\n", b"x"),
        (OK + b"Content-Length: 4000\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff"),  # empty blocks
    ],
)
def test_a_slow_answer_ends_in_time(client: httpx.Client, begin: bytes, piece: bytes) -> None:
    pause = threading.Event()
    try:
        with pytest.raises(HttpSlowError, match=r"The reply was not complete within 0\.3 s") as caught:
            body(client, slowly(begin, piece, pause), seconds=0.3)
    finally:
        pause.set()
    assert caught.value.code == "http.too-slow"


def test_empty_blocks_of_gzip_count(client: httpx.Client) -> None:
    with pytest.raises(HttpSizeError):
        body(client, drip(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff"))


def test_redirects_are_followed_within_limits_and_their_bodies_stay_unread(client: httpx.Client) -> None:
    with Server(OK + b"Content-Length: 2\r\n\r\nok") as last:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {last.url}/x\r\nContent-Encoding: gzip\r\n\r\n".encode()
        assert body(client, drip(moved, BOMB)) == b"ok"
        seen: list[str] = []
        with (
            Server(moved + b"x") as first,
            request(
                client, "GET", first.url, seconds=10, redirects=1, check_redirect=lambda url: seen.append(str(url))
            ) as answer,
        ):
            assert answer.body(LIMIT) == b"ok"
        assert seen == [f"{last.url}/x"]
    with Server(moved + b"x") as first, request(client, "GET", first.url, seconds=10) as answer:
        assert answer.status == 302
        assert str(answer.next_url) == f"{last.url}/x"


def test_redirects_in_a_circle_end(client: httpx.Client) -> None:
    with Server(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n") as server:
        with request(client, "GET", server.url, seconds=10, redirects=3) as answer:
            assert answer.status == 302
        assert len(server.asked) == 4


def test_a_redirect_that_is_not_to_be_is_not_asked(client: httpx.Client) -> None:
    def refuse(url: httpx.URL) -> None:
        raise UnavailableError(f"not {url.host}")

    with Server(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n") as server:
        with (
            pytest.raises(UnavailableError, match=r"not 169\.254\.169\.254"),
            request(client, "GET", server.url, seconds=10, redirects=3, check_redirect=refuse),
        ):
            pass
        assert len(server.asked) == 1


def test_a_large_answer_goes_on_while_it_makes_progress(client: httpx.Client) -> None:
    content = b"x" * (5 * 2**20)

    def answer(connection: socket.socket) -> None:
        connection.sendall(OK + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)

    with Server(answer) as server, request(client, "GET", server.url, seconds=10) as got:
        assert got.length == len(content)
        assert sum(map(len, got.chunks(2**30))) == len(content)
    pause = threading.Event()
    try:
        with (
            Server(slowly(OK + b"\r\n" + content, b"x", pause)) as server,
            pytest.raises(HttpSlowError),
            request(client, "GET", server.url, seconds=0.3) as got,
        ):
            for _ in got.chunks(2**30):
                pass
    finally:
        pause.set()


@pytest.mark.parametrize("token", [f"{SECRET}\x00", f"{SECRET}\r\nX: y", f"{SECRET}\N{REPLACEMENT CHARACTER}"])
def test_a_secret_that_no_header_can_hold_is_not_told(client: httpx.Client, token: str) -> None:
    with (
        Server(OK + b"\r\n") as server,
        pytest.raises(HttpFailedError) as caught,
        request(client, "POST", server.url, seconds=10, headers={"X-Token": token}, json={}),
    ):
        pass
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)


def test_nobody_listens(client: httpx.Client) -> None:
    with pytest.raises(HttpFailedError, match="ConnectError"), request(client, "GET", "http://127.0.0.1:1/", seconds=9):
        pass
