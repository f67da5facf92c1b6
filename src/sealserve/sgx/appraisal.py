"""Appraisal of a quote: is it genuine, and what does the vendor think of the platform that it comes from?

Whether that is good enough is not decided here: a platform that is out of date is a result, not an error. The relying
party's policy decides.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sealserve.attestation.claims import TcbStatus
from sealserve.clock import CLOCK_SKEW
from sealserve.errors import VerificationError
from sealserve.sgx import dcap
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_documents import (
    TcbInfo,
    is_revoked,
    parse_crl,
    parse_qe_identity,
    parse_tcb_info,
)
from sealserve.sgx.dcap import CollateralFmspcError, DcapVerdict, QuoteDebugError, VerifierError
from sealserve.sgx.pck import Fmspc, PckChain, PckExtension
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.trust_anchor import TrustAnchor

_COMPARED: Final = ("cpu_svn", "mr_enclave", "mr_signer", "report_data")


class PckRevokedError(VerificationError):
    """The vendor has revoked the platform's PCK certificate."""

    code = "pck.revoked"


class CollateralPceError(VerificationError):
    """TCB info is about another provisioning certification enclave than the platform's."""

    code = "collateral.pce-id"


class CollateralRolledBackError(VerificationError):
    """The collateral is older than what has been seen before, however valid its dates are."""

    code = "collateral.rolled-back"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """A genuine quote.

    Args:
        report: What the enclave is, and the report data that it chose.
        tcb_status: What the vendor thinks of the platform's TCB.
        advisory_ids: The advisories that apply to it.
        fmspc: The kind of processor.
        platform_id: The platform instance id, or else the PPID, in hexadecimal: one platform among all.
        tcb_evaluation_data_number: Of the collateral, the smaller of its two documents'. Remember the highest.
        tcb_date: What the platform's TCB level stands for.
        simulated: Whether the platform is a simulated one, which protects nothing.
    """

    report: EnclaveReport
    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...]
    fmspc: Fmspc
    platform_id: str
    tcb_evaluation_data_number: int
    tcb_date: datetime
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedQuote:
    """A quote that is worth fetching collateral for: well-formed, of no debug enclave, and below the trusted root."""

    quote: Quote
    pck: PckChain


def examine_quote(raw: bytes, *, anchor: TrustAnchor) -> ExaminedQuote:
    """Do the steps of `verify_quote` that need no collateral (1 to 3), so that strangers make nobody fetch any.

    Raises:
        VerificationError: A step fails.
    """
    # 1. Our own parser: version 3, ECDSA P-256, SGX, Intel's QE, a PCK chain, and not a byte more.
    quote = Quote.parse(raw)
    # 2. No debug enclave: its host reads its memory, so nothing else about it matters.
    if quote.report.attributes.debug:
        raise QuoteDebugError(
            f"Quote: the enclave is in debug mode (attributes {quote.report.attributes.flags:#x}).",
            hint="Sign the enclave without debug: `sgx.debug = false` in its manifest.",
        )
    # 3. PCK certificate, Processor or Platform CA, and the trusted root, each issued by the next.
    pck = PckChain.parse(quote.pck_chain_pem)
    pck.check(anchor)
    return ExaminedQuote(quote=quote, pck=pck)


def verify_quote(
    raw: bytes,
    collateral: Collateral,
    *,
    anchor: TrustAnchor,
    now: datetime,
    minimum_evaluation_number: int = 0,
) -> VerifiedQuote:
    """Verify a quote against the vendor's collateral.

    The steps: 1 form, 2 no debug, 3 PCK chain, 4 the documents' form and dates, 5 who signed them, 6 are they about
    this platform, 7 are they the newest, 8 is the PCK certificate revoked, 9 all that dcap-qvl verifies, 10 has it read
    what we have read. Steps 1 to 8 are those that dcap-qvl leaves out, or for which it has no error of their own.

    Args:
        raw: The quote, exactly as long as it says.
        collateral: What the vendor publishes for its platform.
        anchor: The root to trust.
        now: The time of verification, with a time zone. What starts up to `CLOCK_SKEW` later is valid already.
        minimum_evaluation_number: The highest TCB evaluation data number seen so far.

    Returns:
        The verified content. Its TCB status may be any but Revoked.

    Raises:
        VerificationError: A step fails; each cause has an error and a code of its own.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    # 1 to 3.
    examined = examine_quote(raw, anchor=anchor)
    quote, extension = examined.quote, examined.pck.extension
    # 4. JSON without doubled keys, of the known versions, and everything valid now.
    tcb_info, qe_identity = parse_tcb_info(collateral.tcb_info), parse_qe_identity(collateral.qe_identity)
    collateral.check_dates(now)
    # 5. Signed by the TCB signing certificate, which the root issued.
    collateral.check_signers(anchor)
    # 6. The platform's FMSPC and PCE id.
    _check_subject(tcb_info, extension)
    # 7. Not older than what was seen before, in either document.
    number = min(tcb_info.tcb_evaluation_data_number, qe_identity.tcb_evaluation_data_number)
    if number < minimum_evaluation_number:
        raise CollateralRolledBackError(
            f"Collateral: expected a TCB evaluation data number of at least {minimum_evaluation_number}, got {number}.",
            hint="Refresh the cache of the PCCS. If that does not help, it holds newer collateral back.",
        )
    # 8. The platform's own certificate is not on the list.
    crl = parse_crl(collateral.pck_crl, of="PCK CRL")
    if is_revoked(crl, examined.pck.leaf.serial_number, of="PCK CRL"):
        raise PckRevokedError(
            f"PCK certificate: {examined.pck.leaf.serial_number:x} of platform {extension.platform_id} is revoked."
        )
    # 9. Signatures, chains, revocation, the quoting enclave's identity, the TCB level. dcap-qvl knows no tolerance.
    verdict = dcap.verify(raw, collateral, anchor=anchor, now=_at_the_latest_start(now, collateral, examined.pck))
    # 10. Two readers, one quote.
    _check_agreement(verdict, quote.report, extension)
    return VerifiedQuote(
        report=quote.report,
        tcb_status=verdict.tcb_status,
        advisory_ids=verdict.advisory_ids,
        fmspc=extension.fmspc,
        platform_id=extension.platform_id,
        tcb_evaluation_data_number=number,
        tcb_date=verdict.tcb_date,
        simulated=anchor.simulated,
    )


def _at_the_latest_start(now: datetime, collateral: Collateral, pck: PckChain) -> datetime:
    """Return ``now``, or the start of a document or certificate that is later by no more than `CLOCK_SKEW`.

    That start is evidence that the clock here is slow. To assume the later time is strict: what ends before it is void.
    """
    certificates = (found.not_valid_before_utc for found in (pck.leaf, pck.issuer, pck.root))
    starts = (start for start in (*collateral.starts(), *certificates) if now < start <= now + CLOCK_SKEW)
    latest = max(starts, default=now)
    return latest.replace(microsecond=0) + timedelta(seconds=1) if latest.microsecond and latest > now else latest


def _check_subject(tcb_info: TcbInfo, extension: PckExtension) -> None:
    if tcb_info.fmspc.upper() != extension.fmspc:
        raise CollateralFmspcError(f"TCB info: expected FMSPC {extension.fmspc}, got {tcb_info.fmspc}.")
    if bytes.fromhex(tcb_info.pce_id) != extension.pce_id:
        raise CollateralPceError(f"TCB info: expected pceId {extension.pce_id.hex().upper()}, got {tcb_info.pce_id}.")


def _check_agreement(verdict: DcapVerdict, report: EnclaveReport, extension: PckExtension) -> None:
    theirs = {name: verdict.report[name] for name in _COMPARED}
    theirs |= {
        "attributes": verdict.report["attributes"],
        "isv": (verdict.report["isv_prod_id"], verdict.report["isv_svn"]),
    }
    theirs |= {name: bytes(verdict.pck[name]).hex() for name in ("ppid", "fmspc", "cpu_svn")}
    ours: dict[str, object] = {name: getattr(report, name).hex() for name in _COMPARED}
    ours |= {"attributes": report.attributes.to_bytes().hex(), "isv": (report.isv_prod_id, report.isv_svn)}
    ours |= {"ppid": extension.ppid.hex(), "fmspc": extension.fmspc.lower(), "cpu_svn": extension.cpu_svn.hex()}
    if differing := sorted(name for name in ours if ours[name] != theirs[name]):
        raise VerifierError(f"Quote: two readers of it disagree on {', '.join(differing)}.")
