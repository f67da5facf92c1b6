from datetime import UTC, datetime, timedelta

from tests.harness.errors import raises

from sealserve.broker.codes import BrokerCode
from sealserve.broker.standing import ReleaseState, check_standing

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_standing_of_a_release() -> None:
    later, earlier = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)
    check_standing(ReleaseState.ACTIVE, None, NOW)
    check_standing(ReleaseState.DRAINING, later, NOW)
    for deadline in (earlier, NOW):
        with raises(
            BrokerCode.POLICY_RELEASE_DRAINING_ENDED,
            match=r"The release was draining until .* and the deadline has passed \(the time is "
            r"2026-11-23T12:00:00\+00:00\)",
        ) as ended:
            check_standing(ReleaseState.DRAINING, deadline, NOW)
        assert ended.value.code == "policy.release-draining-ended"
    with raises(
        BrokerCode.POLICY_RELEASE_DRAINING_ENDED,
        match=r"The release was draining until an unknown date, and the deadline has passed \(the time "
        r"is 2026-11-23T12:00:00\+00:00\)",
    ):
        check_standing(ReleaseState.DRAINING, None, NOW)
    with raises(
        BrokerCode.POLICY_RELEASE_REVOKED,
        match="The release of this enclave is revoked, so its key is no longer released",
    ) as revoked:
        check_standing(ReleaseState.REVOKED, later, NOW)
    assert revoked.value.code == "policy.release-revoked"
