"""The appraisal policy: what claims must say before a key is released. Pure: no clock, no database.

To add a rule, add a field to `AppraisalPolicy`, an error, and a check to `appraise`. A field with a default needs no
migration: a stored policy without the field means the default.
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
        tcb: Which states of a platform are accepted.
        enrolled_platforms_only: Whether the owner must have enrolled the platform.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tcb: TcbPolicy
    enrolled_platforms_only: bool

    def __str__(self) -> str:
        which = "enrolled platforms only" if self.enrolled_platforms_only else "any platform"
        return f"the TCB policy {self.tcb.name!r} ({self.tcb.to_json()}) for {which}"

    def to_json(self) -> str:
        """Return the policy as the database stores it, the same text for equal policies."""
        rules = _RULES.dump_python(self, mode="json")
        return json.dumps({"version": POLICY_VERSION, **rules}, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "AppraisalPolicy":
        """Return the policy that `to_json` wrote.

        Raises:
            InputError: `policy.tcb-policy`: This is not such a policy, or it is of another version.
        """
        try:
            rules = _OBJECT.validate_python(json.loads(text, object_pairs_hook=_without_doubles), strict=True)
            version = rules.pop("version", None)
            if type(version) is not int or version != POLICY_VERSION:  # True and 1.0 equal 1
                raise AttestationCode.POLICY_TCB_POLICY.error(
                    f"The appraisal policy has version {version!r}, expected {POLICY_VERSION}."
                )
            return _RULES.validate_json(json.dumps(rules), strict=True)
        except (ValidationError, ValueError, TypeError) as error:
            raise AttestationCode.POLICY_TCB_POLICY.error(
                "The appraisal policy is not valid: expected JSON with all of its rules."
            ) from error


_RULES: Final = TypeAdapter(AppraisalPolicy)
_OBJECT: Final = TypeAdapter(dict[str, Any])


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. A key that stands in it twice is an error: readers differ in which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def appraise(claims: Claims, policy: AppraisalPolicy, *, enrolled: Collection[str]) -> None:
    """Check claims against each rule of a policy.

    The reference values are not rules: `Claims.check_reference` compares the enclave with them.

    Args:
        claims: What the verifier found.
        policy: The release's policy.
        enrolled: The ids of the platforms that the owner has enrolled.

    Raises:
        VerificationError: The first rule that the claims do not satisfy.
    """
    # Is the platform in a state that the owner accepts?
    policy.tcb.check(claims.tcb_status, claims.advisory_ids)
    # Is the platform the owner's? A genuine processor may belong to an attacker.
    if policy.enrolled_platforms_only:
        check_enrolment(claims.platform_id, enrolled)


def check_enrolment(platform_id: str, enrolled: Collection[str]) -> None:
    """Refuse a platform that the owner has not enrolled.

    Raises:
        VerificationError: `policy.platform-unknown`: ``platform_id`` is not among ``enrolled``.
    """
    if platform_id not in enrolled:
        raise AttestationCode.POLICY_PLATFORM_UNKNOWN.error(
            f"The platform {platform_id} is not enrolled, and the release is for enrolled platforms only.",
            hint="A genuine processor need not be yours: enrol this one only if you know where it stands.",
        )
