"""Appraisal of a quote: whether it is genuine, and how the vendor rates the platform that it comes from.

This module does not decide whether the rating is good enough: an out-of-date platform is a result, not an error. The
relying party's policy decides.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sealserve.attestation.claims import Claims, Measurement
from sealserve.clock import CLOCK_SKEW
from sealserve.sgx import dcap
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_documents import (
    TcbInfo,
    is_revoked,
    parse_crl,
    parse_qe_identity,
    parse_tcb_info,
)
from sealserve.sgx.dcap import DcapVerdict
from sealserve.sgx.pck import Fmspc, PckChain, PckExtension
from sealserve.sgx.quote import Quote
from sealserve.sgx.quote_signatures import check_signatures
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.trust_anchor import TrustAnchor

_COMPARED: Final = ("cpu_svn", "mr_enclave", "mr_signer", "report_data")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote(Claims):
    """A genuine quote. Only `ExaminedQuote.verify` creates it.

    Args:
        report: The enclave's identity and the report data that it chose.
        fmspc: The kind of processor.
    """

    report: EnclaveReport
    fmspc: Fmspc

    @property
    def measurement(self) -> Measurement:
        """The enclave's MRENCLAVE."""
        return self.report.mr_enclave

    def check_reference(self, values: str) -> None:
        """Compare the report with `ReferenceValues` as JSON. See `Claims.check_reference`."""
        ReferenceValues.from_json(values).check(self.report)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedQuote:
    """A quote that passed all checks without collateral: well-formed, not from a debug enclave, signed by the platform.

    The constructor performs steps 2 and 3 of `verify_quote`. Therefore an instance always satisfies them.

    Args:
        raw: The quote as received. dcap-qvl verifies these bytes.
        quote: The parsed quote.
        pck: The parsed PCK certificate chain of the quote.
        anchor: The trusted root.

    Raises:
        VerificationError: A step fails.
    """

    raw: bytes
    quote: Quote
    pck: PckChain
    anchor: TrustAnchor

    def __post_init__(self) -> None:
        # 2. Reject debug enclaves: the host can read their memory, so no other check would be meaningful.
        if self.quote.report.attributes.debug:
            raise SgxCode.QUOTE_DEBUG.error(
                f"The quoted enclave is in debug mode (attributes {self.quote.report.attributes.flags:#x}).",
                hint="Set `sgx.debug = false` in the manifest, and sign the enclave again.",
            )
        # 3. Check that PCK certificate, Processor or Platform CA, and trusted root are each issued by the next.
        self.pck.check(self.anchor)
        # Check the signatures of the PCK, the quoting enclave and the attestation key.
        check_signatures(self.quote, self.pck)

    def verify(self, collateral: Collateral, *, now: datetime, minimum_evaluation_number: int = 0) -> VerifiedQuote:
        """Perform the steps of `verify_quote` that need collateral (4 to 10).

        Raises:
            VerificationError: A step fails.
        """
        if now.tzinfo is None:
            raise ValueError("now must have a time zone")
        anchor, extension = self.anchor, self.pck.extension
        # 4. Parse the JSON strictly (known versions, no duplicate keys), and check that all parts are valid now.
        tcb_info, qe_identity = parse_tcb_info(collateral.tcb_info), parse_qe_identity(collateral.qe_identity)
        collateral.check_dates(now)
        # 5. Check that the TCB signing certificate, which the root issued, signed both documents.
        collateral.check_signers(anchor)
        # 6. Check that the TCB info is for the platform's FMSPC and PCE id.
        _check_subject(tcb_info, extension)
        # 7. Check that neither document is older than collateral that was seen before.
        number = min(tcb_info.tcb_evaluation_data_number, qe_identity.tcb_evaluation_data_number)
        if number < minimum_evaluation_number:
            raise SgxCode.COLLATERAL_ROLLED_BACK.error(
                f"The collateral is older than collateral seen before: expected a TCB evaluation data number of at "
                f"least {minimum_evaluation_number}, got {number}.",
                hint="Refresh the cache of the PCCS. If the error persists, the PCCS withholds data: use another PCCS.",
            )
        # 8. Check that the platform's PCK certificate is not revoked.
        crl = parse_crl(collateral.pck_crl, of="PCK CRL")
        if is_revoked(crl, self.pck.leaf.serial_number, of="PCK CRL"):
            raise SgxCode.PCK_REVOKED.error(
                f"The PCK certificate {self.pck.leaf.serial_number:x} of platform {extension.platform_id} is revoked.",
                hint="Use another machine: the processor vendor no longer trusts this platform.",
            )
        # 9. Verify signatures, chains, revocation, QE identity and TCB level. dcap-qvl does not tolerate clock
        # differences.
        latest_start = _at_the_latest_start(now, collateral, self.pck)
        verdict = dcap.verify(self.raw, collateral, anchor=anchor, now=latest_start)
        # 10. Check that both parsers read the same values from the quote.
        _check_agreement(verdict, self.quote.report, extension)
        return VerifiedQuote(
            report=self.quote.report,
            tcb_status=verdict.tcb_status,
            advisory_ids=verdict.advisory_ids,
            fmspc=extension.fmspc,
            platform_id=extension.platform_id,
            tcb_evaluation_data_number=number,
            tcb_date=verdict.tcb_date,
            simulated=anchor.simulated,
        )


def examine_quote(raw: bytes, *, anchor: TrustAnchor) -> ExaminedQuote:
    """Perform the steps of `verify_quote` that need no collateral (1 to 3).

    Raises:
        VerificationError: A step fails.
    """
    # 1. Parse strictly: version 3, ECDSA P-256, SGX, Intel's QE, a PCK chain, and exactly the right length.
    quote = Quote.parse(raw)
    return ExaminedQuote(raw=raw, quote=quote, pck=PckChain.parse(quote.pck_chain_pem), anchor=anchor)


def verify_quote(
    raw: bytes,
    collateral: Collateral,
    *,
    anchor: TrustAnchor,
    now: datetime,
    minimum_evaluation_number: int = 0,
) -> VerifiedQuote:
    """Verify a quote with the vendor's collateral.

    The steps:

    1. The format of the quote is valid.
    2. The enclave is not in debug mode.
    3. The PCK certificate chain ends at the trusted root, and the signatures in the quote are valid.
    4. The format and the dates of the documents are valid.
    5. The TCB signing key signed the documents.
    6. The documents are for this platform.
    7. The documents are not older than documents seen before.
    8. The PCK certificate is not revoked.
    9. All checks of dcap-qvl succeed.
    10. Both parsers read the same values.

    dcap-qvl omits steps 1, 2 and 4 to 8, or does not report them as separate errors. Step 3 must succeed before any
    collateral is fetched.

    Args:
        raw: The quote. Its length must be exact.
        collateral: The vendor's collateral for the platform.
        anchor: The trusted root.
        now: The time of verification, with a time zone. A start of validity up to `CLOCK_SKEW` later is accepted.
        minimum_evaluation_number: The highest TCB evaluation data number seen so far.

    Returns:
        The verified content. Its TCB status can be any status except Revoked.

    Raises:
        VerificationError: A step fails. Each cause has its own code.
    """
    examined = examine_quote(raw, anchor=anchor)
    return examined.verify(collateral, now=now, minimum_evaluation_number=minimum_evaluation_number)


def _at_the_latest_start(now: datetime, collateral: Collateral, pck: PckChain) -> datetime:
    """Return ``now``, or the latest start of a document or certificate that is at most `CLOCK_SKEW` after ``now``.

    Such a start shows that this machine's clock is slow. Using the later time is the strict choice: everything that
    expires before it is rejected.
    """
    certificates = (found.not_valid_before_utc for found in (pck.leaf, pck.issuer, pck.root))
    starts = (start for start in (*collateral.starts(), *certificates) if now < start <= now + CLOCK_SKEW)
    latest = max(starts, default=now)
    return latest.replace(microsecond=0) + timedelta(seconds=1) if latest.microsecond and latest > now else latest


def _check_subject(tcb_info: TcbInfo, extension: PckExtension) -> None:
    if tcb_info.fmspc.upper() != extension.fmspc:
        raise SgxCode.COLLATERAL_FMSPC.error(
            f"The TCB info is for another kind of processor: expected FMSPC {extension.fmspc}, got {tcb_info.fmspc}.",
            hint="Check the service at broker.collateral_url. It served the wrong document.",
        )
    if bytes.fromhex(tcb_info.pce_id) != extension.pce_id:
        raise SgxCode.COLLATERAL_PCE_ID.error(
            f"The TCB info is for another PCE: expected pceId {extension.pce_id.hex().upper()}, got {tcb_info.pce_id}.",
            hint="Check the service at broker.collateral_url. It served the wrong document.",
        )


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
        raise SgxCode.QUOTE_VERIFIER.error(
            f"The quote is ambiguous: two parsers read different values of {', '.join(differing)}.",
            hint="Treat the quote as forged. If the host is yours, report this as a bug of sealserve.",
        )
