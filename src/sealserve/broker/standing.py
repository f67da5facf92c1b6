"""Where a release is in its life: active, draining until a deadline, or revoked. Pure: no clock, no database."""

from datetime import datetime
from enum import StrEnum

from sealserve.broker.codes import BrokerCode


class ReleaseState(StrEnum):
    """Where a release is in its life."""

    ACTIVE = "active"
    DRAINING = "draining"
    REVOKED = "revoked"


def check_standing(state: ReleaseState, deadline: datetime | None, now: datetime) -> None:
    """Refuse a release that is over.

    Args:
        state: The release's state.
        deadline: The end of draining; counts for a draining release only.
        now: The time on the owner's clock.

    Raises:
        VerificationError: `policy.release-revoked`: It was revoked.
        VerificationError: `policy.release-draining-ended`: Its draining has ended, or has no end.
    """
    if state is ReleaseState.REVOKED:
        raise BrokerCode.POLICY_RELEASE_REVOKED.error(
            "The release is revoked.", hint="Start enclaves of the current release."
        )
    if state is ReleaseState.DRAINING and (deadline is None or now >= deadline):
        until = deadline.isoformat(timespec="seconds") if deadline else "no date"
        raise BrokerCode.POLICY_RELEASE_DRAINING_ENDED.error(
            f"The release was draining until {until}, and it is {now.isoformat(timespec='seconds')}.",
            hint="Start enclaves of the current release, or `sealserve broker allow --reactivate` this one.",
        )
