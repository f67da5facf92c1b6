"""Certificate revocation lists (CRLs), stored beside the CA certificates in ``custom_ca`` of ``ssl.cfg``.

TLS libraries check a list's dates against the machine's clock. In an enclave the host controls this clock, so the host
could make a list expire. Therefore the model server compares serial numbers itself, and ignores the dates of a list.

Source: RFC 5280, section 5 (profile of CRLs), and RFC 7468, section 6 (PEM encoding).
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from sealserve.pki.codes import PkiCode

Revoked: TypeAlias = frozenset[bytes]
"""Revoked certificates, as digests from `identity`."""

_LIST: Final = re.compile(
    rb"^-----BEGIN X509 CRL-----[ \t]*\r?$.*?^-----END X509 CRL-----[ \t]*\r?\n?", re.MULTILINE | re.DOTALL
)
REVOCATION_LIST_MARK: Final = b"BEGIN X509 CRL"


def split_lists(pem: bytes) -> tuple[bytes, bytes]:
    """Split ``pem`` into the text without revocation lists, and the revocation lists."""
    return _LIST.sub(b"", pem), b"".join(
        block if block.endswith(b"\n") else block + b"\n" for block in _LIST.findall(pem)
    )


def read_lists(pem: bytes, authorities: Iterable[x509.Certificate], *, source: str) -> Revoked:
    """Return the certificates that revocation lists revoke.

    Args:
        pem: The lists, PEM.
        authorities: The CAs that may sign the lists.
        source: The location of the lists, for errors.

    Raises:
        InputError: `ssl-config.revocation-list` if a list cannot be read, is not signed by any of the CAs, or has a
            critical extension. With such an extension, the list would revoke more or fewer certificates than it lists.
    """
    known = tuple(authorities)
    blocks = _LIST.findall(pem)
    if pem.count(REVOCATION_LIST_MARK) != len(blocks):
        raise _fault(source, "it is not PEM that starts at the beginning of a line")
    found = set()
    for block in blocks:
        try:
            crl = x509.load_pem_x509_crl(block)
            signed = any(_signed(crl, authority) for authority in known if authority.subject == crl.issuer)
            critical = any(extension.critical for extension in crl.extensions)
            entries = [(entry.serial_number, any(item.critical for item in entry.extensions)) for entry in crl]
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _fault(source, "it cannot be parsed") from error
        if not signed:
            raise _fault(source, "its signature does not verify with any CA in custom_ca")
        if critical or any(is_critical for _, is_critical in entries):
            raise _fault(source, "it has a critical extension, such as delta and indirect lists have")
        issuer = crl.issuer.public_bytes()
        found |= {_identity(issuer, serial) for serial, _ in entries}
    return frozenset(found)


def identity(certificate: x509.Certificate) -> bytes:
    """Return a digest of the issuer and serial number, which identify a certificate in a revocation list.

    Both can have any length in a certificate from a client. The digest has a fixed length and can be stored.
    """
    return _identity(certificate.issuer.public_bytes(), certificate.serial_number)


def _identity(issuer: bytes, serial: int) -> bytes:
    return hashlib.sha256(b"%d:%b%x" % (len(issuer), issuer, serial)).digest()


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # other keys are a TypeError
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _fault(source: str, reason: str) -> Exception:
    return PkiCode.SSL_CONFIG_REVOCATION_LIST.error(
        f"A certificate revocation list in {source} is invalid: {reason}.",
        hint="Issue the list again with the users' CA, as a complete list.",
    )
