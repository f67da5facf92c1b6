"""Repair of certificates from Mbed TLS 3.3 and 3.4, which Gramine 1.4 and 1.5 use.

These versions write NULL parameters into the algorithm identifier ecdsa-with-SHA256. RFC 5758 requires that the
parameters are absent, and `cryptography` rejects the certificate. The repair removes exactly these parameters from
exactly this identifier, in both places where a certificate has it. Any other fault is left in place, so that the strict
parser still rejects it.

The repaired bytes serve only to parse the key and the extensions. The signature covers the original bytes, so
`verify_original` checks it there. The check fails if anything other than the encoding of the identifier is wrong.

Source: RFC 5280, section 4.1 (Certificate); RFC 5758, section 3.2 (parameters are absent); X.690, sections 8.1 and 10.1
(definite lengths in their shortest form); Mbed TLS 3.4.0, ``library/x509write_crt.c`` and ``library/asn1write.c``.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

_SEQUENCE: Final = 0x30
_BIT_STRING: Final = 0x03
_INTEGER: Final = 0x02
_VERSION: Final = 0xA0  # [0] EXPLICIT
_ECDSA_WITH_SHA256: Final = bytes.fromhex("06082a8648ce3d040302")
_NULL: Final = bytes.fromhex("0500")
_SHORT_LENGTH: Final = 0x80  # below it, the length is one byte
_MOST_LENGTH_BYTES: Final = 4


class _NotDerError(ValueError):
    """The bytes are not the DER value that is expected here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairedCertificate:
    """A certificate whose algorithm identifiers were repaired.

    Args:
        der: The repaired certificate. Its signature does not verify, because the signed bytes differ.
        signed: The original bytes that the signature covers.
        signature: The ECDSA signature over ``signed``, DER.
    """

    der: bytes
    signed: bytes
    signature: bytes

    def verify_original(self, key: object) -> bool:
        """Return whether ``key`` made the signature, with SHA-256 over the original bytes."""
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        try:
            key.verify(self.signature, self.signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def repair(der: bytes) -> RepairedCertificate | None:
    """Return the repaired certificate, or None if it does not have exactly the fault of Mbed TLS 3.3 and 3.4."""
    faulty = _value(_SEQUENCE, _ECDSA_WITH_SHA256 + _NULL)
    correct = _value(_SEQUENCE, _ECDSA_WITH_SHA256)
    try:
        # 1. Certificate: exactly three parts, without trailing bytes.
        to_be_signed, identifier, signature = _split(_content(der, _SEQUENCE), 3)
        # 2. TBSCertificate: version, serial number, and the signature's identifier come first.
        body = _content(to_be_signed, _SEQUENCE)
        version, serial, inner = _split(body, 3, exact=False)
        _content(version, _VERSION)
        _content(serial, _INTEGER)
        bits = _content(signature, _BIT_STRING)
    except _NotDerError:
        return None
    # 3. Both identifiers must have the fault. Mbed TLS never writes two different identifiers.
    if inner != faulty or identifier != faulty or not bits.startswith(b"\0"):
        return None
    rest = body[len(version) + len(serial) + len(inner) :]
    repaired = _value(_SEQUENCE, version + serial + correct + rest)
    return RepairedCertificate(
        der=_value(_SEQUENCE, repaired + correct + signature), signed=to_be_signed, signature=bits[1:]
    )


def _split(content: bytes, count: int, *, exact: bool = True) -> list[bytes]:
    """Return the first ``count`` complete DER values of ``content``."""
    values = []
    for _ in range(count):
        start, length = _header(content)
        values.append(content[: start + length])
        content = content[start + length :]
    if exact and content:
        raise _NotDerError
    return values


def _content(value: bytes, tag: int) -> bytes:
    """Return the content of ``value``, which must be exactly one complete DER value with this tag."""
    start, length = _header(value)
    if value[0] != tag or len(value) != start + length:
        raise _NotDerError
    return value[start:]


def _header(data: bytes) -> tuple[int, int]:
    """Return the offset and the length of the content of the first DER value in ``data``."""
    if len(data) < 2:  # noqa: PLR2004  # a tag and a length
        raise _NotDerError
    length, start = data[1], 2
    if length >= _SHORT_LENGTH:
        start += length - _SHORT_LENGTH
        if not 0 < start - 2 <= _MOST_LENGTH_BYTES or len(data) < start:
            raise _NotDerError
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length or data[1:start] != _length(length):
        raise _NotDerError
    return start, length


def _value(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _length(len(content)) + content


def _length(length: int) -> bytes:
    if length < _SHORT_LENGTH:
        return bytes([length])
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([_SHORT_LENGTH | len(octets)]) + octets
