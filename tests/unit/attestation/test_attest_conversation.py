"""The session between enclave and broker: each step, and each fault of a hostile peer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from scripts.attested_example import NOW, Example, digest, p256
from tests.harness.errors import raises

from sealserve.attestation.attest_conversation import (
    AwaitingGrant,
    BoundEvidence,
    BrokerSession,
    EnclaveSession,
    Granted,
    PresentedEvidence,
    certificate_request,
    refusal,
)
from sealserve.attestation.attest_messages import (
    EvidenceMessage,
    Purpose,
    Refusal,
    check_collateral,
    incoming_answer,
    incoming_challenge,
    incoming_evidence,
    incoming_key,
)
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.framing import IncomingMessage, framed
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.session_binding import new_nonce, service_report_data, session_report_data, signed_nonce
from sealserve.secret import SecretBytes

KEY = bytes(range(16))
NONCE = digest("nonce")
EXPORTER = digest("exporter")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(tmp_path_factory.mktemp("vendor") / "vendor")


def content(frame: bytes, message: IncomingMessage) -> bytes:
    assert message.receive(frame)
    return message.content


def enclave_of(example: Example, purpose: Purpose = "start", **changes: Any) -> EnclaveSession:
    values: dict[str, Any] = {
        "keyset": example.keyset,
        "certificate_request": certificate_request(example.tls_key),
    } | changes
    return EnclaveSession(purpose=purpose, **values)


def exchange(
    example: Example, purpose: Purpose = "start", **changes: Any
) -> tuple[PresentedEvidence, bytes, AwaitingGrant]:
    """Run the session up to the broker's decision. Return evidence, report data, and the enclave's next step."""
    broker = BrokerSession(nonce=NONCE, exporter=EXPORTER)
    challenged = enclave_of(example, purpose, **changes).receive(content(broker.challenge(), incoming_challenge()))
    assert challenged.nonce == NONCE
    presenting = challenged.bind(EXPORTER)
    frame, awaiting = presenting.present(example.quote(presenting.report_data))
    return broker.receive(content(frame, incoming_evidence())), presenting.report_data, awaiting


def bound(example: Example, purpose: Purpose = "start") -> tuple[BoundEvidence, AwaitingGrant]:
    presented, report_data, awaiting = exchange(example, purpose)
    return presented.bind(report_data=report_data, release_id=example.release_id), awaiting


def granting(example: Example, evidence: BoundEvidence, key: SecretBytes | None, **changes: Any) -> SecretBytes:
    values: dict[str, Any] = {
        "attestation_result": example.token,
        "certificate_chain": example.certificate.public_bytes(Encoding.PEM).decode(),
        "collateral": example.collateral_members,
        "statement": example.signed_statement,
    }
    return evidence.grant(key=key, **(values | changes))


def test_an_enclave_gets_the_key_and_a_certificate(example: Example) -> None:
    evidence, awaiting = bound(example)
    assert evidence.keyset == example.keyset
    answer, key = incoming_answer(), incoming_key()
    sent = granting(example, evidence, SecretBytes(KEY)).reveal()
    assert answer.receive(sent)
    granted = awaiting.receive(answer.content)
    assert granted.key_follows
    assert granted.grant.attestation_result == example.token
    assert key.receive(answer.rest)
    assert granted.key(key.content).reveal() == KEY
    key.wipe()
    assert not key.started


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_answer_may_arrive_in_pieces(example: Example, size: int) -> None:
    evidence, awaiting = bound(example)
    sent = granting(example, evidence, SecretBytes(KEY)).reveal()
    message: IncomingMessage = incoming_answer()
    granted: Granted | None = None
    for start in range(0, len(sent), size):
        if not message.receive(sent[start : start + size]):
            continue
        if granted is None:
            granted = awaiting.receive(message.content)
            rest, message = message.rest, incoming_key()
            if not message.receive(rest):
                continue
        assert granted.key(message.content).reveal() == KEY
        return
    pytest.fail("the key did not arrive")


def test_a_renewal_returns_no_key(example: Example) -> None:
    evidence, awaiting = bound(example, "renewal")
    answer = incoming_answer()
    assert answer.receive(granting(example, evidence, None).reveal())
    assert answer.rest == b""
    granted = awaiting.receive(answer.content)
    assert not granted.key_follows
    with raises(AttestationCode.ATTEST_KEY):
        granted.key(KEY)


@pytest.mark.parametrize(("purpose", "key"), [("start", None), ("renewal", KEY), ("start", KEY[:15])])
def test_a_key_that_does_not_fit_the_purpose_is_a_bug_of_the_caller(
    example: Example, purpose: Purpose, key: bytes | None
) -> None:
    evidence, _ = bound(example, purpose)
    with pytest.raises(ValueError, match="requires"):
        granting(example, evidence, None if key is None else SecretBytes(key))


@pytest.mark.parametrize(
    "change",
    [
        lambda session: dataclasses.replace(session, nonce=digest("another nonce")),
        lambda session: dataclasses.replace(session, exporter=digest("another session")),
    ],
    ids=["replayed", "diverted"],
)
def test_evidence_of_another_session_is_refused(
    example: Example, change: Callable[[BrokerSession], BrokerSession]
) -> None:
    presented, report_data, _ = exchange(example)
    elsewhere = dataclasses.replace(presented, session=change(presented.session))
    with raises(AttestationCode.ATTEST_BINDING, match="replayed, or relayed"):
        elsewhere.bind(report_data=report_data, release_id=example.release_id)


def test_a_quote_for_users_is_not_for_the_broker(example: Example) -> None:
    presented, _, _ = exchange(example)
    with raises(AttestationCode.ATTEST_BINDING):
        presented.bind(report_data=service_report_data(example.keyset.digest), release_id=example.release_id)


def test_a_keyset_that_the_quote_does_not_cover_is_refused(example: Example) -> None:
    presented, report_data, _ = exchange(example)
    other = Keyset.of_keys(
        release_id=example.release_id,
        tls=example.tls_key.public_key(),
        identity=ed25519.Ed25519PrivateKey.generate().public_key(),
    )
    with raises(AttestationCode.ATTEST_BINDING):
        dataclasses.replace(presented, keyset=other).bind(report_data=report_data, release_id=example.release_id)


def test_a_keyset_of_another_release_is_refused(example: Example) -> None:
    presented, report_data, _ = exchange(example)
    with raises(AttestationCode.ATTEST_RELEASE):
        presented.bind(report_data=report_data, release_id=digest("another release").hex())


def test_a_certificate_request_for_another_key_is_refused(example: Example) -> None:
    with raises(AttestationCode.ATTEST_TLS_KEY):
        exchange(example, certificate_request=certificate_request(p256("attacker")))


def corrupted_signature(example: Example) -> bytes:
    request = bytearray(certificate_request(example.tls_key))
    request[-1] ^= 1
    return bytes(request)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda _: b"request",
        lambda example: certificate_request(example.tls_key)[:-1],
        lambda example: certificate_request(example.tls_key) + b"\0",
        corrupted_signature,
        lambda _: certificate_request(ec.generate_private_key(ec.SECP384R1())),
        lambda example: (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(example.identity, None)
            .public_bytes(Encoding.DER)
        ),
    ],
    ids=["no DER", "truncated", "a byte after it", "wrong signature", "P-384", "Ed25519"],
)
def test_a_wrong_certificate_request_is_refused(example: Example, request_of: Callable[[Example], bytes]) -> None:
    with raises(AttestationCode.ATTEST_CERTIFICATE_REQUEST):
        exchange(example, certificate_request=request_of(example))


def test_a_malformed_keyset_is_refused(example: Example) -> None:
    evidence = EvidenceMessage(
        purpose="start",
        quote=example.quote(),
        keyset=example.keyset.to_bytes() + b" ",
        certificate_request=certificate_request(example.tls_key),
    )
    with raises(AttestationCode.DOCUMENT_TRAILING_BYTES):
        BrokerSession(nonce=NONCE, exporter=EXPORTER).receive(evidence.to_bytes())


@pytest.mark.parametrize(
    "chain",
    [
        lambda _: "certificate",
        lambda example: example.certificate_for(p256("attacker")).public_bytes(Encoding.PEM).decode(),
    ],
)
def test_a_certificate_for_another_key_is_refused(example: Example, chain: Callable[[Example], str]) -> None:
    evidence, awaiting = bound(example, "renewal")
    answer = incoming_answer()
    assert answer.receive(granting(example, evidence, None, certificate_chain=chain(example)).reveal())
    with raises(AttestationCode.ATTEST_CERTIFICATE):
        awaiting.receive(answer.content)


def test_a_refusal_is_final_or_not(example: Example) -> None:
    _, _, awaiting = exchange(example)
    final = content(refusal(final=True, reference="17"), incoming_answer())
    with raises(AttestationCode.ATTEST_REFUSED, match="reference is 17"):
        awaiting.receive(final)
    later = content(refusal(final=False, reference=None), incoming_answer())
    with raises(AttestationCode.ATTEST_UNAVAILABLE, match="Try again later"):
        awaiting.receive(later)
    assert Refusal.parse(final).final


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_key_of_another_length_is_refused(example: Example, size: int) -> None:
    evidence, awaiting = bound(example)
    answer = incoming_answer()
    assert answer.receive(granting(example, evidence, SecretBytes(KEY)).reveal())
    with raises(AttestationCode.ATTEST_KEY):
        awaiting.receive(answer.content).key(bytes(size))


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (incoming_challenge(), framed(bytes(513))),
        (incoming_evidence(), b"\xff\xff\xff\xff"),
        (incoming_answer(), b"\0\0\0\0"),
        (incoming_key(), framed(bytes(17))),
        (incoming_challenge(), framed(b"{}") + b"x"),
    ],
    ids=["too long", "4 GiB", "empty", "too long a key", "a byte after it"],
)
def test_a_wrong_length_is_refused_before_the_content_arrives(message: IncomingMessage, frame: bytes) -> None:
    with raises(AttestationCode.ATTEST_LENGTH):
        message.receive(frame)


def test_an_early_end_of_the_session_is_an_error() -> None:
    message = incoming_evidence()
    with raises(AttestationCode.ATTEST_TRUNCATED, match="after 0 bytes"):
        message.end()
    assert not message.receive(framed(b"{}")[:5])
    with raises(AttestationCode.ATTEST_TRUNCATED, match="after 5 bytes"):
        message.end()
    assert message.receive(framed(b"{}")[5:])
    message.end()


def test_a_secret_is_not_in_a_representation(example: Example) -> None:
    evidence, _ = bound(example)
    broker = BrokerSession(nonce=NONCE, exporter=EXPORTER)
    shown = f"{evidence!r} {granting(example, evidence, SecretBytes(KEY))!r} {broker!r}"
    assert KEY.hex() not in shown
    assert repr(KEY) not in shown
    assert repr(EXPORTER) not in shown


def test_bindings_have_fixed_lengths_and_differ() -> None:
    values = {"nonce": NONCE, "exporter": EXPORTER, "keyset_digest": digest("keyset")}
    found = session_report_data(**values)
    assert len(found) == 64
    assert found[32:] == bytes(32)
    assert found != service_report_data(digest("keyset"))
    for name in values:
        assert session_report_data(**(values | {name: digest("other")})) != found
        with pytest.raises(ValueError, match="expected 32 bytes, got 31"):
            session_report_data(**(values | {name: bytes(31)}))
    with pytest.raises(ValueError, match="expected 32 bytes"):
        service_report_data(b"")
    with pytest.raises(ValueError, match="expected 32 bytes"):
        signed_nonce(nonce=bytes(33), tls_key_digest=digest("key"))
    assert new_nonce() != new_nonce()
    assert NOW.tzinfo is not None


def test_a_certificate_request_contains_no_name(example: Example) -> None:
    request = x509.load_der_x509_csr(certificate_request(example.tls_key))
    assert list(request.subject) == []
    assert isinstance(request.signature_hash_algorithm, hashes.SHA256)


@pytest.mark.parametrize(
    "members",
    [{}, {"tcb_info": "x" * (32 * 2**10)}, {"TCB": "x"}, dict.fromkeys(map("m_{}".format, "abcdefghijklmnopq"), "x")],
)
def test_collateral_that_does_not_fit_is_refused_before_the_audit_row(members: dict[str, str]) -> None:
    with raises(AttestationCode.ATTEST_COLLATERAL, match="does not fit into a grant"):
        check_collateral(members)
    assert check_collateral({"tcb_info": "x"}) == {"tcb_info": "x"}
