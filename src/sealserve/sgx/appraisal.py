"""Appraisal of a quote: is it genuine, and what does the vendor think of the platform that it comes from?

Whether that is good enough is not decided here: a platform that is out of date is a result, not an error. The relying
party's policy decides.
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
    """A genuine quote. Only `ExaminedQuote.verify` makes one.

    Args:
        report: What the enclave is, and the report data that it chose.
        fmspc: The kind of processor.
    """

    report: EnclaveReport
    fmspc: Fmspc

    @property
    def measurement(self) -> Measurement:
        """MRENCLAVE."""
        return self.report.mr_enclave

    def check_reference(self, values: str) -> None:
        """Compare the report with `ReferenceValues` as JSON; see `Claims.check_reference`."""
        ReferenceValues.from_json(values).check(self.report)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedQuote:
    """A quote that is worth fetching collateral for: well-formed, no debug enclave, signed below the trusted root.

    The value cannot exist otherwise: its checks are the steps 2 and 3 of `verify_quote`, which need no collateral.

    Args:
        raw: The quote as it was received: dcap-qvl verifies these bytes.
        quote: The same bytes, parsed.
        pck: The quote's PCK chain, parsed.
        anchor: The root to trust.

    Raises:
        VerificationError: A step fails.
    """

    raw: bytes
    quote: Quote
    pck: PckChain
    anchor: TrustAnchor

    def __post_init__(self) -> None:
        # 2. No debug enclave: its host reads its memory, so nothing else about it matters.
        if self.quote.report.attributes.debug:
            raise SgxCode.QUOTE_DEBUG.error(
                f"Quote: the enclave is in debug mode (attributes {self.quote.report.attributes.flags:#x}).",
                hint="Sign the enclave without debug: `sgx.debug = false` in its manifest.",
            )
        # 3. PCK certificate, Processor or Platform CA, and the trusted root, each issued by the next.
        self.pck.check(self.anchor)
        # The signatures below it: the PCK's, the quoting enclave's and the attestation key's.
        check_signatures(self.quote, self.pck)

    def verify(self, collateral: Collateral, *, now: datetime, minimum_evaluation_number: int = 0) -> VerifiedQuote:
        """Do the steps of `verify_quote` that need collateral (4 to 10).

        Raises:
            VerificationError: A step fails.
        """
        if now.tzinfo is None:
            raise ValueError("now must have a time zone")
        anchor, extension = self.anchor, self.pck.extension
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
            raise SgxCode.COLLATERAL_ROLLED_BACK.error(
                f"Collateral: expected a TCB evaluation data number of at least {minimum_evaluation_number}, "
                f"got {number}.",
                hint="Refresh the cache of the PCCS. If that does not help, it holds newer collateral back.",
            )
        # 8. The platform's own certificate is not on the list.
        crl = parse_crl(collateral.pck_crl, of="PCK CRL")
        if is_revoked(crl, self.pck.leaf.serial_number, of="PCK CRL"):
            raise SgxCode.PCK_REVOKED.error(
                f"PCK certificate: {self.pck.leaf.serial_number:x} of platform {extension.platform_id} is revoked."
            )
        # 9. Signatures, chains, revocation, the quoting enclave's identity, the TCB level. dcap-qvl knows no tolerance.
        latest_start = _at_the_latest_start(now, collateral, self.pck)
        verdict = dcap.verify(self.raw, collateral, anchor=anchor, now=latest_start)
        # 10. Two readers, one quote.
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
    """Do the steps of `verify_quote` that need no collateral (1 to 3).

    Raises:
        VerificationError: A step fails.
    """
    # 1. Our own parser: version 3, ECDSA P-256, SGX, Intel's QE, a PCK chain, and not a byte more.
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
    """Verify a quote against the vendor's collateral.

    The steps: 1 form, 2 no debug, 3 PCK chain and signatures below it, 4 the documents' form and dates, 5 who signed
    them, 6 are they about this platform, 7 are they the newest, 8 is the PCK certificate revoked, 9 all that dcap-qvl
    verifies, 10 has it read what we have read. Steps 1 to 8 are those that dcap-qvl leaves out, for which it has no
    error of their own, or which must come before any collateral is fetched.

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
    examined = examine_quote(raw, anchor=anchor)
    return examined.verify(collateral, now=now, minimum_evaluation_number=minimum_evaluation_number)


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
        raise SgxCode.COLLATERAL_FMSPC.error(f"TCB info: expected FMSPC {extension.fmspc}, got {tcb_info.fmspc}.")
    if bytes.fromhex(tcb_info.pce_id) != extension.pce_id:
        raise SgxCode.COLLATERAL_PCE_ID.error(
            f"TCB info: expected pceId {extension.pce_id.hex().upper()}, got {tcb_info.pce_id}."
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
        raise SgxCode.QUOTE_VERIFIER.error(f"Quote: two readers of it disagree on {', '.join(differing)}.")
