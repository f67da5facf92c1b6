"""Policy files: each is a policy that can be shown and read again, or is rejected with one printable error."""

from collections.abc import Iterator

from sealserve.attestation import policy_file, policy_text
from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.policy_file import PolicyFile
from sealserve.attestation.presets import PRESETS, RESERVED
from sealserve.errors import SealserveError
from sealserve.sgx.policy_rules import parse_table, rules_of
from sealserve.terms import PlatformKind

_FULL = b"""version = 2
name = "full"
[tcb]
least_date = 2026-03-10
accept = { UpToDate = [], SWHardeningNeeded = ["INTEL-SA-00615"] }
grace = { days = 30, accept = { OutOfDate = "any" } }
[collateral]
max_age_days = 7
least_evaluation_number = 17
[platforms]
enrolled_only = true
deny = ["cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"]
[sgx]
fmspc_deny = ["00906ED50000"]
misc_select = 0
kss = true
"""


def seeds() -> Iterator[bytes]:
    """Yield the presets, and a file with most rules."""
    yield _FULL
    for preset in PRESETS.values():
        yield policy_text.render(preset.rules, simulated=False).encode()


def fuzz(data: bytes) -> None:
    """Parse ``data`` as a policy file."""
    code, message = "policy.file", ""
    try:
        found = _parse(data)
    except SealserveError as error:
        code, message = error.code, error.message
    else:
        _check(found)
    assert code == "policy.file"
    assert message.isprintable()


def _check(found: PolicyFile) -> None:
    for platform in PlatformKind:
        policy = found.for_platform(platform)
        shown = policy_text.render(policy, simulated=platform is PlatformKind.SIMULATED)
        assert _parse(shown.encode()).for_platform(platform) == policy
        assert AppraisalPolicy.from_json(policy.to_json()) == policy
        assert TcbStatus.REVOKED not in policy.tcb.accept
        rules_of(policy.evidence_rules)


def _parse(data: bytes) -> PolicyFile:
    return policy_file.parse(data, file="policy.toml", evidence={"sgx": parse_table}, reserved=RESERVED)
