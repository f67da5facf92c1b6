"""The appraisal policy: the rules that claims must satisfy before a key is released. It uses no clock or database.

To add a rule, add a field to `AppraisalPolicy`, an error code, and a check in `appraise`. A field with a default needs
no migration: a stored policy without the field gets the default.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sealserve.attestation.claims import Claims
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.tcb_policy import TcbPolicy

POLICY_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalPolicy:
    """The rules that decide whether an enclave gets the key of a release. Each field is one rule.

    Args:
        tcb: The accepted TCB states of a platform.
        enrolled_platforms_only: Whether only platforms that the owner enrolled are accepted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tcb: TcbPolicy
    enrolled_platforms_only: bool

    def __str__(self) -> str:
        which = "enrolled platforms only" if self.enrolled_platforms_only else "any platform"
        return f"the TCB policy {self.tcb.name!r} ({self.tcb.to_json()}) for {which}"

    def to_json(self) -> str:
        """Return the policy as the JSON that the database stores. Equal policies have equal JSON."""
        rules = _RULES.dump_python(self, mode="json")
        return json.dumps({"version": POLICY_VERSION, **rules}, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "AppraisalPolicy":
        """Parse a policy that `to_json` wrote.

        Raises:
            InputError: `policy.tcb-policy` if the text is not such a policy, or has another version.
        """
        try:
            rules = _OBJECT.validate_python(json.loads(text, object_pairs_hook=_without_doubles), strict=True)
            version = rules.pop("version", None)
            if type(version) is not int or version != POLICY_VERSION:  # True and 1.0 equal 1
                raise AttestationCode.POLICY_TCB_POLICY.error(
                    f"The appraisal policy has an unsupported version: expected {POLICY_VERSION}, got {version!r}."
                )
            return _RULES.validate_json(json.dumps(rules), strict=True)
        except (ValidationError, ValueError, TypeError) as error:
            raise AttestationCode.POLICY_TCB_POLICY.error(
                "The appraisal policy is invalid: expected a JSON object with all rules."
            ) from error


_RULES: Final = TypeAdapter(AppraisalPolicy)
_OBJECT: Final = TypeAdapter(dict[str, Any])


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary. A duplicate key is an error, because parsers use different values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def appraise(claims: Claims, policy: AppraisalPolicy, *, enrolled: Collection[str]) -> None:
    """Check claims against each rule of a policy.

    Reference values are not part of the policy. `Claims.check_reference` compares the enclave with them.

    Args:
        claims: The claims from the verifier.
        policy: The policy of the release.
        enrolled: The ids of the enrolled platforms.

    Raises:
        VerificationError: The first rule that the claims do not satisfy.
    """
    # Does the owner accept the TCB state of the platform?
    policy.tcb.check(claims.tcb_status, claims.advisory_ids)
    # Did the owner enroll the platform? A genuine processor may belong to an attacker.
    if policy.enrolled_platforms_only:
        check_enrolment(claims.platform_id, enrolled)


def check_enrolment(platform_id: str, enrolled: Collection[str]) -> None:
    """Check that the owner enrolled a platform.

    Raises:
        VerificationError: `policy.platform-unknown` if ``platform_id`` is not in ``enrolled``.
    """
    if platform_id not in enrolled:
        raise AttestationCode.POLICY_PLATFORM_UNKNOWN.error(
            f"The platform {platform_id} is not enrolled, but the release requires enrolled platforms.",
            hint="Enroll the platform (`sealserve broker platform enrol`) only if you know where the machine is: an "
            "attacker can also own a genuine SGX machine.",
        )
