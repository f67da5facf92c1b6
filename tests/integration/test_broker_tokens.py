"""Attestation results from a real broker: ALPN, refusals, audit rows, limits."""

import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from tests.harness.broker_world import NAME, BrokerWorld
from tests.harness.errors import raises
from tests.harness.reports import REPORT

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.attestation.ra_tls import RaTlsKeyPair, make_certificate, parse_certificate
from sealserve.attestation.result import AttestationResult, Freshness
from sealserve.attestation.result_request import PROTOCOL, ResultRequest, ResultServer
from sealserve.attestation.result_token import verify_result
from sealserve.attestation.secret_provisioning import REQUEST, RESPONSE
from sealserve.attestation.trustworthiness import Tier
from sealserve.broker import admin
from sealserve.broker.application_protocols import ATTEST
from sealserve.broker.audit_entry import Entry
from sealserve.broker.decision import Broker
from sealserve.broker.metrics import Outcome
from sealserve.broker.server import BrokerServer
from sealserve.broker.server_limits import Limits
from sealserve.broker.token_issuer import TokenIssuer
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated import provisioning
from sealserve.enclave.simulated.provisioning import BrokerConnection, fetch_key, fetch_result
from sealserve.sgx.report import Attributes, MrEnclave, MrSigner
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.vendor import Vendor

pytestmark = pytest.mark.integration

AUDIENCE = "sealserve.client"
NONCE = bytes(range(32))
ASKED = ResultRequest(audience=AUDIENCE, nonce=NONCE)
PATIENT = 60.0


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class World(BrokerWorld):
    """A world whose broker issues results."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def keys(self) -> JsonWebKeySet:
        return JsonWebKeySet([JsonWebKey(self.key.public_key())])

    def serve(self, *, issues: bool = True, lifetime: timedelta = timedelta(hours=1), **settings: Any) -> "Served":
        broker = self.broker()
        issuer = TokenIssuer(broker, key=lambda: self.key, issuer=NAME, lifetime=lifetime)
        server = BrokerServer(broker, identity=self.identity, port=0, results=issuer if issues else None, **settings)
        return Served(self, self.servers.enter_context(server), broker)

    def lines(self) -> list[Entry]:
        admin.verify_log(self.database)
        return [row.entry for row in admin.log(self.database)]


@dataclass(slots=True)
class Served:
    """A running broker, and the requests of enclaves to it."""

    world: World
    server: BrokerServer
    broker: Broker

    def connect(self) -> BrokerConnection:
        return replace(provisioning.connect([self.server.address], timeout=PATIENT), host=NAME)

    def result(self, request: ResultRequest = ASKED, **changes: Any) -> str:
        return fetch_result(self.connect(), request, **self._arguments(**changes))

    def release_key(self, **changes: Any) -> bytes:
        return fetch_key(self.connect(), **self._arguments(**changes)).reveal()

    def verified(self, token: str, **changes: Any) -> AttestationResult:
        expected: dict[str, Any] = {"now": _now(), "issuer": NAME, "audience": AUDIENCE, "dangerous_simulated": True}
        return verify_result(token, self.world.keys, **(expected | changes))

    def _arguments(self, platform: SimulatedPlatform | None = None, **changes: Any) -> dict[str, Any]:
        return {
            "broker_ca": self.world.authority.certificate_pem,
            "quote_for": self.world.quoted(platform, **changes),
            "now": _now(),
            "timeout": PATIENT,
        }

    @contextlib.contextmanager
    def session(
        self,
        *protocols: bytes,
        pair: RaTlsKeyPair | None = None,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> Iterator[ssl.SSLSocket]:
        """Yield a TLS session that offers ``protocols``, or sends no ALPN extension, as Gramine's client."""
        context = provisioning._context(
            self.world.authority.certificate_pem, pair or make_certificate(self.world.quoted(), _now())
        )
        context.minimum_version = context.maximum_version = version
        if protocols:
            context.set_alpn_protocols([protocol.decode() for protocol in protocols])
        with (
            socket.create_connection(self.server.address, timeout=PATIENT) as stream,
            context.wrap_socket(stream, server_hostname=NAME) as session,
        ):
            yield session


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World.opened(tmp_path) as made:
        yield made


def _all_of(session: ssl.SSLSocket) -> bytes:
    received = b""
    while data := session.recv(4096):
        received += data
    return received


def test_an_enclave_gets_a_result_and_no_key(world: World) -> None:
    served = world.serve()
    pair = world.ratls()
    with served.session(PROTOCOL, pair=pair) as session:
        session.sendall(ASKED.to_bytes())
        answer = _all_of(session)
    assert world.made.key.reveal() not in answer
    found = served.verified(answer[4:].decode(), nonce=NONCE)
    quoted = parse_certificate(pair.certificate).quote
    public = x509.load_der_x509_certificate(pair.certificate).public_key()
    info = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert (found.enclave.measurement, found.enclave.signer) == (REPORT.mr_enclave, REPORT.mr_signer)
    assert (found.enclave.product_id, found.enclave.security_version, found.enclave.debug) == (1, 2, False)
    assert (found.simulated, found.status, found.freshness) == (True, Tier.CONTRAINDICATED, Freshness.CERTIFICATE)
    assert found.release_id == world.release.release_id
    assert found.public_key_digest == hashlib.sha256(info).digest()
    assert found.evidence_digest == hashlib.sha256(quoted).digest()
    assert found.policy_digest == hashlib.sha256(world.release.policy.to_json().encode()).digest()
    # The audit row was there before the token, and it leads from the token to the platform.
    line = world.lines()[-1]
    assert (line.decision, line.code, line.release_id) == ("attested", "ok", world.release.release_id)
    assert line.detail == f"attestation result {found.token_id} for {AUDIENCE}"
    assert line.platform_id is not None
    assert line.platform_id not in json.dumps(found.to_claims())
    assert served.broker.decisions.all()[Outcome.ATTESTED, ""] == 1
    assert served.broker.decisions.all()[Outcome.RELEASED, ""] == 0


def test_no_key_is_loaded_for_a_result(world: World) -> None:
    """A database without the release's key is sufficient."""
    served = world.serve()
    served.broker._keystore = None  # type: ignore[assignment]
    assert served.verified(served.result())


def test_without_alpn_the_bytes_are_gramines(world: World) -> None:
    served = world.serve()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with served.session(version=version) as session:
            assert session.selected_alpn_protocol() is None
            session.sendall(REQUEST)
            assert _all_of(session) == RESPONSE + (16).to_bytes(4, "big") + world.made.key.reveal()
    assert [line.decision for line in world.lines()[-2:]] == ["released", "released"]


@pytest.mark.parametrize("offered", [[b"http/1.1"], [ATTEST], [b"h2", b"sealserve-token/2"], [b"sealserve-token/1 "]])
def test_an_unknown_protocol_ends_with_the_alert(world: World, offered: list[bytes]) -> None:
    served = world.serve()
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"), served.session(*offered) as session:
        session.recv(1)
    served.server.stop()
    line = world.lines()[-1]
    assert (line.decision, line.code) == ("refused", "broker.handshake")
    assert "no application protocol" in line.detail


def test_results_need_tls_1_3(world: World) -> None:
    served = world.serve()
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"),
        served.session(PROTOCOL, version=ssl.TLSVersion.TLSv1_2) as session,
    ):
        session.recv(1)


def test_the_known_protocol_is_chosen_among_others(world: World) -> None:
    served = world.serve()
    with served.session(ATTEST, b"h2", PROTOCOL) as session:
        assert session.selected_alpn_protocol() == PROTOCOL.decode()
        session.sendall(ASKED.to_bytes())
        assert served.verified(_all_of(session)[4:].decode())


def test_a_broker_without_results_refuses_the_protocol(world: World) -> None:
    served = world.serve(issues=False)
    with raises(EnclaveCode.PROVISIONING_CONNECTION, match="does not support the protocol sealserve-token/1"):
        served.result()
    assert served.release_key() == world.made.key.reveal()


def test_gramines_request_over_alpn_gets_nothing(world: World) -> None:
    served = world.serve()
    with served.session(PROTOCOL) as session:
        session.sendall(REQUEST)
        assert _all_of(session) == b""
    assert world.lines()[-1].code == "token.request"


def test_a_result_request_without_alpn_gets_nothing(world: World) -> None:
    served = world.serve()
    with served.session() as session:
        session.sendall(ASKED.to_bytes())
        assert _all_of(session) == b""
    assert world.lines()[-1].code == "provisioning.request"


def test_refusals_have_the_same_codes_as_for_keys(world: World) -> None:
    served = world.serve()
    old = SimulatedPlatform.create(world.vendor, world.folder / "old", now=_now(), out_of_date=True)
    foreign_vendor = Vendor.create(world.folder / "other-vendor", now=_now())
    foreign = SimulatedPlatform.create(foreign_vendor, world.folder / "foreign", now=_now())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mr_enclave": MrEnclave(b"\x09" * 32)}, "policy.mr-enclave-unknown"),
        ({"mr_signer": MrSigner(b"\x09" * 32)}, "policy.mr-signer"),
        ({"isv_svn": 1}, "policy.isv-svn"),
        ({"attributes": Attributes(flags=0x7, xfrm=0xE7)}, "quote.debug"),
        ({"platform": old}, "policy.tcb-status"),
        ({"platform": foreign}, "pck.root-not-trusted"),
    ]
    for changes, code in cases:
        with raises(EnclaveCode.PROVISIONING_REFUSED):
            served.result(**changes)
        assert (world.lines()[-1].decision, world.lines()[-1].code) == ("refused", code)
        with raises(EnclaveCode.PROVISIONING_REFUSED):
            served.release_key(**changes)
        assert world.lines()[-1].code == code
    assert admin.status(world.database).decisions == {"allowed": 1, "floor-raised": 1, "refused": 2 * len(cases)}


def test_no_token_of_a_draining_release_outlives_its_deadline(world: World) -> None:
    served = world.serve()
    deadline = _now() + timedelta(minutes=10)
    admin.drain(world.database, "resnet50", deadline=deadline, now=_now())
    assert served.verified(served.result()).expires == deadline.replace(microsecond=0)


def test_an_ended_or_revoked_release_gets_no_token(world: World) -> None:
    served = world.serve()
    past = _now() - timedelta(hours=2)
    admin.drain(world.database, "resnet50", deadline=past + timedelta(hours=1), now=past)
    with raises(EnclaveCode.PROVISIONING_REFUSED):
        served.result()
    assert world.lines()[-1].code == "policy.release-draining-ended"
    admin.revoke(world.database, "resnet50", now=_now())
    with raises(EnclaveCode.PROVISIONING_REFUSED):
        served.result()
    assert world.lines()[-1].code == "policy.release-revoked"


def test_a_token_leaves_only_after_its_row(world: World) -> None:
    served = world.serve()
    with world.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    with raises(EnclaveCode.PROVISIONING_REFUSED):
        served.result()
    assert served.broker.decisions.all()[Outcome.ATTESTED, ""] == 0


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\0\0\x10{", b"\0\0\0\0", b"\xff" * 8, b"\0\0\0\2{}x"])
def test_a_hostile_request_gets_nothing(world: World, sent: bytes) -> None:
    served = world.serve()
    with served.session(PROTOCOL) as session:
        session.sendall(sent)
        session.unwrap() if sent in {b"", b"\0", b"\0\0\0\x10{"} else None
        with contextlib.suppress(OSError):
            assert session.recv(1) == b""
    served.server.stop()
    assert world.lines()[-1].code in {"token.truncated", "token.request"}
    assert not any(line.decision == "attested" for line in world.lines())


def test_a_hostile_audience_does_not_reach_the_log(world: World) -> None:
    served = world.serve()
    with served.session(PROTOCOL) as session:
        content = json.dumps({"audience": "a\n2026-11-29 released the key of all"}).encode()
        session.sendall(len(content).to_bytes(4, "big") + content)
        assert _all_of(session) == b""
    assert "released the key" not in str(world.lines())


def test_hostile_protocols_do_not_disturb_other_peers(world: World) -> None:
    """pyOpenSSL would raise the error of one peer in the session of another."""
    served = world.serve()
    served.result()  # the collateral is in the cache

    def attack(_: int) -> None:
        with contextlib.suppress(OSError), served.session(b"attack") as session:
            session.recv(1)

    with ThreadPoolExecutor(8) as threads:
        attacks = [threads.submit(attack, number) for number in range(60)]
        honest = [threads.submit(served.result) for _ in range(10)]
        keys = [threads.submit(served.release_key) for _ in range(10)]
        assert all(served.verified(token.result()) for token in honest)
        assert {key.result() for key in keys} == {world.made.key.reveal()}
        for ended in attacks:
            ended.result()


def test_a_flood_of_requests_is_under_the_limits_of_keys(world: World) -> None:
    """The only place among the appraisals is taken, so each further request is refused after its time in the queue."""
    served = world.serve(limits=Limits(appraisals=1, queue=0.1))
    served.result()
    served.server._appraisals.acquire()
    with ThreadPoolExecutor(6) as threads:
        for refused in [threads.submit(served.result) for _ in range(6)]:
            with raises(EnclaveCode.PROVISIONING_REFUSED):
                refused.result()
    served.server._appraisals.release()
    assert served.verified(served.result())
    assert [str(line.decision) for line in world.lines()].count("attested") == 2
    assert served.broker.decisions.all()[Outcome.TURNED_AWAY, "broker.busy"] == 6


def test_the_problem_list_of_pyopenssl_stays_empty() -> None:
    """`select_protocols` relies on two private names of pyOpenSSL."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_alpn_select_callback(lambda _connection, _offered: b"")
    helper: Any = context._alpn_select_helper
    assert helper._problems == []
    assert callable(helper.raise_if_problem)


def test_a_result_is_not_for_another_audience(world: World) -> None:
    served = world.serve()
    with raises(AttestationCode.TOKEN_AUDIENCE):
        served.verified(served.result(ResultRequest(audience="another.service")))
    assert ResultServer.respond("a")[:4] == b"\0\0\0\1"
