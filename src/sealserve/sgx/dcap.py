"""The library dcap-qvl, which verifies signatures, chains, dates and TCB levels of a quote, with sealserve's errors.

Its Python interface raises exceptions with free text. One table maps the text to sealserve's errors. The table was
derived from the source of the version below (``src/verify.rs``, ``src/utils.rs``, and the errors of its webpki copy).

`sealserve.sgx.appraisal` performs the checks that dcap-qvl leaves to its caller. dcap-qvl's helpers for fetching
collateral are not used, because they contact a third party by default.
"""

import json
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import dcap_qvl

from sealserve.attestation.claims import TcbStatus
from sealserve.errors import SealserveError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.quote_signatures import WRONG_ATTESTATION_KEY, WRONG_QE_REPORT_SIGNATURE, WRONG_SIGNATURE
from sealserve.sgx.trust_anchor import TrustAnchor

DCAP_QVL_VERSION: Final = "0.7.0"
_MOST_GIVEN: Final = 32  # kinds of platforms


_MALFORMED: Final = (
    r"(?:Failed to decode (?:TcbInfo|QeIdentity)|Failed to parse (?:TCB Info|QE Identity|platform TCB)"
    r"|Unrecognized TCB status|SGX component count mismatch|No TCB levels found)[^\n]*"
)
_WRONG_CRL: Final = r"InvalidCrlSignatureForPublicKey|UnknownRevocationStatus|Failed to parse (?:root CA|PCK) CRL"

# The first matching pattern decides. {0} is replaced by the matched text.
_TABLE: Final = (
    (
        r"ISV enclave report signature is invalid",
        SgxCode.QUOTE_SIGNATURE,
        WRONG_SIGNATURE,
    ),
    (
        r"QE report hash mismatch",
        SgxCode.QUOTE_ATTESTATION_KEY,
        WRONG_ATTESTATION_KEY,
    ),
    (
        r"Signature is invalid for qe_report",
        SgxCode.QUOTE_QE_REPORT_SIGNATURE,
        WRONG_QE_REPORT_SIGNATURE,
    ),
    (r"QE report validation failed", SgxCode.QUOTE_QE_IDENTITY, "The quoting enclave is in debug mode."),
    (
        r"QE \w+ (?:mismatch|\d+ is below)[^\n]*",
        SgxCode.QUOTE_QE_IDENTITY,
        "The quoting enclave does not match the vendor's QE identity: {0}.",
    ),
    (r"Debug mode is enabled", SgxCode.QUOTE_DEBUG, "The quoted enclave is in debug mode."),
    (
        r"Signature is invalid for tcb_info",
        SgxCode.COLLATERAL_TCB_INFO_SIGNATURE,
        "The TCB info's signature is invalid: its signer did not sign this text.",
    ),
    (
        r"Signature is invalid for qe_identity",
        SgxCode.COLLATERAL_QE_IDENTITY_SIGNATURE,
        "The QE identity's signature is invalid: its signer did not sign this text.",
    ),
    (
        r"CertRevoked",
        SgxCode.CERTIFICATE_CHAIN_REVOKED,
        "A certificate in the quote's or collateral's chain is on the revocation list of its issuer.",
    ),
    (r"CrlExpired|TCBInfo expired|QE Identity expired", SgxCode.COLLATERAL_EXPIRED, "The collateral has expired: {0}."),
    (
        r"[\w ]+ issue date is in the future",
        SgxCode.COLLATERAL_NOT_YET_VALID,
        "The collateral is not valid yet: {0}.",
    ),
    (
        r"(?:CertExpired|CertNotValidYet)[^\n]*",
        SgxCode.CERTIFICATE_CHAIN_VALIDITY,
        "A certificate in the quote's or collateral's chain is not valid now: {0}.",
    ),
    (
        _WRONG_CRL,
        SgxCode.COLLATERAL_CRL,
        "The revocation lists are invalid: expected lists of the root and of the PCK CA, got {0}.",
    ),
    (
        r"Failed to verify certificate chain\s+Caused by:[^\n]*\n[^\n]*",
        SgxCode.CERTIFICATE_CHAIN_BROKEN,
        "A certificate chain of the quote or collateral is broken: {0}.",
    ),
    (r"Fmspc mismatch", SgxCode.COLLATERAL_FMSPC, "The FMSPC of the TCB info differs from the PCK certificate's."),
    (
        r"No matching TCB level found",
        SgxCode.TCB_NO_LEVEL,
        "The platform's security versions are below every level in the TCB info.",
    ),
    (
        r"TCB status is invalid: Revoked",
        SgxCode.TCB_REVOKED,
        "The platform's TCB level is Revoked, according to the TCB info or the QE identity.",
    ),
    (_MALFORMED, SgxCode.COLLATERAL_MALFORMED, "The collateral is malformed: {0}."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapVerdict:
    """The result of dcap-qvl.

    Args:
        tcb_status: The combined TCB status of platform and quoting enclave.
        advisory_ids: The advisories that affect the platform.
        tcb_date: The date of the platform's TCB level.
        report: The report's fields as dcap-qvl parsed them.
        pck: The PCK certificate's fields as dcap-qvl parsed them.
    """

    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...]
    tcb_date: datetime
    report: dict[str, Any]
    pck: dict[str, Any]


def verify(raw: bytes, collateral: Collateral, *, anchor: TrustAnchor, now: datetime) -> DcapVerdict:
    """Run all checks of dcap-qvl at the time ``now``.

    Raises:
        VerificationError: One of the errors of the table.
    """
    seconds = int(now.timestamp())
    try:
        given = _given(collateral)
        verifier = _verifier(anchor.root_der)
        claims = verifier.verify_with_policy(raw, given, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))
        return _verdict(json.loads(claims.to_json()))
    except ValueError as error:
        raise _refusal(_reason(raw, given, anchor, seconds) or str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a bug of the Rust code, not a subclass of Exception
            raise
        raise SgxCode.QUOTE_VERIFIER.error(
            "The quote cannot be verified: dcap-qvl failed with an internal error."
        ) from error


@lru_cache(maxsize=_MOST_GIVEN)
def _given(collateral: Collateral) -> Any:
    """Return the collateral in the form of dcap-qvl. It is copied once for each collateral, not for each quote."""
    return dcap_qvl.QuoteCollateralV3(*(getattr(collateral, field.name) for field in fields(Collateral)))


@lru_cache(maxsize=_MOST_GIVEN)
def _verifier(root_der: bytes) -> Any:
    return dcap_qvl.QuoteVerifier(root_der)


def _reason(raw: bytes, given: Any, anchor: TrustAnchor, seconds: int) -> str | None:
    """Return the complete chain of causes. ``verify_with_policy`` reports only the outermost cause."""
    try:
        dcap_qvl.verify_with_root_ca(raw, given, anchor.root_der, seconds)
    except ValueError as error:
        return str(error)
    return None


def _refusal(text: str) -> SealserveError:
    for pattern, code, message in _TABLE:
        if found := re.search(pattern, text):
            return code.error(message.format(" ".join(found[0].split())))
    return SgxCode.QUOTE_VERIFIER.error(f"dcap-qvl rejected the quote: {' '.join(text.split())[:300]}.")


def _verdict(claims: dict[str, Any]) -> DcapVerdict:
    return DcapVerdict(
        tcb_status=TcbStatus(claims["tcb"]["status"]),
        advisory_ids=tuple(claims["tcb"]["advisory_ids"]),
        tcb_date=datetime.fromtimestamp(claims["platform"]["tcb_date_tag"], tz=UTC),
        report=claims["report"]["SgxEnclave"],
        pck=claims["platform"]["pck"],
    )
