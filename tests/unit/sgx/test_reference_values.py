import json
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from tests.harness.errors import Expected, raises
from tests.harness.keys import signing_key

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.policy import AppraisalPolicy, appraise
from sealserve.attestation.presets import CLOUD_SMT, STRICT
from sealserve.attestation.tcb_policy import TcbPolicy
from sealserve.sgx.appraisal import VerifiedQuote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.pck import Fmspc
from sealserve.sgx.reference_values import ProductReferenceValues, ReferenceValues, parse_reference
from sealserve.sgx.report import AttributeFlags, Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.sigstruct import Sigstruct

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
        tcb_superseded=None,
        collateral_issued=NOW,
        verified_at=NOW,
        simulated=False,
        cpu_svn=bytes(16),
        pce_svn=15,
        qe_svn=8,
    )
    return replace(verified, **changes)


def _appraise(quote: VerifiedQuote, reference: ReferenceValues, tcb: TcbPolicy) -> None:
    """Appraise a quote like the broker, which stores the reference values as text."""
    quote.check_reference(reference.to_json())
    appraise(quote, AppraisalPolicy(tcb=tcb, enrolled_platforms_only=False), enrolled=())


def _flags(flags: int, xfrm: int = 0xE7) -> EnclaveReport:
    return replace(REPORT, attributes=Attributes(flags=flags, xfrm=xfrm))


def test_the_expected_enclave_on_a_good_platform_is_accepted() -> None:
    _appraise(_quote(), REFERENCE, STRICT)
    _appraise(_quote(replace(REPORT, isv_svn=9)), REFERENCE, STRICT)
    hardening = _quote(tcb_status=TcbStatus.SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00615",))
    _appraise(hardening, REFERENCE, CLOUD_SMT)


@pytest.mark.parametrize(
    ("report", "error", "code", "message"),
    [
        (_flags(0x7), SgxCode.POLICY_DEBUG, "policy.debug", "the host can read its memory"),
        (replace(REPORT, mr_enclave=MrEnclave(b"\x03" * 32)), AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN,
         "policy.mr-enclave-unknown",
         f"expected MRENCLAVE {'01' * 32}, got {'03' * 32}"),
        (replace(REPORT, mr_signer=MrSigner(b"\x03" * 32)), SgxCode.POLICY_MR_SIGNER, "policy.mr-signer",
         f"expected MRSIGNER {'02' * 32}, got {'03' * 32}"),
        (replace(REPORT, isv_prod_id=8), SgxCode.POLICY_ISV_PROD_ID,
         "policy.isv-prod-id", "expected ISVPRODID 7, got 8"),
        (replace(REPORT, isv_svn=2), SgxCode.POLICY_ISV_SVN, "policy.isv-svn", "expected ISVSVN at least 3, got 2"),
        (_flags(0x15), SgxCode.POLICY_ATTRIBUTES,
         "policy.attributes", r"flags 0x5 under mask 0xf+, got 0x15"),
        (_flags(0x1), SgxCode.POLICY_ATTRIBUTES, "policy.attributes", "flags"),
        (_flags(0x4), SgxCode.POLICY_ATTRIBUTES, "policy.attributes", "flags"),
        (_flags(0x5, 0x1), SgxCode.POLICY_ATTRIBUTES,
         "policy.attributes", "XFRM 0x3 under mask 0x3, got 0x1"),
    ],
)  # fmt: skip
def test_another_enclave_is_refused(report: EnclaveReport, error: Expected, code: str, message: str) -> None:
    with raises(error, match=message) as caught:
        _appraise(_quote(report), REFERENCE, STRICT)
    assert caught.value.code == code


def test_a_debug_enclave_is_refused_whatever_the_masks() -> None:
    loose = replace(REFERENCE, attribute_flags_mask=0x7)
    _appraise(_quote(_flags(0x405)), loose, STRICT)
    with raises(SgxCode.POLICY_DEBUG):
        _appraise(_quote(_flags(0x407)), loose, STRICT)


def test_a_bad_platform_is_refused() -> None:
    with raises(
        AttestationCode.POLICY_TCB_STATUS,
        match=r"The platform's TCB status is OutOfDate \(INTEL-SA-00615\), but the policy 'strict' "
        r"accepts only UpToDate",
    ):
        _appraise(_quote(tcb_status=TcbStatus.OUT_OF_DATE, advisory_ids=("INTEL-SA-00615",)), REFERENCE, STRICT)
    with raises(AttestationCode.POLICY_ADVISORY, match="INTEL-SA-00334"):
        _appraise(
            _quote(tcb_status=TcbStatus.SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00334",)), REFERENCE, CLOUD_SMT
        )
    own = TcbPolicy(
        name="mine",
        accept={TcbStatus.SW_HARDENING_NEEDED: frozenset({"INTEL-SA-00334"})},
    )
    _appraise(_quote(tcb_status=TcbStatus.SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00334",)), REFERENCE, own)
    with raises(AttestationCode.POLICY_TCB_STATUS):
        _appraise(_quote(), REFERENCE, own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mr_enclave": MrEnclave(bytes(32))}, r"mr_enclave is empty: all its bytes are zero"),
        ({"mr_signer": MrSigner(bytes(32))}, "mr_signer is empty"),
        ({"mr_enclave": MrEnclave(b"")}, "mr_enclave is invalid: expected 32 bytes, got 0"),
        ({"isv_prod_id": 1 << 16}, "isv_prod_id is out of range: expected 0 to 0xffff, got 0x10000"),
        ({"isv_svn": -1}, "isv_svn is out of range: expected"),
        ({"xfrm": 1 << 64}, "xfrm is out of range: expected"),
        ({"attribute_flags": 0x7}, "attribute_flags includes DEBUG"),
        ({"attribute_flags_mask": 0}, "masks .* must include INIT, DEBUG and MODE64BIT"),
        ({"attribute_flags_mask": 0x5}, "masks .* must include INIT, DEBUG and MODE64BIT"),
        ({"xfrm_mask": 0}, "masks .* must include"),
    ],
)
def test_reference_values_that_admit_too_much_are_an_error(changes: dict[str, Any], message: str) -> None:
    with raises(SgxCode.POLICY_REFERENCE_VALUES, match=message) as caught:
        replace(REFERENCE, **changes)
    assert caught.value.code == "policy.reference-values"


def test_the_reference_values_of_a_sigstruct_admit_its_enclave_only() -> None:
    key = signing_key()
    sigstruct = Sigstruct.sign(mr_enclave=ENCLAVE, key=key, signed_on=date(2026, 11, 23), isv_prod_id=7, isv_svn=3)
    reference = ReferenceValues.of_sigstruct(sigstruct)
    launched = replace(REPORT, mr_signer=sigstruct.mr_signer, attributes=sigstruct.launch_attributes(0xE7))
    _appraise(_quote(launched), reference, STRICT)
    flags = launched.attributes.flags | AttributeFlags.PROVISION_KEY
    with raises(SgxCode.POLICY_ATTRIBUTES):
        _appraise(_quote(replace(launched, attributes=replace(launched.attributes, flags=flags))), reference, STRICT)
    with raises(SgxCode.POLICY_ATTRIBUTES):
        _appraise(_quote(replace(launched, attributes=replace(launched.attributes, xfrm=0x203))), reference, STRICT)


def test_the_values_come_back_from_json() -> None:
    wide = replace(REFERENCE, attribute_flags=0x8000_0000_0000_0005, xfrm_mask=0xFFFF_FFFF_FFF9_FF1B)
    for values in (REFERENCE, wide):
        assert ReferenceValues.from_json(values.to_json()) == values
    assert (REFERENCE.measurement, REFERENCE.signer) == (ENCLAVE, SIGNER)


@pytest.mark.parametrize(
    ("name", "value"), [("mr_signer", "no hex"), ("mr_signer", None), ("xfrm", "zz"), ("xfrm", 3), ("isv_svn", "2")]
)
def test_other_json_is_no_reference_values(name: str, value: object) -> None:
    values = {**json.loads(REFERENCE.to_json()), name: value}
    with pytest.raises((ValueError, TypeError)):
        ReferenceValues.from_json(json.dumps(values))
    del values[name]
    with pytest.raises(KeyError, match=name):
        ReferenceValues.from_json(json.dumps(values))


PRODUCT = ProductReferenceValues(mr_signer=SIGNER, isv_prod_id=7, isv_svn=3)


def test_each_enclave_of_a_product_matches_its_reference_values() -> None:
    for changes in ({}, {"mr_enclave": MrEnclave(b"\x03" * 32)}, {"isv_svn": 4}):
        quote = _quote(replace(REPORT, **changes))
        quote.check_reference(PRODUCT.to_json())
        assert quote.product == PRODUCT.measurement
    _quote(_flags(0x5 | AttributeFlags.KSS)).check_reference(PRODUCT.to_json())


@pytest.mark.parametrize(
    ("report", "error"),
    [
        (replace(REPORT, mr_signer=MrSigner(b"\x03" * 32)), SgxCode.POLICY_MR_SIGNER),
        (replace(REPORT, isv_prod_id=8), SgxCode.POLICY_ISV_PROD_ID),
        (replace(REPORT, isv_svn=2), SgxCode.POLICY_ISV_SVN),
        (_flags(0x7), SgxCode.POLICY_DEBUG),
        (_flags(0x15), SgxCode.POLICY_ATTRIBUTES),
        (_flags(0x1), SgxCode.POLICY_ATTRIBUTES),
    ],
)
def test_an_enclave_outside_of_the_product_is_refused(report: EnclaveReport, error: Expected) -> None:
    with raises(error):
        _quote(report).check_reference(PRODUCT.to_json())


def test_reference_values_of_a_product_come_back_from_json() -> None:
    assert parse_reference(PRODUCT.to_json()) == PRODUCT
    assert parse_reference(REFERENCE.to_json()) == REFERENCE
    assert (PRODUCT.signer, len(PRODUCT.measurement)) == (SIGNER, 32)
    # Another signer, and another product id, is another product.
    others = {
        replace(PRODUCT, isv_prod_id=8).measurement,
        replace(PRODUCT, mr_signer=MrSigner(b"\x03" * 32)).measurement,
    }
    assert len(others | {PRODUCT.measurement}) == 3
    assert replace(PRODUCT, isv_svn=9).measurement == PRODUCT.measurement


@pytest.mark.parametrize(
    "text", ["{}", '{"product":1}', '{"product":{}}', '{"product":{"mr_signer":"zz","isv_prod_id":1,"isv_svn":1}}']
)
def test_other_json_is_no_reference(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse_reference(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mr_signer": MrSigner(bytes(32))}, "is empty"),
        ({"isv_prod_id": 65536}, "isv_prod_id is out of range"),
        ({"isv_svn": -1}, "isv_svn is out of range"),
    ],
)
def test_a_product_without_a_signer_is_an_error(changes: dict[str, Any], message: str) -> None:
    with raises(SgxCode.POLICY_REFERENCE_VALUES, match=message):
        replace(PRODUCT, **changes)
