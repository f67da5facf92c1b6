"""Certificate revocation lists (CRL), beside the authorities in ``ssl.cfg``'s ``custom_ca``.

TLS libraries check a list's dates on the clock of the machine. In an enclave the host sets this clock, so a list would
expire when the host likes. Therefore the model server compares serial numbers itself, and ignores the dates of a list.

Source: RFC 5280, section 5 (profile of CRLs), and RFC 7468, section 6 (their form in PEM).
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from sealserve.pki.codes import PkiCode

Revoked: TypeAlias = frozenset[bytes]
"""Revoked certificates, as `identity` names them."""

_LIST: Final = re.compile(
    rb"^-----BEGIN X509 CRL-----[ \t]*\r?$.*?^-----END X509 CRL-----[ \t]*\r?\n?", re.MULTILINE | re.DOTALL
)
REVOCATION_LIST_MARK: Final = b"BEGIN X509 CRL"


def split_lists(pem: bytes) -> tuple[bytes, bytes]:
    """Return what is not a revocation list in ``pem``, and the lists."""
    return _LIST.sub(b"", pem), b"".join(
        block if block.endswith(b"\n") else block + b"\n" for block in _LIST.findall(pem)
    )


def read_lists(pem: bytes, authorities: Iterable[x509.Certificate], *, source: str) -> Revoked:
    """Return what revocation lists revoke.

    Args:
        pem: The lists, PEM.
        authorities: Those that may sign them.
        source: Where the lists are, for errors.

    Raises:
        InputError: `ssl-config.revocation-list`: A list cannot be read, none of the authorities signed it, or it has a
            critical extension: it would revoke less or more than it seems.
    """
    known = tuple(authorities)
    blocks = _LIST.findall(pem)
    if pem.count(REVOCATION_LIST_MARK) != len(blocks):
        raise _fault(source, "it is not PEM at the beginning of a line")
    found = set()
    for block in blocks:
        try:
            crl = x509.load_pem_x509_crl(block)
            signed = any(_signed(crl, authority) for authority in known if authority.subject == crl.issuer)
            critical = any(extension.critical for extension in crl.extensions)
            entries = [(entry.serial_number, any(item.critical for item in entry.extensions)) for entry in crl]
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _fault(source, "it cannot be read") from error
        if not signed:
            raise _fault(source, "none of the authorities in custom_ca signed it")
        if critical or any(is_critical for _, is_critical in entries):
            raise _fault(source, "it has a critical extension, as delta and indirect lists have")
        issuer = crl.issuer.public_bytes()
        found |= {_identity(issuer, serial) for serial, _ in entries}
    return frozenset(found)


def identity(certificate: x509.Certificate) -> bytes:
    """Return a digest of what a revocation list calls a certificate by: its issuer and its serial number.

    Both can be of any length in a certificate that a client sends. The digest is always short, so it can be kept.
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
        f"A certificate revocation list in {source} cannot be used: {reason}.",
        hint="Let the users' authority issue it again, as a complete list.",
    )
