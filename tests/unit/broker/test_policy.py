from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from tests.harness.keys import signing_key

from sealserve.attestation.claims import TcbStatus
from sealserve.broker.policy import (
    CLOUD_SMT,
    STRICT,
    AdvisoryError,
    AttributesError,
    DebugError,
    IsvProdIdError,
    IsvSvnError,
    MrEnclaveUnknownError,
    MrSignerError,
    PlatformKindError,
    PlatformUnknownError,
    ReferenceValues,
    ReferenceValuesError,
    ReleaseDrainingEndedError,
    ReleaseRevokedError,
    ReleaseState,
    SimulatedQuoteError,
    TcbPolicy,
    TcbStatusError,
    appraise,
    check_enrolment,
    check_platform_kind,
    check_standing,
)
from sealserve.errors import VerificationError
from sealserve.sgx.appraisal import VerifiedQuote
from sealserve.sgx.pck import Fmspc
from sealserve.sgx.report import AttributeFlags, Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.sigstruct import Sigstruct
from sealserve.terms import PlatformKind

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ENCLAVE, SIGNER = MrEnclave(b"\x01" * 32), MrSigner(b"\x02" * 32)
REFERENCE = ReferenceValues(mr_enclave=ENCLAVE, mr_signer=SIGNER, isv_prod_id=7, isv_svn=3)
REPORT = EnclaveReport(
    attributes=Attributes(flags=0x5, xfrm=0xE7),
    mr_enclave=ENCLAVE,
    mr_signer=SIGNER,
    isv_prod_id=7,
    isv_svn=3,
    report_data=bytes(64),
)


def _quote(report: EnclaveReport = REPORT, **changes: Any) -> VerifiedQuote:
    verified = VerifiedQuote(
        report=report,
        tcb_status=TcbStatus.UP_TO_DATE,
        advisory_ids=(),
        fmspc=Fmspc("00606A000000"),
        platform_id="ab" * 16,
        tcb_evaluation_data_number=17,
        tcb_date=NOW,
        simulated=False,
    )
    return replace(verified, **changes)


def _flags(flags: int, xfrm: int = 0xE7) -> EnclaveReport:
    return replace(REPORT, attributes=Attributes(flags=flags, xfrm=xfrm))


def test_the_expected_enclave_on_a_good_platform_is_accepted() -> None:
    appraise(_quote(), REFERENCE, STRICT)
    appraise(_quote(replace(REPORT, isv_svn=9)), REFERENCE, STRICT)
    hardening = _quote(tcb_status=TcbStatus.SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00615",))
    appraise(hardening, REFERENCE, CLOUD_SMT)


@pytest.mark.parametrize(
    ("report", "error", "code", "message"),
    [
        (_flags(0x7), DebugError, "policy.debug", "the host can read its memory"),
        (replace(REPORT, mr_enclave=MrEnclave(b"\x03" * 32)), MrEnclaveUnknownError, "policy.mr-enclave-unknown",
         f"MRENCLAVE: expected {'01' * 32}, got {'03' * 32}"),
        (replace(REPORT, mr_signer=MrSigner(b"\x03" * 32)), MrSignerError, "policy.mr-signer",
         f"MRSIGNER: expected {'02' * 32}, got {'03' * 32}"),
        (replace(REPORT, isv_prod_id=8), IsvProdIdError, "policy.isv-prod-id", "ISVPRODID: expected 7, got 8"),
        (replace(REPORT, isv_svn=2), IsvSvnError, "policy.isv-svn", "ISVSVN: expected at least 3, got 2"),
        (_flags(0x15), AttributesError, "policy.attributes", r"flags: expected 0x5 under mask 0xf+, got 0x15"),
        (_flags(0x1), AttributesError, "policy.attributes", "flags"),
        (_flags(0x4), AttributesError, "policy.attributes", "flags"),
        (_flags(0x5, 0x1), AttributesError, "policy.attributes", "XFRM: expected 0x3 under mask 0x3, got 0x1"),
    ],
)  # fmt: skip
def test_another_enclave_is_refused(
    report: EnclaveReport, error: type[VerificationError], code: str, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        appraise(_quote(report), REFERENCE, STRICT)
    assert caught.value.code == code


def test_a_debug_enclave_is_refused_whatever_the_masks() -> None:
    loose = replace(REFERENCE, attribute_flags_mask=0x7)
    appraise(_quote(_flags(0x405)), loose, STRICT)
    with pytest.raises(DebugError):
        appraise(_quote(_flags(0x407)), loose, STRICT)


def test_a_bad_platform_is_refused() -> None:
    with pytest.raises(TcbStatusError, match="OutOfDate, with INTEL-SA-00615; the policy 'strict' accepts UpToDate"):
        appraise(_quote(tcb_status=TcbStatus.OUT_OF_DATE, advisory_ids=("INTEL-SA-00615",)), REFERENCE, STRICT)
    with pytest.raises(AdvisoryError, match="INTEL-SA-00334"):
        appraise(
            _quote(tcb_status=TcbStatus.SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00334",)), REFERENCE, CLOUD_SMT
        )
    own = TcbPolicy(
        name="mine",
        statuses=frozenset({TcbStatus.SW_HARDENING_NEEDED}),
        advisories=frozenset({"INTEL-SA-00334"}),
    )
    appraise(_quote(tcb_status=TcbStatus.SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00334",)), REFERENCE, own)
    with pytest.raises(TcbStatusError):
        appraise(_quote(), REFERENCE, own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mr_enclave": MrEnclave(bytes(32))}, r"mr_enclave is empty \(all zeros\)"),
        ({"mr_signer": MrSigner(bytes(32))}, "mr_signer is empty"),
        ({"mr_enclave": MrEnclave(b"")}, "mr_enclave must have 32 bytes, got 0"),
        ({"isv_prod_id": 1 << 16}, "isv_prod_id must be between 0 and 0xffff, got 0x10000"),
        ({"isv_svn": -1}, "isv_svn must be between"),
        ({"xfrm": 1 << 64}, "xfrm must be between"),
        ({"attribute_flags": 0x7}, "attribute_flags has DEBUG"),
        ({"attribute_flags_mask": 0}, "masks must cover INIT, DEBUG and MODE64BIT"),
        ({"attribute_flags_mask": 0x5}, "masks must cover INIT, DEBUG and MODE64BIT"),
        ({"xfrm_mask": 0}, "masks must cover"),
    ],
)
def test_reference_values_that_admit_too_much_are_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReferenceValuesError, match=message) as caught:
        replace(REFERENCE, **changes)
    assert caught.value.code == "policy.reference-values"


def test_the_reference_values_of_a_sigstruct_admit_its_enclave_only() -> None:
    key = signing_key()
    sigstruct = Sigstruct.sign(mr_enclave=ENCLAVE, key=key, signed_on=date(2026, 11, 23), isv_prod_id=7, isv_svn=3)
    reference = ReferenceValues.of_sigstruct(sigstruct)
    launched = replace(REPORT, mr_signer=sigstruct.mr_signer, attributes=sigstruct.launch_attributes(0xE7))
    appraise(_quote(launched), reference, STRICT)
    flags = launched.attributes.flags | AttributeFlags.PROVISION_KEY
    with pytest.raises(AttributesError):
        appraise(_quote(replace(launched, attributes=replace(launched.attributes, flags=flags))), reference, STRICT)
    with pytest.raises(AttributesError):
        appraise(_quote(replace(launched, attributes=replace(launched.attributes, xfrm=0x203))), reference, STRICT)


def test_standing_of_a_release() -> None:
    later, earlier = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)
    check_standing(ReleaseState.ACTIVE, None, NOW)
    check_standing(ReleaseState.DRAINING, later, NOW)
    for deadline in (earlier, NOW):
        with pytest.raises(ReleaseDrainingEndedError, match=r"draining until 2026-11-23T1[12]:.*, and it is") as ended:
            check_standing(ReleaseState.DRAINING, deadline, NOW)
        assert ended.value.code == "policy.release-draining-ended"
    with pytest.raises(ReleaseDrainingEndedError, match="until no date"):
        check_standing(ReleaseState.DRAINING, None, NOW)
    with pytest.raises(ReleaseRevokedError, match="The release is revoked") as revoked:
        check_standing(ReleaseState.REVOKED, later, NOW)
    assert revoked.value.code == "policy.release-revoked"


def test_platform_kinds_do_not_mix() -> None:
    check_platform_kind(simulated_quote=True, release=PlatformKind.SIMULATED)
    check_platform_kind(simulated_quote=False, release=PlatformKind.SGX)
    with pytest.raises(SimulatedQuoteError, match="from a simulated platform, and the release is for SGX") as simulated:
        check_platform_kind(simulated_quote=True, release=PlatformKind.SGX)
    assert simulated.value.code == "policy.simulated-quote"
    with pytest.raises(PlatformKindError, match="from an SGX processor, and the release is marked as simul") as genuine:
        check_platform_kind(simulated_quote=False, release=PlatformKind.SIMULATED)
    assert genuine.value.code == "policy.platform-kind"


def test_enrolment() -> None:
    check_enrolment("ab", {"ab"})
    with pytest.raises(PlatformUnknownError, match="The platform cd is not enrolled") as caught:
        check_enrolment("cd", frozenset({"ab"}))
    assert caught.value.code == "policy.platform-unknown"
