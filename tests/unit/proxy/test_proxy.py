"""Clients without TLS reach a verified service through the proxy, and a hostile service receives no byte of them."""

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from scripts.attested_example import Example
from tests.harness.attested_service import AttestedService, Hostile
from tests.harness.running_proxy import Balancer, Clock, RunningProxy

from sealserve.attestation.result_token import sign_result
from sealserve.client.http2_frames import PREFACE, frame
from sealserve.client.noted_connection import EndpointTls
from sealserve.proxy import relay, upstream
from sealserve.proxy.proxy import Limits

SECONDS = 60
SETTINGS = PREFACE + frame(0x4, 0, 0)
METHOD = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[AttestedService]:
    with AttestedService(tmp_path, rest=True) as running:
        yield running


def method(channel: grpc.Channel) -> Any:
    """Return a method that sends and returns bytes."""
    return channel.unary_unary(METHOD)


def call(address: str, content: bytes = b"an input") -> bytes:
    """Send a gRPC message on a new connection."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        answer: bytes = method(channel)(content, timeout=SECONDS)
    return answer


def refused(address: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(address)
    return caught.value.code(), str(caught.value.details())


def post(*options: str) -> tuple[int, str]:
    """Send an HTTP/1.1 request with curl, and return status and body."""
    if (curl := shutil.which("curl")) is None:
        pytest.skip("curl is not installed: apt-get install curl")
    done = subprocess.run(
        [curl, "-sS", "--max-time", str(SECONDS), "-w", "\n%{http_code}", "-d", '{"instances": [1]}', *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def is_closed(client: socket.socket) -> bool:
    """Wait until the proxy closes a connection."""
    try:
        while client.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def url(proxy: RunningProxy) -> str:
    return f"http://{proxy.address}/v1/models/m:predict"


# Honest services


def test_grpc_and_curl_pass_through_one_port(service: AttestedService) -> None:
    with RunningProxy.of(service, rest=True) as proxy:
        assert call(proxy.address) == b"an input"
        assert post(url(proxy)) == (200, '{"instances": [1]}')
        assert post("-H", "Expect: 100-continue", url(proxy)) == (200, '{"instances": [1]}')
    assert service.observed.inputs == [
        (METHOD, b"an input"),
        ("/v1/models/m:predict", b'{"instances": [1]}'),
        ("/v1/models/m:predict", b'{"instances": [1]}'),
    ]
    assert service.observed.evidence == 1  # both ports end in the same enclave


def test_http2_without_tls_from_curl(service: AttestedService) -> None:
    """curl speaks HTTP/2 to the gRPC port, which answers as gRPC does."""
    with RunningProxy.of(service) as proxy:
        curl = shutil.which("curl")
        if (
            curl is None
            or "HTTP2" not in subprocess.run([curl, "-V"], capture_output=True, text=True, check=True).stdout
        ):
            pytest.skip("curl with HTTP/2 is not installed: apt-get install curl")
        options = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers", "-i"]
        status, body = post(*options, "--data-binary", "@/dev/null", f"http://{proxy.address}{METHOD}")
    assert status == 200
    assert "grpc-status" in body


def test_a_unix_socket(service: AttestedService, tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    with RunningProxy.of(service, rest=True, socket=path):
        assert call(f"unix:{path}") == b"an input"
        assert post("--unix-socket", str(path), "http://localhost/v1")[0] == 200
    assert not path.exists()


def test_many_connections_and_large_messages_verify_once(service: AttestedService) -> None:
    messages = [bytes((number,)) * 300_000 for number in range(40)]
    with RunningProxy.of(service) as proxy, ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda message: call(proxy.address, message), messages)) == messages
    assert service.observed.evidence == 1
    assert sorted(content for _, content in service.observed.inputs) == messages


def test_a_connection_is_used_for_many_requests(service: AttestedService) -> None:
    with RunningProxy.of(service, rest=True) as proxy:
        stream = socket.create_connection(proxy.place, SECONDS)
        with stream, stream.makefile("rb") as lines:
            for number in range(3):
                body = b"%d" % number
                stream.sendall(b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                assert lines.readline() == b"HTTP/1.1 200 OK\r\n"
                while (line := lines.readline()) != b"\r\n":
                    assert line
                assert lines.read(1) == body


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[AttestedService]]:
    first = Example(tmp_path / "vendor", name="first", now=datetime.now(UTC).replace(microsecond=0))
    second = Example(tmp_path / "unused", name="second", shared=first, now=first.now)
    with AttestedService(tmp_path / "1", example=first) as one, AttestedService(tmp_path / "2", example=second) as two:
        yield [one, two]


def test_two_replicas_with_different_keys(replicas: list[AttestedService]) -> None:
    first, second = replicas
    balancer = Balancer([first.port, second.port])
    with balancer.running(), RunningProxy(first.policy, first.tls, balancer.address) as proxy:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: call(proxy.address, b"%d" % number), range(24)))
        assert answers == [b"%d" % number for number in range(24)]
    assert first.observed.inputs
    assert second.observed.inputs
    assert (first.observed.evidence, second.observed.evidence) == (1, 1)


def test_a_replica_that_goes_away_and_a_new_replica(replicas: list[AttestedService]) -> None:
    first, second = replicas
    balancer = Balancer([first.port])
    with (
        balancer.running(),
        RunningProxy(first.policy, first.tls, balancer.address) as proxy,
        grpc.insecure_channel(proxy.address) as channel,
    ):
        predict = method(channel)
        assert predict(b"1", timeout=SECONDS) == b"1"
        # The replica ends. The client's connection ends too, and a new connection reaches the new replica.
        balancer.ports = [second.port]
        first.__exit__(None, None, None)
        assert predict(b"2", timeout=SECONDS, wait_for_ready=True) == b"2"
    assert second.observed.inputs == [(METHOD, b"2")]
    assert second.observed.evidence == 1


def test_a_service_that_is_down_and_returns(tmp_path: Path) -> None:
    with AttestedService(tmp_path, rest=True) as service:
        address, rest, example, port = service.address, service.rest_address, service.example, service.port
    with RunningProxy(service.policy, service.tls, address, rest) as proxy:
        code, details = refused(proxy.address)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details.startswith("sealserve proxy: client.unreachable: ")
        status, body = post(url(proxy))
        assert status == 502
        assert json.loads(body)["error"].startswith(
            f"sealserve proxy: client.unreachable: Connecting to {rest} failed: "
        )
        with AttestedService(tmp_path / "again", example=example, port=port):
            assert call(proxy.address) == b"an input"


class Sticky(Balancer):
    """Gives each 17th connection to the first replica, so that it is never found again."""

    def choose(self) -> int:
        return self.ports[0] if sum(self.opened.values()) % 17 == 0 else self.ports[1]


def test_a_replica_that_is_never_found_again(replicas: list[AttestedService]) -> None:
    first, second = replicas
    balancer = Sticky([first.port, second.port])
    with balancer.running(), RunningProxy(first.policy, first.tls, balancer.address) as proxy:
        code, details = refused(proxy.address)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details.startswith("sealserve proxy: proxy.replica-away: ")
    assert balancer.opened == {first.port: 3, second.port: 48}
    assert not first.observed.inputs
    assert not second.observed.inputs


def test_a_service_that_is_late(service: AttestedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_TOTAL_SECONDS", 0.0)
    with RunningProxy.of(service) as proxy:
        code, details = refused(proxy.address)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details.startswith("sealserve proxy: proxy.service-late: ")


def test_the_grpc_port_in_place_of_the_rest_port(service: AttestedService) -> None:
    with RunningProxy(service.policy, service.tls, service.address, service.address) as proxy:
        status, body = post(url(proxy))
    assert status == 502
    assert "sealserve proxy: client." in json.loads(body)["error"]
    assert not service.observed.inputs


# Hostile services

REFUSALS = {
    Hostile.RELAY: "evidence.tls-key",
    Hostile.REPLAY: "evidence.nonce-signature",
    Hostile.OTHER_RELEASE: "evidence.release",
    Hostile.DEBUG: "quote.debug",
    Hostile.NO_RESULT: "evidence.no-result",
    Hostile.OTHER_OWNER: "statement.signature",
    Hostile.OTHER_KEYSET: "evidence.keyset-binding",
    Hostile.GARBAGE: "document.json",
    Hostile.NO_EVIDENCE: "client.evidence-missing",
    Hostile.BUSY: "client.evidence-unavailable",
}


@pytest.mark.parametrize("hostile", REFUSALS)
def test_a_hostile_service_receives_no_input(tmp_path: Path, hostile: Hostile) -> None:
    code = REFUSALS[hostile]
    temporary = hostile is Hostile.BUSY
    with AttestedService(tmp_path, rest=True, hostile=hostile) as service, RunningProxy.of(service, rest=True) as proxy:
        status, details = refused(proxy.address)
        assert status is (grpc.StatusCode.UNAVAILABLE if temporary else grpc.StatusCode.FAILED_PRECONDITION)
        assert details.startswith(f"sealserve proxy: {code}: ")
        http_status, body = post(url(proxy))
        assert http_status == 502
        assert f"sealserve proxy: {code}: " in json.loads(body)["error"]
        assert not service.observed.inputs
        if not temporary:  # the refusal is repeated for some seconds, without new evidence
            assert service.observed.evidence <= 1


def test_no_byte_is_sent_before_the_verification(service: AttestedService) -> None:
    """A host presents its own certificate. It receives one request for evidence, and nothing on other connections."""
    received: list[bytes] = []
    context = service.tls_context(["h2", "http/1.1"])
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                plain, _ = listening.accept()
                with context.wrap_socket(plain, server_side=True) as stream:
                    stream.settimeout(SECONDS)
                    received.append(stream.recv(65_536))  # then the host closes the connection
            except OSError:
                continue

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    with RunningProxy(service.policy, service.tls, address, address) as proxy:
        with socket.create_connection(proxy.place, SECONDS) as client:
            client.sendall(PREFACE + frame(0x1, 0x5, 1, b"SECRET"))
            answer = b""
            while b"grpc-status" not in answer:
                answer += (part := client.recv(65_536))
                assert part
        with socket.create_connection(proxy.place, SECONDS) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nSECRET")
            assert client.recv(65_536).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    ended.set()
    listening.close()
    assert b"" in received  # a connection for the client's bytes
    assert all(b"SECRET" not in content for content in received)


def test_a_service_certificate_of_another_authority(service: AttestedService) -> None:
    """With a CA, the handshake fails before evidence is requested."""
    tls = EndpointTls(
        server_name=service.tls.server_name, ca=service.example.vendor.root.certificate.public_bytes(Encoding.PEM)
    )
    with RunningProxy(service.policy, tls, service.address) as proxy:
        code, details = refused(proxy.address)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details.startswith("sealserve proxy: client.tls-untrusted: ")
    assert service.observed.evidence == 0


# Hostile and mistaken clients


def test_a_web_page_is_refused(service: AttestedService) -> None:
    with RunningProxy.of(service, rest=True) as proxy:
        status, body = post("-H", "Host: evil.example", url(proxy))
        assert (status, "proxy.host" in body) == (403, True)
        status, body = post("-H", "Origin: https://evil.example", url(proxy))
        assert (status, "proxy.host" in body) == (403, True)
    assert not service.observed.inputs


def test_rest_needs_an_address(service: AttestedService) -> None:
    with RunningProxy.of(service) as proxy:
        status, body = post(url(proxy))
    assert status == 502
    assert json.loads(body)["error"].startswith("sealserve proxy: proxy.rest-unknown: The client uses HTTP/1.1")


@pytest.mark.parametrize("content", [b"\x16\x03\x01\x00\x05hello", b"\x00" * 100])
def test_a_client_of_another_protocol_is_disconnected(service: AttestedService, content: bytes) -> None:
    with (
        RunningProxy.of(service) as proxy,
        socket.create_connection(proxy.place, SECONDS) as client,
    ):
        client.sendall(content)
        assert client.recv(100) == b""
    assert service.observed.evidence == 0


@pytest.mark.parametrize("content", [b"", b"POST / HTTP/1.1\r\nHost: localhost\r\n", PREFACE[:10]])
def test_a_slow_client_is_disconnected(
    service: AttestedService, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(relay, "_FIRST_BYTES_SECONDS", 0.05)
    with RunningProxy.of(service) as proxy, socket.create_connection(proxy.place, SECONDS) as client:
        client.sendall(content)
        answer = client.recv(65_536)
        assert is_closed(client)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request") if content else not answer
    assert service.observed.evidence == 0


def test_a_client_that_does_not_read_slows_only_itself(service: AttestedService) -> None:
    """The proxy reads no more from the service than it can deliver, and other clients continue."""
    with RunningProxy.of(service, rest=True) as proxy, socket.create_connection(proxy.place, SECONDS) as client:
        body = bytes(16 * 2**20)
        client.sendall(b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.sendall(body)  # the service sends it back, and this client does not read it yet
        assert call(proxy.address) == b"an input"
        received = 0
        while received < len(body):
            received += len(part := client.recv(65_536))
            assert part


def test_connections_are_limited(service: AttestedService) -> None:
    limits = Limits(connections=1)
    with RunningProxy.of(service, rest=True, limits=limits) as proxy, grpc.insecure_channel(proxy.address) as channel:
        assert method(channel)(b"1", timeout=SECONDS) == b"1"
        code, details = refused(proxy.address)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details.startswith("sealserve proxy: proxy.busy: ")
        status, body = post(url(proxy))
        assert (status, "proxy.busy" in body) == (503, True)


def test_idle_connections_are_closed(service: AttestedService) -> None:
    limits = Limits(idle_seconds=-1)
    with RunningProxy.of(service, limits=limits) as proxy, socket.create_connection(proxy.place, SECONDS) as client:
        client.sendall(SETTINGS)
        assert client.recv(100)  # the settings of the service: the connection is established
        proxy.sweep()
        assert is_closed(client)


# The end of a verification


async def _finished(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


def test_an_open_connection_ends_with_its_verification(service: AttestedService) -> None:
    clock = Clock()
    with RunningProxy.of(service, clock=clock) as proxy, socket.create_connection(proxy.place, SECONDS) as client:
        client.sendall(SETTINGS)
        assert client.recv(100)  # the settings of the service: the connection is established
        clock.now += timedelta(days=4)  # the attestation result is valid for 3 days
        proxy.sweep()
        assert is_closed(client)
        # A new connection needs new evidence, and the evidence has expired too.
        assert refused(proxy.address)[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_new_evidence_lets_an_open_connection_continue(service: AttestedService) -> None:
    clock = Clock()
    with RunningProxy.of(service, clock=clock) as proxy, grpc.insecure_channel(proxy.address) as channel:
        predict = method(channel)
        assert predict(b"1", timeout=SECONDS) == b"1"
        client = next(iter(proxy.proxy._relays))
        assert client.upstream is not None
        before = client.upstream.verification
        # The replica renews its certificate. Soon, the first result expires.
        clock.now = before.until - timedelta(minutes=5)
        renewed = service.example.result(expires=before.until + timedelta(days=1))
        token = sign_result(renewed, service.example.token_key)
        object.__setattr__(service.replica, "answer", service.example.service(attestation_result=token).answer)
        proxy.sweep()
        refreshing = list(proxy.proxy._refreshing.values())
        assert len(refreshing) == 1
        proxy.loop.run(_finished(refreshing))
        assert client.upstream.verification.until == before.until + timedelta(days=1)
        clock.now = before.until + timedelta(minutes=1)
        proxy.sweep()
        assert predict(b"2", timeout=SECONDS) == b"2"
        assert proxy.proxy.connections == 1
