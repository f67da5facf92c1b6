"""The rate limit: bursts, the long run, one client against others, and many clients."""

import pytest

from sealserve.serving.rate_limit import Rate, RateLimit

TOTAL, PEER = Rate(per_second=10, burst=6), Rate(per_second=1, burst=2)


def limit() -> RateLimit:
    return RateLimit(total=TOTAL, peer=PEER)


def test_a_client_may_send_a_burst_and_then_its_rate() -> None:
    limited = limit()
    assert [limited.take(b"a", 100.0) for _ in range(4)] == [0.0, 0.0, 1.0, 1.0]
    assert limited.take(b"a", 100.5) == pytest.approx(0.5)
    assert limited.take(b"a", 101.0) == 0.0
    assert limited.take(b"a", 101.0) == pytest.approx(1.0)
    assert [limited.take(b"a", 1000.0) for _ in range(3)] == [0.0, 0.0, 1.0]  # a long pause gives no more than a burst


def test_one_client_does_not_use_up_the_total() -> None:
    limited = limit()
    for _ in range(1000):
        limited.take(b"flood", 100.0)
    assert [limited.take(b"other", 100.0) for _ in range(2)] == [0.0, 0.0]


def test_many_clients_are_limited_together() -> None:
    limited = limit()
    results = [limited.take(b"%d" % number, 100.0) for number in range(5000)]
    assert results.count(0.0) == TOTAL.burst
    assert all(result == pytest.approx(0.1) for result in results[TOTAL.burst :])
    # The long run: ten per second, however many clients ask.
    accepted = sum(not limited.take(b"%d" % number, 100.0 + number / 1000) for number in range(5000))
    assert accepted == pytest.approx(50, abs=1)
    assert len(limited._peers) <= 1024


def test_a_clock_that_goes_back_gives_nothing() -> None:
    limited = limit()
    assert [limited.take(b"a", 100.0) for _ in range(2)] == [0.0, 0.0]
    assert limited.take(b"a", 50.0) == pytest.approx(1.0)
    assert limited.take(b"a", 100.0) == pytest.approx(1.0)
