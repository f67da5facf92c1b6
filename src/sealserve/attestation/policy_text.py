"""The text of an appraisal policy: as a policy file, and in plain sentences."""

import json
from collections.abc import Iterator
from typing import Any

import tomli_w

from sealserve.attestation.policy import POLICY_VERSION, AppraisalPolicy
from sealserve.attestation.tcb_policy import ANY


def render(policy: AppraisalPolicy, *, simulated: bool) -> str:
    """Return a policy as the content of a policy file. `parse` returns the same policy, without manual approval.

    Args:
        policy: The policy.
        simulated: Whether the policy belongs to a release for simulated platforms.
    """
    return tomli_w.dumps(document(policy, simulated=simulated))


def document(policy: AppraisalPolicy, *, simulated: bool) -> dict[str, Any]:
    """Return a policy as the tables of a policy file. Manual approval is not a rule of a policy file."""
    tcb: dict[str, Any] = {}
    if policy.least_tcb_date is not None:
        tcb["least_date"] = policy.least_tcb_date
    tcb["accept"] = {str(status): sorted(policy.tcb.accept[status]) for status in sorted(policy.tcb.accept)}
    if (grace := policy.tcb.grace) is not None:
        accept = {str(status): ANY if found == ANY else sorted(found) for status, found in sorted(grace.accept.items())}
        tcb["grace"] = {"days": grace.days, "accept": accept}
    collateral: dict[str, Any] = {}
    if policy.max_collateral_age_days is not None:
        collateral["max_age_days"] = policy.max_collateral_age_days
    if policy.least_evaluation_number:
        collateral["least_evaluation_number"] = policy.least_evaluation_number
    platforms: dict[str, Any] = {}
    if policy.enrolled_platforms_only and simulated:
        platforms["enrolled_only"] = True
    if policy.allowed_platforms is not None:
        platforms["allow"] = sorted(policy.allowed_platforms)
    if policy.denied_platforms:
        platforms["deny"] = sorted(policy.denied_platforms)
    tables = {"tcb": tcb, "collateral": collateral, "platforms": platforms, **json.loads(policy.evidence_rules)}
    return {
        "version": POLICY_VERSION,
        "name": policy.tcb.name,
        **{name: rules for name, rules in tables.items() if rules},
    }


def sentences(policy: AppraisalPolicy) -> Iterator[str]:
    """Yield plain sentences that describe each rule of a policy, except the rules for one kind of evidence."""
    for status in sorted(policy.tcb.accept):
        yield f"The TCB status {status} is accepted {_with(policy.tcb.accept[status])}."
    if (grace := policy.tcb.grace) is not None:
        for status in sorted(grace.accept):
            yield (
                f"The TCB status {status} is accepted {_with(grace.accept[status])}, until {grace.days} days after the "
                "date of the TCB level that made the platform out of date."
            )
    yield "All other TCB statuses are refused. Revoked is always refused."
    if policy.least_tcb_date is not None:
        yield f"The platform's TCB level must be dated {policy.least_tcb_date} or later."
    if policy.max_collateral_age_days is not None:
        yield f"The collateral must be at most {policy.max_collateral_age_days} days old."
    if policy.least_evaluation_number:
        yield f"The TCB evaluation data number of the collateral must be at least {policy.least_evaluation_number}."
    if policy.allowed_platforms is not None:
        yield f"Only these platforms are accepted: {', '.join(sorted(policy.allowed_platforms))}."
    if policy.denied_platforms:
        yield f"These platforms are always refused: {', '.join(sorted(policy.denied_platforms))}."
    yield (
        "The platform must be enrolled."
        if policy.enrolled_platforms_only
        else "The platform does not need to be enrolled, because the release is for simulated platforms."
    )
    yield from ["A person must approve the platform before it gets the key."] * policy.manual_approval


def _with(advisories: frozenset[str] | str) -> str:
    if advisories == ANY:
        return "with any advisories"
    return f"if its only advisories are {', '.join(sorted(advisories))}" if advisories else "if it has no advisories"
