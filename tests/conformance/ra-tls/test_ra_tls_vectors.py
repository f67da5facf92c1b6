"""Certificates from Gramine's own libraries, and the rejection of malformed variants."""

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sealserve.attestation.ra_tls import check_binding, parse_certificate
from sealserve.errors import VerificationError

HERE = Path(__file__).parent
GRAMINE_1_9 = (HERE / "sample_client_cert_1.9.der").read_bytes()
GRAMINE_1_4 = (HERE / "sample_client_cert_1.4.der").read_bytes()
GRAMINE_1_2 = (HERE / "sample_client_cert_old12.der").read_bytes()
REPORT_DATA = slice(48 + 320, 48 + 384)
LEGACY_OID = bytes.fromhex("060b0609 2a864886f84d8a3906")
TCG_DICE_OID = bytes.fromhex("0606678105050409")


def public_key_digest(der: bytes) -> bytes:
    key = x509.load_der_x509_certificate(der).public_key()
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).digest()


def test_the_certificate_of_gramine_1_9_has_tcg_dice_evidence() -> None:
    evidence = parse_certificate(GRAMINE_1_9)

    assert evidence.form == "tcg-dice"
    assert len(evidence.quote) == 2528
    claims = b"\xa1\x6bpubkey-hash\x58\x24\x82\x01\x58\x20" + public_key_digest(GRAMINE_1_9)
    assert len(claims) == 51
    assert evidence.expected_report_data == hashlib.sha256(claims).digest() + bytes(32)
    check_binding(evidence, evidence.quote[REPORT_DATA])


def test_the_certificate_of_an_old_gramine_has_legacy_evidence() -> None:
    evidence = parse_certificate(GRAMINE_1_2)

    assert evidence.form == "legacy"
    assert evidence.expected_report_data == public_key_digest(GRAMINE_1_2) + bytes(32)
    check_binding(evidence, evidence.quote[REPORT_DATA])


def test_the_certificate_of_gramine_1_4_has_legacy_evidence() -> None:
    evidence = parse_certificate(GRAMINE_1_4)

    assert evidence.form == "legacy"
    assert len(evidence.quote) == 4490
    check_binding(evidence, evidence.quote[REPORT_DATA])


def test_the_legacy_extension_does_not_count_where_the_other_is() -> None:
    at = GRAMINE_1_9.index(LEGACY_OID) + len(LEGACY_OID) + 4
    other_quote = GRAMINE_1_9[:at] + bytes(2528) + GRAMINE_1_9[at + 2528 :]

    assert parse_certificate(other_quote) == parse_certificate(GRAMINE_1_9)


def test_without_the_new_extension_the_legacy_one_counts() -> None:
    renamed = GRAMINE_1_9.replace(TCG_DICE_OID, TCG_DICE_OID[:-1] + b"\x0a")

    evidence = parse_certificate(renamed)

    assert evidence.form == "legacy"
    check_binding(evidence, evidence.quote[REPORT_DATA])


EVIDENCE = GRAMINE_1_9.index(TCG_DICE_OID) + len(TCG_DICE_OID) + 4
CLAIMS = GRAMINE_1_9.index(b"pubkey-hash") - 2


def patched(at: int, new: bytes) -> bytes:
    return GRAMINE_1_9[:at] + new + GRAMINE_1_9[at + len(new) :]


BAD = [
    ("empty", b"", "ra-tls.certificate", "certificate cannot be parsed"),
    ("truncated", GRAMINE_1_9[:-1], "ra-tls.certificate", "certificate cannot be parsed"),
    ("trailing byte", GRAMINE_1_9 + b"\0", "ra-tls.certificate", "certificate cannot be parsed"),
    ("too long", bytes(40_000), "ra-tls.certificate", "at most 32768 bytes, got 40000"),
    ("another tag", patched(EVIDENCE, b"\xd9\xea\x61"), "ra-tls.evidence", "expected CBOR tag 60000"),
    ("no tag", patched(EVIDENCE, b"\x83\x00\x00"), "ra-tls.evidence", "evidence is malformed: "),
    ("one-element array", patched(EVIDENCE + 3, b"\x81"), "ra-tls.evidence", "53 extra bytes follow the CBOR value"),
    ("three-element array", patched(EVIDENCE + 3, b"\x83"), "ra-tls.evidence", "evidence is malformed: it is not CBOR"),
    ("a text for the quote", patched(EVIDENCE + 4, b"\x79"), "ra-tls.evidence", "evidence is malformed: "),
    (
        "claims of another type",
        patched(CLAIMS, b"\x81"),
        "ra-tls.evidence",
        "claims is malformed: 38 extra bytes follow",
    ),
    ("another claim", patched(CLAIMS + 2, b"pubkey-hasg"), "ra-tls.evidence", "the byte string 'pubkey-hash'"),
    ("unknown algorithm", patched(CLAIMS + 16, b"\x02"), "ra-tls.evidence", "a hash algorithm (1, 7 or 8)"),
    ("another key", patched(CLAIMS + 20, b"\x00" * 8), "ra-tls.claim", "does not match the certificate's key"),
    (
        "no evidence",
        GRAMINE_1_2.replace(LEGACY_OID, LEGACY_OID[:-1] + b"\x07"),
        "ra-tls.no-evidence",
        "neither TCG DICE evidence (2.23.133.5.4.9) nor Gramine's legacy extension (0.6.9.42.840.113741.1337.6)",
    ),
]


@pytest.mark.parametrize(("der", "code", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_malformed_certificate_is_refused(der: bytes, code: str, message: str) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_certificate(der)

    assert caught.value.code == code
    assert message in str(caught.value)
