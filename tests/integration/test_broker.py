import base64
import contextlib
import hashlib
import logging
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from tests.harness.broker_world import NAME, BrokerWorld
from tests.harness.errors import raises
from tests.harness.mbedtls_certificates import as_mbedtls
from tests.harness.reports import REPORT

from sealserve.attestation.ra_tls import LEGACY_OID, RaTlsKeyPair, parse_certificate
from sealserve.attestation.secret_provisioning import REQUEST, ProvisioningClient
from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.connections import Connection
from sealserve.broker.keystore import Keystore
from sealserve.broker.server import BrokerServer
from sealserve.broker.server_limits import Limits
from sealserve.broker.stage_times import RequestTimes
from sealserve.broker.stored_key import StoredKey
from sealserve.cluster.local.processes import wait_until
from sealserve.errors import PortTakenError, SealserveError
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.codes import PkiCode
from sealserve.secret import SecretBytes
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import PckChain
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.report import Attributes, MrEnclave, MrSigner
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.verifier import TrustedVendor
from sealserve.terms import PlatformKind

pytestmark = [
    pytest.mark.integration,
    # Only this form takes the certificates that Gramine 1.4 writes. Clients on threads share Python's filters, so
    # the whole module sets this one.
    pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509 objects:DeprecationWarning"),
]

PATIENT = 60.0


def _now() -> datetime:
    return datetime.now(UTC)


class World(BrokerWorld):
    """A world whose broker releases keys."""

    def serve(self, *, vendors: dict[PlatformKind, TrustedVendor] | None = None, **settings: Any) -> BrokerServer:
        server = BrokerServer(self.broker(vendors), identity=self.identity, port=0, **settings)
        return self.servers.enter_context(server)

    def lines(self) -> list[Entry]:
        admin.verify_log(self.database)
        entries = [row.entry for row in admin.log(self.database)]
        return [entry for entry in entries if entry.decision is not Decision.FLOOR_RAISED]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World.opened(tmp_path) as made:
        (tmp_path / "broker-ca.pem").write_bytes(made.authority.certificate_pem)
        yield made


def _context(world: World, pair: RaTlsKeyPair | None, version: int = SSL.TLS1_3_VERSION) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_verify(SSL.VERIFY_PEER)
    context.load_verify_locations(str(world.folder / "broker-ca.pem"))
    if pair is not None:
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, pair.certificate))
        context.use_privatekey(pair.private_key)
    return context


@contextlib.contextmanager
def _session(
    world: World, address: tuple[str, int], pair: RaTlsKeyPair | None, version: int = SSL.TLS1_3_VERSION
) -> Iterator[SSL.Connection]:
    with socket.create_connection(address, timeout=PATIENT) as stream:
        yield _begin_tls(world, stream, pair, version)


def _begin_tls(
    world: World, stream: socket.socket, pair: RaTlsKeyPair | None, version: int = SSL.TLS1_3_VERSION
) -> SSL.Connection:
    stream.setblocking(True)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, int(PATIENT).to_bytes(8, "little") + bytes(8))
    tls = SSL.Connection(_context(world, pair, version), stream)
    tls.set_connect_state()
    tls.set_tlsext_host_name(NAME.encode())
    tls.do_handshake()
    return tls


def _expect_end(stream: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):  # not accepted yet when the server stopped
        assert stream.recv(1) == b""


def _ask(
    world: World,
    server: BrokerServer,
    pair: RaTlsKeyPair,
    *,
    request: bytes = REQUEST,
    version: int = SSL.TLS1_3_VERSION,
) -> bytes | None:
    """Do what Gramine's client does; return the key, or None when the broker closes without a byte."""
    with _session(world, server.address, pair, version) as tls:
        return _converse(tls, request)


def _converse(tls: SSL.Connection, request: bytes = REQUEST) -> bytes | None:
    for byte in request:  # each in a separate record, because boundaries must not matter
        tls.send(bytes([byte]))
    client = ProvisioningClient()
    try:
        while not client.receive(tls.recv(4096)):
            pass
    except SSL.ZeroReturnError:
        assert not client.started  # refused: close_notify, and not a byte before it
        return None
    return client.secret().reveal()


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_an_expected_enclave_gets_its_key(world: World, version: int) -> None:
    assert _ask(world, world.serve(), world.ratls(), version=version) == world.made.key.reveal()
    line = world.lines()[-1]
    assert (line.decision, line.code, line.release_id, line.platform) == ("released", "ok", "a" * 64, "simulated")
    assert line.peer.startswith("127.0.0.1:")


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_an_enclave_of_gramine_1_4_gets_its_key(world: World, version: int) -> None:
    """Its library encodes the certificate in a form that only OpenSSL reads, with only the legacy extension."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    report = replace(REPORT, report_data=hashlib.sha256(public).digest() + bytes(32))
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RATLS")]), _now()
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(LEGACY_OID, quote(world.platform, report)), critical=False)
        .sign(key, hashes.SHA256())
    )
    pair = RaTlsKeyPair(private_key=key, certificate=as_mbedtls(certificate, key))

    assert _ask(world, world.serve(), pair, version=version) == world.made.key.reveal()


def test_each_refusal_is_a_row_and_no_secret(world: World) -> None:
    server = world.serve()
    old = SimulatedPlatform.create(world.vendor, world.folder / "old", now=_now(), out_of_date=True)
    other_vendor = Vendor.create(world.folder / "other-vendor", now=_now())
    foreign = SimulatedPlatform.create(other_vendor, world.folder / "foreign", now=_now())
    copied, pair = parse_certificate(world.ratls().certificate).quote, world.ratls()
    stolen = replace(pair, certificate=pair.certificate.replace(parse_certificate(pair.certificate).quote, copied))
    cases: list[tuple[RaTlsKeyPair, str]] = [
        (world.ratls(mr_enclave=MrEnclave(b"\x09" * 32)), "policy.mr-enclave-unknown"),
        (world.ratls(mr_signer=MrSigner(b"\x09" * 32)), "policy.mr-signer"),
        (world.ratls(isv_prod_id=9), "policy.isv-prod-id"),
        (world.ratls(isv_svn=1), "policy.isv-svn"),
        (world.ratls(attributes=Attributes(flags=0x15, xfrm=0xE7)), "policy.attributes"),
        (world.ratls(attributes=Attributes(flags=0x7, xfrm=0xE7)), "quote.debug"),
        (world.ratls(old), "policy.tcb-status"),
        (world.ratls(foreign), "pck.root-not-trusted"),
        (stolen, "ra-tls.binding"),
    ]
    for shown, code in cases:
        assert _ask(world, server, shown) is None, code
        line = world.lines()[-1]
        assert (line.decision, line.code) == ("refused", code)
    admin.drain(world.database, "resnet50", deadline=_now() + timedelta(hours=1), now=_now())
    assert _ask(world, server, world.ratls()) == world.made.key.reveal()
    admin.revoke(world.database, "resnet50", now=_now())
    assert _ask(world, server, world.ratls()) is None
    assert world.lines()[-1].code == "policy.release-revoked"
    assert admin.status(world.database).decisions == {
        "allowed": 1, "draining": 1, "floor-raised": 1, "refused": len(cases) + 1, "released": 1, "revoked": 1
    }  # fmt: skip


def test_a_certificate_without_evidence_is_in_the_log_and_a_row(world: World, caplog: pytest.LogCaptureFixture) -> None:
    server = world.serve()
    pair = world.ratls()
    quote_bytes = parse_certificate(pair.certificate).quote
    bare = pair.certificate.replace(quote_bytes, bytes(len(quote_bytes)))
    assert _ask(world, server, replace(pair, certificate=bare)) is None
    assert "[quote.version]" in caplog.text
    assert [line.code for line in world.lines()] == ["ok", "quote.version"]


def test_a_pcs_that_is_down_is_a_refusal(world: World) -> None:
    server = world.serve()
    world.pcs.stop()
    assert _ask(world, server, world.ratls()) is None
    assert world.lines()[-1].code == "pcs.unreachable"


def test_a_wrong_or_half_request_is_in_the_log_and_a_slow_one_is_no_row(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    server, hasty = world.serve(), world.serve(limits=Limits(request=0.2))
    assert _ask(world, server, world.ratls(), request=b"GET / HTTP/1.1\r\n") is None
    assert "[provisioning.request]" in caplog.text
    assert _ask(world, hasty, world.ratls(), request=REQUEST[:10]) is None
    assert "[broker.peer-timeout]" in caplog.text
    with _session(world, server.address, world.ratls()) as tls:
        tls.send(REQUEST[:10])
        tls.shutdown()
        with pytest.raises(SSL.ZeroReturnError):
            tls.recv(100)
    assert "[provisioning.truncated]" in caplog.text
    assert [line.code for line in world.lines()] == ["ok", "provisioning.request", "provisioning.truncated"]


def test_garbage_and_silence_change_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = world.serve()
    for garbage in (b"", b"\x00" * 300, b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x40\x00" + os.urandom(500), b"\x16"):
        with socket.create_connection(server.address, timeout=PATIENT) as stream:
            stream.sendall(garbage)
            stream.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while stream.recv(4096):  # at most a TLS alert, then the end
                    pass
    with pytest.raises(SSL.Error), _session(world, server.address, None) as tls:  # no client certificate
        tls.recv(100)
    assert _ask(world, server, world.ratls()) == world.made.key.reveal()
    codes = [line.code for line in world.lines()]
    assert codes.count("ok") == 2
    assert set(codes) == {"ok", "broker.handshake"}
    assert caplog.text.count("refused 127.0.0.1:") >= 6
    assert not any(record.exc_info for record in caplog.records)


def test_silent_peers_make_room(world: World) -> None:
    server = world.serve(limits=Limits(silent=8, connections=8))
    with contextlib.ExitStack() as silent:
        for first in (b"", b"\x16"):
            for _ in range(40):
                stream = silent.enter_context(socket.create_connection(server.address, timeout=PATIENT))
                with contextlib.suppress(OSError):  # already replaced
                    stream.sendall(first)
        assert _ask(world, server, world.ratls()) == world.made.key.reveal()


def test_a_thousand_silent_and_slow_peers_cost_no_enclave_its_key(world: World) -> None:
    server = world.serve()
    with contextlib.ExitStack() as peers:
        for number in range(1000):
            stream = peers.enter_context(socket.create_connection(server.address, timeout=PATIENT))
            if number % 10 == 0:
                stream.sendall(b"\x16")  # begins TLS and never continues
        assert [_ask(world, server, world.ratls()) for _ in range(5)] == [world.made.key.reveal()] * 5
    assert threading.active_count() < 1000


@dataclass(slots=True)
class Flood:
    """Opens connections from ever new addresses of 127.0.0.0/8, and never sends a byte."""

    address: tuple[str, int]
    held: list[socket.socket] = field(default_factory=list)

    def send(self, count: int) -> None:
        for _ in range(count):
            number = len(self.held)
            source = f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"
            self.held.append(socket.create_connection(self.address, timeout=PATIENT, source_address=(source, 0)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.held:
            stream.close()


def test_a_flood_from_many_addresses_leaves_quoting_enclaves_their_place(world: World) -> None:
    server = world.serve(limits=Limits(silent=64, quoting=0))
    pairs = [world.ratls() for _ in range(5)]
    with Flood(server.address) as flood, contextlib.ExitStack() as enclaves:
        flood.send(200)  # every place is taken
        quoting = [enclaves.enter_context(socket.create_connection(server.address, timeout=PATIENT)) for _ in pairs]
        flood.send(50)  # arrives while the enclaves generate their quotes
        keys = [_converse(_begin_tls(world, stream, pair)) for stream, pair in zip(quoting, pairs, strict=True)]
        assert keys == [world.made.key.reveal()] * 5


def test_twenty_clients_at_once(world: World) -> None:
    server = world.serve()
    pairs = [world.ratls() for _ in range(10)]
    pairs += [world.ratls(isv_svn=1) for _ in range(10)]
    start = threading.Barrier(len(pairs))

    def ask(pair: RaTlsKeyPair) -> bytes | None:
        start.wait()
        return _ask(world, server, pair)

    with ThreadPoolExecutor(len(pairs)) as threads:
        answers = list(threads.map(ask, pairs))
    assert answers == [world.made.key.reveal()] * 10 + [None] * 10
    codes = sorted(line.code for line in world.lines()[1:])
    assert codes == ["ok"] * 10 + ["policy.isv-svn"] * 10


@dataclass(slots=True)
class Held:
    """A source of collateral that answers only when it is told to."""

    source: PcsClient
    entered: threading.Event = field(default_factory=threading.Event)
    leave: threading.Event = field(default_factory=threading.Event)

    def cached_for(self, pck: PckChain) -> Collateral | None:
        self.entered.set()
        assert self.leave.wait(PATIENT)
        return self.source.collateral_for(pck)

    def collateral_for(self, pck: PckChain) -> Collateral:
        return self.source.collateral_for(pck)

    def forget(self, pck: PckChain) -> None:
        self.source.forget(pck)


@pytest.fixture
def held(world: World) -> Held:
    return Held(world.servers.enter_context(PcsClient(world.pcs.url)))


def _serve_held(world: World, held: "Held | Missing", limits: Limits) -> BrokerServer:
    vendors = {PlatformKind.SIMULATED: TrustedVendor(anchor=world.vendor.anchor, collateral=held)}
    return world.serve(vendors=vendors, limits=limits)


def test_more_appraisals_than_places_are_refused_in_time(
    world: World, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    server = _serve_held(world, held, Limits(appraisals=1, queue=0.1))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(_ask, world, server, world.ratls())
        assert held.entered.wait(PATIENT)
        assert _ask(world, server, world.ratls()) is None
        assert "[broker.busy] The broker is busy: no appraisal could begin within 0.1 s." in caplog.text
        held.leave.set()
        assert first.result() == world.made.key.reveal()


@dataclass
class Missing:
    """A source whose service is slow for the first request. The collateral of later requests is cached."""

    source: PcsClient
    entered: threading.Event = field(default_factory=threading.Event)
    leave: threading.Event = field(default_factory=threading.Event)

    def cached_for(self, pck: PckChain) -> Collateral | None:
        return self.source.collateral_for(pck) if self.entered.is_set() else None

    def collateral_for(self, pck: PckChain) -> Collateral:
        self.entered.set()
        assert self.leave.wait(PATIENT)
        return self.source.collateral_for(pck)

    def forget(self, pck: PckChain) -> None:
        self.source.forget(pck)


def test_a_slow_pccs_holds_no_place_among_the_appraisals(world: World) -> None:
    slow = Missing(world.servers.enter_context(PcsClient(world.pcs.url)))
    server = _serve_held(world, slow, Limits(appraisals=1, queue=PATIENT))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(_ask, world, server, world.ratls())
        assert slow.entered.wait(PATIENT)
        for _ in range(3):
            assert _ask(world, server, world.ratls()) == world.made.key.reveal()
        slow.leave.set()
        assert first.result() == world.made.key.reveal()


def test_requests_that_wait_for_the_disk_hold_no_place_among_the_appraisals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    appraised: list[str] = []
    decrypt = Keystore.decrypt

    def remember(self: Keystore, stored: StoredKey) -> SecretBytes:
        appraised.append(stored.key_id)
        return decrypt(self, stored)

    server = world.serve(limits=Limits(appraisals=1, queue=PATIENT))
    assert _ask(world, server, world.ratls()) == world.made.key.reveal()  # stores the evaluation number
    monkeypatch.setattr(Keystore, "decrypt", remember)
    with ThreadPoolExecutor(3) as threads:
        with world.database.write():  # nothing can be committed meanwhile
            asked = [threads.submit(_ask, world, server, world.ratls()) for _ in range(3)]
            assert wait_until(lambda: len(appraised) == 3, seconds=PATIENT)
        assert [future.result() for future in asked] == [world.made.key.reveal()] * 3


def test_more_downloads_than_places_are_refused_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Missing(world.servers.enter_context(PcsClient(world.pcs.url)))
    monkeypatch.setattr(Missing, "cached_for", lambda _self, _pck: None)
    server = _serve_held(world, slow, Limits(downloads=1))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(_ask, world, server, world.ratls())
        assert slow.entered.wait(PATIENT)
        assert _ask(world, server, world.ratls()) is None
        assert "[broker.busy] The broker is busy: 1 requests already wait for a download" in caplog.text
        slow.leave.set()
        assert first.result() == world.made.key.reveal()


def test_a_connection_beyond_all_places_is_closed_at_once(world: World, held: Held) -> None:
    server = _serve_held(world, held, Limits(connections=1))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(_ask, world, server, world.ratls())
        assert held.entered.wait(PATIENT)
        with socket.create_connection(server.address, timeout=PATIENT) as refused:
            refused.sendall(b"\x16")
            _expect_end(refused)
        held.leave.set()
        assert first.result() == world.made.key.reveal()


def test_a_peer_that_leaves_during_its_appraisal_is_in_the_log(
    world: World, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    server = _serve_held(world, held, Limits())
    with _session(world, server.address, world.ratls()) as tls:
        tls.send(REQUEST)
        assert held.entered.wait(PATIENT)
    held.leave.set()
    server.stop()
    assert world.lines()[-1].decision == "released"  # decided, though it never arrived
    assert not any(record.exc_info for record in caplog.records)


def test_no_connection_takes_the_server_down(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = world.serve()
    talk, failures = server._talk, [ZeroDivisionError("unforeseen"), OSError("lost")]

    def fail_first(connection: Connection, times: RequestTimes) -> None:
        if failures:
            raise failures.pop(0)
        talk(connection, times)

    monkeypatch.setattr(server, "_talk", fail_first)
    for _ in range(2):
        with socket.create_connection(server.address, timeout=PATIENT) as stream:
            stream.sendall(b"\x16")
            _expect_end(stream)
    assert _ask(world, server, world.ratls()) == world.made.key.reveal()
    assert "internal error while serving 127.0.0.1:" in caplog.text


def test_without_an_audit_row_no_key_leaves(world: World) -> None:
    server = world.serve()
    other = sqlite3.connect(world.folder / "broker.sqlite")
    try:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        other.commit()
        assert _ask(world, server, world.ratls()) is None
        assert len(world.lines()) == 1
        other.execute("DROP TRIGGER full")
        other.commit()
    finally:
        other.close()
    assert _ask(world, server, world.ratls()) == world.made.key.reveal()


def test_the_key_is_in_no_file_and_no_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = world.serve()
    key = _ask(world, server, world.ratls())
    assert key is not None
    assert _ask(world, server, world.ratls(isv_svn=1)) is None
    server.stop()
    everything = caplog.text.encode() + repr(world.lines()).encode()
    everything += b"".join(path.read_bytes() for path in world.folder.rglob("*") if path.is_file())
    for form in (key, key.hex().encode(), key.hex().upper().encode(), base64.b64encode(key).rstrip(b"="),
                 base64.urlsafe_b64encode(key).rstrip(b"="), repr(key).encode()):  # fmt: skip
        assert form not in everything


def test_stopping_breaks_off_and_frees_the_port(world: World) -> None:
    server = world.serve()
    address = server.address
    with socket.create_connection(address, timeout=PATIENT) as silent:
        assert _ask(world, server, world.ratls()) is not None
        server.stop()
        server.stop()
        _expect_end(silent)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENT)


def test_a_broker_is_ready_while_it_can_release_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = world.serve()
    server.check_ready()

    def fail() -> None:
        raise BrokerCode.DATABASE.error("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(server._broker, "check_database", fail)
        with pytest.raises(SealserveError) as caught:
            server.check_ready()
        assert caught.value.code == "broker.database"
    server.stop()
    with pytest.raises(SealserveError, match="does not accept connections") as caught:
        server.check_ready()
    assert caught.value.code == "broker.busy"


def test_a_taken_port_is_one_clear_error(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = world.serve()
        second = BrokerServer(server._broker, identity=world.identity, port=port)
        with pytest.raises(
            PortTakenError,
            match=rf"cannot listen on 127\.0\.0\.1 port {port}: another program already uses the port.*broker\.port",
        ) as caught:
            second.start()
    assert caught.value.code == "port.taken"
    assert caught.value.exit_status == 4


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the kernel has no IPv6")
def test_every_address_takes_connections_of_both_ip_families(world: World) -> None:
    with BrokerServer(world.serve()._broker, identity=world.identity, listen="::", port=0) as server:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as peer:
                peer.settimeout(PATIENT)
                peer.connect((address, server.address[1]))


def test_an_address_of_another_machine_is_one_clear_error(world: World) -> None:
    server = BrokerServer(world.serve()._broker, identity=world.identity, listen="192.0.2.1", port=0)
    with raises(BrokerCode.CANNOT_LISTEN, match=r"cannot listen on 192\.0\.2\.1 port 0") as caught:
        server.start()
    assert caught.value.code == "broker.cannot-listen"


def test_a_server_stops_although_its_acceptor_ended_first(world: World) -> None:
    server = world.serve()
    assert server._acceptor is not None
    server._stopping.set()
    with socket.create_connection(server.address):  # wakes up the acceptor, which finds that the server stops
        server._acceptor.join()
    server.stop()
    assert not server.is_serving()


def test_an_expired_certificate_is_refused_at_the_start(world: World, caplog: pytest.LogCaptureFixture) -> None:
    long_ago = _now() - timedelta(days=60)
    authority = Authority.create(AuthorityKind.BROKER, names=[NAME], simulated=True, now=long_ago)
    broker = world.serve()._broker
    expired = BrokerServer(broker, identity=authority.issue_server([NAME], now=long_ago, days=30), port=0)
    with raises(PkiCode.CERTIFICATE_EXPIRED, match=r"the broker's certificate .* expired on"):
        expired.start()
    with BrokerServer(broker, identity=authority.issue_server([NAME], now=long_ago, days=61), port=0):
        assert "the broker's certificate expires on" in caplog.text


_PROCESS = """
import sys
from pathlib import Path
from sealserve.broker.openssl_settings import ensure_no_tickets
folder = Path(sys.argv[1])
ensure_no_tickets(folder)
import logging
from sealserve.broker.connections import Connection
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.hardening import forbid_inspection
from sealserve.broker.keystore import open_keystore
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.broker.server import BrokerServer
from sealserve.broker.service_loop import signalled
from sealserve.secret import SecretBytes
from sealserve.terms import PlatformKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.sgx.verifier import SgxVerifier, TrustedVendor
logging.basicConfig(level=logging.INFO, filename=folder / "broker.log")
forbid_inspection()
anchor = TrustAnchor(root_der=(folder / "vendor" / "root.der").read_bytes(), simulated=True)
identity = CertifiedKey.read(certificate=folder / "broker.pem", key=folder / "broker.key")
with Database.open(folder / "broker.sqlite") as database, PcsClient(sys.argv[2]) as pcs:
    verifier = SgxVerifier({PlatformKind.SIMULATED: TrustedVendor(anchor=anchor, collateral=pcs)})
    database.history = History(RowKey(SecretBytes(b"k" * KEY_SIZE)))
    keystore = open_keystore(database, folder / "master.key")
    broker = Broker(database=database, keystore=keystore, verifier=verifier)
    server = BrokerServer(broker, identity=identity, port=0)
    with signalled() as signals:
        server.serve_until_signalled(signals, ready=lambda: print(server.address[1], flush=True))
"""


@contextlib.contextmanager
def _process(world: World) -> Iterator[tuple[subprocess.Popen[str], int]]:
    world.identity.write(certificate=world.folder / "broker.pem", key=world.folder / "broker.key")
    environment = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    command = [sys.executable, "-c", _PROCESS, str(world.folder), world.pcs.url]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(PATIENT)


def test_a_broker_process_sends_no_session_ticket(world: World) -> None:
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs the openssl program (apt install openssl)")
    pair = world.ratls()
    certificate, key = world.folder / "client.pem", world.folder / "client.key"
    parsed = x509.load_der_x509_certificate(pair.certificate)
    certificate.write_bytes(parsed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        pair.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )

    def trace(port: int) -> str:
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-cert", str(certificate), "-key",
                   str(key), "-msg", "-ign_eof"]  # fmt: skip
        done = subprocess.run(command, input=REQUEST, capture_output=True, timeout=PATIENT, check=False)
        assert b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:" in done.stdout
        return done.stdout.decode(errors="replace")

    with _process(world) as (_, port):
        shown = trace(port)
    assert "CertificateVerify" in shown
    assert "NewSessionTicket" not in shown
    if "OPENSSL_CONF" not in os.environ:  # the control: without the settings, tickets are sent and seen
        assert "NewSessionTicket" in trace(world.serve().address[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_process_ends_cleanly(world: World, number: signal.Signals) -> None:
    with (
        _process(world) as (process, port),
        socket.create_connection(("127.0.0.1", port), timeout=PATIENT) as silent,
    ):
        process.send_signal(number)
        assert process.wait(PATIENT) == 0
        _expect_end(silent)
    log = (world.folder / "broker.log").read_text()
    assert "the broker has stopped" in log
    assert "session tickets are enabled" not in log


def test_a_broker_process_keeps_its_memory_to_itself(world: World) -> None:
    with _process(world) as (process, _):
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
        assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0  # not dumpable: its files are root's
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert world.made.key.reveal() not in arguments
