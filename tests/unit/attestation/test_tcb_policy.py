from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

import pytest
from tests.harness.errors import raises

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.presets import CLOUD_SMT, PRESETS, STRICT
from sealserve.attestation.tcb_policy import GracePeriod, TcbPolicy

BAD = (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, TcbStatus.REVOKED)
RECOVERY = datetime(2026, 3, 10, tzinfo=UTC)


@dataclass(frozen=True)
class State:
    tcb_status: TcbStatus = TcbStatus.UP_TO_DATE
    advisory_ids: tuple[str, ...] = ()
    tcb_superseded: datetime | None = RECOVERY
    verified_at: datetime = RECOVERY


def _graceful(
    days: int = 30, *, accept: Mapping[TcbStatus, frozenset[str] | Literal["any"]] | None = None
) -> TcbPolicy:
    accepted: Mapping[TcbStatus, frozenset[str] | Literal["any"]] = accept or {TcbStatus.OUT_OF_DATE: "any"}
    return replace(STRICT, name="graceful", grace=GracePeriod(days=days, accept=accepted))


def test_the_presets_are_what_they_say() -> None:
    assert {name: preset.rules.tcb for name, preset in PRESETS.items()} == {"strict": STRICT, "cloud-smt": CLOUD_SMT}
    assert dict(STRICT.accept) == {TcbStatus.UP_TO_DATE: frozenset()}
    both = frozenset({"INTEL-SA-00289", "INTEL-SA-00615"})
    assert dict(CLOUD_SMT.accept) == {
        TcbStatus.UP_TO_DATE: both,
        TcbStatus.SW_HARDENING_NEEDED: both,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: both,
    }
    assert STRICT.grace is CLOUD_SMT.grace is None


def test_what_the_presets_accept() -> None:
    STRICT.check(State())
    CLOUD_SMT.check(State())
    CLOUD_SMT.check(
        State(TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00289", "INTEL-SA-00615"))
    )
    CLOUD_SMT.check(State(TcbStatus.SW_HARDENING_NEEDED, advisory_ids=("INTEL-SA-00615",)))


@pytest.mark.parametrize("status", [status for status in TcbStatus if status is not TcbStatus.UP_TO_DATE])
def test_strict_accepts_up_to_date_only(status: TcbStatus) -> None:
    with raises(
        AttestationCode.POLICY_TCB_STATUS, match=rf"status is {status} \(INTEL-SA-00615\), but .*accepts only UpToDate"
    ) as caught:
        STRICT.check(State(status, ("INTEL-SA-00615",)))
    assert caught.value.code == "policy.tcb-status"


@pytest.mark.parametrize("status", [*BAD, TcbStatus.CONFIGURATION_NEEDED])
def test_cloud_smt_refuses_other_states(status: TcbStatus) -> None:
    with raises(AttestationCode.POLICY_TCB_STATUS, match=rf"{status} \(no advisories\)"):
        CLOUD_SMT.check(State(status))


@pytest.mark.parametrize("policy", [STRICT, CLOUD_SMT])
def test_an_advisory_that_is_not_listed_is_refused_whatever_the_status(policy: TcbPolicy) -> None:
    with raises(AttestationCode.POLICY_ADVISORY, match=r"is UpToDate because of INTEL-SA-00334") as caught:
        policy.check(State(advisory_ids=("INTEL-SA-00334",)))
    assert caught.value.code == "policy.advisory"
    with raises(
        AttestationCode.POLICY_ADVISORY,
        match="The platform's TCB status is SWHardeningNeeded because of INTEL-SA-00334, but the "
        "policy 'cloud-smt' accepts INTEL-SA-00289, INTEL-SA-00615 with this status",
    ):
        CLOUD_SMT.check(State(TcbStatus.SW_HARDENING_NEEDED, ("INTEL-SA-00334", "INTEL-SA-00615")))


def test_an_advisory_is_accepted_only_with_its_status() -> None:
    policy = TcbPolicy(
        name="mine",
        accept={
            TcbStatus.UP_TO_DATE: frozenset(),
            TcbStatus.SW_HARDENING_NEEDED: frozenset({"INTEL-SA-00615"}),
        },
    )
    policy.check(State(TcbStatus.SW_HARDENING_NEEDED, ("INTEL-SA-00615",)))
    with raises(AttestationCode.POLICY_ADVISORY, match="accepts no advisories with this status"):
        policy.check(State(TcbStatus.UP_TO_DATE, ("INTEL-SA-00615",)))


def test_a_grace_period_ends_exactly_at_its_end() -> None:
    policy, end = _graceful(30), RECOVERY + timedelta(days=30)
    state = State(TcbStatus.OUT_OF_DATE, ("INTEL-SA-00334",), verified_at=end - timedelta(microseconds=1))
    policy.check(state)
    with raises(
        AttestationCode.POLICY_TCB_GRACE,
        match=r"grace period of 30 days ended at 2026-04-09T00:00:00Z: a newer TCB level is dated 2026-03-10",
    ) as caught:
        policy.check(replace(state, verified_at=end))
    assert caught.value.code == "policy.tcb-grace"


@pytest.mark.parametrize("hours", [-12, 0, 14])
def test_a_grace_period_is_the_same_in_each_time_zone(hours: int) -> None:
    zone, end = timezone(timedelta(hours=hours)), RECOVERY + timedelta(days=1)
    policy = _graceful(1)
    policy.check(State(TcbStatus.OUT_OF_DATE, verified_at=(end - timedelta(seconds=1)).astimezone(zone)))
    with raises(AttestationCode.POLICY_TCB_GRACE):
        policy.check(
            State(TcbStatus.OUT_OF_DATE, verified_at=end.astimezone(zone), tcb_superseded=RECOVERY.astimezone(zone))
        )


def test_a_grace_period_without_a_known_start_accepts_nothing() -> None:
    with raises(AttestationCode.POLICY_TCB_GRACE, match="the start of its grace period is unknown"):
        _graceful().check(State(TcbStatus.OUT_OF_DATE, tcb_superseded=None))


def test_a_grace_period_accepts_only_its_statuses_and_advisories() -> None:
    policy = _graceful(accept={TcbStatus.OUT_OF_DATE: frozenset({"INTEL-SA-00828"})})
    policy.check(State(TcbStatus.OUT_OF_DATE, ("INTEL-SA-00828",)))
    with raises(AttestationCode.POLICY_ADVISORY, match="because of INTEL-SA-00837"):
        policy.check(State(TcbStatus.OUT_OF_DATE, ("INTEL-SA-00828", "INTEL-SA-00837")))
    for status in (TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, TcbStatus.REVOKED, TcbStatus.SW_HARDENING_NEEDED):
        with raises(AttestationCode.POLICY_TCB_STATUS):
            policy.check(State(status))


@pytest.mark.parametrize("status", [status for status in TcbStatus if not status.startswith("OutOfDate")])
def test_no_grace_period_accepts_revoked_or_unlimited_statuses(status: TcbStatus) -> None:
    with raises(AttestationCode.POLICY_TCB_POLICY, match=f"expected out-of-date statuses, got {status}"):
        GracePeriod(days=1, accept={status: "any"})


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_a_grace_period_has_a_sensible_length(days: int) -> None:
    with raises(AttestationCode.POLICY_TCB_POLICY, match=f"expected 1 to 3650 days, got {days}"):
        GracePeriod(days=days, accept={TcbStatus.OUT_OF_DATE: "any"})


def test_a_grace_period_names_a_status_and_valid_advisories() -> None:
    with raises(AttestationCode.POLICY_TCB_POLICY, match="expected out-of-date statuses, got none"):
        GracePeriod(days=1, accept={})
    with raises(AttestationCode.POLICY_TCB_POLICY, match=r"The grace period lists '\*'"):
        GracePeriod(days=1, accept={TcbStatus.OUT_OF_DATE: frozenset({"*"})})


def test_an_empty_policy_is_an_error() -> None:
    with raises(AttestationCode.POLICY_EMPTY, match="The TCB policy 'mine' lists no accepted TCB status") as caught:
        TcbPolicy(name="mine", accept={})
    assert caught.value.code == "policy.empty"
    with raises(AttestationCode.POLICY_EMPTY):
        TcbPolicy(name="", accept={TcbStatus.UP_TO_DATE: frozenset()})


@pytest.mark.parametrize("status", BAD)
def test_no_policy_accepts_a_platform_that_keeps_no_secret(status: TcbStatus) -> None:
    with raises(
        AttestationCode.POLICY_TCB_POLICY,
        match=rf"'mine' lists {status}, which a policy must not accept: such a platform",
    ) as caught:
        TcbPolicy(name="mine", accept={TcbStatus.UP_TO_DATE: frozenset(), status: frozenset()})
    assert caught.value.code == "policy.tcb-policy"


def test_an_advisory_must_be_one() -> None:
    with raises(
        AttestationCode.POLICY_TCB_POLICY, match=r"The TCB policy 'mine' lists '\*', which is not a valid advisory id"
    ):
        TcbPolicy(name="mine", accept={TcbStatus.UP_TO_DATE: frozenset({"*"})})
