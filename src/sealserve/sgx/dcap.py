"""dcap-qvl, the library that verifies the signatures, chains, dates and TCB levels of a quote, behind our own errors.

Its Python interface raises free text. One table maps that text to our errors; it was made from the source of the one
version that is named here (``src/verify.rs``, ``src/utils.rs``, and the errors of its copy of webpki).

What it leaves to its caller is checked in `sealserve.sgx.appraisal`. Its helpers that fetch collateral are not used:
they ask a third party by default.
"""

import json
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

import dcap_qvl

from sealserve.attestation.claims import TcbStatus
from sealserve.errors import SealserveError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.trust_anchor import TrustAnchor

DCAP_QVL_VERSION: Final = "0.7.0"


_MALFORMED: Final = (
    r"(?:Failed to decode (?:TcbInfo|QeIdentity)|Failed to parse (?:TCB Info|QE Identity|platform TCB)"
    r"|Unrecognized TCB status|SGX component count mismatch|No TCB levels found)[^\n]*"
)
_WRONG_CRL: Final = r"InvalidCrlSignatureForPublicKey|UnknownRevocationStatus|Failed to parse (?:root CA|PCK) CRL"

# The first pattern that occurs in the text decides. {0} stands for what the pattern found.
_TABLE: Final = (
    (
        r"ISV enclave report signature is invalid",
        SgxCode.QUOTE_SIGNATURE,
        "Quote: its attestation key did not sign it.",
    ),
    (
        r"QE report hash mismatch",
        SgxCode.QUOTE_ATTESTATION_KEY,
        "Quote: its QE report is about another attestation key.",
    ),
    (
        r"Signature is invalid for qe_report",
        SgxCode.QUOTE_QE_REPORT_SIGNATURE,
        "Quote: its PCK did not sign its QE report.",
    ),
    (r"QE report validation failed", SgxCode.QUOTE_QE_IDENTITY, "Quote: the quoting enclave is in debug mode."),
    (r"QE \w+ (?:mismatch|\d+ is below)[^\n]*", SgxCode.QUOTE_QE_IDENTITY, "Quote: {0}."),
    (r"Debug mode is enabled", SgxCode.QUOTE_DEBUG, "Quote: the enclave is in debug mode."),
    (
        r"Signature is invalid for tcb_info",
        SgxCode.COLLATERAL_TCB_INFO_SIGNATURE,
        "TCB info: its signer did not sign this text.",
    ),
    (
        r"Signature is invalid for qe_identity",
        SgxCode.COLLATERAL_QE_IDENTITY_SIGNATURE,
        "QE identity: its signer did not sign this.",
    ),
    (
        r"CertRevoked",
        SgxCode.CERTIFICATE_CHAIN_REVOKED,
        "Certificate chain: one of them is on its issuer's revocation list.",
    ),
    (r"CrlExpired|TCBInfo expired|QE Identity expired", SgxCode.COLLATERAL_EXPIRED, "Collateral: {0}."),
    (r"[\w ]+ issue date is in the future", SgxCode.COLLATERAL_NOT_YET_VALID, "Collateral: {0}."),
    (r"(?:CertExpired|CertNotValidYet)[^\n]*", SgxCode.CERTIFICATE_CHAIN_VALIDITY, "Certificate chain: {0}."),
    (_WRONG_CRL, SgxCode.COLLATERAL_CRL, "Revocation lists: expected those of the root and the PCK CA, got {0}."),
    (
        r"Failed to verify certificate chain\s+Caused by:[^\n]*\n[^\n]*",
        SgxCode.CERTIFICATE_CHAIN_BROKEN,
        "Certificate chain: {0}.",
    ),
    (r"Fmspc mismatch", SgxCode.COLLATERAL_FMSPC, "TCB info: its FMSPC is not the PCK certificate's."),
    (r"No matching TCB level found", SgxCode.TCB_NO_LEVEL, "TCB info: the platform is below every level in it."),
    (
        r"TCB status is invalid: Revoked",
        SgxCode.TCB_REVOKED,
        "TCB info, QE identity: the platform's TCB level is Revoked.",
    ),
    (_MALFORMED, SgxCode.COLLATERAL_MALFORMED, "Collateral: {0}."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapVerdict:
    """What dcap-qvl found.

    Args:
        tcb_status: Of platform and quoting enclave together.
        advisory_ids: Those that apply.
        tcb_date: What the platform's TCB level stands for.
        report: The report's fields as dcap-qvl read them.
        pck: The PCK certificate's fields as dcap-qvl read them.
    """

    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...]
    tcb_date: datetime
    report: dict[str, Any]
    pck: dict[str, Any]


def verify(raw: bytes, collateral: Collateral, *, anchor: TrustAnchor, now: datetime) -> DcapVerdict:
    """Verify everything that dcap-qvl verifies, at ``now``.

    Raises:
        VerificationError: One of the table's errors.
    """
    seconds = int(now.timestamp())
    try:
        given = dcap_qvl.QuoteCollateralV3(*(getattr(collateral, field.name) for field in fields(Collateral)))
        verifier = dcap_qvl.QuoteVerifier(anchor.root_der)
        claims = verifier.verify_with_policy(raw, given, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))
        return _verdict(json.loads(claims.to_json()))
    except ValueError as error:
        raise _refusal(_reason(raw, given, anchor, seconds) or str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a bug of the Rust side, which is no Exception
            raise
        raise SgxCode.QUOTE_VERIFIER.error("Quote: the verifier failed on it.") from error


def _reason(raw: bytes, given: Any, anchor: TrustAnchor, seconds: int) -> str | None:
    """Ask again with the function that tells the whole chain of causes, where the other tells the outermost only."""
    try:
        dcap_qvl.verify_with_root_ca(raw, given, anchor.root_der, seconds)
    except ValueError as error:
        return str(error)
    return None


def _refusal(text: str) -> SealserveError:
    for pattern, code, message in _TABLE:
        if found := re.search(pattern, text):
            return code.error(message.format(" ".join(found[0].split())))
    return SgxCode.QUOTE_VERIFIER.error(f"Quote: the verifier refused it: {' '.join(text.split())[:300]}.")


def _verdict(claims: dict[str, Any]) -> DcapVerdict:
    return DcapVerdict(
        tcb_status=TcbStatus(claims["tcb"]["status"]),
        advisory_ids=tuple(claims["tcb"]["advisory_ids"]),
        tcb_date=datetime.fromtimestamp(claims["platform"]["tcb_date_tag"], tz=UTC),
        report=claims["report"]["SgxEnclave"],
        pck=claims["platform"]["pck"],
    )
