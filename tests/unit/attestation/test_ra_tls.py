import hashlib
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.ra_tls import (
    LEGACY_OID,
    TCG_DICE_OID,
    RaTlsEvidence,
    check_binding,
    make_certificate,
    parse_certificate,
)
from sealserve.errors import VerificationError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def fake_quote(report_data: bytes) -> bytes:
    return b"quote:" + report_data + bytes(500)


def certificate(key: CertificateIssuerPrivateKeyTypes, oid: x509.ObjectIdentifier, value: bytes) -> bytes:
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


KEY = ec.generate_private_key(ec.SECP384R1())


def test_a_made_certificate_is_like_gramines() -> None:
    asked: list[bytes] = []

    def quote_for(report_data: bytes) -> bytes:
        asked.append(report_data)
        return fake_quote(report_data)

    pair = make_certificate(quote_for, NOW)

    parsed = x509.load_der_x509_certificate(pair.certificate)
    assert parsed.signature_algorithm_oid.dotted_string == "1.2.840.10045.4.3.2", "ecdsa-with-SHA256"
    key = parsed.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    assert key == pair.private_key.public_key()
    parsed.verify_directly_issued_by(parsed)
    assert parsed.serial_number == 1
    assert [extension.oid.dotted_string for extension in parsed.extensions] == [
        "2.5.29.19",
        "2.5.29.14",
        "2.5.29.35",
        "0.6.9.42.840.113741.1337.6",
        "2.23.133.5.4.9",
    ]
    assert bytes.fromhex("060b06092a864886f84d8a3906") in pair.certificate
    assert [len(report_data) for report_data in asked] == [64, 64]
    public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert asked[0] == hashlib.sha256(public).digest() + bytes(32)
    evidence = parse_certificate(pair.certificate)
    assert evidence.form == "tcg-dice"
    assert evidence.quote == fake_quote(asked[1])
    assert evidence.expected_report_data == asked[1]
    check_binding(evidence, asked[1])
    raw = parsed.extensions.get_extension_for_oid(TCG_DICE_OID).value
    assert isinstance(raw, x509.UnrecognizedExtension)
    assert raw.value.startswith(b"\xd9\xea\x60\x82")
    assert "BEGIN" not in repr(pair)


def test_report_data_of_another_certificate_does_not_bind() -> None:
    evidence = parse_certificate(make_certificate(fake_quote, NOW).certificate)

    for other in (bytes(64), evidence.expected_report_data[:32], evidence.expected_report_data[:32] + b"\x01" * 32):
        with raises(
            AttestationCode.RA_TLS_BINDING,
            match=r"The quote is not bound to the RA-TLS certificate: expected report data [0-9a-f]{128}, "
            r"got",
        ) as caught:
            check_binding(evidence, other)
        assert caught.value.code == "ra-tls.binding"


@pytest.mark.parametrize("algorithm", [(1, hashlib.sha256), (7, hashlib.sha384), (8, hashlib.sha512)])
def test_the_three_hashes_of_the_claim_are_known(algorithm: tuple[int, type[object]]) -> None:
    number, function = algorithm
    public = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = function(public).digest()  # type: ignore[attr-defined,call-arg]  # hashlib's constructors
    claims = cbor2.dumps({"nonce": b"fresh", "pubkey-hash": cbor2.dumps([number, digest])})
    der = certificate(KEY, TCG_DICE_OID, cbor2.dumps(cbor2.CBORTag(60000, [b"quote", claims])))

    assert parse_certificate(der).expected_report_data == hashlib.sha256(claims).digest() + bytes(32)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-521", "RSA-2048", "Ed25519"],
)
def test_other_kinds_of_keys_are_refused(key: CertificateIssuerPrivateKeyTypes) -> None:
    with raises(
        AttestationCode.RA_TLS_CERTIFICATE,
        match="The RA-TLS certificate has an unsupported key: expected P-256, P-384, or RSA of at least 3072 bits",
    ):
        parse_certificate(certificate(key, LEGACY_OID, b"quote"))


@pytest.mark.parametrize("size", [0, 8193])
def test_a_quote_of_absurd_size_is_refused(size: int) -> None:
    with raises(AttestationCode.RA_TLS_EVIDENCE, match=f"a quote of 1 to 8192 bytes, got {size}"):
        parse_certificate(certificate(KEY, LEGACY_OID, bytes(size)))


def test_an_ordinary_certificate_has_no_evidence() -> None:
    with raises(
        AttestationCode.RA_TLS_NO_EVIDENCE,
        match=r"The RA-TLS certificate carries no evidence: it has neither TCG DICE evidence "
        r"\(2\.23\.133\.5\.4\.9\) nor Gramine's legacy extension "
        r"\(0\.6\.9\.42\.840\.113741\.1337\.6\)",
    ) as caught:
        parse_certificate(certificate(KEY, x509.ObjectIdentifier("1.2.3.4"), b"x"))

    assert caught.value.code == "ra-tls.no-evidence"


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\xd9\xea\x60" + tail))
def test_no_bytes_in_the_extension_surprise_the_parser(value: bytes) -> None:
    with pytest.raises(VerificationError, match="RA-TLS"):
        parse_certificate(certificate(KEY, TCG_DICE_OID, value))


@pytest.mark.parametrize(
    "value",
    [
        b"\x81" * 5000,
        b"\xc4\x82\x1b" + b"\xff" * 8 + b"\x01",
        b"\xc5\x82\x1a\x7f\xff\xff\xff\x01",
        b"\xd8\x1e\x82\x01\x00",
        b"\xd9\xea\x60\x82\x5b" + b"\xff" * 8,
        b"\xd8\x23\x62((",
        b"\xc0\x61x",
        b"\xd8\x1d\x00",
    ],
    ids=["deep", "huge decimal", "huge float", "division by zero", "huge string", "regex", "no date", "no reference"],
)
def test_hostile_cbor_is_refused(value: bytes) -> None:
    with raises(AttestationCode.RA_TLS_EVIDENCE, match="RA-TLS evidence"):
        parse_certificate(certificate(KEY, TCG_DICE_OID, value))


PAIR = make_certificate(fake_quote, NOW)


def read(der: bytes) -> RaTlsEvidence | str:
    try:
        return parse_certificate(der)
    except VerificationError as error:
        return error.code


@given(position=st.integers(0, len(PAIR.certificate) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_leads_to_a_typed_error_or_changes_no_key(position: int, bit: int) -> None:
    changed = bytearray(PAIR.certificate)
    changed[position] ^= 1 << bit

    evidence = read(bytes(changed))

    if isinstance(evidence, str):
        assert evidence.startswith("ra-tls.")
    else:
        assert x509.load_der_x509_certificate(bytes(changed)).public_key() == PAIR.private_key.public_key()
