from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises
from tests.harness.mbedtls_certificates import CORRECT, FAULTY, as_mbedtls, der, encoded

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.mbedtls_certificate import repair
from sealserve.attestation.ra_tls import LEGACY_OID, make_certificate, parse_certificate
from sealserve.errors import VerificationError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())
GRAMINE_1_4 = (
    Path(__file__).parents[2] / "conformance" / "ra-tls" / "sample_client_cert_1.4.der"
).read_bytes()  # fmt: skip


def certificate(value: bytes = b"quote", serial: int = 1) -> x509.Certificate:
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), serial, NOW, NOW + timedelta(days=1))
    return builder.add_extension(x509.UnrecognizedExtension(LEGACY_OID, value), critical=False).sign(
        KEY, hashes.SHA256()
    )


@pytest.mark.parametrize("size", [1, 200, 250, 254, 300, 5000, 8192])
def test_a_certificate_of_gramine_1_4_says_the_same_as_a_correct_one(size: int) -> None:
    plain = certificate(bytes(size))
    with pytest.raises(ValueError, match="ExtraData"):
        x509.load_der_x509_certificate(as_mbedtls(plain, KEY))

    assert parse_certificate(as_mbedtls(plain, KEY)) == parse_certificate(encoded(plain))


def test_the_repair_changes_the_identifiers_only() -> None:
    plain = certificate()
    repaired = repair(as_mbedtls(plain, KEY))
    assert repaired is not None
    read = x509.load_der_x509_certificate(repaired.der)
    assert read.tbs_certificate_bytes == plain.tbs_certificate_bytes
    assert repaired.verify_original(KEY.public_key())
    assert not repaired.verify_original(ec.generate_private_key(ec.SECP384R1()).public_key())
    assert not repaired.verify_original(rsa.generate_private_key(65537, 3072).public_key())


def test_correct_certificates_are_left_alone() -> None:
    assert repair(encoded(certificate())) is None
    assert repair(make_certificate(lambda data: data, NOW).certificate) is None


FULL = as_mbedtls(certificate(), KEY)
BODY = certificate().tbs_certificate_bytes
SHA384_WITH_NULL = bytes.fromhex("300c06082a8648ce3d0403030500")
HOSTILE = {
    "only the inner identifier has NULL": as_mbedtls(certificate(), KEY, outer=CORRECT),
    "only the outer identifier has NULL": as_mbedtls(certificate(), KEY, inner=CORRECT),
    "SHA-384 with NULL, inside": as_mbedtls(certificate(), KEY, inner=SHA384_WITH_NULL),
    "SHA-384 with NULL, outside": as_mbedtls(certificate(), KEY, outer=SHA384_WITH_NULL),
    "SHA-384 with NULL, both": as_mbedtls(certificate(), KEY, inner=SHA384_WITH_NULL, outer=SHA384_WITH_NULL),
    "SHA-1 with NULL": as_mbedtls(
        certificate(), KEY, inner=bytes.fromhex("300b06072a8648ce3d04010500"), outer=FAULTY
    ),
    "NULL with content": as_mbedtls(
        certificate(), KEY, inner=bytes.fromhex("300d06082a8648ce3d040302050100"),
        outer=bytes.fromhex("300d06082a8648ce3d040302050100"),
    ),
    "two NULLs": as_mbedtls(
        certificate(), KEY, inner=bytes.fromhex("300e06082a8648ce3d04030205000500"),
        outer=bytes.fromhex("300e06082a8648ce3d04030205000500"),
    ),
    "another parameter": as_mbedtls(
        certificate(), KEY, inner=bytes.fromhex("300c06082a8648ce3d0403020400"),
        outer=bytes.fromhex("300c06082a8648ce3d0403020400"),
    ),
    "a long length in the identifier": as_mbedtls(
        certificate(), KEY, inner=bytes.fromhex("30810c06082a8648ce3d0403020500")
    ),
    "trailing byte": FULL + b"\0",
    "trailing certificate": FULL + FULL,
    "truncated": FULL[:-1],
    "a fourth part": der(0x30, FULL[4:] + FAULTY),
    "no signature": der(0x30, FULL[4 : 4 + int.from_bytes(FULL[6:8], "big") + 4] + FAULTY),
    "indefinite length": b"\x30\x80" + FULL[4:] + b"\0\0",
    "a length with a leading zero": b"\x30\x83\x00" + FULL[2:],
    "a length of five bytes": b"\x30\x85\x00\x00\x00" + FULL[2:],
    "a length beyond the end": FULL[:2] + b"\xff\xff" + FULL[4:],
    "an unsigned change": FULL.replace(b"quote", b"quota"),
    "another key signed": as_mbedtls(certificate(), KEY, signer=ec.generate_private_key(ec.SECP384R1())),
    "unused bits in the signature": FULL[: FULL.rindex(FAULTY) + 14]
    + FULL[FULL.rindex(FAULTY) + 14 :].replace(b"\x00\x30", b"\x01\x30", 1),
    "no DER in the signature": FULL[: FULL.rindex(FAULTY) + 14] + der(3, b"\0nonsense"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE)
def test_nothing_else_is_repaired(case: bytes) -> None:
    with raises(AttestationCode.RA_TLS_CERTIFICATE, match="The RA-TLS certificate") as caught:
        parse_certificate(case)
    assert caught.value.code == "ra-tls.certificate"


def test_a_repaired_certificate_must_be_signed_by_its_key() -> None:
    with raises(
        AttestationCode.RA_TLS_CERTIFICATE,
        match=r"The RA-TLS certificate is invalid: its self-signature does not verify\. Its algorithm "
        r"identifiers have the format of Gramine 1\.4 and 1\.5",
    ):
        parse_certificate(HOSTILE["another key signed"])


def test_a_deep_or_short_value_is_not_read_beyond_its_end() -> None:
    for size in range(0, len(GRAMINE_1_4), 97):
        assert repair(GRAMINE_1_4[:size]) is None
    for junk in (b"", b"0", b"0\x80", b"0\x84\xff\xff\xff\xff", b"0\x89" + bytes(9)):
        assert repair(junk) is None


@given(st.integers(0, len(GRAMINE_1_4) - 1), st.integers(0, 7))
def test_a_flipped_bit_never_binds_to_the_key(position: int, bit: int) -> None:
    changed = bytearray(GRAMINE_1_4)
    changed[position] ^= 1 << bit
    with pytest.raises(VerificationError):  # the self-signature covers the whole certificate
        parse_certificate(bytes(changed))
