"""The HTTP server, tested with an independent HTTP client."""

import asyncio
import gzip
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealserve.errors import PortTakenError
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.command_line.options import ServerOptions, parse
from sealserve.serving.http import https
from sealserve.serving.http.api import Content
from sealserve.serving.http.connection import Connection
from sealserve.serving.http.http_ports import HttpPorts
from sealserve.serving.http.http_server import HttpLimits, HttpServer
from sealserve.serving.http.rest import Rest
from sealserve.serving.metrics import Metrics
from sealserve.serving.receipts import Receipts
from sealserve.serving.servables import Servables
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.tls_source import TlsSource, find_tls_source
from sealserve.serving_interface import METRICS_PATH as PATH

LIMITS = HttpLimits(threads=2, waiting=1, body=4096, timeout=30.0, patience=30.0)
NAME = "grpc.tf-serving.service.com"


class Echo(Rest):
    """A REST API that returns the request, or waits."""

    def __init__(self) -> None:
        super().__init__(Servables(), max_tensor_bytes=1)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.server: HttpServer | None = None

    def _run(self, spec: Any, verb: str, content: Content) -> bytes:
        self.entered.release()
        assert self.gate.wait(60)
        return json.dumps([spec.name, verb, content.body.decode(), content.deadline is not None]).encode()


def run(
    scenario: Callable[[int], None],
    *,
    rest: Rest | None = None,
    limits: HttpLimits = LIMITS,
    context: ssl.SSLContext | None = None,
    grace: float = 30.0,
    **options: Any,
) -> bool:
    """Run ``scenario`` in a thread with the port of a server; return whether all requests ended at the stop."""

    async def serve() -> bool:
        metrics = Metrics() if rest is None else rest.metrics
        settings = {"metrics_path": PATH, "metrics": metrics, "allowance": Allowance(2**20), **options}
        server = HttpServer(rest=rest, limits=limits, **settings)
        if isinstance(rest, Echo):
            rest.server = server
        port = await server.start("127.0.0.1:0", context)
        try:
            await asyncio.to_thread(scenario, port)
        finally:
            ended = await server.stop(grace)
        return ended

    return asyncio.run(serve())


def ask(
    port: int, path: str, body: bytes | None = None, *, method: str = "", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, body, named)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, {name.lower(): value for name, value in response.getheaders()}


def test_a_request_goes_in_and_an_answer_comes_out() -> None:
    def scenario(port: int) -> None:
        status, content, headers = ask(port, "/v1/models/m:predict", b"{}")
        assert (status, json.loads(content)) == (200, ["m", "predict", "{}", True])
        assert (headers["content-type"], headers["server"]) == ("application/json", "sealserve")
        assert "access-control-allow-origin" not in headers
        assert ask(port, "/v1/models/m/metadata")[0] == 200
        assert ask(port, "/v1/models/m", b"{}", method="PATCH")[0] == 400

    assert run(scenario, rest=Echo())


def test_what_is_not_the_api_is_not_found() -> None:
    def scenario(port: int) -> None:
        for path in ("/", "/v2/models/m", "/index.html"):
            assert ask(port, path)[:2] == (404, b"")

    run(scenario, rest=Echo())


def test_a_packed_body_is_unpacked_and_a_bomb_is_not() -> None:
    def scenario(port: int) -> None:
        status, content, _ = ask(port, "/v1/models/m:predict", gzip.compress(b'{"a": 1}'), Content_Encoding="gzip")
        assert (status, json.loads(content)[2]) == (200, '{"a": 1}')
        bomb = gzip.compress(b" " * 10_000_000)
        status, content, _ = ask(port, "/v1/models/m:predict", bomb[:4000], Content_Encoding="gzip")
        assert status in {400, 413}
        status, content, _ = ask(port, "/v1/models/m:predict", b"no gzip", Content_Encoding="gzip")
        assert status == 400

    run(scenario, rest=Echo())


def test_a_body_that_is_too_large() -> None:
    def scenario(port: int) -> None:
        status, content, _ = ask(port, "/v1/models/m:predict", b" " * 4097)
        assert status == 413
        assert "--rest_api_max_body_bytes" in json.loads(content)["error"]
        assert ask(port, "/v1/models/m:predict", b" " * 4096)[0] == 200

    run(scenario, rest=Echo())


def test_a_large_answer_comes_whole_packed_or_not() -> None:
    body = json.dumps({"x": "".join(map(str, range(300_000)))}).encode()
    limits = HttpLimits(threads=2, waiting=1, body=2**22, timeout=None, patience=60.0)

    def scenario(port: int) -> None:
        _, content, headers = ask(port, "/v1/models/m:predict", body)
        assert json.loads(json.loads(content)[2]) == json.loads(body)
        assert int(headers["content-length"]) == len(content)
        _, packed, headers = ask(port, "/v1/models/m:predict", body, Accept_Encoding="gzip")
        assert (headers["content-encoding"], gzip.decompress(packed)) == ("gzip", content)

    run(scenario, rest=Echo(), limits=limits, allowance=Allowance(2**26), gzip=True)


def test_answers_are_packed_where_both_sides_want_it() -> None:
    def scenario(port: int) -> None:
        status, content, headers = ask(port, "/v1/models/m:predict", b"x" * 2000, Accept_Encoding="gzip")
        assert (status, headers["content-encoding"]) == (200, "gzip")
        assert b"xxx" in gzip.decompress(content)
        assert "content-encoding" not in ask(port, "/v1/models/m:predict", b"x" * 2000)[2]
        assert "content-encoding" not in ask(port, "/v1/models/m:predict", b"x", Accept_Encoding="gzip")[2]

    run(scenario, rest=Echo(), gzip=True)


def test_cors() -> None:
    def scenario(port: int) -> None:
        path = "/v1/models/m:predict"
        headers = ask(port, path, b"{}")[2]
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-allow-methods"] == "POST, GET"
        assert headers["access-control-allow-headers"] == "Content-Type, Inference-Header-Content-Length"
        assert headers["access-control-expose-headers"] == "Inference-Header-Content-Length"
        assert ask(port, path, method="OPTIONS", Origin="https://site.example")[0] == 200
        assert ask(port, path, method="OPTIONS")[0] == 400

    run(scenario, rest=Echo(), cors=True)


def test_a_crowd_is_turned_away_and_nobody_waits_for_ever() -> None:
    echo = Echo()
    echo.gate.clear()

    def scenario(port: int) -> None:
        path = "/v1/models/m:predict"
        askers = [threading.Thread(target=ask, args=(port, path, b"{}")) for _ in range(3)]
        for asker in askers:
            asker.start()
        while echo.server is None or echo.server._open < len(askers):
            time.sleep(0.001)
        assert ask(port, path, b"{}")[0] == 429
        echo.gate.set()
        for asker in askers:
            asker.join()
        assert ask(port, path, b"{}")[0] == 200

    run(scenario, rest=echo, limits=HttpLimits(threads=2, waiting=1, body=4096, timeout=None, patience=30.0))


def test_bodies_and_answers_take_no_more_memory_than_is_allowed() -> None:
    echo = Echo()
    allowance = Allowance(5000)
    path = "/v1/models/m:predict"

    def scenario(port: int) -> None:
        echo.gate.clear()
        held = threading.Thread(target=ask, args=(port, path, b" " * 4000))
        held.start()
        echo.entered.acquire()
        status, content, _ = ask(port, path, b" " * 1001)
        assert (status, json.loads(content)["error"]) == (429, "The server is busy: the memory for requests is full.")
        assert allowance.ran_out()
        assert ask(port, PATH)[0] == 200
        while not allowance.take(1000):  # the memory of the page is returned when it was sent
            time.sleep(0.001)
        assert ask(port, PATH)[0] == 429
        allowance.give_back(1000)
        echo.gate.set()
        held.join()
        while not allowance.take(5000):  # its memory is returned when its answer was sent
            time.sleep(0.001)
        allowance.give_back(5000)
        assert ask(port, path, b" " * 4000)[0] == 200
        # Sent in one piece: aiohttp does not report a malformed chunk that arrives after the headers.
        refused = exchange(port, POST + b"Transfer-Encoding: chunked\r\n\r\n" + b" " * 4097)
        assert int(refused.split()[1]) in {400, 413}

    run(scenario, rest=echo, allowance=allowance)
    assert allowance.take(5000)  # all memory was returned


def test_a_sender_who_never_sends_is_given_up() -> None:
    def scenario(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as stalled:
            stalled.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            answer = stalled.recv(4096)
        assert answer.startswith(b"HTTP/1.1 504 ")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
            assert silent.recv(1) == b""

    limits = HttpLimits(threads=2, waiting=1, body=4096, timeout=30.0, patience=0.2)
    run(scenario, rest=Echo(), limits=limits)


def test_bytes_that_are_no_http(caplog: pytest.LogCaptureFixture) -> None:
    def scenario(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
            stranger.sendall(b"canary-771177\r\n\r\n")
            answer = b"".join(iter(lambda: stranger.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "The bytes are not an HTTP/1.1 request."}

    run(scenario, rest=Echo())
    assert "canary" not in caplog.text


def exchange(port: int, content: bytes, until: bytes = b"") -> bytes:
    """Send bytes and return the received bytes, up to ``until`` or to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(content)
        answer = b""
        while part := client.recv(4096):
            answer += part
            if until and until in answer:
                break
        return answer


POST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"canary-771177\r\n\r\n", 400),
        (b"CANARY-771177 /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v1/models/m HTTP/3.0\r\nHost: x\r\n\r\n", 400),
        (b"GET /v1/models/m HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /v1/models/m\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /v1/models/m HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/models/canary-771177 m HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\ncanary-771177 x\r\n\r\n", 400),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nX: canary-771177\0\r\n\r\n", 400),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nX: canary-771177" + b"x" * 17_000 + b"\r\n\r\n", 431),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\ncanary-771177" + b"x" * 17_000 + b": x\r\n\r\n", 431),
        (b"GET /v1/models/m HTTP/1.1\r\n" + b"X: canary-771177\r\n" * 200 + b"\r\n", 400),
        (b"GET /v1/models/canary-771177" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (POST + b"Transfer-Encoding: chunked\r\n\r\ncanary-771177\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}canary-771177\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: canary-771177\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: canary-771177\r\n\r\n{}", 400),
        (POST + b"Content-Length: -1\r\n\r\n{}", 400),
        (POST + b"Content-Length: " + b"7" * 5000 + b"\r\n\r\n", 400),
        (POST + b"Content-Length: 18446744073709551615\r\nExpect: 100-continue\r\n\r\n", 413),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03canary-771177", 400),
    ],
)
def test_errors_below_the_api_are_json_and_tell_nothing(
    content: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario(port: int) -> None:
        answer = exchange(port, content)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nServer: sealserve\r\n" in head
        assert b"\r\nContent-Type: application/json\r\n" in head
        assert b"\r\nConnection: close" in head
        assert json.loads(body)["error"]
        for secret in (b"canary", b"CANARY", b"Python", b"aiohttp"):
            assert secret not in answer

    run(scenario, rest=Echo())
    assert "canary" not in caplog.text.lower()


def test_a_large_header_and_an_absolute_target() -> None:
    def scenario(port: int) -> None:
        assert ask(port, "/v1/models/m", X_Large="x" * 9000)[0] == 200
        for target in ("http://h:80/v1/models/m", "HTTPS://h/v1/models/m"):
            assert json.loads(ask(port, target)[1])[0] == "m"
        for target in ("http://h", "http://h?x"):
            assert ask(port, target)[0] == 404
        assert ask(port, f"http://h{PATH}")[0] == 200

    run(scenario, rest=Echo())


def test_a_client_may_wait_for_the_word_to_continue() -> None:
    def scenario(port: int) -> None:
        head = POST + b"Content-Length: 2\r\nConnection: close\r\nExpect: 100-Continue\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(head)
            assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"{}")
            assert b"".join(iter(lambda: client.recv(4096), b"")).startswith(b"HTTP/1.1 200 ")
        # HTTP/1.0 does not support expectations.
        answer = exchange(port, head.replace(b"HTTP/1.1", b"HTTP/1.0") + b"{}")
        assert b"100 Continue" not in answer
        assert b" 200 OK" in answer

    run(scenario, rest=Echo())


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (POST + b"Content-Length: 4097\r\nExpect: 100-continue\r\n\r\n", 413),
        (POST + b"Content-Length: 2\r\nExpect: something-else\r\n\r\n", 417),
        (POST + b"Content-Length: 2\r\nExpect: 100-continue, more\r\n\r\n", 417),
        (POST.replace(b"v1", b"v2") + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", 404),
    ],
)
def test_a_body_that_nobody_reads_is_not_asked_for(content: bytes, status: int) -> None:
    def scenario(port: int) -> None:
        answer = exchange(port, content)  # the connection ends, although the body never arrives
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"100 Continue" not in answer

    run(scenario, rest=Echo(), limits=HttpLimits(threads=2, waiting=1, body=4096, timeout=None, patience=3600.0))


def test_a_client_that_goes_away_in_the_middle_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def scenario(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        assert ask(port, "/v1/models/m")[0] == 200

    assert run(scenario, rest=Echo())
    assert not caplog.records


def test_the_page_of_metrics() -> None:
    def scenario(port: int) -> None:
        assert ask(port, "/v1/models/m:predict", b"{}")[0] == 200
        status, content, headers = ask(port, PATH)
        assert (status, headers["content-type"]) == (200, "text/plain")
        assert b"# TYPE :tensorflow:serving:request_count counter\n" in content
        status, content, _ = ask(port, f"{PATH}?x=1")
        assert (status, content.decode()) == (400, f"Unexpected path: {PATH}?x=1. Should be {PATH}")

    run(scenario, rest=Echo())


def test_a_port_for_metrics_alone() -> None:
    def scenario(port: int) -> None:
        assert ask(port, "/metrics")[0] == 200
        assert ask(port, "/v1/models/m:predict", b"{}")[0] == 404

    run(scenario, rest=None, metrics_path="/metrics")


def test_running_requests_finish_before_the_end() -> None:
    echo = Echo()
    echo.gate.clear()
    answers: list[int] = []
    askers: list[threading.Thread] = []

    def scenario(port: int) -> None:
        asker = threading.Thread(target=lambda: answers.append(ask(port, "/v1/models/m:predict", b"{}")[0]))
        askers.append(asker)
        asker.start()
        assert echo.entered.acquire(timeout=60)
        threading.Timer(0.1, echo.gate.set).start()

    assert run(scenario, rest=echo)
    askers[0].join(timeout=60)
    assert answers == [200]


def test_clients_with_kept_connections_lose_nothing_at_the_end() -> None:
    """Each client continues until an answer closes its connection. Its next connection is refused."""
    started = threading.Barrier(7)
    lost: list[Exception] = []
    answered = [0] * 6

    def work(port: int, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            while True:
                connection.request("POST", "/v1/models/m:predict", b"{}")
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                answered[number] += 1
                if answered[number] == 1:
                    started.wait()
                if response.will_close:
                    return
        except Exception as error:  # noqa: BLE001  # whatever it is, a request was lost
            lost.append(error)

    workers: list[threading.Thread] = []

    def scenario(port: int) -> None:
        workers.extend(threading.Thread(target=work, args=(port, number)) for number in range(6))
        for worker in workers:
            worker.start()
        started.wait()

    limits = HttpLimits(threads=2, waiting=8, body=4096, timeout=None, patience=3600.0)
    assert run(scenario, rest=Echo(), limits=limits, grace=3600.0)
    for worker in workers:
        worker.join(timeout=60)
    assert not lost
    assert all(answered)


def test_a_connection_is_in_use_until_its_answer_has_left() -> None:
    """After a long request, the client needs the same moment to send the next one."""
    echo = Echo()
    echo.gate.clear()

    def scenario(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/models/m:predict", b"{}")
        assert echo.entered.acquire(timeout=60)
        assert echo.server is not None
        assert echo.server._connections is not None
        (inside,) = echo.server._connections.connections
        assert isinstance(inside, Connection)
        asked = inside.last_used
        assert not inside.is_idle(0.0)
        echo.gate.set()
        connection.getresponse().read()
        while inside.last_used == asked or not inside.is_idle(0.0):
            time.sleep(0.001)
        assert inside.last_used > asked
        connection.close()

    run(scenario, rest=echo)


def test_idle_connections_are_closed_at_the_end_and_the_port_is_free() -> None:
    idle: list[socket.socket] = []
    ports: list[int] = []

    def scenario(port: int) -> None:
        ports.append(port)
        idle.extend(socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(3))
        idle[0].sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle[0].recv(4096).startswith(b"HTTP/1.1 200 ")
        idle[1].sendall(b"GET /v1/mod")  # an incomplete request does not delay the server

    limits = HttpLimits(threads=2, waiting=1, body=4096, timeout=None, patience=3600.0)
    assert run(scenario, rest=Echo(), limits=limits, grace=3600.0)
    for client in idle:
        assert client.recv(4096) == b""
        client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=60).close()


AGED = HttpLimits(threads=2, waiting=8, body=4096, timeout=None, patience=3600.0, max_age=0.1)


def test_an_old_connection_ends_with_an_answer_and_no_request_is_lost() -> None:
    def scenario(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        closed = False
        while not closed:
            connection.request("POST", "/v1/models/m:predict", b"{}")
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())[0]) == (200, "m")
            closed = response.will_close
        connection.request("POST", "/v1/models/m:predict", b"{}")  # over a new connection
        assert connection.getresponse().status == 200
        connection.close()

    assert run(scenario, rest=Echo(), limits=AGED)


def test_an_old_connection_ends_without_an_answer_where_nobody_asks() -> None:
    def scenario(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as silent,
            socket.create_connection(("127.0.0.1", port), timeout=60) as asked,
        ):
            asked.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n")
            assert asked.recv(4096).startswith(b"HTTP/1.1 200 ")
            assert (silent.recv(4096), asked.recv(4096)) == (b"", b"")

    assert run(scenario, rest=Echo(), limits=AGED)


def test_an_old_connection_ends_although_a_header_arrives_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.serving.http.connection._GRACE", 0.2)

    def is_closed(slow: socket.socket) -> bool:
        try:
            slow.sendall(b"x")
            return slow.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:  # reset, since bytes were still on their way
            return True

    def scenario(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            slow.settimeout(0.02)
            assert any(is_closed(slow) for _ in range(1000))

    assert run(scenario, rest=Echo(), limits=AGED)


def test_a_request_that_is_on_its_way_when_its_connection_is_old_is_answered() -> None:
    echo = Echo()

    def scenario(port: int) -> None:
        assert echo.server is not None
        assert echo.server._connections is not None
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
            while not echo.server.pending:
                time.sleep(0.001)
            (inside,) = echo.server._connections.connections
            assert isinstance(inside, Connection)
            inside._loop.call_soon_threadsafe(
                inside._grow_old, 0.0
            )  # its maximum age is over: it is closed when it is idle
            while not inside.is_old:
                time.sleep(0.001)
            slow.sendall(b"}")
            answer = b"".join(iter(lambda: slow.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in answer

    assert run(scenario, rest=echo, limits=LIMITS)


def test_the_end_does_not_wait_longer_than_the_grace_period() -> None:
    echo = Echo()
    echo.gate.clear()

    def scenario(port: int) -> None:
        def give_up() -> None:
            with suppress(OSError, http.client.HTTPException):
                ask(port, "/v1/models/m:predict", b"{}")

        threading.Thread(target=give_up).start()
        assert echo.entered.acquire(timeout=60)

    assert not run(scenario, rest=echo, grace=0.05)
    echo.gate.set()


def test_a_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"

        async def start() -> None:
            await HttpServer(
                rest=None, metrics_path=PATH, metrics=Metrics(), limits=LIMITS, allowance=Allowance(2**20)
            ).start(address, None)

        with pytest.raises(PortTakenError):
            asyncio.run(start())


# --- TLS --------------------------------------------------------------------------------------------------------------


def http_ports(options: ServerOptions) -> HttpPorts:
    table = Servables()
    source = find_tls_source(options.ssl_config_file, None, None)
    return HttpPorts(options, None, table, Allowance(2**20), source=source, receipts=Receipts(None, table))


def settings(service: Authority, users: Authority | None) -> SslConfig:
    issued = service.issue_server([NAME], now=datetime.now(UTC))
    return SslConfig(
        server_key=issued.key_pem,
        server_cert=issued.chain_pem,
        custom_ca=users.certificate_pem if users else None,
        client_verify=users is not None,
    )


@pytest.mark.parametrize("memory", [True, False])
def test_tls_one_way_and_two_way(memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not memory:
        monkeypatch.delattr("os.memfd_create")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    now = datetime.now(UTC)
    service = Authority.create(AuthorityKind.SERVICE, names=[NAME], simulated=True, now=now)
    users = Authority.create(AuthorityKind.USERS, names=["client.x"], simulated=True, now=now)
    client = users.issue_client("client.x", now=now)
    (tmp_path / "client.pem").write_bytes(client.key_pem.reveal() + client.chain_pem)

    def over_tls(port: int, *, certificate: bool) -> int:
        trust = ssl.create_default_context(cadata=service.certificate_pem.decode())
        if certificate:
            trust.load_cert_chain(tmp_path / "client.pem")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            trust.wrap_socket(plain, server_hostname=NAME) as secure,
        ):
            secure.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return int((secure.recv(4096) or b"closed 0").split()[1])

    def one_way(port: int) -> None:
        assert over_tls(port, certificate=False) == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(port, "/v1/models/m")

    def two_way(port: int) -> None:
        assert over_tls(port, certificate=True) == 200
        with suppress(OSError):
            assert over_tls(port, certificate=False) == 0

    run(one_way, rest=Echo(), context=https.server_context(settings(service, None)))
    context = https.server_context(settings(service, users))
    https.renew(context, settings(service, users))
    run(two_way, rest=Echo(), context=context)
    assert {path.name for path in tmp_path.iterdir()} == {"client.pem"}


def test_a_renewed_certificate_serves_new_connections(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    first, second = (Authority.create(AuthorityKind.SERVICE, names=[NAME], simulated=True, now=now) for _ in range(2))
    path = tmp_path / "ssl.cfg"
    path.write_bytes(settings(first, None).render().reveal())
    chosen = parse(
        ["--model_base_path=/m", "--rest_api_port=1", f"--ssl_config_file={path}", "--bind_address=127.0.0.1"]
    )
    assert isinstance(chosen, ServerOptions)
    ports = http_ports(chosen)
    assert ports._context is not None

    def trusts(port: int, authority: Authority) -> bool:
        trust = ssl.create_default_context(cadata=authority.certificate_pem.decode())
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain, suppress(ssl.SSLError):
            trust.wrap_socket(plain, server_hostname=NAME).close()
            return True
        return False

    def scenario(port: int) -> None:
        assert trusts(port, first)
        ports.follow()
        assert not trusts(port, second)
        (tmp_path / "next").write_bytes(settings(second, None).render().reveal())
        (tmp_path / "next").rename(path)
        ports.follow()
        assert trusts(port, second)
        assert not trusts(port, first)

    run(scenario, rest=Echo(), context=ports._context)


@pytest.mark.parametrize("two_way", [True, False])
def test_newer_settings_end_open_connections_if_clients_show_certificates(tmp_path: Path, two_way: bool) -> None:
    now = datetime.now(UTC)
    service = Authority.create(AuthorityKind.SERVICE, names=[NAME], simulated=True, now=now)
    users = Authority.create(AuthorityKind.USERS, names=["client.service.com"], simulated=True, now=now)
    path = tmp_path / "ssl.cfg"
    path.write_bytes(settings(service, users if two_way else None).render().reveal())
    chosen = parse(
        ["--model_base_path=/m", "--rest_api_port=1", f"--ssl_config_file={path}", "--bind_address=127.0.0.1"]
    )
    assert isinstance(chosen, ServerOptions)
    ports = http_ports(chosen)
    retired = []

    class Port:
        def retire(self) -> None:
            retired.append(True)

    ports._running = [Port()]  # type: ignore[list-item]  # all that it is asked for
    ports.follow()
    assert not retired
    (tmp_path / "next").write_bytes(settings(service, users if two_way else None).render().reveal())
    (tmp_path / "next").rename(path)
    ports.follow()
    ports.follow()
    assert len(retired) == two_way


def test_the_settings_of_the_grpc_port_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Authority.create(AuthorityKind.SERVICE, names=[NAME], simulated=True, now=datetime.now(UTC))
    paths = [tmp_path / "grpc.cfg", tmp_path / "rest.cfg"]
    for path in paths:
        path.write_bytes(settings(service, None).render().reveal())
    read: list[Path | None] = []

    def find(path: Path | None, *others: Any) -> TlsSource | None:
        read.append(path)
        return find_tls_source(path, *others)

    monkeypatch.setattr("sealserve.serving.http.http_ports.find_tls_source", find)
    flags = ["--model_base_path=/m", "--rest_api_port=1", "--bind_address=127.0.0.1", f"--ssl_config_file={paths[0]}"]
    for more, expected in (
        ([], []),
        ([f"--rest_api_ssl_config_file={paths[1]}"], [paths[1]]),
        (["--dangerous_plaintext_rest"], [None]),
    ):
        chosen = parse([*flags, *more])
        assert isinstance(chosen, ServerOptions)
        ports = http_ports(chosen)
        assert read == expected
        assert (ports._context is None) == (read == [None])
        read.clear()
