"""Which certificates produce a warning, and which command renews them."""

from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest

from sealserve.pki import expiry

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "near", "over"),
    [(timedelta(days=14), False, False), (timedelta(days=14, microseconds=-1), True, False),
     (timedelta(), True, False), (timedelta(microseconds=-1), True, True)],
)  # fmt: skip
def test_the_warning_period(left: timedelta, near: bool, over: bool) -> None:
    end = expiry.Ending(name=expiry.BROKER, time=NOW + left)
    assert (end.is_near(NOW), end.is_over(NOW)) == (near, over)


def test_warnings_come_in_order_and_name_what_renews() -> None:
    ends = {
        "user": NOW + timedelta(days=5, hours=1),
        "service": NOW + timedelta(hours=3, minutes=1),
        "broker": NOW - timedelta(days=1),
        "users authority": NOW + timedelta(days=3650),
    }
    broker, service, user = expiry.warnings(ends, NOW)
    assert broker.startswith(
        "The certificate of the broker expired at 2026-11-27 12:00 UTC. Run `sealserve certs renew`"
    )
    assert "expires in 3 hours, at 2026-11-28 15:01 UTC" in service
    assert "`sealserve release build`, then `sealserve up`" in service
    assert "expires in 5 days" in user
    assert "`sealserve certs renew`" in user
    assert [end.name for end in expiry.endings(ends)] == ["broker", "service", "user", "users authority"]


def test_other_ends_have_other_remedies() -> None:
    assert "`sealserve certs two-way`" in expiry.remedy("service authority")
    assert "`sealserve user renew ann`" in expiry.remedy("user ann")
    assert "`sealserve user renew authority`" in expiry.remedy("user authority")  # a user with the name "authority"
    assert "`sealserve certs two-way`" in expiry.remedy("users authority")
    assert "step=renewal-failed" in expiry.remedy("enclaves")
    assert "broker.collateral_url" in expiry.remedy("collateral tcb-info")
    soon = expiry.Ending(name="collateral tcb-info", time=NOW + timedelta(seconds=30))
    assert soon.sentence(NOW).startswith("collateral tcb-info expires in less than a minute")


def test_alert_rules_have_the_same_period() -> None:
    folder = files("sealserve.cluster.kubernetes") / "monitoring_files"
    for name in ("broker_rules.yaml", "served_rules.yaml"):
        rules = (folder / name).read_text(encoding="utf-8")
        assert f"time() < {int(expiry.WARNING_PERIOD.total_seconds())}" in rules
