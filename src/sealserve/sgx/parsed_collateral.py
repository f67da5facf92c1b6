"""Collateral whose documents are parsed once, instead of once for each quote.

The same collateral verifies every quote of a kind of platform for days. Two results are cached, with the complete
content as the key: the parsed documents, and the check of the signers with a trusted root. An error is never cached.
Each cache has a bounded number of entries. Checks that depend on the time are never cached, and dcap-qvl verifies the
signatures of the documents again for each quote.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509

from sealserve.clock import CLOCK_SKEW
from sealserve.sgx.certificate_chain import parse_chain
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral, check_signer
from sealserve.sgx.collateral_documents import (
    QeIdentity,
    TcbInfo,
    next_update_of,
    parse_crl,
    parse_qe_identity,
    parse_tcb_info,
)
from sealserve.sgx.trust_anchor import TrustAnchor

_MAXIMUM: Final = 32  # kinds of platforms


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCollateral:
    """Parsed documents. None of them is verified.

    Args:
        tcb_info: The TCB info.
        qe_identity: The identity of the quoting enclave.
        pck_crl: The revocation list of the PCK CA.
        windows: Name, issue time and next-update time of each document.
    """

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    pck_crl: x509.CertificateRevocationList
    windows: tuple[tuple[str, datetime, datetime], ...]

    def check_dates(self, now: datetime) -> None:
        """Check that every document is valid at ``now``.

        Raises:
            VerificationError: `collateral.expired` if ``now`` is after the next update of a document.
            VerificationError: `collateral.not-yet-valid` if a document was issued more than `CLOCK_SKEW` after ``now``.
        """
        for name, issued, next_update in self.windows:
            if issued - now > CLOCK_SKEW:
                raise SgxCode.COLLATERAL_NOT_YET_VALID.error(
                    f"The {name} is not valid yet: it was issued at {issued:%Y-%m-%dT%H:%M:%SZ}, and the time is "
                    f"{now:%Y-%m-%dT%H:%M:%SZ}.",
                    hint="Check this machine's clock.",
                )
            if now > next_update:
                raise SgxCode.COLLATERAL_EXPIRED.error(
                    f"The {name} has expired: it was valid until {next_update:%Y-%m-%dT%H:%M:%SZ}, and the time is "
                    f"{now:%Y-%m-%dT%H:%M:%SZ}.",
                    hint="Refresh the collateral at the service of broker.collateral_url, for example a PCCS.",
                )


@lru_cache(maxsize=_MAXIMUM)
def parse_collateral(collateral: Collateral) -> ParsedCollateral:
    """Parse all documents of collateral.

    Raises:
        VerificationError: `collateral.malformed` or `collateral.duplicate-key` if a document cannot be parsed.
    """
    tcb_info, qe_identity = parse_tcb_info(collateral.tcb_info), parse_qe_identity(collateral.qe_identity)
    windows = [
        ("TCB info", tcb_info.issue_date, tcb_info.next_update),
        ("QE identity", qe_identity.issue_date, qe_identity.next_update),
    ]
    for name, raw in (("Root CRL", collateral.root_ca_crl), ("PCK CRL", collateral.pck_crl)):
        crl = parse_crl(raw, of=name)
        windows.append((name, crl.last_update_utc, next_update_of(crl, of=name)))
    return ParsedCollateral(tcb_info=tcb_info, qe_identity=qe_identity, pck_crl=crl, windows=tuple(windows))


@lru_cache(maxsize=_MAXIMUM)
def check_signers(collateral: Collateral, anchor: TrustAnchor) -> tuple[x509.Certificate, ...]:
    """Check that both documents have the certificate chain of the vendor's TCB signing key, and a signature.

    dcap-qvl accepts any signer below the root, even a platform's own PCK certificate. With one extracted PCK key,
    an attacker could declare any platform up to date.

    Returns:
        All certificates of the two chains.

    Raises:
        VerificationError: `collateral.signer-not-tcb-signing` if the signer is another certificate.
        VerificationError: `certificate-chain.malformed` if a chain does not consist of the signer and the root.
        VerificationError: `certificate-chain.broken` if the root did not issue the signer.
        VerificationError: `collateral.malformed` if a signature does not have 64 bytes.
    """
    certificates: list[x509.Certificate] = []
    for name, pem, signature in (
        ("TCB info", collateral.tcb_info_issuer_chain, collateral.tcb_info_signature),
        ("QE identity", collateral.qe_identity_issuer_chain, collateral.qe_identity_signature),
    ):
        chain = parse_chain(pem.encode(), of=f"{name} issuer chain")
        check_signer(name, chain, signature, anchor)
        certificates += chain
    return tuple(certificates)
