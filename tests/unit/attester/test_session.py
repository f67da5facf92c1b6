"""One session with a broker: what is accepted, and what a hostile host or peer can cause."""

import socket
import threading
from collections.abc import Callable

import pytest
from OpenSSL import SSL
from scripts.attested_example import KEY, Example
from tests.harness.attest_broker import (
    AttestBroker,
    Behaviour,
    Peer,
    broker_authority,
    certificate_for_another_key,
    close,
    refuse,
    sent,
    slowly,
    without_tls,
)
from tests.harness.errors import raises

from sealserve.attestation.attest_messages import Purpose
from sealserve.attestation.codes import AttestationCode
from sealserve.attester.broker_link import BrokerLink
from sealserve.attester.enclave_keys import EnclaveKeys
from sealserve.attester.session import Attested, attest
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import ErrorCode


def attested(
    broker: AttestBroker, keys: EnclaveKeys, purpose: Purpose = "start", *, ca: bytes | None = None, timeout: float = 20
) -> Attested:
    host, port = broker.place
    with BrokerLink(host, port, broker_ca=ca or broker.ca, session_timeout=timeout) as link:
        return attest(link, keys, purpose=purpose, quote_for=broker.example.quote)


def test_the_broker_grants_key_and_certificate(example: Example, keys: EnclaveKeys) -> None:
    with AttestBroker(example) as broker:
        found = attested(broker, keys)

    assert found.key is not None
    assert found.key.reveal() == KEY
    assert found.grant.attestation_result == example.token
    assert found.grant.statement == example.signed_statement
    assert 23 < found.lifetime.total_seconds() / 3600 <= 24
    assert KEY.hex() not in repr(found)


def test_a_renewal_gets_a_certificate_and_no_key(example: Example, keys: EnclaveKeys) -> None:
    with AttestBroker(example) as broker:
        found = attested(broker, keys, "renewal")

    assert found.key is None
    assert found.grant.certificate_chain


def test_an_answer_may_arrive_in_any_pieces(example: Example, keys: EnclaveKeys) -> None:
    with AttestBroker(example, [slowly]) as broker:
        assert attested(broker, keys).key is not None


REFUSED: list[tuple[Behaviour, ErrorCode]] = [
    (refuse(final=True), AttestationCode.ATTEST_REFUSED),
    (refuse(final=False), AttestationCode.ATTEST_UNAVAILABLE),
    (close, AttestationCode.ATTEST_TRUNCATED),
    (without_tls, EnclaveCode.PROVISIONING_CONNECTION),
    (certificate_for_another_key, AttestationCode.ATTEST_CERTIFICATE),
    (sent(lambda content: content[:-1]), AttestationCode.ATTEST_TRUNCATED),
    (sent(lambda content: content[:-20]), AttestationCode.ATTEST_TRUNCATED),
    (sent(lambda content: content[:-20] + b"\0\0\0\x0f" + bytes(15)), AttestationCode.ATTEST_KEY),
    (sent(lambda content: content[:-20] + b"\0\0\0\x11" + bytes(17)), AttestationCode.ATTEST_LENGTH),
    (sent(lambda content: content + b"\0"), AttestationCode.ATTEST_LENGTH),
    (sent(lambda content: b"\xff" * 4 + content), AttestationCode.ATTEST_LENGTH),
    (sent(lambda _: b"\0\0\0\x02{}"), AttestationCode.DOCUMENT_TYPE),
    (sent(lambda _: b"\0\0\0\x02}}"), AttestationCode.DOCUMENT_JSON),
]


@pytest.mark.parametrize(("behave", "code"), REFUSED)
def test_any_other_answer_is_refused(example: Example, keys: EnclaveKeys, behave: Behaviour, code: ErrorCode) -> None:
    with AttestBroker(example, [behave]) as broker, raises(code):
        attested(broker, keys)


def test_bytes_after_the_grant_of_a_renewal_are_refused(example: Example, keys: EnclaveKeys) -> None:
    with (
        AttestBroker(example, [sent(lambda content: content + b"\0\0\0\x10" + KEY)]) as broker,
        raises(AttestationCode.ATTEST_LENGTH, match="Extra bytes"),
    ):
        attested(broker, keys, "renewal")


def test_a_broker_with_a_certificate_of_another_authority_gets_no_evidence(example: Example, keys: EnclaveKeys) -> None:
    asked: list[Peer] = []
    with (
        AttestBroker(example, [asked.append]) as broker,
        raises(EnclaveCode.PROVISIONING_BROKER_CERTIFICATE, match="does not verify"),
    ):
        attested(broker, keys, ca=broker_authority().certificate_pem)

    assert asked == []


def test_a_certificate_for_another_host_is_refused(example: Example, keys: EnclaveKeys) -> None:
    with (
        AttestBroker(example, addresses=()) as broker,
        raises(EnclaveCode.PROVISIONING_BROKER_CERTIFICATE, match=r"another host: expected 127\.0\.0\.1"),
    ):
        attested(broker, keys)


def test_a_ca_that_is_no_certificate_is_refused(example: Example, keys: EnclaveKeys) -> None:
    with AttestBroker(example) as broker, raises(EnclaveCode.PROVISIONING_BROKER_CERTIFICATE, match="cannot be read"):
        attested(broker, keys, ca=b"no certificate")


def test_a_broker_without_the_protocol_is_named(example: Example, keys: EnclaveKeys) -> None:
    with (
        AttestBroker(example, protocols=(b"sealserve-result/1",)) as broker,
        raises(EnclaveCode.PROVISIONING_CONNECTION, match="does not support the protocol sealserve-attest/1"),
    ):
        attested(broker, keys)


def test_older_tls_is_refused(example: Example, keys: EnclaveKeys) -> None:
    with AttestBroker(example, newest=SSL.TLS1_2_VERSION) as broker, raises(EnclaveCode.PROVISIONING_CONNECTION):
        attested(broker, keys)


def test_a_peer_that_never_answers_has_a_time_limit(example: Example, keys: EnclaveKeys) -> None:
    ended = threading.Event()

    def wait(_: Peer) -> None:
        ended.wait(30)

    with AttestBroker(example, [wait]) as broker:
        with raises(EnclaveCode.PROVISIONING_CONNECTION, match=r"was not complete within 0\.2 s"):
            attested(broker, keys, timeout=0.2)
        ended.set()


@pytest.mark.parametrize(
    "behave",
    [
        lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda peer: peer.recv(1),
        lambda peer: peer.close(),
    ],
)
def test_something_else_than_tls_is_a_broken_connection(
    behave: Callable[[socket.socket], object],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                behave(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with raises(EnclaveCode.PROVISIONING_CONNECTION):
                BrokerLink(*listener.getsockname()[:2], broker_ca=broker_authority().certificate_pem)
        finally:
            thread.join()


def test_a_broker_that_is_down_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = listener.getsockname()[:2]
    with raises(EnclaveCode.PROVISIONING_UNREACHABLE, match="Connection refused"):
        BrokerLink(*place, broker_ca=broker_authority().certificate_pem)
