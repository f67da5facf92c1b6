"""A hostile peer that answers the request for evidence: slow, oversized, malformed, or with another protocol."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness import http2
from tests.harness.attested_service import NAME, AttestedService
from tests.unit.client.conftest import CLIENT, Material

from sealserve.client.attested import EndpointTls, fetch_evidence, verify_endpoint
from sealserve.client.connection_fault import CertificateRefusedError, CertificateRequiredError, ServiceUntrustedError
from sealserve.client.single_call import _block
from sealserve.errors import SealserveError
from sealserve.pki.authority import Authority, AuthorityKind

SETTINGS = http2.frame(http2.SETTINGS, 0, 0, b"")
Script = Callable[[ssl.SSLSocket], None]


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> AttestedService:
    return AttestedService(tmp_path_factory.mktemp("peer"))  # only its TLS key and certificate are used


@contextmanager
def peer(tls_server: AttestedService, script: Script, protocol: str = "h2") -> Iterator[str]:
    """Answer one TLS connection with a script."""
    context = tls_server.tls_context([protocol])
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as stream:
                stream.settimeout(10)
                stream.recv(65536)
                script(stream)
        except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join()


def sends(*parts: bytes) -> Script:
    def script(stream: ssl.SSLSocket) -> None:
        for part in parts:
            stream.sendall(part)
        stream.recv(65536)  # until the client closes

    return script


def data(content: bytes, *, end: bool = False) -> bytes:
    return http2.frame(http2.DATA, http2.END_STREAM if end else 0, 1, content)


def message(size: int, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + size.to_bytes(4, "big")


def trailers(**fields: str) -> bytes:
    block = _block({name.replace("_", "-"): value for name, value in fields.items()})
    return http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, block)


def failure(tls_server: AttestedService, script: Script, protocol: str = "h2", timeout: float = 5) -> SealserveError:
    with peer(tls_server, script, protocol) as address, pytest.raises(SealserveError) as caught:
        fetch_evidence(address, tls=EndpointTls(server_name=NAME), timeout=timeout)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "client.evidence-missing", "does not use HTTP/2"),
        ([SETTINGS, b"\xff" * 9], "client.evidence-missing", "too large"),
        ([SETTINGS, data(message(60_000)), *[data(b"x" * 16_000)] * 4], "client.evidence-missing", "too large"),
        ([SETTINGS, data(message(1, compressed=True) + b"x")], "client.evidence-missing", "compressed"),
        ([SETTINGS, data(message(9) + b"x", end=True)], "client.evidence-missing", "incomplete"),
        ([SETTINGS, data(message(3) + b"\xff\xff\xff", end=True)], "client.evidence-missing", "not a message"),
        ([SETTINGS, http2.frame(http2.DATA, 8, 1, b"\x05abc")], "client.evidence-missing", "violated"),
        ([SETTINGS, http2.frame(3, 0, 1, bytes(4))], "client.evidence-unavailable", "canceled"),
        ([SETTINGS, http2.frame(http2.GOAWAY, 0, 0, bytes(8))], "client.evidence-unavailable", "closed"),
        ([SETTINGS, *[http2.frame(99, 0, 0, b"")] * 1100], "client.evidence-missing", "too many frames"),
        ([SETTINGS, trailers(grpc_status="12")], "client.evidence-missing", "does not implement"),
        ([SETTINGS, trailers(grpc_status="8")], "client.evidence-unavailable", "too many requests"),
        ([SETTINGS, trailers(grpc_status="7", grpc_message="x" * 200)], "client.evidence-missing", "status 7"),
        ([SETTINGS, trailers(other="1")], "client.evidence-unavailable", "rejected the call"),
        ([SETTINGS, data(message(0), end=True)], "document.json", "JSON"),
    ],
)
def test_a_malformed_answer_over_http2_is_refused(
    tls_server: AttestedService, answer: list[bytes], code: str, text: str
) -> None:
    failed = failure(tls_server, sends(*answer))
    assert failed.code == code, failed
    assert text in failed.message


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"nonsense\r\n\r\n", "client.unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "document.type"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b" " * 900_000, "document.size"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "client.evidence-missing",
        ),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "client.evidence-unavailable"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n", "client.unreachable"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n", "client.unreachable"),
    ],
)
def test_a_malformed_answer_over_http1_is_refused(tls_server: AttestedService, answer: bytes, code: str) -> None:
    assert failure(tls_server, sends(answer), "http/1.1").code == code


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_a_silent_or_slow_peer_is_limited_in_time(tls_server: AttestedService, protocol: str) -> None:
    ended = threading.Event()

    def drip(stream: ssl.SSLSocket) -> None:
        stream.sendall(SETTINGS if protocol == "h2" else b"HTTP/1.1 200 OK\r\na: ")
        while not ended.wait(0.05):
            stream.sendall(http2.frame(99, 0, 0, b"") if protocol == "h2" else b"b")

    for script in (sends(), drip):
        began = time.monotonic()
        try:
            assert failure(tls_server, script, protocol, timeout=0.5).code == "client.unreachable"
        finally:
            ended.set()
        assert time.monotonic() - began < 10  # the peer would go on for as long as the client waits
        ended.clear()


def test_a_service_may_send_pings_and_settings_before_its_answer(tls_server: AttestedService) -> None:
    ping = http2.frame(http2.PING, 0, 0, b"12345678")
    confirmed = threading.Event()

    def script(stream: ssl.SSLSocket) -> None:
        stream.sendall(SETTINGS + ping + ping)
        received = b""
        while received.count(b"12345678") < 2:
            received += stream.recv(65536)
        confirmed.set()
        sends(trailers(grpc_status="12"))(stream)

    assert failure(tls_server, script).code == "client.evidence-missing"
    assert confirmed.is_set()


def test_a_port_without_tls_is_reported() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        plain, _ = listener.accept()
        with plain:
            plain.sendall(b"220 mail.example.com\r\n")
            plain.recv(1000)

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with listener, pytest.raises(SealserveError) as caught:
        fetch_evidence(address, tls=EndpointTls(server_name=NAME), timeout=5)
    thread.join()
    assert caught.value.code == "client.tls"


def test_two_way_tls(tmp_path: Path, material: Material) -> None:
    with AttestedService(tmp_path, users_ca=material.users.certificate_pem) as found:
        with pytest.raises(CertificateRequiredError):
            verify_endpoint(found.address, found.policy, tls=found.tls)
        wrong = EndpointTls(server_name=NAME, certificate=material.stranger.chain_pem, key=material.stranger.key_pem)
        with pytest.raises(CertificateRefusedError):
            verify_endpoint(found.address, found.policy, tls=wrong)
        own = EndpointTls(server_name=NAME, certificate=material.client.chain_pem, key=material.client.key_pem)
        assert CLIENT not in repr(own)
        assert verify_endpoint(found.address, found.policy, tls=own).service.simulated


def test_a_given_ca_is_checked_too(tmp_path: Path) -> None:
    other = Authority.create(AuthorityKind.SERVICE, names=["service.com"], simulated=True, now=datetime.now(UTC))
    with AttestedService(tmp_path) as found, pytest.raises(ServiceUntrustedError):
        verify_endpoint(found.address, found.policy, tls=EndpointTls(server_name=NAME, ca=other.certificate_pem))
