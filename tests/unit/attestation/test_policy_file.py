"""Policy files: what they mean, and that each mistake is one clear error."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.attestation import policy_file, policy_text
from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.policy_file import PolicyFile
from sealserve.attestation.presets import PRESETS, RESERVED
from sealserve.errors import SealserveError
from sealserve.sgx.policy_rules import parse_table
from sealserve.terms import PlatformKind

LEAST = """
version = 2
name = "mine"
[tcb.accept]
UpToDate = []
"""
FULL = """
version = 2
name = "mine"
[tcb]
least_date = 2026-03-10
[tcb.accept]
UpToDate = []
SWHardeningNeeded = ["INTEL-SA-00615"]
[tcb.grace]
days = 30
[tcb.grace.accept]
OutOfDate = "any"
OutOfDateConfigurationNeeded = ["INTEL-SA-00615"]
[collateral]
max_age_days = 7
least_evaluation_number = 17
[platforms]
enrolled_only = true
allow = ["ABABABABABABABABABABABABABABABAB"]
deny = ["cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"]
[sgx]
fmspc_allow = ["00606a000000"]
fmspc_deny = ["00906ED50000"]
misc_select = 0x1
kss = true
[sgx.dangerous_signer]
mr_signer = "0202020202020202020202020202020202020202020202020202020202020202"
isv_prod_id = 1
least_isv_svn = 3
"""


def _parse(text: str | bytes) -> PolicyFile:
    raw = text.encode() if isinstance(text, str) else text
    return policy_file.parse(raw, file="mine.toml", evidence={"sgx": parse_table}, reserved=RESERVED)


def test_a_file_with_all_rules() -> None:
    rules = _parse(FULL).for_platform(PlatformKind.SGX)
    assert rules.tcb.name == "mine"
    assert rules.tcb.accept[TcbStatus.SW_HARDENING_NEEDED] == {"INTEL-SA-00615"}
    assert rules.tcb.grace is not None
    assert (rules.tcb.grace.days, dict(rules.tcb.grace.accept)) == (
        30,
        {TcbStatus.OUT_OF_DATE: "any", TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: {"INTEL-SA-00615"}},
    )
    assert rules.least_tcb_date == date(2026, 3, 10)
    assert (rules.max_collateral_age_days, rules.least_evaluation_number) == (7, 17)
    assert rules.allowed_platforms == frozenset({"ab" * 16})
    assert rules.denied_platforms == {"cd" * 16}
    assert rules.enrolled_platforms_only
    assert rules.evidence_rules == (
        '{"sgx":{"dangerous_signer":{"isv_prod_id":1,"least_isv_svn":3,"mr_signer":"' + "02" * 32 + '"},'
        '"fmspc_allow":["00606A000000"],"fmspc_deny":["00906ED50000"],"kss":true,"misc_select":1}}'
    )


@pytest.mark.parametrize("platform", PlatformKind)
@pytest.mark.parametrize("text", [LEAST, FULL])
def test_a_shown_policy_is_a_file_with_the_same_policy(text: str, platform: PlatformKind) -> None:
    rules = _parse(text).for_platform(platform)
    shown = policy_text.render(rules, simulated=platform is PlatformKind.SIMULATED)
    assert _parse(shown).for_platform(platform) == rules


def test_enrolment_of_simulated_platforms_is_required_only_on_request() -> None:
    assert _parse(LEAST).for_platform(PlatformKind.SGX).enrolled_platforms_only
    assert not _parse(LEAST).for_platform(PlatformKind.SIMULATED).enrolled_platforms_only
    assert _parse(FULL).for_platform(PlatformKind.SIMULATED).enrolled_platforms_only


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 2", "", "version: this key is missing"),
        ("version = 2", "version = 1", "version: expected 2, got 1"),
        ("version = 2", 'version = "2"', "version: expected 2, got '2'"),
        ("version = 2", "version = 2\nversion = 2", "it is not valid TOML: .*"),
        ("version = 2", "version = ", "it is not valid TOML: .*"),
        ("version = 2", "a = " + "[" * 5000, "its tables or lists are nested too deeply"),
        ('name = "mine"', 'name = ""', "name: expected 1 to 63 letters"),
        ('name = "mine"', 'name = "a b"', "name: expected 1 to 63 letters"),
        ('name = "mine"', "name = 3", "name: expected text in quotation marks, got 3"),
        ('name = "mine"', 'name = "cloud-smt"', "name: 'cloud-smt' is the name of a preset with other rules"),
        ('name = "mine"', 'name = "mine"\nspeed = 1', "speed: this key is unknown"),
        ('name = "mine"', 'name = "mine"\ntdx = 1', "tdx: this key is unknown"),
        ("UpToDate = []", "Fine = []", "tcb.accept: 'Fine' cannot be accepted here"),
        ("UpToDate = []", "Revoked = []", "tcb.accept: 'Revoked' cannot be accepted here"),
        ("UpToDate = []", "OutOfDate = []", r"'OutOfDate' .*permitted only in \[tcb.grace.accept\]"),
        ('UpToDate = []\nSWHardeningNeeded = ["INTEL-SA-00615"]', "", "tcb.accept: expected at least one status"),
        ("UpToDate = []", 'UpToDate = "any"', "tcb.accept.UpToDate: expected a list, got 'any'"),
        ("UpToDate = []", "UpToDate = [1]", "tcb.accept.UpToDate.0: expected text in quotation marks, got 1"),
        ("UpToDate = []", 'UpToDate = ["*"]', r"lists '\*', which is not a valid advisory id"),
        ("UpToDate = []", 'UpToDate = ["INTEL-SA-00615", "INTEL-SA-00615"]',
         "tcb.accept.UpToDate: 'INTEL-SA-00615' is listed twice"),
        ("UpToDate = []", "UpToDate = []\nUpToDate = []", "it is not valid TOML"),
        ("2026-03-10", '"2026-03-10"', "tcb.least_date: expected a date without quotation marks, such as 2026-03-10"),
        ("2026-03-10", "2026-02-30", "it is not valid TOML"),
        ("2026-03-10", "2026-03-10T00:00:00Z", "tcb.least_date: expected a date"),
        ("days = 30", "days = 0", "tcb.grace.days: expected a number of at least 1, got 0"),
        ("days = 30", "days = 99999", "tcb.grace.days: expected a number of at most 3650, got 99999"),
        ("days = 30", "days = 1.5", "tcb.grace.days: expected an integer, got 1.5"),
        ("days = 30", "days = true", "tcb.grace.days: expected an integer, got True"),
        ("days = 30", "", "tcb.grace.days: this key is missing"),
        ("days = 30", "day = 30", "tcb.grace.day: this key is unknown"),
        ('OutOfDate = "any"', 'Revoked = "any"', "tcb.grace.accept: 'Revoked' cannot be accepted here"),
        ('OutOfDate = "any"', 'UpToDate = "any"', "tcb.grace.accept: 'UpToDate' cannot be accepted here"),
        ('OutOfDate = "any"', 'OutOfDate = "all"', "tcb.grace.accept.OutOfDate: expected"),
        ("max_age_days = 7", "max_age_days = 0", "collateral.max_age_days: expected a number of at least 1, got 0"),
        ("max_age_days = 7", "max_age = 7", "collateral.max_age: this key is unknown"),
        ("= 17", "= -1", "collateral.least_evaluation_number: expected a number of at least 0, got -1"),
        ("enrolled_only = true", "enrolled_only = false", "platforms.enrolled_only: SGX releases always require"),
        ("enrolled_only = true", "enrolled_only = 1", "platforms.enrolled_only: expected true or false, got 1"),
        ('allow = ["ABABABABABABABABABABABABABABABAB"]', "allow = []", "platforms.allow: an empty list would refuse"),
        ('["ABABABABABABABABABABABABABABABAB"]', '["AB"]', "platforms.allow: expected platform ids of 32 .* got 'ab'"),
        ('["ABABABABABABABABABABABABABABABAB"]',
         f'["{"AB" * 16}", "{"ab" * 16}"]', "platforms.allow: 'abab.*' is listed twice"),
        ('fmspc_allow = ["00606a000000"]', "fmspc_allow = []", "sgx.fmspc_allow: an empty list would refuse"),
        ('["00606a000000"]', '["00606a"]', "sgx.fmspc_allow: expected FMSPCs of 12 hexadecimal digits, got '00606A'"),
        ('["00606a000000"]', '["00606a000000", "00606A000000"]', "sgx.fmspc_allow: '00606A000000' is listed twice"),
        ("misc_select = 0x1", "misc_select = -1", "sgx.misc_select: expected a number of at least 0, got -1"),
        ("misc_select = 0x1", 'misc_select = "1"', "sgx.misc_select: expected an integer, got '1'"),
        ("kss = true", "kss = 1", "sgx.kss: expected true or false, got 1"),
        ("kss = true", "speed = 1", "sgx.speed: this key is unknown"),
        ("kss = true", "dangerous_signer = 1", "sgx.dangerous_signer: expected a table, got 1"),
        ("kss = true", f'dangerous_signer = {{ mr_signer = "{"02" * 32}", isv_prod_id = 1 }}',
         "sgx.dangerous_signer.least_isv_svn: this key is missing"),
        ("kss = true", 'dangerous_signer = { mr_signer = "02", isv_prod_id = 1, least_isv_svn = 3 }',
         "sgx.dangerous_signer.mr_signer: expected 64 hexadecimal digits, got '02'"),
        ("kss = true", 'config_id = "00"', "sgx.config_id: expected 128 hexadecimal digits, got '00'"),
        ("kss = true", "least_config_svn = 65536", "sgx.least_config_svn: expected a number of at most 65535"),
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_that_names_the_key(old: str, new: str, message: str) -> None:
    assert old in FULL
    text = FULL.partition("[sgx.dangerous_signer]")[0] if "dangerous_signer" in new else FULL
    with raises(
        AttestationCode.POLICY_FILE, match=rf"The policy file mine\.toml is invalid: {message}|{message}"
    ) as caught:
        _parse(text.replace(old, new, 1))
    assert caught.value.code == "policy.file"
    assert caught.value.message.startswith("The policy file mine.toml is invalid: ")
    assert caught.value.hint


def test_a_table_of_another_kind() -> None:
    with raises(AttestationCode.POLICY_FILE, match=r"sgx: expected a table"):
        _parse("sgx = 1\n" + LEAST)
    with raises(AttestationCode.POLICY_FILE, match=r"it is not UTF-8 text"):
        _parse(b'name = "\xff"\n' + LEAST.encode())


def test_a_preset_may_be_used_under_its_name() -> None:
    for name, preset in PRESETS.items():
        shown = policy_text.render(preset.rules, simulated=False)
        assert _parse(shown).for_platform(PlatformKind.SGX) == preset.rules
        assert preset.rules.tcb.name == name


@given(st.binary(max_size=300))
def test_any_other_bytes_are_a_clear_error(raw: bytes) -> None:
    with raises(AttestationCode.POLICY_FILE):
        _parse(raw)


@given(st.integers(0, len(FULL) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_a_policy_or_a_clear_error(at: int, bit: int) -> None:
    raw = bytearray(FULL.encode())
    raw[at] ^= 1 << bit
    code, accepted = "", set()
    try:
        accepted = set(_parse(bytes(raw)).rules.tcb.accept)
    except SealserveError as error:
        code = error.code
    assert code in ("", "policy.file")
    assert TcbStatus.REVOKED not in accepted


def test_sentences_describe_each_rule() -> None:
    sentences = "\n".join(policy_text.sentences(_parse(FULL).for_platform(PlatformKind.SGX)))
    for part in ("UpToDate is accepted if it has no advisories", "only advisories are INTEL-SA-00615",
                 "OutOfDate is accepted with any advisories, until 30 days after", "Revoked is always refused",
                 "2026-03-10 or later", "at most 7 days old", "at least 17", f"accepted: {'ab' * 16}",
                 f"refused: {'cd' * 16}", "must be enrolled"):  # fmt: skip
        assert part in sentences


def test_the_presets_are_in_the_package() -> None:
    folder = Path(policy_file.__file__).with_name("policies")
    assert {path.stem for path in folder.glob("*.toml")} == set(PRESETS)
