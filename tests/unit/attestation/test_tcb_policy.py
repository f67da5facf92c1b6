import pytest
from tests.harness.errors import raises

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.tcb_policy import CLOUD_SMT, PRESETS, STRICT, TcbPolicy

BAD = (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, TcbStatus.REVOKED)


def test_the_presets_are_what_they_say() -> None:
    assert dict(PRESETS) == {"strict": STRICT, "cloud-smt": CLOUD_SMT}
    assert STRICT.statuses == {"UpToDate"}
    assert not STRICT.advisories
    assert CLOUD_SMT.statuses == {"UpToDate", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded"}
    assert CLOUD_SMT.advisories == {"INTEL-SA-00289", "INTEL-SA-00615"}


def test_what_the_presets_accept() -> None:
    STRICT.check(TcbStatus.UP_TO_DATE, ())
    CLOUD_SMT.check(TcbStatus.UP_TO_DATE, ())
    CLOUD_SMT.check(TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, ("INTEL-SA-00289", "INTEL-SA-00615"))
    CLOUD_SMT.check(TcbStatus.SW_HARDENING_NEEDED, ["INTEL-SA-00615"])


@pytest.mark.parametrize("status", [status for status in TcbStatus if status is not TcbStatus.UP_TO_DATE])
def test_strict_accepts_up_to_date_only(status: TcbStatus) -> None:
    with raises(
        AttestationCode.POLICY_TCB_STATUS, match=rf"status is {status} \(INTEL-SA-00615\), but .*accepts only UpToDate"
    ) as caught:
        STRICT.check(status, ("INTEL-SA-00615",))
    assert caught.value.code == "policy.tcb-status"


@pytest.mark.parametrize("status", [*BAD, TcbStatus.CONFIGURATION_NEEDED])
def test_cloud_smt_refuses_other_states(status: TcbStatus) -> None:
    with raises(AttestationCode.POLICY_TCB_STATUS, match=rf"{status} \(no advisories\)"):
        CLOUD_SMT.check(status, ())


@pytest.mark.parametrize("policy", [STRICT, CLOUD_SMT])
def test_an_advisory_that_is_not_listed_is_refused_whatever_the_status(policy: TcbPolicy) -> None:
    with raises(AttestationCode.POLICY_ADVISORY, match=r"is UpToDate because of INTEL-SA-00334") as caught:
        policy.check(TcbStatus.UP_TO_DATE, ("INTEL-SA-00334",))
    assert caught.value.code == "policy.advisory"
    with raises(
        AttestationCode.POLICY_ADVISORY,
        match="The platform's TCB status is SWHardeningNeeded because of INTEL-SA-00334, but the "
        "policy 'cloud-smt' accepts INTEL-SA-00289, INTEL-SA-00615",
    ):
        CLOUD_SMT.check(TcbStatus.SW_HARDENING_NEEDED, ("INTEL-SA-00334", "INTEL-SA-00615"))


def test_an_empty_policy_is_an_error() -> None:
    with raises(AttestationCode.POLICY_EMPTY, match="The TCB policy 'mine' lists no accepted TCB status") as caught:
        TcbPolicy(name="mine", statuses=frozenset())
    assert caught.value.code == "policy.empty"
    with raises(AttestationCode.POLICY_EMPTY):
        TcbPolicy(name="", statuses=frozenset({TcbStatus.UP_TO_DATE}))


@pytest.mark.parametrize("status", BAD)
def test_no_policy_accepts_a_platform_that_keeps_no_secret(status: TcbStatus) -> None:
    with raises(
        AttestationCode.POLICY_TCB_POLICY,
        match=rf"'mine' lists {status}, which a policy must not accept: such a platform",
    ) as caught:
        TcbPolicy(name="mine", statuses=frozenset({TcbStatus.UP_TO_DATE, status}))
    assert caught.value.code == "policy.tcb-policy"


def test_an_advisory_must_be_one() -> None:
    with raises(
        AttestationCode.POLICY_TCB_POLICY, match=r"The TCB policy 'mine' lists '\*', which is not a valid advisory id"
    ):
        TcbPolicy(name="mine", statuses=frozenset({TcbStatus.UP_TO_DATE}), advisories=frozenset({"*"}))
