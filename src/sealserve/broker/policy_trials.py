"""The results of trials of a policy. `sealserve.owner.policy_trial` computes them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sealserve.terms import PlatformKind


class Verdict(StrEnum):
    """The result for one platform and release."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A rule that is not satisfied, or that cannot be checked.

    Args:
        code: The code of the error that the broker would report. `None` if a fact is missing.
        message: The message of the error, or the missing fact.
    """

    code: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The result for one platform and one release.

    Args:
        platform: The kind of platform.
        platform_id: The id of the platform.
        release: The name of the release.
        policy: The name of the policy.
        verdict: The result.
        tcb_status: The TCB status that the policy checked. `None` if it is unknown.
        evaluation_number: The TCB evaluation data number that the policy checked. `None` if it is unknown.
        released: The time of the newest released key, whose facts were used.
        problems: The rules that are not satisfied or cannot be checked.
    """

    platform: PlatformKind
    platform_id: str
    release: str
    policy: str
    verdict: Verdict
    tcb_status: str | None
    evaluation_number: int | None
    released: datetime
    problems: tuple[Problem, ...]
