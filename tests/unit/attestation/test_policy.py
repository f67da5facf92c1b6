import json
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.policy import AppraisalPolicy, check_enrolment, checks
from sealserve.attestation.presets import CLOUD_SMT, PRESETS, STRICT
from sealserve.attestation.tcb_policy import GracePeriod

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PLATFORM = "ab" * 16
POLICY = AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False)


@dataclass(frozen=True)
class Facts:
    """The facts of a platform, as claims have them."""

    tcb_status: TcbStatus = TcbStatus.UP_TO_DATE
    advisory_ids: tuple[str, ...] = ()
    tcb_superseded: datetime | None = None
    verified_at: datetime = NOW
    platform_id: str = PLATFORM
    tcb_evaluation_data_number: int = 17
    tcb_date: datetime = datetime(2026, 3, 10, tzinfo=UTC)
    collateral_issued: datetime = NOW - timedelta(days=7)

    def check_rules(self, rules: str) -> None:
        raise AssertionError(rules)


def _appraise(facts: Facts, policy: AppraisalPolicy, enrolled: Collection[str] = ()) -> None:
    for check in checks(facts, policy, enrolled=enrolled):
        check()


FULL = AppraisalPolicy(
    tcb=replace(STRICT, name="full", grace=GracePeriod(days=30, accept={TcbStatus.OUT_OF_DATE: "any"})),
    enrolled_platforms_only=True,
    least_evaluation_number=17,
    least_tcb_date=date(2026, 3, 10),
    max_collateral_age_days=7,
    allowed_platforms=frozenset({PLATFORM, "cd" * 16}),
    denied_platforms=frozenset({"ef" * 16}),
    evidence_rules='{"sgx":{"kss":true}}',
)


@pytest.mark.parametrize(
    "policy",
    [
        FULL,
        replace(FULL, manual_approval=True),
        replace(FULL, tcb=replace(FULL.tcb, grace=GracePeriod(days=1, accept={TcbStatus.OUT_OF_DATE: frozenset()}))),
        *(AppraisalPolicy(tcb=preset.rules.tcb, enrolled_platforms_only=only)
          for preset in PRESETS.values() for only in (True, False)),
    ],
)  # fmt: skip
def test_a_policy_comes_back_from_json(policy: AppraisalPolicy) -> None:
    assert AppraisalPolicy.from_json(policy.to_json()) == policy
    optional = set() if policy.manual_approval else {"manual_approval"}  # so that older policies keep their fingerprint
    assert set(json.loads(policy.to_json())) == {"version", *(field.name for field in fields(policy))} - optional


def test_the_json_is_the_same_for_equal_policies() -> None:
    both = '["INTEL-SA-00289","INTEL-SA-00615"]'
    assert AppraisalPolicy(tcb=CLOUD_SMT, enrolled_platforms_only=True).to_json() == (
        '{"allowed_platforms":null,"denied_platforms":[],"enrolled_platforms_only":true,"evidence_rules":"{}",'
        '"least_evaluation_number":0,"least_tcb_date":null,"max_collateral_age_days":null,"tcb":{"accept":'
        f'{{"ConfigurationAndSWHardeningNeeded":{both},"SWHardeningNeeded":{both},"UpToDate":{both}}},'
        '"grace":null,"name":"cloud-smt"},"version":2}'
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("enrolled_only", [True, False])
def test_a_policy_of_version_1_means_the_same(preset: str, enrolled_only: bool) -> None:
    stored = {
        "strict": '{"advisories":[],"name":"strict","statuses":["UpToDate"]}',
        "cloud-smt": '{"advisories":["INTEL-SA-00289","INTEL-SA-00615"],"name":"cloud-smt","statuses":'
        '["ConfigurationAndSWHardeningNeeded","SWHardeningNeeded","UpToDate"]}',
    }[preset]
    text = f'{{"enrolled_platforms_only":{str(enrolled_only).lower()},"tcb":{stored},"version":1}}'
    expected = AppraisalPolicy(tcb=PRESETS[preset].rules.tcb, enrolled_platforms_only=enrolled_only)
    assert AppraisalPolicy.from_json(text) == expected


_STRICT = '{"name":"x","statuses":["UpToDate"],"advisories":[]}'
_SECOND = '{"name":"x","accept":{"UpToDate":[]}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[" * 100_000,
        '{"version":1}',
        '{"version":2}',
        f'{{"version":1,"tcb":{_STRICT},"enrolled_platforms_only":true,"enrolled_platforms_only":false}}',
        f'[["version",1],["tcb",{_STRICT}],["enrolled_platforms_only",true]]',
        f'{{"version":1,"tcb":{_STRICT}}}',
        f'{{"version":1,"tcb":{_STRICT},"enrolled_platforms_only":1}}',
        f'{{"version":1,"tcb":{_STRICT},"enrolled_platforms_only":true,"more":1}}',
        f'{{"version":1,"tcb":{_STRICT},"enrolled_platforms_only":true,"least_evaluation_number":1}}',
        f'{{"version":1,"tcb":{_SECOND},"enrolled_platforms_only":true}}',
        f'{{"version":2,"tcb":{_STRICT},"enrolled_platforms_only":true}}',
        f'{{"version":2,"tcb":{_SECOND},"enrolled_platforms_only":true,"least_tcb_date":"soon"}}',
        f'{{"version":2,"tcb":{_SECOND},"enrolled_platforms_only":true,"least_evaluation_number":"17"}}',
        f'{{"version":2,"tcb":{_SECOND},"enrolled_platforms_only":true,"denied_platforms":"abc"}}',
        f'{{"version":2,"tcb":{_SECOND},"enrolled_platforms_only":true,"more":1}}',
        '{"version":2,"tcb":{"name":"x","accept":{"Fine":[]}},"enrolled_platforms_only":true}',
        '{"version":2,"tcb":{"name":"x","accept":{"UpToDate":"any"}},"enrolled_platforms_only":true}',
        '{"version":1,"tcb":{"name":"x"},"enrolled_platforms_only":true}',
        '{"version":1,"tcb":{"name":"x","statuses":["Fine"],"advisories":[]},"enrolled_platforms_only":true}',
        f'{{"version":1,"tcb":{_STRICT[:-1]},"more":1}},"enrolled_platforms_only":true}}',
        '{"version":1,"tcb":{"name":"x","statuses":"UpToDate","advisories":[]},"enrolled_platforms_only":true}',
    ],
)
def test_other_json_is_no_policy(text: str) -> None:
    with raises(
        AttestationCode.POLICY_TCB_POLICY,
        match="The appraisal policy is invalid: expected a JSON object with all rules",
    ):
        AppraisalPolicy.from_json(text)


@pytest.mark.parametrize(
    "version", ['"version":3,', '"version":null,', '"version":"1",', '"version":true,', '"version":1.0,', ""]
)
def test_a_policy_of_another_version_is_refused(version: str) -> None:
    text = f'{{{version}"tcb":{_STRICT},"enrolled_platforms_only":true}}'
    with raises(
        AttestationCode.POLICY_TCB_POLICY, match="The appraisal policy has an unsupported version: expected 1 or 2, got"
    ):
        AppraisalPolicy.from_json(text)


@pytest.mark.parametrize("status", ["Revoked", "OutOfDate"])
def test_a_stored_policy_that_accepts_a_bad_status_is_refused(status: str) -> None:
    tcb = f'{{"name":"x","accept":{{"UpToDate":[],"{status}":[]}}}}'
    with raises(AttestationCode.POLICY_TCB_POLICY, match=f"lists {status}"):
        AppraisalPolicy.from_json(f'{{"version":2,"tcb":{tcb},"enrolled_platforms_only":true}}')


def test_a_stored_policy_that_names_no_status_is_empty() -> None:
    text = '{"version":1,"tcb":{"name":"x","statuses":[],"advisories":[]},"enrolled_platforms_only":true}'
    with raises(AttestationCode.POLICY_EMPTY):
        AppraisalPolicy.from_json(text)


def test_a_policy_says_each_of_its_rules() -> None:
    assert str(AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=True)) == (
        'the policy \'strict\' ({"tcb":{"accept":{"UpToDate":[]},"grace":null,"name":"strict"}}) for '
        "enrolled platforms only"
    )
    for name in ("least_evaluation_number", "least_tcb_date", "max_collateral_age_days", "allowed_platforms",
                 "denied_platforms", "kss"):  # fmt: skip
        assert name in str(FULL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least_evaluation_number": -1}, "least evaluation number .* expected 0 to 4294967295, got -1"),
        ({"max_collateral_age_days": 0}, "maximum age of collateral .* expected 1 to 3650, got 0"),
    ],
)
def test_a_number_out_of_range_is_an_error(changes: dict[str, Any], message: str) -> None:
    with raises(AttestationCode.POLICY_TCB_POLICY, match=message):
        replace(POLICY, **changes)


def test_an_empty_list_of_allowed_platforms_is_an_error() -> None:
    with raises(AttestationCode.POLICY_EMPTY, match="has an empty list of allowed platforms"):
        replace(POLICY, allowed_platforms=frozenset())


@pytest.mark.parametrize(("number", "least"), [(17, 17), (18, 17), (0, 0)])
def test_an_evaluation_number_that_is_high_enough(number: int, least: int) -> None:
    _appraise(Facts(tcb_evaluation_data_number=number), replace(POLICY, least_evaluation_number=least))


def test_an_evaluation_number_that_is_too_low() -> None:
    with raises(
        AttestationCode.POLICY_EVALUATION_NUMBER, match="a TCB evaluation data number of at least 18, got 17"
    ) as caught:
        _appraise(Facts(), replace(POLICY, least_evaluation_number=18))
    assert caught.value.code == "policy.evaluation-number"


def test_the_age_of_collateral() -> None:
    policy = replace(POLICY, max_collateral_age_days=7)
    _appraise(Facts(), policy)  # exactly 7 days
    _appraise(Facts(collateral_issued=NOW + timedelta(minutes=1)), policy)  # issued by a clock that is ahead
    with raises(
        AttestationCode.POLICY_COLLATERAL_AGE, match=r"at most 7 days, got 7 days \(issued at 2026-11-16T11:59:59Z\)"
    ) as caught:
        _appraise(Facts(collateral_issued=NOW - timedelta(days=7, seconds=1)), policy)
    assert caught.value.code == "policy.collateral-age"


def test_the_date_of_the_tcb_level() -> None:
    policy = replace(POLICY, least_tcb_date=date(2026, 3, 10))
    _appraise(Facts(), policy)
    # The same moment in another time zone has the same date in UTC.
    zone = timezone(timedelta(hours=-5))
    _appraise(Facts(tcb_date=datetime(2026, 3, 10, tzinfo=UTC).astimezone(zone)), policy)
    with raises(AttestationCode.POLICY_TCB_DATE, match="a level of 2026-03-10 or later, got 2026-03-09") as caught:
        _appraise(Facts(tcb_date=datetime(2026, 3, 9, 23, 59, 59, tzinfo=UTC)), policy)
    assert caught.value.code == "policy.tcb-date"


def test_lists_of_platforms() -> None:
    allow = replace(POLICY, allowed_platforms=frozenset({PLATFORM}))
    _appraise(Facts(), allow)
    _appraise(Facts(platform_id=PLATFORM.upper()), allow)
    with raises(AttestationCode.POLICY_PLATFORM_NOT_ALLOWED, match="does not allow the platform cdcd") as caught:
        _appraise(Facts(platform_id="cd" * 16), allow)
    assert caught.value.code == "policy.platform-not-allowed"
    deny = replace(POLICY, denied_platforms=frozenset({PLATFORM}))
    _appraise(Facts(platform_id="cd" * 16), deny)
    with raises(AttestationCode.POLICY_PLATFORM_DENIED, match=f"denies the platform {PLATFORM}") as caught:
        _appraise(Facts(platform_id=PLATFORM.upper()), deny)
    assert caught.value.code == "policy.platform-denied"


def test_a_denied_platform_is_refused_even_if_it_is_allowed_and_enrolled() -> None:
    both = replace(POLICY, allowed_platforms=frozenset({PLATFORM}), denied_platforms=frozenset({PLATFORM}))
    with raises(AttestationCode.POLICY_PLATFORM_DENIED):
        _appraise(Facts(), replace(both, enrolled_platforms_only=True), {PLATFORM})


def test_an_allowed_platform_must_still_be_enrolled() -> None:
    with raises(AttestationCode.POLICY_PLATFORM_UNKNOWN):
        _appraise(Facts(), replace(POLICY, allowed_platforms=frozenset({PLATFORM}), enrolled_platforms_only=True))


def test_rules_for_the_kind_of_evidence_are_passed_on() -> None:
    with pytest.raises(AssertionError, match=r"\{\"sgx\":\{\"kss\":true\}\}"):
        _appraise(Facts(), replace(POLICY, evidence_rules='{"sgx":{"kss":true}}'))


def test_enrolment() -> None:
    check_enrolment("ab", {"ab"})
    with raises(AttestationCode.POLICY_PLATFORM_UNKNOWN, match="The platform cd is not enrolled") as caught:
        check_enrolment("cd", frozenset({"ab"}))
    assert caught.value.code == "policy.platform-unknown"
