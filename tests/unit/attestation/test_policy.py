import json
from dataclasses import fields
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.policy import AppraisalPolicy, check_enrolment
from sealserve.attestation.tcb_policy import CLOUD_SMT, PRESETS, STRICT


@pytest.mark.parametrize("tcb", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("enrolled_only", [True, False])
def test_a_policy_comes_back_from_json(tcb: Any, enrolled_only: bool) -> None:
    policy = AppraisalPolicy(tcb=tcb, enrolled_platforms_only=enrolled_only)
    assert AppraisalPolicy.from_json(policy.to_json()) == policy
    assert set(json.loads(policy.to_json())) == {"version", *(field.name for field in fields(policy))}


def test_the_json_is_the_same_for_equal_policies() -> None:
    assert AppraisalPolicy(tcb=CLOUD_SMT, enrolled_platforms_only=True).to_json() == (
        '{"enrolled_platforms_only":true,"tcb":{"advisories":["INTEL-SA-00289","INTEL-SA-00615"],"name":"cloud-smt",'
        '"statuses":["ConfigurationAndSWHardeningNeeded","SWHardeningNeeded","UpToDate"]},"version":1}'
    )


_STRICT = '{"name":"x","statuses":["UpToDate"],"advisories":[]}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        '{"version":1}',
        f'{{"version":1,"tcb":{_STRICT},"enrolled_platforms_only":true,"enrolled_platforms_only":false}}',
        f'[["version",1],["tcb",{_STRICT}],["enrolled_platforms_only",true]]',
        f'{{"version":1,"tcb":{_STRICT}}}',
        f'{{"version":1,"tcb":{_STRICT},"enrolled_platforms_only":1}}',
        f'{{"version":1,"tcb":{_STRICT},"enrolled_platforms_only":true,"more":1}}',
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
    "version", ['"version":2,', '"version":null,', '"version":"1",', '"version":true,', '"version":1.0,', ""]
)
def test_a_policy_of_another_version_is_refused(version: str) -> None:
    text = f'{{{version}"tcb":{_STRICT},"enrolled_platforms_only":true}}'
    with raises(
        AttestationCode.POLICY_TCB_POLICY, match="The appraisal policy has an unsupported version: expected 1, got"
    ):
        AppraisalPolicy.from_json(text)


def test_a_stored_policy_that_names_no_status_is_empty() -> None:
    text = '{"version":1,"tcb":{"name":"x","statuses":[],"advisories":[]},"enrolled_platforms_only":true}'
    with raises(AttestationCode.POLICY_EMPTY):
        AppraisalPolicy.from_json(text)


def test_a_policy_says_each_of_its_rules() -> None:
    assert str(AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=True)) == (
        'the TCB policy \'strict\' ({"advisories":[],"name":"strict","statuses":["UpToDate"]}) for enrolled platforms '
        "only"
    )


def test_enrolment() -> None:
    check_enrolment("ab", {"ab"})
    with raises(AttestationCode.POLICY_PLATFORM_UNKNOWN, match="The platform cd is not enrolled") as caught:
        check_enrolment("cd", frozenset({"ab"}))
    assert caught.value.code == "policy.platform-unknown"
