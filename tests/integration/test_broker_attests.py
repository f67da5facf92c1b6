"""Attested serving with a real broker over TLS: certificates, results, keys, refusals, hostile peers."""

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL
from tests.harness.attesting_enclave import PATIENT, AttestingEnclave, connected
from tests.harness.broker_world import NAME, BrokerWorld
from tests.harness.errors import raises
from tests.harness.reports import REFERENCE

from sealserve.attestation.attest_conversation import certificate_request
from sealserve.attestation.attest_messages import (
    EvidenceMessage,
    Purpose,
    Refusal,
    check_collateral,
    incoming_answer,
    incoming_challenge,
)
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.framing import framed
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.attestation.result import USER_AUDIENCE, AttestationResult, Freshness
from sealserve.attestation.result_token import verify_result
from sealserve.attestation.secret_provisioning import REQUEST, SecretForm
from sealserve.attestation.session_binding import PROTOCOL, session_report_data
from sealserve.attestation.strict_document import SignedContent
from sealserve.attested.release_statement import (
    ReleaseStatement,
    StatedBroker,
    StatedEnclave,
    StatedModel,
    StatedPolicy,
    sign_statement,
)
from sealserve.broker import admin, approval_requests, stored_key
from sealserve.broker import statements as stored_statements
from sealserve.broker.attest_issuer import AttestIssuer
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.certificate_issuer import CertificateIssuer
from sealserve.broker.codes import BrokerCode
from sealserve.broker.decision import Broker
from sealserve.broker.keystore import Keystore, open_keystore
from sealserve.broker.limits import PlatformLimit
from sealserve.broker.metrics import Outcome
from sealserve.broker.releases import ReleaseId
from sealserve.broker.server import BrokerServer
from sealserve.broker.server_limits import Limits
from sealserve.broker.stored_key import KeyId
from sealserve.broker.token_issuer import TokenIssuer
from sealserve.enclave.simulated.provisioning import connect, fetch_key
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.issuing import IssuingCertificate, create_issuing
from sealserve.sgx.report import Attributes, MrEnclave, MrSigner
from sealserve.sgx.simulated.platform import SimulatedPlatform

pytestmark = pytest.mark.integration

SERVICE = "grpc.tf-serving.service.com"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class World(BrokerWorld):
    """A world whose broker serves enclaves with their own keys."""

    token_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    owner: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    service: Authority = field(
        default_factory=lambda: Authority.create(
            AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=_now() - timedelta(days=9)
        )
    )
    issuing: IssuingCertificate | None = None

    @property
    def keys(self) -> JsonWebKeySet:
        return JsonWebKeySet([JsonWebKey(self.token_key.public_key())])

    @property
    def keystore(self) -> Keystore:
        return open_keystore(self.database, self.folder / "master.key")

    def certify(self, *, days: int = 365, now: datetime | None = None) -> None:
        """Create the issuing CA, with its private key in the keystore."""
        now = now or _now()
        self.issuing, key = create_issuing(self.service, [SERVICE], now=now, days=days)
        self.keystore.store_issuing(self.database, KeyId(self.issuing.key_id), key, now=now)

    def state(self, issued: int) -> SignedContent:
        """Store a release statement, and return it."""
        statement = ReleaseStatement(
            release_id=self.release.release_id,
            issued=issued,
            shared_batches=False,
            models=(StatedModel(name="m", version="1", sha256="a" * 64, allowed_operations=(), signer=None),),
            enclaves=(StatedEnclave.of_values(REFERENCE),),
            policy=StatedPolicy(name="strict", sha256="b" * 64),
            brokers=(StatedBroker.of_keys(NAME, self.keys),),
        )
        signed = sign_statement(statement, self.owner)
        with self.database.write() as connection:
            stored_statements.put(connection, self.release, signed, now=_now())
        return signed

    def serve(
        self, *, lifetime: timedelta = timedelta(hours=24), limit: PlatformLimit | None = None, **settings: Any
    ) -> "Served":
        if self.issuing is None:
            self.certify()
        broker = self.broker()
        if limit is not None:
            broker = Broker(database=self.database, keystore=self.keystore, verifier=broker._verifier, limit=limit)
        attested = AttestIssuer(
            broker,
            certificates=CertificateIssuer(self._certificate, database=self.database, keystore=self.keystore),
            token_key=lambda: self.token_key,
            issuer=NAME,
            lifetime=lifetime,
        )
        results = TokenIssuer(broker, key=lambda: self.token_key, issuer=NAME)
        server = BrokerServer(broker, identity=self.identity, port=0, results=results, attested=attested, **settings)
        return Served(self, self.servers.enter_context(server), broker)

    def _certificate(self) -> IssuingCertificate:
        assert self.issuing is not None
        return self.issuing

    def lines(self) -> list[Entry]:
        admin.verify_log(self.database)
        return [row.entry for row in admin.log(self.database)]


@dataclass(slots=True)
class Served:
    """A running broker, and enclaves that attest."""

    world: World
    server: BrokerServer
    broker: Broker

    @property
    def ca(self) -> bytes:
        return self.world.authority.certificate_pem

    def enclave(
        self, platform: SimulatedPlatform | None = None, *, release_id: str | None = None, **changes: Any
    ) -> AttestingEnclave:
        return AttestingEnclave(
            release_id=release_id or self.world.release.release_id, quote=self.world.quoted(platform, **changes)
        )

    def start(self, enclave: AttestingEnclave | None = None) -> bytes | None:
        return (enclave or self.enclave()).provision(self.server.address, self.ca).key

    def verified(self, token: str) -> AttestationResult:
        return verify_result(
            token, self.world.keys, now=_now(), issuer=NAME, audience=USER_AUDIENCE, dangerous_simulated=True
        )

    def refusal(self, sent: bytes) -> Refusal | None:
        """Send bytes after the challenge, and return the broker's refusal, if it sends one."""
        with connected(self.server.address, self.ca) as session:
            session.receive(incoming_challenge())
            session.tls.sendall(sent)
            try:
                return Refusal.parse(session.receive(incoming_answer()).content)
            except Exception:  # noqa: BLE001
                return None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World.opened(tmp_path) as made:
        yield made


def test_an_enclave_gets_key_certificate_result_collateral_and_statement(world: World) -> None:
    statement = world.state(1)
    served = world.serve()
    enclave = served.enclave()
    found = enclave.provision(served.server.address, served.ca)
    assert found.key == world.made.key.reveal()
    grant = found.granted.grant
    # The certificate is for the enclave's TLS key and the service's name, and users trust its issuer.
    leaf, issuer = x509.load_pem_x509_certificates(grant.certificate_chain.encode())
    assert leaf.public_key() == enclave.tls_key.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVICE]
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(x509.load_pem_x509_certificate(world.service.certificate_pem))
    # The result is for exactly this keyset, and ends with the certificate.
    result = served.verified(grant.attestation_result)
    assert (result.keyset_digest, result.freshness) == (enclave.keyset.digest, Freshness.SESSION)
    assert (result.public_key_digest, result.release_id) == (enclave.keyset.tls_key_digest, world.release.release_id)
    assert result.expires == leaf.not_valid_after_utc
    assert timedelta(hours=23, minutes=59) < result.expires - result.issued <= timedelta(hours=24)
    assert grant.statement == statement
    assert check_collateral(grant.collateral)["tcb_info"].startswith("{")
    # One row, which was there before the key, and names the keyset.
    line = world.lines()[-1]
    assert (line.decision, line.code, line.release_id) == ("released", "ok", world.release.release_id)
    assert line.detail == (
        f"start: keyset {enclave.keyset.digest.hex()}, attestation result {result.token_id} for {USER_AUDIENCE}"
    )
    assert [entry.decision for entry in world.lines()].count(Decision.RELEASED) == 1
    assert served.broker.decisions.all()[Outcome.RELEASED, ""] == 1


def test_a_renewal_gets_no_key(world: World) -> None:
    served = world.serve()
    enclave = served.enclave()
    first = enclave.provision(served.server.address, served.ca)
    served.broker._keystore = None  # type: ignore[assignment]  # a database without the release's key is sufficient
    newer = world.state(2)
    found = enclave.provision(served.server.address, served.ca, purpose="renewal")
    assert found.key is None
    assert first.granted.grant.statement is None
    assert found.granted.grant.statement == newer
    line = world.lines()[-1]
    assert (line.decision, line.detail.split(":")[0]) == ("attested", "renewal")


def test_the_key_is_raw_in_every_form_of_a_release(world: World) -> None:
    other = replace(world.release, secret_form=SecretForm.STRING)
    admin.allow(world.database, other, {"replica-0": REFERENCE}, now=_now(), reactivate=True)
    assert world.serve().start() == world.made.key.reveal()


def test_gramines_protocol_is_unchanged_beside_it(world: World) -> None:
    served = world.serve()
    pair: dict[str, Any] = {"broker_ca": served.ca, "quote_for": world.quoted(), "now": _now(), "timeout": PATIENT}
    with fetch_key(replace(connect([served.server.address], timeout=PATIENT), host=NAME), **pair) as key:
        assert key == world.made.key
    assert served.start() == world.made.key.reveal()


def test_gramines_protocol_still_needs_a_certificate(world: World) -> None:
    """Only the new protocol works without a client certificate."""
    served = world.serve()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=served.ca.decode())
    for protocols in ([], ["sealserve-token/1"], ["sealserve-token/1", PROTOCOL.decode()]):
        context.set_alpn_protocols(protocols) if protocols else None
        with pytest.raises(OSError, match=r"(?i)alert|closed|eof|reset"):  # an alert, or the end of the connection
            _ask_without_certificate(served, context)
    assert not any(line.decision == "released" for line in world.lines())


def _ask_without_certificate(served: "Served", context: ssl.SSLContext) -> None:
    with (
        socket.create_connection(served.server.address, timeout=PATIENT) as stream,
        context.wrap_socket(stream) as session,
    ):
        session.sendall(REQUEST)
        if session.recv(1) == b"":
            raise OSError("closed")


def test_it_needs_tls_1_3(world: World) -> None:
    served = world.serve()
    with (
        pytest.raises(SSL.Error, match="no application protocol"),
        connected(served.server.address, served.ca, version=SSL.TLS1_2_VERSION),
    ):
        pass


def test_a_broker_without_an_issuing_authority_refuses_the_protocol(world: World) -> None:
    server = world.servers.enter_context(BrokerServer(world.broker(), identity=world.identity, port=0))
    with (
        pytest.raises(SSL.Error, match="no application protocol"),
        connected(server.address, world.authority.certificate_pem),
    ):
        pass


def test_a_session_cannot_be_resumed(world: World) -> None:
    served = world.serve()
    with connected(served.server.address, served.ca) as session:
        served.enclave().attest(session)
        kept, context = session.tls.get_session(), session.tls.get_context()
        exporter = session.exporter(bytes(32))
    assert kept is not None
    with socket.create_connection(served.server.address, timeout=PATIENT) as stream:
        stream.setblocking(True)
        tls = SSL.Connection(context, stream)
        tls.set_alpn_protos([PROTOCOL])
        tls.set_session(kept)
        tls.set_connect_state()
        tls.do_handshake()
        # A resumed session would have the same master secret. A full handshake sends the certificate again.
        assert SSL._lib.SSL_session_reused(tls._ssl) == 0  # type: ignore[attr-defined]
        assert tls.export_keying_material(b"EXPERIMENTAL sealserve-attest/1", 32, bytes(32)) != exporter


# Attacks on the binding


def test_evidence_of_another_session_is_refused(world: World) -> None:
    """An attacker with the broker's TLS key relays the challenge to a genuine enclave. The exporters differ."""
    served = world.serve()
    victim = served.enclave()
    with connected(served.server.address, served.ca) as own, connected(served.server.address, served.ca) as other:
        challenged = victim.challenged(own)
        victim.challenged(other)
        presenting = challenged.bind(other.exporter(challenged.nonce))
        frame, awaiting = presenting.present(victim.quote(presenting.report_data))
        own.tls.sendall(frame)
        with raises(AttestationCode.ATTEST_REFUSED):
            awaiting.receive(own.receive(incoming_answer()).content)
    assert world.lines()[-1].code == "attest.binding"


def test_replayed_evidence_is_refused(world: World) -> None:
    served = world.serve()
    enclave = served.enclave()
    with connected(served.server.address, served.ca) as session:
        challenged = enclave.challenged(session)
        presenting = challenged.bind(session.exporter(challenged.nonce))
        frame, _ = presenting.present(enclave.quote(presenting.report_data))
        session.tls.sendall(frame)
        session.receive(incoming_answer())
    refused = served.refusal(frame)
    assert refused is not None
    assert refused.final
    assert refused.reference == f"quote-{hashlib.sha256(EvidenceMessage.parse(frame[4:]).quote).hexdigest()[:16]}"
    line = world.lines()[-1]
    assert line.code == "attest.binding"
    assert line.quote_digest is not None
    assert refused.reference == f"quote-{line.quote_digest[:16]}"


def test_replayed_evidence_downloads_no_collateral(world: World) -> None:
    """Users see genuine quotes. A stranger must not cause downloads with them."""
    served = world.serve()
    enclave = served.enclave()
    quote = enclave.quote(session_report_data(nonce=bytes(32), exporter=bytes(32), keyset_digest=bytes(32)))
    message = EvidenceMessage(
        purpose="start",
        quote=quote,
        keyset=enclave.keyset.to_bytes(),
        certificate_request=certificate_request(enclave.tls_key),
    )
    assert served.refusal(framed(message.to_bytes())) is not None
    line = world.lines()[-1]
    assert (line.code, line.tcb_status) == ("attest.binding", None)
    assert admin.status(world.database).evaluation_floor == {}


def test_another_tls_key_or_release_is_refused(world: World) -> None:
    served = world.serve()
    enclave, thief = served.enclave(), ec.generate_private_key(ec.SECP256R1())
    # A host asks for a certificate for its own key, with the keyset and the quote of an enclave.
    with connected(served.server.address, served.ca) as session:
        challenged = enclave.challenged(session)
        presenting = challenged.bind(session.exporter(challenged.nonce))
        message = EvidenceMessage(
            purpose="start",
            quote=enclave.quote(presenting.report_data),
            keyset=enclave.keyset.to_bytes(),
            certificate_request=certificate_request(thief),
        )
        session.tls.sendall(framed(message.to_bytes()))
        assert Refusal.parse(session.receive(incoming_answer()).content) == Refusal(final=True, reference=None)
    served.server.stop()
    assert world.lines()[-1].code == "attest.tls-key"


def test_a_keyset_of_another_release_is_refused(world: World) -> None:
    served = world.serve()
    with raises(AttestationCode.ATTEST_REFUSED):
        served.start(served.enclave(release_id="b" * 64))
    assert world.lines()[-1].code == "attest.release"


def test_refusals_have_the_same_codes_as_in_gramines_protocol(world: World) -> None:
    served = world.serve()
    old = SimulatedPlatform.create(world.vendor, world.folder / "old", now=_now(), out_of_date=True)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mr_enclave": MrEnclave(b"\x09" * 32)}, "policy.mr-enclave-unknown"),
        ({"mr_signer": MrSigner(b"\x09" * 32)}, "policy.mr-signer"),
        ({"isv_svn": 1}, "policy.isv-svn"),
        ({"attributes": Attributes(flags=0x7, xfrm=0xE7)}, "quote.debug"),
        ({"platform": old}, "policy.tcb-status"),
    ]
    for changes, code in cases:
        with raises(AttestationCode.ATTEST_REFUSED):
            served.start(served.enclave(**changes))
        assert (world.lines()[-1].decision, world.lines()[-1].code) == ("refused", code)
    assert admin.status(world.database).decisions.get("released", 0) == 0


def test_a_revoked_or_drained_release_gets_no_certificate(world: World) -> None:
    served = world.serve()
    enclave = served.enclave()
    served.start(enclave)
    past = _now() - timedelta(hours=2)
    admin.drain(world.database, "resnet50", deadline=past + timedelta(hours=1), now=past)
    purposes: tuple[Purpose, ...] = ("start", "renewal")
    for purpose in purposes:
        with raises(AttestationCode.ATTEST_REFUSED):
            enclave.provision(served.server.address, served.ca, purpose=purpose)
        assert world.lines()[-1].code == "policy.release-draining-ended"
    admin.revoke(world.database, "resnet50", now=_now())
    with raises(AttestationCode.ATTEST_REFUSED):
        enclave.provision(served.server.address, served.ca, purpose="renewal")
    assert world.lines()[-1].code == "policy.release-revoked"


def test_nothing_of_a_draining_release_outlives_its_deadline(world: World) -> None:
    served = world.serve()
    deadline = _now() + timedelta(minutes=10)
    admin.drain(world.database, "resnet50", deadline=deadline, now=_now())
    grant = served.enclave().provision(served.server.address, served.ca).granted.grant
    leaf = x509.load_pem_x509_certificates(grant.certificate_chain.encode())[0]
    assert leaf.not_valid_after_utc == deadline.replace(microsecond=0)
    assert served.verified(grant.attestation_result).expires == leaf.not_valid_after_utc


def test_nothing_outlives_the_issuing_authority(world: World) -> None:
    world.certify(days=1, now=_now() - timedelta(hours=23))
    served = world.serve(lifetime=timedelta(days=7))
    grant = served.enclave().provision(served.server.address, served.ca).granted.grant
    leaf, issuer = x509.load_pem_x509_certificates(grant.certificate_chain.encode())
    assert leaf.not_valid_after_utc == issuer.not_valid_after_utc
    assert served.verified(grant.attestation_result).expires == issuer.not_valid_after_utc


def test_the_longest_lifetime_is_a_valid_result(world: World) -> None:
    served = world.serve(lifetime=timedelta(days=7))
    assert served.verified(
        served.enclave().provision(served.server.address, served.ca).granted.grant.attestation_result
    )


# The broker's own faults: no key leaves, and the enclave tries again


def test_an_expired_issuing_authority_is_not_final(world: World) -> None:
    world.certify(days=1, now=_now() - timedelta(days=3))
    served = world.serve()
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start()
    assert world.lines()[-1].code == "certificate.expired"


def test_a_lost_issuing_key_is_not_final(world: World) -> None:
    served = world.serve()
    assert world.issuing is not None
    with world.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM keys WHERE format = 3")
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start()
    assert world.lines()[-1].code == "keystore.unknown-issuing-key"


def test_a_replaced_issuing_key_is_noticed(world: World) -> None:
    """Another program copies a release key into the row, or moves the row."""
    served = world.serve()
    with world.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE format = 2) WHERE format = 3"
        )
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start()
    assert world.lines()[-1].code == "keystore.unwrap"
    assert admin.status(world.database).decisions.get("released", 0) == 0


def test_the_issuing_key_is_never_a_release_key(world: World) -> None:
    """A release that names the issuing key gets no key, not even with a changed format."""
    world.certify()
    assert world.issuing is not None
    with world.database.read() as connection, raises(BrokerCode.KEYSTORE_UNKNOWN_KEY):
        stored_key.find(connection, KeyId(world.issuing.key_id))
    with world.database.read() as connection, raises(BrokerCode.KEYSTORE_UNKNOWN_ISSUING_KEY):
        stored_key.find_issuing(connection, world.made.key_id)
    other = replace(world.release, key_id=KeyId(world.issuing.key_id), release_id=ReleaseId("c" * 64), name="other")
    with raises(BrokerCode.KEYSTORE_UNKNOWN_KEY):
        admin.allow(world.database, other, {"replica-9": REFERENCE}, now=_now())
    assert admin.status(world.database).keys == 1


def test_a_key_leaves_only_after_its_row(world: World) -> None:
    served = world.serve()
    with world.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start()
    assert served.broker.decisions.all()[Outcome.RELEASED, ""] == 0


@pytest.mark.parametrize("change", ["UPDATE statements SET signature = '00'", "DELETE FROM statements"])
def test_a_changed_statement_is_noticed(world: World, change: str) -> None:
    world.state(1)
    served = world.serve()
    with world.database.write() as connection:
        connection.exec_driver_sql(change)
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start()
    assert [row.entry.code for row in admin.log(world.database)][-1] == "broker.database-authentication"
    with raises(BrokerCode.AUDIT_STATE, match="statements"):
        admin.verify_log(world.database)


def test_a_statement_of_before_a_rotation_is_noticed(world: World) -> None:
    """Another program restores an older statement, which is genuine, with its tag."""
    world.state(1)
    with world.database.read() as connection:
        (old,) = connection.exec_driver_sql("SELECT content, signature, changed, tag FROM statements").all()
    world.state(2)
    served = world.serve()
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE statements SET content = ?, signature = ?, changed = ?, tag = ?", tuple(old))
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start()


def test_limits_apply_to_keys_and_to_renewals(world: World) -> None:
    served = world.serve(limit=PlatformLimit(keys=1, results=1, period=timedelta(hours=1)))
    enclave = served.enclave()
    served.start(enclave)
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start(enclave)
    assert world.lines()[-1].code == "policy.limit"
    enclave.provision(served.server.address, served.ca, purpose="renewal")
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        enclave.provision(served.server.address, served.ca, purpose="renewal")
    assert world.lines()[-1].code == "policy.limit"


# Hostile peers


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\0\0\0\0", "attest.length"),
        (b"\0\0\x40\x01", "attest.length"),
        (b"\xff\xff\xff\xff", "attest.length"),
        (b"\0\0\0\2{}", "document.type"),
        (b"\0\0\0\2{}x", "attest.length"),
        (b"\0\0\0\x04null", "document.json"),
        (REQUEST, "attest.length"),
    ],
)
def test_a_malformed_message_gets_a_refusal_and_nothing_else(world: World, sent: bytes, code: str) -> None:
    served = world.serve()
    assert served.refusal(sent) == Refusal(final=True, reference=None)
    served.server.stop()
    assert world.lines()[-1].code == code


def test_a_silent_or_truncating_peer_is_disconnected(world: World) -> None:
    served = world.serve(limits=Limits(request=0.2, quoting=0.0, linger=0.2, send=1))
    with connected(served.server.address, served.ca) as session:
        session.receive(incoming_challenge())
        session.tls.sendall(b"\0\0\1\0{")
        assert session.at_end()
    with connected(served.server.address, served.ca) as session:
        session.receive(incoming_challenge())
        session.tls.sendall(b"\0\0\1\0{")
        session.tls.shutdown()
        session.receive(incoming_challenge())  # the refusal
    assert served.start() == world.made.key.reveal()
    served.server.stop()
    assert "attest.truncated" in {line.code for line in world.lines()}


def test_many_enclaves_and_hostile_peers_at_the_same_time(world: World) -> None:
    served = world.serve()
    served.start()  # the collateral is in the cache
    before = threading.active_count()
    with ThreadPoolExecutor(8) as threads:
        honest = [threads.submit(served.start) for _ in range(12)]
        hostile = [threads.submit(served.refusal, b"\0\0\0\2{}") for _ in range(24)]
        assert {found.result() for found in honest} == {world.made.key.reveal()}
        assert all(found.result() is not None for found in hostile)
    assert before < 200


# Approvals


def test_a_start_and_a_renewal_need_an_approval(world: World) -> None:
    manual = replace(world.release, policy=replace(world.release.policy, manual_approval=True))
    admin.allow(world.database, manual, {"replica-0": REFERENCE}, now=_now(), reactivate=True)
    served = world.serve()
    enclave = served.enclave()
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        served.start(enclave)
    line = world.lines()[-1]
    assert line.code == "policy.approval-pending"
    assert line.platform_id is not None
    (waiting,) = approval_requests.pending(world.database, now=_now())
    assert waiting.platform_id == line.platform_id
    approval_requests.approve(world.database, "resnet50", line.platform_id, now=_now())
    assert served.start(enclave) == world.made.key.reveal()
    enclave.provision(served.server.address, served.ca, purpose="renewal")
    approval_requests.withdraw(world.database, "resnet50", line.platform_id, now=_now())
    with raises(AttestationCode.ATTEST_UNAVAILABLE):
        enclave.provision(served.server.address, served.ca, purpose="renewal")
    assert world.lines()[-1].code == "policy.approval-pending"
