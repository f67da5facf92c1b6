from datetime import UTC, datetime, timedelta

import pytest

from sealserve.broker.limiter import OTHERS, Limiter, Rate, network_of

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WIDE = Rate(burst=1000, seconds=1)


def owed(limiter: Limiter, peer: str | None = None) -> str | None:
    with limiter.owed(peer) as tally:
        return None if tally is None else str(tally)


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1:40000", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:40000", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:1", "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:1", "fe80::/64"),
        ("[::ffff:192.0.2.1]:40000", "192.0.2.1"),
        ("owner", "owner"),
        ("a host:1", "a host:1"),
    ],
)
def test_the_network_of_a_peer(peer: str, network: str) -> None:
    assert network_of(peer) == network


def test_so_many_at_once_and_more_as_time_passes() -> None:
    limiter = Limiter(each=Rate(burst=2, seconds=10), together=WIDE)
    assert [limiter.admit("192.0.2.1:1", "a.b", NOW) for _ in range(4)] == [True, True, False, False]
    assert limiter.admit("192.0.2.2:1", "a.b", NOW)
    assert not limiter.admit("192.0.2.1:2", "c.d", NOW + timedelta(seconds=9))
    assert limiter.admit("192.0.2.1:3", "a.b", NOW + timedelta(seconds=11))
    assert not limiter.admit("192.0.2.1:3", "a.b", NOW)  # setting the clock back adds no tokens
    assert (
        owed(limiter) == "4 further refusals of 192.0.2.1 since 2026-11-23T12:00:00+00:00 were not recorded separately:"
        " 3 a.b, 1 c.d"
    )
    assert owed(limiter) is None


def test_the_unused_is_kept_up_to_the_burst() -> None:
    limiter = Limiter(each=Rate(burst=2, seconds=10), together=WIDE)
    assert limiter.admit("192.0.2.1:1", "a.b", NOW)
    later = NOW + timedelta(days=1)
    assert [limiter.admit("192.0.2.1:1", "a.b", later) for _ in range(3)] == [True, True, False]


def test_all_together_have_a_limit_too() -> None:
    limiter = Limiter(each=Rate(burst=2, seconds=10), together=Rate(burst=3, seconds=10))
    assert [limiter.admit(f"192.0.2.{host}:1", "a.b", NOW) for host in range(5)] == [True] * 3 + [False] * 2


def test_a_network_has_its_own_tally_first_then_the_oldest_is_next() -> None:
    limiter = Limiter(each=Rate(burst=0, seconds=10), together=WIDE)
    for host in (1, 2, 3):
        limiter.admit(f"192.0.2.{host}:1", "a.b", NOW)
    assert "192.0.2.3 " in (owed(limiter, "192.0.2.3:9") or "")
    assert "192.0.2.1 " in (owed(limiter, "192.0.2.9:9") or "")


def test_too_many_networks_are_counted_together() -> None:
    limiter = Limiter(each=Rate(burst=1, seconds=1000), together=Rate(burst=0, seconds=1000), networks=2)
    for host in range(5):
        limiter.admit(f"192.0.2.{host}:1", "a.b", NOW)
    said = [owed(limiter), owed(limiter), owed(limiter), owed(limiter)]
    assert [(text or "").partition(" since")[0] for text in said] == [
        "1 further refusals of 192.0.2.0",
        "1 further refusals of 192.0.2.1",
        f"3 further refusals of {OTHERS}",
        "",
    ]


def test_what_could_not_be_written_is_still_owed() -> None:
    limiter = Limiter(each=Rate(burst=0, seconds=10), together=WIDE)
    limiter.admit("192.0.2.1:1", "a.b", NOW)

    def fail() -> None:
        with limiter.owed() as tally:
            assert tally is not None
            limiter.admit("192.0.2.1:1", "a.b", NOW + timedelta(seconds=1))  # counted while the tally is being written
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    said = "2 further refusals of 192.0.2.1 since 2026-11-23T12:00:00+00:00 were not recorded separately: 2 a.b"
    assert owed(limiter) == said
