"""Certificates as Mbed TLS 3.3 and 3.4 encode them: ecdsa-with-SHA256 with NULL parameters, which RFC 5758 forbids."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CORRECT = bytes.fromhex("300a06082a8648ce3d040302")
FAULTY = bytes.fromhex("300c06082a8648ce3d0403020500")


def der(tag: int, content: bytes) -> bytes:
    """Return a DER value."""
    length = len(content)
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag]) + (bytes([length]) if length < 128 else bytes([128 | len(octets)]) + octets) + content


def as_mbedtls(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    *,
    inner: bytes = FAULTY,
    outer: bytes = FAULTY,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """Return ``certificate`` with these algorithm identifiers instead of the correct ones, signed again."""
    body = certificate.tbs_certificate_bytes
    content = body[4:] if body[1] == 0x82 else body[3:]
    assert der(0x30, content) == body
    signed = der(0x30, content.replace(CORRECT, inner, 1))
    signature = (signer or key).sign(signed, ec.ECDSA(hashes.SHA256()))
    return der(0x30, signed + outer + der(0x03, b"\0" + signature))


def encoded(certificate: x509.Certificate) -> bytes:
    """Return a certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)
