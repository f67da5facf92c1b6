"""The real NGINX, in front of gRPC servers that end TLS themselves."""

import json
import os
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.harness.errors import raises

from sealserve.client.channel import ServiceChannel, open_channel
from sealserve.client.connection_fault import CertificateRequiredError, UnreachableError
from sealserve.client.load import Request, run_load
from sealserve.client.predict import Predictor
from sealserve.client.wire.predict_pb2 import PredictRequest, PredictResponse
from sealserve.errors import PortTakenError, UnavailableError
from sealserve.ingress.codes import IngressCode
from sealserve.ingress.nginx import Nginx, worker_user
from sealserve.ingress.nginx_config import NginxConfig, Upstream
from sealserve.ingress.nginx_program import NginxProgram, find_nginx
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey

pytestmark = pytest.mark.integration

SERVICE = "grpc.tf-serving.service.com"
PICTURE = {"x": np.ones((1, 3), np.float32)}


@dataclass(frozen=True, slots=True)
class Material:
    service_ca: bytes
    users_ca: bytes
    server: CertifiedKey
    client: CertifiedKey


@pytest.fixture(scope="module")
def material() -> Material:
    now = datetime.now(UTC)
    service = Authority.create(AuthorityKind.SERVICE, names=["service.com"], simulated=True, now=now)
    users = Authority.create(AuthorityKind.USERS, names=["service.com"], simulated=True, now=now)
    return Material(
        service.certificate_pem,
        users.certificate_pem,
        service.issue_server([SERVICE], now=now),
        users.issue_client("client.tf-serving.service.com", now=now),
    )


@pytest.fixture(scope="module")
def program() -> NginxProgram:
    try:
        return find_nginx()
    except UnavailableError as error:
        pytest.skip(str(error))


class Echo(grpc.GenericRpcHandler):
    """Returns its inputs and its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def service(self, _: grpc.HandlerCallDetails) -> Any:
        def handle(request: PredictRequest, context: Any) -> PredictResponse:
            context.set_trailing_metadata((("x-sealserve-instance", self._name),))
            return PredictResponse(outputs=dict(request.inputs))

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=PredictRequest.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


class Place:
    """Two replicas, and an NGINX in front of them that is not started yet."""

    def __init__(self, program: NginxProgram, material: Material, folder: Path, stack: ExitStack) -> None:
        self._material = material
        self._stack = stack
        self.servers: dict[str, grpc.Server] = {}
        self.program = program
        self.config = NginxConfig(
            listen="127.0.0.1",
            port=free_port(),
            service_name=SERVICE,
            upstreams=[self.replica("a"), self.replica("b")],
            run_folder=folder,
            log_folder=folder,
            stream_module=program.stream_module,
            user=worker_user(),
            workers=2,
        )
        self.nginx = Nginx(program, self.config)
        stack.callback(self.nginx.stop, grace=0)

    def replica(self, name: str) -> Upstream:
        server = grpc.server(self._stack.enter_context(ThreadPoolExecutor(2)), handlers=[Echo(name)])
        credentials = grpc.ssl_server_credentials(
            [(self._material.server.key_pem.reveal(), self._material.server.chain_pem)],
            root_certificates=self._material.users_ca,
            require_client_auth=True,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        self._stack.callback(lambda: server.stop(None).wait())
        self.servers[name] = server
        return Upstream("127.0.0.1", port)

    def connect(self, **overrides: Any) -> ServiceChannel:
        arguments: dict[str, Any] = {
            "server_name": SERVICE,
            "ca": self._material.service_ca,
            "certificate": self._material.client.chain_pem,
            "key": self._material.client.key_pem,
        } | overrides
        port = arguments.pop("port", self.config.port)
        return self._stack.enter_context(open_channel(f"127.0.0.1:{port}", **arguments))

    def answered_by(self, channels: int) -> Counter[str | None]:
        return Counter(Predictor([self.connect()]).predict("toy", PICTURE).instance for _ in range(channels))

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.config.access_log.read_text().splitlines()]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the kernel has no IPv6")
def test_every_address_takes_connections_of_both_ip_families(place: Place) -> None:
    place.config = replace(place.config, listen="::")
    place.nginx = Nginx(place.program, place.config)
    place.nginx.start()
    try:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, place.config.port), timeout=10):
                pass
    finally:
        place.nginx.stop(grace=0)


def answer_to(first: bytes, port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(first)
        try:
            return plain.recv(100)
        except ConnectionResetError:  # closed before all was read
            return b""


def client_hello() -> bytes:
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(received, sent, server_hostname=SERVICE)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return sent.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if command.startswith("nginx") and str(folder) in command:
                found.append(command)
    return found


@pytest.fixture
def place(program: NginxProgram, material: Material, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(program, material, tmp_path, stack)


def test_tls_ends_at_the_replicas_and_both_get_connections(place: Place) -> None:
    place.nginx.start()
    assert place.answered_by(6) == {"a": 3, "b": 3}


def test_one_channel_stays_with_one_replica(place: Place) -> None:
    place.nginx.start()
    predictor = Predictor([place.connect()])
    assert len({predictor.predict("toy", PICTURE).instance for _ in range(10)}) == 1


def test_a_load_over_several_channels_reaches_both(place: Place) -> None:
    place.nginx.start()
    channels = [place.connect() for _ in range(4)]
    report = run_load(channels, lambda _: Request(model="toy", inputs=PICTURE), requests=40, concurrency=4)
    assert (report.answered, report.channels) == (40, [10, 10, 10, 10])
    assert report.instances == {"a": 20, "b": 20}


def test_another_name_or_none_is_closed(place: Place) -> None:
    place.nginx.start()
    with pytest.raises(UnreachableError, match="closed the connection without a TLS answer for other"):
        place.connect(server_name="other.service.com", timeout=0.5)
    for first in (b"GET / HTTP/1.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        assert answer_to(first, place.config.port) == b""
    place.nginx.stop()
    refused = [entry for entry in place.log() if entry["server_name"] != SERVICE]
    assert {entry["server_name"] for entry in refused} == {"other.service.com", ""}
    assert all(entry["bytes_to_client"] == 0 for entry in refused)


def test_the_name_is_compared_without_case(place: Place) -> None:
    place.nginx.start()
    assert place.connect(server_name=SERVICE.upper()).find_fault() is None


def test_a_missing_client_certificate_is_the_replicas_to_refuse(place: Place) -> None:
    place.nginx.start()
    with pytest.raises(CertificateRequiredError):
        place.connect(certificate=None, key=None)


def test_a_dead_replica_is_passed_over(place: Place) -> None:
    place.nginx.start()
    place.servers["a"].stop(None).wait()
    assert place.answered_by(6) == {"b": 6}


def test_no_replica_at_all(place: Place) -> None:
    place.nginx.start()
    for server in place.servers.values():
        server.stop(None).wait()
    with pytest.raises(UnreachableError, match="that a replica is running"):
        place.connect(timeout=0.5)


def test_an_address_with_several_replicas_behind_it_is_used_again_at_once(place: Place) -> None:
    # This is how NGINX reaches the Service of a cluster: one address, listed several times, so that it is tried again.
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))  # refuses connections until it listens
        port = later.getsockname()[1]
        place.config = replace(place.config, upstreams=[Upstream("127.0.0.1", port)] * 3, fail_timeout=0)
        place.nginx = Nginx(place.program, place.config)
        place.nginx.start()
        try:
            assert answer_to(client_hello(), place.config.port) == b""
            later.listen()
            later.settimeout(10)
            with socket.create_connection(("127.0.0.1", place.config.port), timeout=10) as client:
                client.sendall(client_hello())
                later.accept()[0].close()
        finally:
            place.nginx.stop(grace=0)


def test_a_reload_changes_the_replicas_and_keeps_connections(place: Place) -> None:
    place.nginx.start()
    before = Predictor([place.connect()])
    kept = before.predict("toy", PICTURE).instance
    master = place.nginx.pid
    place.nginx.reload(replace(place.config, upstreams=[place.replica("c")]))
    assert place.answered_by(4) == {"c": 4}
    assert before.predict("toy", PICTURE).instance == kept
    assert place.nginx.pid == master


def test_a_reload_from_another_command(place: Place) -> None:
    place.nginx.start()
    other = Nginx(place.program, place.config)
    assert other.is_ready
    other.reload(replace(place.config, upstreams=[place.replica("c")]))
    assert place.answered_by(2) == {"c": 2}
    other.stop(grace=0)
    assert not place.nginx.is_ready


def test_a_reload_that_nginx_refuses_changes_nothing(place: Place) -> None:
    place.nginx.start()
    rendered = place.config.config_file.read_bytes()
    with raises(IngressCode.CONFIG_REFUSED, match="host not found in upstream"):
        place.nginx.reload(replace(place.config, upstreams=[Upstream("nowhere.invalid", 1)]))
    assert place.config.config_file.read_bytes() == rendered
    assert place.answered_by(2) == {"a": 1, "b": 1}
    assert list(place.config.run_folder.glob("*.new")) == []


def test_a_reload_may_move_the_port(place: Place) -> None:
    place.nginx.start()
    port = free_port()
    place.nginx.reload(replace(place.config, port=port))
    assert place.connect(port=port).find_fault() is None


def test_a_reload_that_is_not_taken(place: Place) -> None:
    place.nginx.start()
    with raises(IngressCode.RELOAD_FAILED, match="did not load its new configuration within 0 s") as caught:
        place.nginx.reload(place.config, timeout=0)
    assert caught.value.code == "ingress.reload-failed"


def test_nothing_to_reload(place: Place) -> None:
    with raises(IngressCode.NOT_RUNNING, match="is not running") as caught:
        place.nginx.reload(place.config)
    assert caught.value.code == "ingress.not-running"


def test_a_taken_port(place: Place) -> None:
    message = rf"Port {place.config.port} at 127\.0\.0\.1, for NGINX, is in use"
    with socket.create_server(("127.0.0.1", place.config.port)), pytest.raises(PortTakenError, match=message) as caught:
        place.nginx.start()
    assert caught.value.code == "port.taken"
    assert caught.value.exit_status == 4
    assert list(place.config.run_folder.iterdir()) == []


def test_an_address_of_another_machine(place: Place) -> None:
    elsewhere = Nginx(place.program, replace(place.config, listen="192.0.2.1"))
    with raises(IngressCode.ADDRESS_UNUSABLE, match=r"cannot listen on port \d+ at 192\.0\.2\.1") as caught:
        elsewhere.start()
    assert caught.value.code == "ingress.address-unusable"


def test_a_second_start(place: Place) -> None:
    place.nginx.start()
    with raises(IngressCode.ALREADY_RUNNING, match=f"process {place.nginx.pid}") as caught:
        Nginx(place.program, replace(place.config, port=free_port())).start()
    assert caught.value.code == "ingress.already-running"
    assert place.nginx.is_ready


def test_an_nginx_that_ends_at_once(place: Place, tmp_path: Path) -> None:
    script = tmp_path / "nginx"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *" -t "*) exit 0;; esac\necho "[emerg] no luck" >{tmp_path}/nginx-error.log\nexit 3\n'
    )
    script.chmod(0o755)
    broken = Nginx(NginxProgram(script, (1, 22, 1), None), place.config)
    with raises(IngressCode.START_FAILED, match="ended with exit status 3: no luck") as caught:
        broken.start()
    assert caught.value.code == "ingress.start-failed"


def test_nothing_is_left_after_a_stop_even_with_open_channels(place: Place) -> None:
    place.nginx.start()
    channel = place.connect()
    Predictor([channel]).predict("toy", PICTURE)
    assert processes_of(place.config.run_folder)
    place.nginx.stop(grace=0.1)
    assert processes_of(place.config.run_folder) == []
    assert sorted(path.name for path in place.config.run_folder.iterdir()) == [
        "nginx-access.log",
        "nginx-error.log",
        "nginx.conf",
    ]
    with socket.create_server(("127.0.0.1", place.config.port)):
        pass
    place.nginx.stop()


def test_it_can_be_started_by_another_program(place: Place) -> None:
    command = place.nginx.prepare()
    with subprocess.Popen(command, start_new_session=True) as child:
        while not place.nginx.is_ready:
            assert child.poll() is None
            time.sleep(0.01)
        assert place.nginx.pid == child.pid
        assert place.answered_by(2) == {"a": 1, "b": 1}
        child.terminate()
    assert not place.nginx.is_ready


def test_a_stale_process_id_does_not_hinder_a_start(place: Place) -> None:
    place.config.pid_file.write_text(f"{os.getpid()}\n")
    assert place.nginx.pid is None
    place.nginx.start()
    assert place.nginx.is_ready


def test_the_log_tells_of_connections_and_no_contents(place: Place) -> None:
    place.nginx.start()
    channel = place.connect()
    secret = np.frombuffer(b"a very secret picture, 44 bytes long: ......", np.uint8)
    Predictor([channel]).predict("toy", {"x": secret})
    channel.close()
    place.nginx.stop()
    entry = next(entry for entry in place.log() if entry["bytes_from_client"] > 0)
    assert entry["server_name"] == SERVICE
    assert entry["replica"].startswith("127.0.0.1:")
    assert (entry["status"], entry["bytes_to_client"] > 0) == (200, True)
    for path in place.config.run_folder.iterdir():
        assert b"secret picture" not in path.read_bytes()


def test_a_load_balancer_tells_the_clients_address_and_replicas_do_not_see_the_header(
    place: Place, material: Material, tmp_path: Path
) -> None:
    for name, content in {
        "ca": material.service_ca, "chain": material.client.chain_pem, "key": material.client.key_pem.reveal(),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    client = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    client.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    client.set_alpn_protocols(["h2"])
    place.config = replace(place.config, proxy_protocol=True)
    nginx = Nginx(place.program, place.config)
    nginx.start()
    try:
        with socket.create_connection(("127.0.0.1", place.config.port), timeout=10) as plain:
            plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 51234 8500\r\n")
            with client.wrap_socket(plain, server_hostname=SERVICE) as connected:
                assert connected.selected_alpn_protocol() == "h2"
        assert answer_to(b"GET / HTTP/1.1\r\n\r\n", place.config.port) == b""
    finally:
        nginx.stop(grace=0)
    assert "192.0.2.7:51234" in {entry["client"] for entry in place.log()}


def test_a_machine_without_nginx_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sealserve.ingress.nginx_program._SYSTEM_FOLDERS", ())
    with raises(IngressCode.NGINX_MISSING, match="libnginx-mod-stream"):
        find_nginx()
