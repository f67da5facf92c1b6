"""Each fault of each document of the protocol has its own code, and every valid document has one form."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.attested_example import Example
from scripts.attested_vectors import FOLDER
from tests.harness.document_faults import faults_of
from tests.harness.errors import raises

from sealserve.attestation.attest_messages import Challenge, EvidenceMessage, Grant, Refusal
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.strict_document import StrictDocument, parse_either
from sealserve.attested.evidence import EvidenceBundle, ServiceEvidence
from sealserve.attested.receipt import ReceiptClaims
from sealserve.attested.release_statement import ReleaseStatement
from sealserve.canonical_document import canonical_json
from sealserve.errors import SealserveError

SESSION = json.loads((FOLDER / "session.json").read_text())


def message(name: str, kind: type[StrictDocument]) -> Callable[[Example], StrictDocument]:
    raw = bytes.fromhex(SESSION[name])
    return lambda _: kind.parse(raw[4 : 4 + int.from_bytes(raw[:4])])


DOCUMENTS: dict[str, Callable[[Example], StrictDocument]] = {
    "keyset": lambda example: example.keyset,
    "evidence": lambda example: example.evidence(),
    "bundle": lambda example: example.bundle(),
    "statement": lambda example: example.statement(),
    "receipt": lambda example: example.receipt_claims(),
    "challenge": message("challenge", Challenge),
    "evidence message": message("evidence", EvidenceMessage),
    "grant": message("grant_and_key", Grant),
    "refusal": message("refusal", Refusal),
}
KINDS = (
    Keyset,
    ServiceEvidence,
    EvidenceBundle,
    ReleaseStatement,
    ReceiptClaims,
    Challenge,
    EvidenceMessage,
    Grant,
    Refusal,
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_the_same_after_parsing(name: str, example: Example) -> None:
    document = DOCUMENTS[name](example)
    assert type(document).parse(document.to_bytes()) == document


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_fault_has_its_code(name: str, example: Example) -> None:
    document = DOCUMENTS[name](example)
    faults = list(faults_of(document.to_bytes(), limit=document.limit))
    assert len(faults) >= 35
    for fault in faults:
        with raises(fault.code):
            document.parse(fault.content)
            pytest.fail(f"accepted: {fault.name}")


def test_no_document_is_accepted_as_another(example: Example) -> None:
    for build in DOCUMENTS.values():
        document = build(example)
        for other in KINDS:
            if not isinstance(document, other):
                with raises(AttestationCode.DOCUMENT_TYPE, AttestationCode.DOCUMENT_SIZE):
                    other.parse(document.to_bytes())


@pytest.mark.parametrize(
    ("name", "member", "values"),
    [
        ("keyset", "identity_key", ["", "A" * 42, "A" * 44, "A" * 42 + "B", "=" * 43, "é" * 43, 0]),
        ("keyset", "release_id", ["", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "g" * 64]),
        ("keyset", "tls_key_sha256", ["0X" + "a" * 62, None, 12]),
        ("evidence", "nonce_signature", ["", "A" * 85, "A" * 87]),
        ("evidence", "quote", ["", "A" * 11000, "A", "A+/="]),
        ("evidence", "keyset", ["", "A" * 1400]),
        ("evidence", "attestation_result", ["", "a b", "a" * 16385, 1]),
        ("evidence", "collateral", [{}, {"A": ""}, {"a": 1}, {"a": "x" * 33000}, [], "x"]),
        ("bundle", "nonce", ["", "A" * 42, "A" * 44]),
        ("bundle", "certificate", ["", "A" * 4200]),
        ("bundle", "address", ["", "a b", "a" * 301, "\u00e9"]),
        ("bundle", "saved", [-1, 253402300800, 1.5, "1", True]),
        ("statement", "release_id", ["x", ""]),
        ("statement", "shared_batches", [0, 1, "false", None, []]),
        ("statement", "issued", [-1, 2**53, "0", 1.0]),
        ("statement", "models", [[], {}, None]),
        ("statement", "enclaves", [[], [1]]),
        ("statement", "brokers", [None, "x"]),
        ("receipt", "sequence", [-1, 2**53, "0", 0.0, None]),
        ("receipt", "model", ["", "a/b", "a" * 64, "-a"]),
        ("receipt", "model_version", ["", "01", "-1", "1.0", 1, "1" * 20]),
        ("receipt", "request_sha256", ["", "f" * 63, "F" * 64]),
        ("challenge", "nonce", ["", "A" * 42, "A" * 44, 0]),
        ("evidence message", "purpose", ["", "stop", 1, None]),
        ("evidence message", "certificate_request", ["", "A" * 2800]),
        ("grant", "certificate_chain", ["", "x" * 16385]),
        ("refusal", "final", [0, 1, "true", None]),
        ("refusal", "reference", ["", "a b", "a" * 65, 1]),
    ],
)
def test_each_value_of_another_form_is_refused(name: str, member: str, values: list[object], example: Example) -> None:
    document = DOCUMENTS[name](example)
    for value in values:
        content = canonical_json({**json.loads(document.to_bytes()), member: value})
        with raises(AttestationCode.DOCUMENT_MEMBER, match=member):
            document.parse(content)


def test_a_refusal_and_a_grant_are_distinguished_by_their_type(example: Example) -> None:
    grant, refusal = DOCUMENTS["grant"](example), DOCUMENTS["refusal"](example)
    assert parse_either(grant.to_bytes(), Grant, Refusal) == grant
    assert parse_either(refusal.to_bytes(), Grant, Refusal) == refusal
    with raises(AttestationCode.DOCUMENT_TYPE):
        parse_either(example.keyset.to_bytes(), Grant, Refusal)
    with raises(AttestationCode.DOCUMENT_SIZE):
        parse_either(bytes(Grant.limit + 1), Grant, Refusal)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_an_error_of_sealserve(content: bytes) -> None:
    for kind in KINDS:
        with pytest.raises(SealserveError):
            kind.parse(content)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_or_changes_the_value(example: Example, data: st.DataObject) -> None:
    raw = example.keyset.to_bytes()
    position = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        found = Keyset.parse(bytes(changed))
    except SealserveError:
        return
    assert found != example.keyset
    assert found.to_bytes() == changed
    assert found.digest != example.keyset.digest
