"""The state of a release: active, draining until a deadline, or revoked. Pure code without clock or database."""

from datetime import datetime
from enum import StrEnum

from sealserve.broker.codes import BrokerCode


class ReleaseState(StrEnum):
    """The state of a release in its lifecycle."""

    ACTIVE = "active"
    DRAINING = "draining"
    REVOKED = "revoked"


def check_standing(state: ReleaseState, deadline: datetime | None, now: datetime) -> None:
    """Check that the broker may still release the key of a release.

    Args:
        state: The release's state.
        deadline: The end of draining. Used only for a draining release.
        now: The time on the owner's clock.

    Raises:
        VerificationError: `policy.release-revoked` if the release is revoked.
        VerificationError: `policy.release-draining-ended` if the draining deadline has passed or is missing.
    """
    if state is ReleaseState.REVOKED:
        raise BrokerCode.POLICY_RELEASE_REVOKED.error(
            "The release of this enclave is revoked, so its key is no longer released.",
            hint="Start enclaves of the current release.",
        )
    if state is ReleaseState.DRAINING and (deadline is None or now >= deadline):
        until = deadline.isoformat(timespec="seconds") if deadline else "an unknown date"
        raise BrokerCode.POLICY_RELEASE_DRAINING_ENDED.error(
            f"The release was draining until {until}, and the deadline has passed "
            f"(the time is {now.isoformat(timespec='seconds')}).",
            hint="Start enclaves of the current release, or run `sealserve broker allow --reactivate`.",
        )
