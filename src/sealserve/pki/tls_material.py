"""Which private keys and certificates both TLS libraries accept, and the order of the certificates in a chain.

gRPC uses BoringSSL, for servers and clients. The REST API and most other clients use OpenSSL. A key that only one of
them supports would work on some ports and for some users only. Therefore such a key is rejected when it is read.

Measured with gRPC 1.85 (BoringSSL), OpenSSL 3.0 at security level 2, and OpenSSL 4.0:

- BoringSSL's clients sign and verify handshakes only with P-256, P-384 and RSA, not with P-521 or Ed25519. Its parser
  does not support secp256k1, Brainpool curves, P-192, DSA and Ed448 at all.
- OpenSSL rejects RSA keys below 2048 bits and curves below 224 bits. BoringSSL rejects RSA keys above 8192 bits.
- Both libraries verify certificates that P-224, P-521 or Ed25519 keys signed.
- BoringSSL uses the first certificate with the issuer's name, OpenSSL the first one that is valid now.
- Both find a PEM block only at the beginning of a line. The package `cryptography` also reads indented blocks, and
  blocks after a byte order mark.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealserve.clock import CLOCK_SKEW
from sealserve.pki.certificate import check_dates, check_key, extension, key_kind, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.secret import SecretBytes

RSA_BITS: Final = range(2048, 8192 + 1)
KEY_KINDS: Final = "P-256 (secp256r1), P-384 (secp384r1), or RSA of 2048 to 8192 bits"
_KEYS: Final = frozenset({"secp256r1", "secp384r1", *(f"RSA-{bits}" for bits in RSA_BITS)})
_ISSUERS: Final = _KEYS | {"secp224r1", "secp521r1", ed25519.Ed25519PublicKey.__name__.removesuffix("PublicKey")}
_BLOCK: Final = re.compile(
    rb"^-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----[ \t]*\r?$.*?^-----END \1-----", re.MULTILINE | re.DOTALL
)
_PLAIN: Final = frozenset({b"PRIVATE KEY", b"EC PRIVATE KEY", b"RSA PRIVATE KEY"})


def check_tls_key(key_pem: SecretBytes, chain_pem: bytes, *, source: str) -> None:
    """Check that OpenSSL and BoringSSL can both use a private key for handshakes.

    Args:
        key_pem: The key, PEM.
        chain_pem: The chain whose first certificate the key belongs to, PEM.
        source: The chain's description in errors.

    Raises:
        InputError: `certificate.unreadable`, `certificate.key-unreadable` as in `check_key`, for the block that the
            libraries read.
        KeyMismatchError: As in `check_key`, for the block that the libraries read.
        InputError: `certificate.key-unreadable` if one of the libraries does not find the key in the text, or does not
            support its type.
    """
    block = _BLOCK.search(key_pem.reveal())
    if block is None or block[1] not in _PLAIN:
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
            f"The TLS libraries cannot read the private key of {source}: expected a line that begins with"
            f" -----BEGIN PRIVATE KEY-----, got {_fault(key_pem.reveal())}.",
            hint="Run `openssl pkey -in KEY -out NEW` to rewrite the key.",
        )
    check_key(SecretBytes(block[0]), chain_pem, source=source)
    kind = key_kind(_public_key(parse_chain(chain_pem, source=source)[0]))
    if kind not in _KEYS:
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
            f"The private key of {source} has the type {kind}, which not every TLS library supports: expected"
            f" {KEY_KINDS}.",
            hint="Issue a certificate for a P-256 key.",
        )


def check_issuers(certificates: Iterable[x509.Certificate], *, source: str) -> None:
    """Check that OpenSSL and BoringSSL can both verify signatures of these certificates.

    Raises:
        InputError: `certificate.unsupported` if one of the libraries does not support a certificate's key.
    """
    for certificate in certificates:
        kind = key_kind(_public_key(certificate))
        if kind not in _ISSUERS:
            raise PkiCode.CERTIFICATE_UNSUPPORTED.error(
                f"{source} ({certificate.subject.rfc4514_string()}) has a key of the type {kind}, which not every TLS"
                f" library supports: expected {KEY_KINDS}.",
                hint="Remove the certificate, or issue it for a P-256 key.",
            )


def check_peer(leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> None:
    """Check a client's certificates after OpenSSL or BoringSSL verified them, so that both accept the same clients.

    BoringSSL accepts short RSA keys and SHA-1, which OpenSSL rejects at its security level 2. OpenSSL accepts P-521,
    Ed25519 and other types, which BoringSSL rejects.

    Args:
        leaf: The client's certificate.
        others: The other certificates that the client sent, in any order. Certificates outside the path are ignored.

    Raises:
        InputError: `certificate.unsupported` if one of the libraries rejects a certificate on the path.
    """
    path, rest = [leaf], list(others)
    for certificate in path:  # the list grows during the iteration, by each certificate at most once
        path += [other for other in rest if other.subject == certificate.issuer]
        rest = [other for other in rest if other.subject != certificate.issuer]
    if (kind := key_kind(_public_key(leaf))) not in _KEYS:
        raise PkiCode.CERTIFICATE_UNSUPPORTED.error(
            f"The client certificate has a key of the type {kind}: expected {KEY_KINDS}.",
            hint="Issue a certificate for a P-256 key.",
        )
    usage = extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise PkiCode.CERTIFICATE_UNSUPPORTED.error(
            "The client certificate does not permit digital signatures (key usage).",
            hint="Issue a client certificate with the key usage digitalSignature.",
        )
    check_issuers(path[1:], source="The client's certificate chain")
    for certificate in path:
        if certificate.subject != certificate.issuer and not _is_strong(certificate):
            raise PkiCode.CERTIFICATE_UNSUPPORTED.error(
                "A certificate in the client's chain is signed with a weak hash: expected SHA-256 or better.",
                hint="Issue the certificate again with SHA-256 or better.",
            )


def check_chain(pem: bytes, now: datetime, *, source: str) -> tuple[str, ...]:
    """Check that a peer can use a chain at ``now``: its first certificate, and one of its issuers if the chain has any.

    Other certificates may have expired: a peer that trusts a newer CA does not need them. Self-signed certificates are
    ignored too, because the peer uses its own copy.

    Returns:
        One sentence for each other certificate that is not valid at ``now``.

    Raises:
        InputError: `certificate.unreadable` if ``pem`` does not contain a PEM certificate.
        VerificationError: `certificate.expired` if the first certificate or all of its issuers have expired.
        CertificateNotYetValidError: The first certificate or all of its issuers are not valid yet.
    """
    leaf, *others = parse_chain(pem, source=source)
    check_dates(leaf, now, source=source)
    issuers = [other for other in others if other.subject != other.issuer and _issued(other, leaf)]
    if issuers and not any(_is_valid(issuer, now, slow_by=CLOCK_SKEW) for issuer in issuers):
        check_dates(issuers[0], now, source=f"the issuer in {source}")
    return tuple(
        f"{other.subject.rfc4514_string()} is valid from {other.not_valid_before_utc:%Y-%m-%d %H:%M} to"
        f" {other.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        for other in others
        if not _is_valid(other, now, slow_by=CLOCK_SKEW)
    )


def ordered_chain(pem: bytes, now: datetime) -> bytes:
    """Return a chain in which each library finds a valid path. The first certificate stays first."""
    leaf, *others = parse_chain(pem)
    return _pem([leaf, *_ordered(others, now)])


def ordered_authorities(pem: bytes, now: datetime) -> bytes:
    """Reorder the certificates of ``pem`` so that each library uses the valid one of several for the same CA.

    Among certificates with the same subject and key, the currently valid certificates come first, sorted by descending
    expiry. Text around the PEM blocks is removed.
    """
    return _pem(_ordered(parse_chain(pem), now))


def _ordered(certificates: Iterable[x509.Certificate], now: datetime) -> list[x509.Certificate]:
    groups: dict[tuple[bytes, bytes], list[x509.Certificate]] = {}
    for certificate in certificates:
        identity = certificate.subject.public_bytes(), _public_bytes(certificate)
        groups.setdefault(identity, []).append(certificate)
    for group in groups.values():
        group.sort(key=lambda certificate: certificate.not_valid_after_utc, reverse=True)
        group.sort(key=lambda certificate: not _is_valid(certificate, now))
    return [certificate for group in groups.values() for certificate in group]


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _is_valid(certificate: x509.Certificate, now: datetime, *, slow_by: timedelta = timedelta()) -> bool:
    """Return whether a certificate is valid at ``now``, on a clock that may be slow by ``slow_by``."""
    return certificate.not_valid_before_utc - slow_by <= now <= certificate.not_valid_after_utc


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_strong(certificate: x509.Certificate) -> bool:
    """Return whether a signature has the 112 bits of security that OpenSSL's security level 2 requires."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    return algorithm is None or algorithm.digest_size >= hashes.SHA224.digest_size  # `None` means Ed25519


def _public_key(certificate: x509.Certificate) -> PublicKeyTypes | None:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _public_bytes(certificate: x509.Certificate) -> bytes:
    key = _public_key(certificate)
    return b"" if key is None else key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _fault(content: bytes) -> str:
    """Return why the beginning of a PEM key was not found, without any part of the key."""
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "a byte order mark before it"
    if b"ENCRYPTED" in content:
        return "an encrypted key"
    if re.search(rb"^[ \t]+-----BEGIN", content, re.MULTILINE):
        return "an indented line"
    return "no such line"
