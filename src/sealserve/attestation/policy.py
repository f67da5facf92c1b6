"""The appraisal policy: the rules that claims must satisfy before a key is released. It uses no clock or database.

To add a rule, add a field to `AppraisalPolicy`, an error code, a check in `_checks`, and a key in
`sealserve.attestation.policy_file`. A field with a default needs no migration: a stored policy without the field gets
the default. Rules for one kind of evidence belong to that kind: `Claims.check_rules`.
"""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Protocol

from pydantic import ConfigDict, PlainSerializer, TypeAdapter, ValidationError

from sealserve.attestation.claims import Claims, TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.tcb_policy import TcbPolicy, TcbState

POLICY_VERSION: Final = 2
NO_RULES: Final = "{}"
"""The value of ``evidence_rules`` without rules for a kind of evidence."""
LARGEST_EVALUATION_NUMBER: Final = (1 << 32) - 1
LONGEST_AGE: Final = 3650
"""The highest maximum age of collateral in days."""
_FIRST_VERSION: Final = 1

Ids = Annotated[frozenset[str], PlainSerializer(sorted)]


class Appraised(TcbState, Protocol):
    """The facts that the rules check: claims, or the facts that the audit log recorded."""

    @property
    def platform_id(self) -> str:
        """The unique id of the platform, in hexadecimal."""

    @property
    def tcb_evaluation_data_number(self) -> int:
        """The version of the vendor's collateral."""

    @property
    def tcb_date(self) -> datetime:
        """The date of the platform's TCB level."""

    @property
    def collateral_issued(self) -> datetime:
        """The issue date of the collateral."""

    def check_rules(self, rules: str) -> None:
        """Check the rules for this kind of evidence. See `Claims.check_rules`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalPolicy:
    """The rules that decide whether an enclave gets the key of a release. Each field is one rule.

    Args:
        tcb: The accepted TCB states of a platform.
        enrolled_platforms_only: Whether only platforms that the owner enrolled are accepted.
        least_evaluation_number: The lowest accepted TCB evaluation data number of the collateral.
        least_tcb_date: The earliest accepted date of a platform's TCB level (UTC). `None` accepts any date.
        max_collateral_age_days: The highest accepted age of the collateral in days. `None` accepts collateral until its
            next-update time.
        allowed_platforms: The ids of the accepted platforms, lower-case hex. `None` accepts any platform.
        denied_platforms: The ids of platforms that are never accepted, even if ``allowed_platforms`` lists them.
        manual_approval: Whether a person must approve each platform. The broker checks this rule after all others,
            because it needs the approvals in its database.
        evidence_rules: JSON with the rules for one kind of evidence. Only `Claims.check_rules` interprets it.

    Raises:
        InputError: `policy.empty` if ``allowed_platforms`` is empty.
        InputError: `policy.tcb-policy` if a number is out of range.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tcb: TcbPolicy
    enrolled_platforms_only: bool
    least_evaluation_number: int = 0
    least_tcb_date: date | None = None
    max_collateral_age_days: int | None = None
    allowed_platforms: Ids | None = None
    denied_platforms: Ids = frozenset()
    evidence_rules: str = NO_RULES
    manual_approval: bool = False

    def __post_init__(self) -> None:
        if self.allowed_platforms is not None and not self.allowed_platforms:
            raise AttestationCode.POLICY_EMPTY.error(
                f"The appraisal policy {self.tcb.name!r} has an empty list of allowed platforms.",
                hint="List at least one platform, or remove the list to accept any platform.",
            )
        for name, number, least, most in (
            ("least evaluation number", self.least_evaluation_number, 0, LARGEST_EVALUATION_NUMBER),
            ("maximum age of collateral", self.max_collateral_age_days, 1, LONGEST_AGE),
        ):
            if number is not None and not least <= number <= most:
                raise AttestationCode.POLICY_TCB_POLICY.error(
                    f"The {name} of the appraisal policy is out of range: expected {least} to {most}, got {number}."
                )

    def __str__(self) -> str:
        which = "enrolled platforms only" if self.enrolled_platforms_only else "any platform"
        rules = _RULES.dump_python(self, mode="json")
        del rules["enrolled_platforms_only"]
        named = {name: value for name, value in rules.items() if value not in (None, 0, [], NO_RULES)}
        return f"the policy {self.tcb.name!r} ({_compact(named)}) for {which}"

    def to_json(self) -> str:
        """Return the policy as the JSON that the database stores. Equal policies have equal JSON."""
        rules = _RULES.dump_python(self, mode="json")
        if not self.manual_approval:  # the JSON of policies without this rule stays the same
            del rules["manual_approval"]
        return _compact({"version": POLICY_VERSION, **rules})

    @staticmethod
    @lru_cache(maxsize=256)  # each key release reads the policy of its release twice
    def from_json(text: str) -> "AppraisalPolicy":
        """Parse a policy that `to_json` of this or an earlier version of sealserve wrote.

        Raises:
            InputError: `policy.tcb-policy` if the text is not such a policy, or has another version.
        """
        try:
            rules = _OBJECT.validate_python(json.loads(text, object_pairs_hook=_without_doubles), strict=True)
            version = rules.pop("version", None)
            if type(version) is not int or version not in (_FIRST_VERSION, POLICY_VERSION):  # True and 1.0 equal 1
                raise AttestationCode.POLICY_TCB_POLICY.error(
                    f"The appraisal policy has an unsupported version: expected {_FIRST_VERSION} or {POLICY_VERSION}, "
                    f"got {version!r}."
                )
            if version == _FIRST_VERSION:
                return _FIRST_RULES.validate_json(json.dumps(rules), strict=True).policy()
            return _RULES.validate_json(json.dumps(rules), strict=True)
        except (ValidationError, ValueError, TypeError, RecursionError) as error:
            raise AttestationCode.POLICY_TCB_POLICY.error(
                "The appraisal policy is invalid: expected a JSON object with all rules."
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _FirstTcbPolicy:
    """The TCB policy of version 1: all advisories are accepted with each status."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    statuses: frozenset[TcbStatus]
    advisories: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _FirstPolicy:
    """The appraisal policy of version 1."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tcb: _FirstTcbPolicy
    enrolled_platforms_only: bool

    def policy(self) -> AppraisalPolicy:
        accept = dict.fromkeys(self.tcb.statuses, self.tcb.advisories)
        return AppraisalPolicy(
            tcb=TcbPolicy(name=self.tcb.name, accept=accept), enrolled_platforms_only=self.enrolled_platforms_only
        )


_RULES: Final = TypeAdapter(AppraisalPolicy)
_FIRST_RULES: Final = TypeAdapter(_FirstPolicy)
_OBJECT: Final = TypeAdapter(dict[str, Any])


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


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
    for check in checks(claims, policy, enrolled=enrolled):
        check()


def checks(found: Appraised, policy: AppraisalPolicy, *, enrolled: Collection[str]) -> Iterator[Callable[[], None]]:
    """Yield one function for each rule. It raises an error if the facts do not satisfy the rule.

    The broker uses `appraise`. A trial of a policy runs each check on its own, because a recorded fact can be missing.
    """
    # Does the owner accept the TCB state of the platform?
    yield lambda: policy.tcb.check(found)
    # Is the TCB level new enough? A status alone changes its meaning with each TCB recovery.
    yield lambda: _check_tcb_date(found, policy)
    # Is the rating itself new enough?
    yield lambda: _check_collateral(found, policy)
    # Do the enclave and the processor satisfy the rules for this kind of evidence?
    if policy.evidence_rules != NO_RULES:
        yield lambda: found.check_rules(policy.evidence_rules)
    # Does the owner accept this platform? A denied platform is refused even if the other list contains it.
    yield lambda: _check_platform(found, policy)
    # Did the owner enroll the platform? A genuine processor may belong to an attacker.
    if policy.enrolled_platforms_only:
        yield lambda: check_enrolment(found.platform_id, enrolled)


def _check_tcb_date(found: Appraised, policy: AppraisalPolicy) -> None:
    if policy.least_tcb_date is None:
        return
    if (dated := found.tcb_date.astimezone(UTC).date()) < policy.least_tcb_date:
        raise AttestationCode.POLICY_TCB_DATE.error(
            f"The platform's TCB level is too old: expected a level of {policy.least_tcb_date} or later, got {dated}.",
            hint="Update the machine's firmware and microcode, or lower tcb.least_date in the policy.",
        )


def _check_collateral(found: Appraised, policy: AppraisalPolicy) -> None:
    least = policy.least_evaluation_number
    if least > 0 and (number := found.tcb_evaluation_data_number) < least:
        raise AttestationCode.POLICY_EVALUATION_NUMBER.error(
            f"The collateral is too old: expected a TCB evaluation data number of at least {least}, got {number}.",
            hint="Run `sealserve broker collateral --refresh`, or lower collateral.least_evaluation_number in the "
            "policy.",
        )
    if policy.max_collateral_age_days is None:
        return
    age = found.verified_at - found.collateral_issued
    if age > timedelta(days=policy.max_collateral_age_days):
        raise AttestationCode.POLICY_COLLATERAL_AGE.error(
            f"The collateral is too old: expected at most {policy.max_collateral_age_days} days, got {age.days} days "
            f"(issued at {found.collateral_issued:%Y-%m-%dT%H:%M:%SZ}).",
            hint="Run `sealserve broker collateral --refresh`, or raise collateral.max_age_days in the policy.",
        )


def _check_platform(found: Appraised, policy: AppraisalPolicy) -> None:
    if not policy.denied_platforms and policy.allowed_platforms is None:
        return
    platform_id = found.platform_id.lower()
    if platform_id in policy.denied_platforms:
        raise AttestationCode.POLICY_PLATFORM_DENIED.error(
            f"The policy {policy.tcb.name!r} denies the platform {platform_id}.",
            hint="Use another machine, or remove the platform from platforms.deny in the policy.",
        )
    if policy.allowed_platforms is not None and platform_id not in policy.allowed_platforms:
        raise AttestationCode.POLICY_PLATFORM_NOT_ALLOWED.error(
            f"The policy {policy.tcb.name!r} does not allow the platform {platform_id}.",
            hint="Add the platform to platforms.allow in the policy only if you know where the machine is.",
        )


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
