"""The binding to a session with the real exporter of TLS 1.3: a relay between two sessions is refused."""

import contextlib
from dataclasses import dataclass

import pytest
from OpenSSL import SSL
from scripts.attested_example import Example, digest, p256
from tests.harness.errors import raises

from sealserve.attestation.attest_conversation import (
    BrokerSession,
    EnclaveSession,
    PresentedEvidence,
    certificate_request,
)
from sealserve.attestation.attest_messages import incoming_challenge, incoming_evidence
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.framing import IncomingMessage
from sealserve.attestation.session_binding import EXPORTER_LABEL, EXPORTER_SIZE, PROTOCOL, new_nonce


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(tmp_path_factory.mktemp("vendor") / "vendor")


@dataclass(frozen=True)
class Link:
    """A TLS 1.3 session in memory. The peer of ``client`` is ``server``."""

    client: SSL.Connection
    server: SSL.Connection


def exporter(connection: SSL.Connection, nonce: bytes) -> bytes:
    return connection.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)


def connected(example: Example) -> Link:
    """Return a session with the broker's certificate, which an attacker with the stolen key can also present."""
    serving, asking = (SSL.Context(SSL.TLS_METHOD) for _ in range(2))
    for context in (serving, asking):
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
    serving.use_certificate(example.certificate_for(p256("broker")))
    serving.use_privatekey(p256("broker"))
    serving.set_alpn_select_callback(lambda _, offered: PROTOCOL if PROTOCOL in offered else b"")
    asking.set_alpn_protos([PROTOCOL])
    link = Link(SSL.Connection(asking), SSL.Connection(serving))
    link.client.set_connect_state()
    link.server.set_accept_state()
    for _ in range(4):
        for side in (link.client, link.server):
            with contextlib.suppress(SSL.WantReadError):
                side.do_handshake()
        carry(link.client, link.server)
        carry(link.server, link.client)
    assert link.client.get_alpn_proto_negotiated() == PROTOCOL
    return link


def carry(source: SSL.Connection, target: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        target.bio_write(source.bio_read(1 << 20))


def send(source: SSL.Connection, target: SSL.Connection, frame: bytes, message: IncomingMessage) -> bytes:
    source.sendall(frame)
    carry(source, target)
    while not message.receive(target.recv(1000)):
        pass
    return message.content


def evidence_for(example: Example, link: Link, challenge: bytes) -> bytes:
    """Let the enclave at the client's end answer a challenge that arrives in its session."""
    enclave = EnclaveSession(
        keyset=example.keyset, purpose="start", certificate_request=certificate_request(example.tls_key)
    )
    challenged = enclave.receive(send(link.server, link.client, challenge, incoming_challenge()))
    presenting = challenged.bind(exporter(link.client, challenged.nonce))
    frame, _ = presenting.present(example.quote(presenting.report_data))
    return frame


def report_data(presented: PresentedEvidence) -> bytes:
    return presented.quote[48 + 320 : 48 + 384]


def test_both_ends_of_a_session_compute_the_same_report_data(example: Example) -> None:
    link, nonce = connected(example), new_nonce()
    broker = BrokerSession(nonce=nonce, exporter=exporter(link.server, nonce))
    frame = evidence_for(example, link, broker.challenge())
    presented = broker.receive(send(link.client, link.server, frame, incoming_evidence()))
    bound = presented.bind(report_data=report_data(presented), release_id=example.release_id)
    assert bound.keyset == example.keyset


def test_an_attacker_with_the_brokers_key_cannot_relay_evidence(example: Example) -> None:
    # The enclave is connected to the attacker, and the attacker is connected to the broker.
    victim, own, nonce = connected(example), connected(example), new_nonce()
    broker = BrokerSession(nonce=nonce, exporter=exporter(own.server, nonce))
    relayed = evidence_for(example, victim, broker.challenge())
    presented = broker.receive(send(own.client, own.server, relayed, incoming_evidence()))
    with raises(AttestationCode.ATTEST_BINDING):
        presented.bind(report_data=report_data(presented), release_id=example.release_id)


def test_the_exporter_depends_on_session_and_nonce(example: Example) -> None:
    first, second = connected(example), connected(example)
    values = {exporter(link.client, nonce) for link in (first, second) for nonce in (digest("one"), digest("two"))}
    assert len(values) == 4
    assert exporter(first.client, digest("one")) == exporter(first.server, digest("one"))
