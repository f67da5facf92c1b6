"""Chains of PEM certificates, read so strictly that another reader cannot see other certificates in them.

Our own checks and dcap-qvl read the same chains with different parsers. What one of them skips and the other does not
(text between the blocks, other kinds of blocks, odd line ends) is refused here, before either relies on it.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from sealserve.sgx.codes import SgxCode

X509_ERRORS: Final = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
    UserWarning,  # about odd names; an error where warnings are errors
)
"""What ``cryptography`` raises about malformed certificates and revocation lists. Most of it comes late, when a part is
first asked for."""

_BLOCK: Final = rb"-----BEGIN CERTIFICATE-----\r?\n(?:[A-Za-z0-9+/]{1,76}={0,2}\r?\n)+-----END CERTIFICATE-----\r?\n*"
_CHAIN: Final = re.compile(rb"(?:" + _BLOCK + rb"){1,5}")


def parse_chain(pem: bytes, *, of: str) -> tuple[x509.Certificate, ...]:
    """Read one to five PEM certificates.

    Args:
        pem: The chain, leaf first.
        of: What the chain belongs to, for messages.

    Raises:
        VerificationError: `certificate-chain.malformed`: There is anything else in it, or a certificate does not parse.
    """
    if not _CHAIN.fullmatch(pem):
        raise SgxCode.CERTIFICATE_CHAIN_MALFORMED.error(
            f"{of}: expected one to five PEM certificates and nothing else."
        )
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        for certificate in certificates:
            _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key())
    except X509_ERRORS as error:
        raise SgxCode.CERTIFICATE_CHAIN_MALFORMED.error(
            f"{of}: a certificate in the chain is not well-formed."
        ) from error
    return certificates


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, or an empty string if there is none or more than one."""
    match certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        case [only]:
            return str(only.value)
        case _:
            return ""


def check_links(chain: Sequence[x509.Certificate], *, of: str) -> None:
    """Check that each certificate bears the signature and the name of the next one.

    Validity, revocation and constraints are not looked at: dcap-qvl does that.

    Raises:
        VerificationError: `certificate-chain.broken`: One does not.
    """
    for issued, issuer in itertools.pairwise(chain):
        try:
            issued.verify_directly_issued_by(issuer)
        except (*X509_ERRORS, InvalidSignature) as error:
            raise SgxCode.CERTIFICATE_CHAIN_BROKEN.error(
                f"{of}: {common_name(issued)!r} was not issued by {common_name(issuer)!r}, which follows it."
            ) from error
