"""Appraisal of a quote: whether it is genuine, and how the vendor rates the platform that it comes from.

This module does not decide whether the rating is good enough: an out-of-date platform is a result, not an error. The
relying party's policy decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from sealserve.attestation.claims import Claims, EnclaveIdentity, Fact, Measurement
from sealserve.attestation.tcb_policy import OUT_OF_DATE
from sealserve.clock import CLOCK_SKEW
from sealserve.errors import SealserveError
from sealserve.sgx import dcap
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_documents import TcbInfo, is_revoked
from sealserve.sgx.dcap import DcapVerdict
from sealserve.sgx.known_chains import KNOWN_CHAINS
from sealserve.sgx.parsed_collateral import ParsedCollateral, check_signers, parse_collateral
from sealserve.sgx.pck import Fmspc, PckChain, PckExtension
from sealserve.sgx.policy_rules import rules_of
from sealserve.sgx.quote import Quote
from sealserve.sgx.quote_signatures import check_signatures
from sealserve.sgx.reference_values import parse_reference, product_of
from sealserve.sgx.report import AttributeFlags, EnclaveReport
from sealserve.sgx.tcb_levels import rate
from sealserve.sgx.trust_anchor import TrustAnchor

_KSS_IDS: Final = {"config_id": 64, "isv_ext_prod_id": 16, "isv_family_id": 16}  # sizes in bytes
_COMPARED: Final = ("cpu_svn", "mr_enclave", "mr_signer", "report_data")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote(Claims):
    """A genuine quote. Only `ExaminedQuote.verify` creates it.

    Args:
        report: The enclave's identity and the report data that it chose.
        fmspc: The kind of processor.
        cpu_svn: The security versions of the processor in its PCK certificate, 16 bytes.
        pce_svn: The security version of the PCE in the PCK certificate.
        qe_svn: The security version (ISVSVN) of the quoting enclave.
    """

    report: EnclaveReport
    fmspc: Fmspc
    cpu_svn: bytes
    pce_svn: int
    qe_svn: int

    @property
    def measurement(self) -> Measurement:
        """The enclave's MRENCLAVE."""
        return self.report.mr_enclave

    @property
    def identity(self) -> EnclaveIdentity:
        """The enclave's MRENCLAVE, MRSIGNER, ISVPRODID, ISVSVN and DEBUG flag."""
        return EnclaveIdentity(
            tee="sgx",
            measurement=self.report.mr_enclave,
            signer=self.report.mr_signer,
            product_id=self.report.isv_prod_id,
            security_version=self.report.isv_svn,
            debug=self.report.attributes.debug,
        )

    @property
    def product(self) -> Measurement:
        """The enclave's signer and product id."""
        return product_of(self.report.mr_signer, self.report.isv_prod_id)

    def check_reference(self, values: str) -> None:
        """Compare the report with reference values as JSON. See `Claims.check_reference`."""
        parse_reference(values).check(self.report)

    def check_rules(self, rules: str) -> None:
        """Check the rules for SGX. See `Claims.check_rules`."""
        rules_of(rules).check(complete_facts(self.facts()))

    def facts(self) -> Mapping[str, Fact]:
        """Return the facts for the audit log. `complete_facts` restores the values that are omitted because they are 0.

        Integers are numbers, bytes are lower-case hexadecimal, and times are ISO 8601 in UTC.
        """
        found: dict[str, Fact] = {
            "fmspc": self.fmspc,
            "cpu_svn": self.cpu_svn.hex(),
            "pce_svn": self.pce_svn,
            "qe_svn": self.qe_svn,
            "tcb_date": _as_text(self.tcb_date),
            "tcb_evaluation_number": self.tcb_evaluation_data_number,
            "collateral_issued": _as_text(self.collateral_issued),
            "isv_prod_id": self.report.isv_prod_id,
            "isv_svn": self.report.isv_svn,
            "misc_select": self.report.misc_select,
            "kss": int(bool(self.report.attributes.flags & AttributeFlags.KSS)),
        }
        if self.tcb_superseded is not None:
            found["tcb_superseded"] = _as_text(self.tcb_superseded)
        for name in _KSS_IDS:
            if any(value := getattr(self.report, name)):
                found[name] = value.hex()
        if self.report.config_svn:
            found["config_svn"] = self.report.config_svn
        return found


def complete_facts(facts: Mapping[str, Fact]) -> Mapping[str, Fact]:
    """Return facts with the KSS fields that were omitted because they are 0.

    Facts without ``kss`` were recorded without the KSS fields. They stay incomplete.
    """
    if "kss" not in facts:
        return facts
    zeros: dict[str, Fact] = {name: "0" * (2 * size) for name, size in _KSS_IDS.items()}
    return {**zeros, "config_svn": 0, **facts}


def _as_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


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
        KNOWN_CHAINS.check(self.pck, self.anchor)
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
        parsed = parse_collateral(collateral)
        tcb_info, qe_identity = parsed.tcb_info, parsed.qe_identity
        parsed.check_dates(now)
        # 5. Check that the TCB signing certificate, which the root issued, signed both documents.
        signers = check_signers(collateral, anchor)
        # 6. Check that the TCB info is for the platform's FMSPC and PCE id.
        _check_subject(tcb_info, extension)
        # 7. Check that neither document is older than collateral that was seen before.
        numbers = {
            f"TCB info for FMSPC {extension.fmspc}": tcb_info.tcb_evaluation_data_number,
            "QE identity": qe_identity.tcb_evaluation_data_number,
        }
        _check_not_rolled_back(numbers, minimum_evaluation_number)
        number = min(numbers.values())
        # 8. Check that the platform's PCK certificate is not revoked.
        if is_revoked(parsed.pck_crl, self.pck.leaf.serial_number, of="PCK CRL"):
            raise SgxCode.PCK_REVOKED.error(
                f"The PCK certificate {self.pck.leaf.serial_number:x} of platform {extension.platform_id} is revoked.",
                hint="Use another machine: the processor vendor no longer trusts this platform.",
            )
        # 9. Verify signatures, chains, revocation, QE identity and TCB level. dcap-qvl does not tolerate clock
        # differences.
        latest_start = _at_the_latest_start(now, parsed, (*signers, self.pck.leaf, self.pck.issuer, self.pck.root))
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
            tcb_superseded=self._superseded(collateral) if verdict.tcb_status in OUT_OF_DATE else None,
            collateral_issued=min(tcb_info.issue_date, qe_identity.issue_date, parsed.pck_crl.last_update_utc),
            verified_at=now,
            simulated=anchor.simulated,
            cpu_svn=extension.cpu_svn,
            pce_svn=extension.pce_svn,
            qe_svn=self.quote.qe_report.isv_svn,
        )

    def _superseded(self, collateral: Collateral) -> datetime | None:
        """Return the start of a grace period, or `None` if the levels cannot be read: then no period is granted."""
        extension = self.pck.extension
        try:
            rating = rate(
                collateral.tcb_info,
                collateral.qe_identity,
                cpu_svn=extension.cpu_svn,
                pce_svn=extension.pce_svn,
                qe_svn=self.quote.qe_report.isv_svn,
            )
        except SealserveError:
            return None
        return rating.superseded


def examine_quote(raw: bytes, *, anchor: TrustAnchor) -> ExaminedQuote:
    """Perform the steps of `verify_quote` that need no collateral (1 to 3).

    Raises:
        VerificationError: A step fails.
    """
    # 1. Parse strictly: version 3, ECDSA P-256, SGX, Intel's QE, a PCK chain, and exactly the right length.
    quote = Quote.parse(raw)
    return ExaminedQuote(raw=raw, quote=quote, pck=KNOWN_CHAINS.parse(quote.pck_chain_pem), anchor=anchor)


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


def _at_the_latest_start(
    now: datetime, collateral: ParsedCollateral, certificates: tuple[x509.Certificate, ...]
) -> datetime:
    """Return ``now``, or the latest start of a document or certificate that is at most `CLOCK_SKEW` after ``now``.

    Such a start shows that this machine's clock is slow. Using the later time is the strict choice: everything that
    expires before it is rejected.
    """
    documents = (issued for _, issued, _ in collateral.windows)
    began = (found.not_valid_before_utc for found in certificates)
    starts = (start for start in (*documents, *began) if now < start <= now + CLOCK_SKEW)
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


def _check_not_rolled_back(numbers: Mapping[str, int], floor: int) -> None:
    # Intel publishes one number for all documents, but a PCCS refreshes each document on its own.
    older = {name: number for name, number in numbers.items() if number < floor}
    if not older:
        return
    name, number = min(older.items(), key=lambda item: item[1])
    others = "".join(f" The {other} has number {found}." for other, found in numbers.items() if other != name)
    raise SgxCode.COLLATERAL_ROLLED_BACK.error(
        f"The {name} is older than collateral seen before: expected a TCB evaluation data number of at least {floor}, "
        f"got {number}.{others}",
        hint=f"Refresh the {name} in the cache of the PCCS, then run `sealserve broker collateral --refresh`. If the "
        "number stays lower, the PCCS withholds newer collateral.",
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
