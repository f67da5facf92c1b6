"""The rules of a policy for SGX, checked on the facts that the audit log records."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.harness.errors import Expected, raises

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.policy import AppraisalPolicy, appraise
from sealserve.attestation.presets import STRICT
from sealserve.sgx.appraisal import VerifiedQuote, complete_facts
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.pck import Fmspc
from sealserve.sgx.policy_rules import SgxRules, rules_of
from sealserve.sgx.report import AttributeFlags, Attributes, EnclaveReport, MrEnclave, MrSigner

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PLAIN = EnclaveReport(
    attributes=Attributes(flags=0x5, xfrm=0xE7),
    mr_enclave=MrEnclave(b"\x01" * 32),
    mr_signer=MrSigner(b"\x02" * 32),
    isv_prod_id=7,
    isv_svn=3,
    report_data=bytes(64),
)
WITH_KSS = replace(
    PLAIN,
    attributes=Attributes(flags=0x5 | AttributeFlags.KSS, xfrm=0xE7),
    misc_select=1,
    config_id=b"\x0c" * 64,
    config_svn=4,
    isv_ext_prod_id=b"\x0e" * 16,
    isv_family_id=b"\x0f" * 16,
)


def _quote(report: EnclaveReport = PLAIN, fmspc: str = "00606A000000") -> VerifiedQuote:
    return VerifiedQuote(
        report=report,
        tcb_status=TcbStatus.UP_TO_DATE,
        advisory_ids=(),
        fmspc=Fmspc(fmspc),
        platform_id="ab" * 16,
        tcb_evaluation_data_number=17,
        tcb_date=NOW,
        tcb_superseded=None,
        collateral_issued=NOW,
        verified_at=NOW,
        simulated=False,
        cpu_svn=bytes(range(16)),
        pce_svn=15,
        qe_svn=8,
    )


def _appraise(quote: VerifiedQuote, **rules: Any) -> None:
    evidence = f'{{"sgx":{SgxRules.model_validate(rules).model_dump_json(exclude_defaults=True)}}}'
    policy = AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False, evidence_rules=evidence)
    appraise(quote, AppraisalPolicy.from_json(policy.to_json()), enrolled=())


@pytest.mark.parametrize(
    ("report", "rules"),
    [
        (PLAIN, {}),
        (PLAIN, {"fmspc_allow": ["00606a000000"]}),
        (PLAIN, {"fmspc_allow": ["00606A000000", "00906ED50000"], "fmspc_deny": ["00806F000000"]}),
        (PLAIN, {"fmspc_deny": []}),
        (PLAIN, {"misc_select": 0, "kss": False, "least_config_svn": 0}),
        (PLAIN, {"config_id": "00" * 64, "isv_ext_prod_id": "00" * 16, "isv_family_id": "00" * 16}),
        (WITH_KSS, {"misc_select": 1, "kss": True, "least_config_svn": 4}),
        (WITH_KSS, {"config_id": "0C" * 64, "isv_ext_prod_id": "0E" * 16, "isv_family_id": "0f" * 16}),
    ],
)
def test_an_enclave_that_satisfies_the_rules(report: EnclaveReport, rules: dict[str, Any]) -> None:
    _appraise(_quote(report), **rules)


@pytest.mark.parametrize(
    ("report", "rules", "error", "message"),
    [
        (PLAIN, {"fmspc_allow": ["00906ED50000"]}, SgxCode.POLICY_FMSPC,
         "does not allow processors with the FMSPC 00606A000000: expected 00906ED50000"),
        (PLAIN, {"fmspc_deny": ["00606a000000"]}, SgxCode.POLICY_FMSPC,
         "denies processors with the FMSPC 00606A000000"),
        (PLAIN, {"fmspc_allow": ["00606A000000"], "fmspc_deny": ["00606A000000"]}, SgxCode.POLICY_FMSPC, "denies"),
        (PLAIN, {"misc_select": 1}, SgxCode.POLICY_MISC_SELECT, "expected MISCSELECT 0x1, got 0x0"),
        (PLAIN, {"kss": True}, SgxCode.POLICY_KSS, "expected KSS on, got off"),
        (WITH_KSS, {"kss": False}, SgxCode.POLICY_KSS, "expected KSS off, got on"),
        (PLAIN, {"config_id": "0c" * 64}, SgxCode.POLICY_CONFIG_ID, "expected CONFIGID 0c0c.*, got 0000"),
        (WITH_KSS, {"config_id": "00" * 64}, SgxCode.POLICY_CONFIG_ID, "expected CONFIGID 0000.*, got 0c0c"),
        (WITH_KSS, {"least_config_svn": 5}, SgxCode.POLICY_CONFIG_ID, "expected CONFIGSVN at least 5, got 4"),
        (PLAIN, {"isv_ext_prod_id": "0e" * 16}, SgxCode.POLICY_KSS, "expected ISVEXTPRODID 0e0e"),
        (WITH_KSS, {"isv_family_id": "0e" * 16}, SgxCode.POLICY_KSS, "expected ISVFAMILYID 0e0e.*, got 0f0f"),
    ],
)  # fmt: skip
def test_an_enclave_that_violates_a_rule(
    report: EnclaveReport, rules: dict[str, Any], error: Expected, message: str
) -> None:
    with raises(error, match=message):
        _appraise(_quote(report), **rules)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "{", '{"tdx":{}}', '{"sgx":{},"tdx":{}}', '{"sgx":{"speed":1}}', '{"sgx":{"kss":1}}',
     '{"sgx":[]}', "[" * 100_000, '{"sgx":{"fmspc_allow":[]}}'],
)  # fmt: skip
def test_rules_that_the_verifier_does_not_support_refuse_everything(text: str) -> None:
    with raises(SgxCode.POLICY_EVIDENCE_RULES, match="rules that the verifier of SGX evidence does not support"):
        _quote().check_rules(text)


def test_facts_contain_what_a_trial_needs() -> None:
    assert _quote().facts() == {
        "fmspc": "00606A000000",
        "cpu_svn": "000102030405060708090a0b0c0d0e0f",
        "pce_svn": 15,
        "qe_svn": 8,
        "tcb_date": "2026-11-23T12:00:00Z",
        "tcb_evaluation_number": 17,
        "collateral_issued": "2026-11-23T12:00:00Z",
        "isv_prod_id": 7,
        "isv_svn": 3,
        "misc_select": 0,
        "kss": 0,
    }
    assert replace(_quote(), tcb_superseded=NOW).facts()["tcb_superseded"] == "2026-11-23T12:00:00Z"


def test_omitted_zeros_are_restored_but_never_invented() -> None:
    complete = complete_facts(_quote().facts())
    assert (complete["config_id"], complete["config_svn"]) == ("00" * 64, 0)
    assert complete_facts(_quote(WITH_KSS).facts())["config_id"] == "0c" * 64
    # A row without KSS facts says nothing about them.
    with pytest.raises(KeyError, match="config_id"):
        rules_of('{"sgx":{"config_id":"' + "00" * 64 + '"}}').check(complete_facts({"fmspc": "00606A000000"}))


def test_sentences_describe_each_rule() -> None:
    rules = SgxRules.model_validate(
        {"fmspc_allow": ["00606A000000"], "fmspc_deny": ["00906ED50000"], "misc_select": 1, "kss": True,
         "config_id": "0c" * 64, "least_config_svn": 4, "isv_ext_prod_id": "0e" * 16, "isv_family_id": "0f" * 16,
         "dangerous_signer": {"mr_signer": "02" * 32, "isv_prod_id": 1, "least_isv_svn": 3}}
    )  # fmt: skip
    assert "DANGEROUS" in list(rules.sentences())[-1]
    assert len(list(rules.sentences())) == len(SgxRules.model_fields)
    assert list(SgxRules().sentences()) == []
