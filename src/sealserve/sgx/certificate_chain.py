"""PEM certificate chains, parsed so strictly that no other parser can find different certificates in them.

sealserve and dcap-qvl read the same chains with different parsers. Input that parsers treat differently is rejected
here before either parser relies on it: text between the blocks, other kinds of blocks, unusual line ends.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from sealserve.sgx.codes import SgxCode
from sealserve.x509_errors import X509_ERRORS

_BLOCK: Final = rb"-----BEGIN CERTIFICATE-----\r?\n(?:[A-Za-z0-9+/]{1,76}={0,2}\r?\n)+-----END CERTIFICATE-----\r?\n*"
_CHAIN: Final = re.compile(rb"(?:" + _BLOCK + rb"){1,5}")


def parse_chain(pem: bytes, *, of: str) -> tuple[x509.Certificate, ...]:
    """Parse one to five PEM certificates.

    Args:
        pem: The chain, leaf first.
        of: The chain's description in messages.

    Raises:
        VerificationError: `certificate-chain.malformed` if there is other data, or a certificate cannot be parsed.
    """
    if not _CHAIN.fullmatch(pem):
        raise SgxCode.CERTIFICATE_CHAIN_MALFORMED.error(
            f"The {of} is malformed: expected one to five PEM certificates without other data."
        )
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        for certificate in certificates:
            _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key())
    except X509_ERRORS as error:
        raise SgxCode.CERTIFICATE_CHAIN_MALFORMED.error(
            f"The {of} is malformed: one of its certificates cannot be parsed."
        ) from error
    return certificates


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, or an empty string if the subject has none or several."""
    match certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        case [only]:
            return str(only.value)
        case _:
            return ""


def check_links(chain: Sequence[x509.Certificate], *, of: str) -> None:
    """Check that each certificate was signed by the next one and names it as its issuer.

    Validity, revocation and constraints are not checked here, because dcap-qvl checks them.

    Raises:
        VerificationError: `certificate-chain.broken` if a certificate was not issued by the next one.
    """
    for issued, issuer in itertools.pairwise(chain):
        try:
            issued.verify_directly_issued_by(issuer)
        except (*X509_ERRORS, InvalidSignature) as error:
            raise SgxCode.CERTIFICATE_CHAIN_BROKEN.error(
                f"The {of} is broken: {common_name(issued)!r} was not issued by the next certificate, "
                f"{common_name(issuer)!r}."
            ) from error
