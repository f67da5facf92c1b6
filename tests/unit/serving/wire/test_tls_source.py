"""TLS from an identity: renewals on each port without an interruption, and certificates that cannot be used."""

import asyncio
import http.client
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness.attested_identity import AttestedService, server_certificate
from tests.harness.certificates import NAME, Signer, key_text, make_key, text
from tests.harness.errors import raises
from tests.harness.model_server import free_port
from tests.harness.served import LONG, make_settings

from sealserve.pki.client_settings import ClientSettings
from sealserve.pki.codes import PkiCode
from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line.options import ServerOptions, parse
from sealserve.serving.http.http_ports import HttpPorts
from sealserve.serving.receipts import Receipts
from sealserve.serving.servables import Servables
from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.health import Health
from sealserve.serving.wire.peers import PeerCheck
from sealserve.serving.wire.tls_source import FileTls, IdentityTls, find_tls_source
from sealserve.serving_interface import METRICS_PATH

CHECK = "/grpc.health.v1.Health/Check"
USERS = Signer.make("users")
USERS_CA = text(USERS.certificate())
KEY = make_key("P-256")


@pytest.fixture
def service(tmp_path: Path) -> AttestedService:
    return AttestedService(tmp_path)


def two_way(folder: Path, **changes: Any) -> Path:
    """Write settings that require a client certificate."""
    settings = {"custom_ca": USERS_CA, "client_verify": True, **changes}
    path = folder / "clients.cfg"
    path.write_bytes(ClientSettings(**settings).render())
    return path


def test_the_source_is_the_identity_or_the_file(service: AttestedService, tmp_path: Path) -> None:
    assert find_tls_source(None, None, None) is None
    source = find_tls_source(None, None, service.identity)
    assert isinstance(source, IdentityTls)
    assert (source.settings.server_cert, source.settings.client_verify) == (service.identity.certificate_chain, False)
    with raises(ServingCode.SERVER_TLS_SETTINGS_MISSING, match="cannot be read"):
        find_tls_source(tmp_path / "missing", None, None)
    source = find_tls_source(two_way(tmp_path), None, service.identity)
    assert source is not None
    assert source.settings.client_verify
    assert source.settings.custom_ca == USERS_CA
    (tmp_path / "ssl.cfg").write_bytes(source.settings.render().reveal())
    assert isinstance(find_tls_source(tmp_path / "ssl.cfg", None, None), FileTls)


def test_a_sealed_key_beside_an_identity_is_rejected(service: AttestedService, tmp_path: Path) -> None:
    source = find_tls_source(two_way(tmp_path), None, service.identity)
    assert source is not None
    (tmp_path / "ssl.cfg").write_bytes(source.settings.render().reveal())
    with raises(PkiCode.SSL_CONFIG_SERVER_KEY, match="the enclave creates the TLS key"):
        find_tls_source(tmp_path / "ssl.cfg", None, service.identity)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (lambda service: service.new_chain(days=(-30, -1)), "expired"),
        (lambda service: service.new_chain(days=(1, 30)), "is not valid before"),
        (lambda service: text(service.authority.leaf(KEY)), "does not match"),
        (lambda _: b"nonsense", "PEM certificate"),
        (lambda _: b"", "lack the field server_cert"),
    ],
    ids=["expired", "future", "another key", "malformed", "empty"],
)
def test_a_certificate_that_cannot_be_used_does_not_replace_the_previous_one(
    service: AttestedService,
    caplog: pytest.LogCaptureFixture,
    chain: Callable[[AttestedService], bytes],
    message: str,
) -> None:
    followed = IdentityTls(service.identity, None, None).followed()
    assert followed.newer_settings() is None
    service.identity.renew(certificate_chain=chain(service), service=service.example.service())
    assert followed.newer_settings() is None
    assert "the previous certificate stays in force" in caplog.text
    assert message in caplog.text
    assert "PRIVATE KEY" not in caplog.text
    caplog.clear()
    assert followed.newer() is None
    assert not caplog.text  # reported once
    service.renew()
    settings = followed.newer_settings()
    assert settings is not None
    assert settings.server_cert == service.identity.certificate_chain
    assert followed.newer_settings() is None


def test_an_unexpected_fault_of_the_identity_does_not_end_the_server(
    service: AttestedService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = IdentityTls(service.identity, None, None).followed()
    service.renew()

    def fail() -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(service.identity, "private_key_pem", fail)
    assert followed.newer_settings() is None
    assert "reading the new one failed unexpectedly" in caplog.text


@pytest.mark.usefixtures("transport")
def test_a_renewal_over_grpc_keeps_open_connections(service: AttestedService, tmp_path: Path) -> None:
    source = IdentityTls(service.identity, two_way(tmp_path), None)
    check = PeerCheck(source.settings.revoked)
    server = transports.choose()(make_settings(Health().handlers, peer_fault=check))
    port = server.listen("127.0.0.1:0", source.credentials(check))
    server.start()
    client = text(USERS.leaf(KEY))

    def channel(chain: bytes | None = client) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(service.ca_pem, chain and key_text(KEY), chain)
        options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)

    def works(opened: grpc.Channel) -> bool:
        call: Any = opened.unary_unary(CHECK)
        try:
            call(b"", timeout=LONG)
        except grpc.RpcError:
            return False
        return True

    with channel() as opened:
        assert works(opened)
        first = server_certificate(port, service.ca_pem)
        service.renew()
        assert server_certificate(port, service.ca_pem) != first
        assert works(opened)
        with channel() as another:
            assert works(another)
        with channel(None) as without:
            assert not works(without)
    assert server.stop(LONG)


def options(*flags: str) -> ServerOptions:
    parsed = parse(["--model_base_path=/m", "--bind_address=127.0.0.1", *flags], attested=True)
    assert isinstance(parsed, ServerOptions)
    return parsed


def test_a_renewal_over_http_keeps_open_connections_and_sets_the_metric(
    service: AttestedService, tmp_path: Path
) -> None:
    """Also with client certificates, where a renewed file ends the connections."""
    client = tmp_path / "client.pem"
    client.write_bytes(key_text(KEY) + text(USERS.leaf(KEY)))
    context = service.context
    context.check_hostname = False  # the address is the test's own server
    context.load_cert_chain(client)

    def end_of_certificate(page: str) -> str:
        (line,) = [line for line in page.splitlines() if line.startswith("sealserve_server_certificate_expiry")]
        return line

    async def serve() -> None:
        chosen = options(f"--monitoring_port={free_port()}", f"--ssl_config_file={two_way(tmp_path)}")
        source = find_tls_source(chosen.ssl_config_file, None, service.identity)
        table = Servables()
        receipts = Receipts(service.identity, table)
        ports = HttpPorts(
            chosen, None, table, Allowance(2**20), source=source, receipts=receipts, identity=service.identity
        )
        await ports.start()
        port = chosen.flags.monitoring_port
        kept = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)

        def page() -> str:
            kept.request("GET", METRICS_PATH)
            answer = kept.getresponse()
            assert not answer.will_close
            return answer.read().decode()

        def certificate() -> bytes:
            fresh = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
            fresh.connect()
            found = fresh.sock.getpeercert(binary_form=True)
            fresh.close()
            assert isinstance(found, bytes)
            return found

        before, first = await asyncio.to_thread(page), await asyncio.to_thread(certificate)
        service.identity.renew(certificate_chain=service.new_chain(days=(-1, 60)), service=service.example.service())
        ports.follow()
        after, second = await asyncio.to_thread(page), await asyncio.to_thread(certificate)
        assert first != second
        assert end_of_certificate(before) != end_of_certificate(after)
        kept.close()
        assert await ports.stop(30.0)

    asyncio.run(serve())


def test_handshakes_during_renewals(service: AttestedService) -> None:
    """Each of many handshakes gets a certificate for the keyset's key, while another thread renews it."""
    source = IdentityTls(service.identity, None, None)
    server = transports.choose()(make_settings(Health().handlers))
    port = server.listen("127.0.0.1:0", source.credentials(PeerCheck(frozenset())))
    server.start()
    stop = threading.Event()

    def renew() -> None:
        while not stop.is_set():
            service.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        found = {server_certificate(port, service.ca_pem) for _ in range(20)}
    finally:
        stop.set()
        thread.join()
        assert server.stop(LONG)
    assert len(found) > 1
