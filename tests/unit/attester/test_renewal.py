from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from scripts.attested_example import Example

from sealserve.attestation.attest_messages import Grant
from sealserve.attestation.codes import AttestationCode
from sealserve.attester.renewal import Renewal, pauses_for, renewal_time
from sealserve.attester.session import Attested

START = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOURS = timedelta(hours=1)


class Clock:
    """A clock that only waiting moves. The renewal ends at ``until``."""

    def __init__(self, until: timedelta) -> None:
        self.now = START
        self.until = START + until

    def wait(self, seconds: float) -> bool:
        self.now += timedelta(seconds=seconds)
        return self.now >= self.until


def granted(example: Example, starts: datetime, hours: float = 24) -> Attested:
    grant = Grant(
        attestation_result=example.token,
        certificate_chain="chain",
        collateral=example.collateral_members,
        statement=example.signed_statement,
    )
    return Attested(grant=grant, key=None, issued=starts, expires=starts + timedelta(hours=hours))


def run(
    example: Example, clock: Clock, renew: Callable[[], Attested], caplog: pytest.LogCaptureFixture
) -> list[datetime]:
    """Return the times at which the server got a new certificate."""
    used: list[datetime] = []
    failed: list[datetime] = []
    Renewal(
        renew=renew,
        use=lambda _: used.append(clock.now),
        failed=lambda: failed.append(clock.now),
        first=granted(example, START),
        now=lambda: clock.now,
        backoff=lambda granted: replace(pauses_for(granted), random=lambda: 1.0),
        wait=clock.wait,
    ).run()
    assert len(failed) == sum("step=renewal-failed" in record.getMessage() for record in caplog.records)
    return used


def test_the_certificate_is_renewed_after_two_thirds_of_its_validity(
    example: Example, caplog: pytest.LogCaptureFixture
) -> None:
    assert renewal_time(granted(example, START)) == START + 16 * HOURS

    clock = Clock(40 * HOURS)
    used = run(example, clock, lambda: granted(example, clock.now), caplog)

    assert used == [START + 16 * HOURS, START + 32 * HOURS]


def test_a_clock_ahead_of_the_broker_does_not_flood_the_broker(
    example: Example, caplog: pytest.LogCaptureFixture
) -> None:
    # The host sets the clock 20 hours ahead. Each new certificate then seems to be almost at its end.
    clock = Clock(44 * HOURS)
    clock.now += 20 * HOURS

    used = run(example, clock, lambda: granted(example, clock.now - 20 * HOURS), caplog)

    assert used == [START + 20 * HOURS, START + 28 * HOURS, START + 36 * HOURS]


def test_a_failure_is_logged_and_repeated(example: Example, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(20 * HOURS)
    outcomes = [AttestationCode.ATTEST_UNAVAILABLE.error("The broker is down.")] * 3

    def renew() -> Attested:
        if outcomes:
            raise outcomes.pop()
        return granted(example, clock.now)

    used = run(example, clock, renew, caplog)

    assert used == [START + 16 * HOURS + timedelta(seconds=10 + 20 + 40)]
    valid = "certificate_from=2026-11-29T12:00:00Z certificate_until=2026-11-30T12:00:00Z"
    assert caplog.text.count(f"step=renewal-failed code=attest.unavailable {valid}") == 3
    assert "left=480min: The broker is down." in caplog.text


@pytest.mark.parametrize(
    ("lifetime", "first", "longest"),
    [(timedelta(days=7), 10, 600), (24 * HOURS, 10, 600), (HOURS, 10, 60), (timedelta(seconds=60), 1, 1)],
)
def test_the_pauses_follow_from_the_lifetime(
    example: Example, lifetime: timedelta, first: float, longest: float
) -> None:
    pauses = pauses_for(replace(granted(example, START), expires=START + lifetime))
    assert (pauses.first, pauses.longest) == (first, longest)


def test_the_last_certificates_of_a_release_do_not_flood_the_broker(
    example: Example, caplog: pytest.LogCaptureFixture
) -> None:
    """The issuing CA, or a draining release, ends after 19 hours: each lifetime is a third of the one before."""
    end = START + 19 * HOURS
    attempts = []

    def renew() -> Attested:
        attempts.append(clock.now)
        clock.now += timedelta(seconds=0.1)
        if end - clock.now < timedelta(seconds=1):
            raise AttestationCode.ATTEST_REFUSED.error("The broker rejects this enclave.")
        return replace(granted(example, clock.now), expires=end)

    clock = Clock(20 * HOURS)
    run(example, clock, renew, caplog)
    after = sum(moment >= end for moment in attempts)
    assert len(attempts) - after < 100
    assert 10 < after < 30


def test_a_refusal_is_repeated_seldom(example: Example, caplog: pytest.LogCaptureFixture) -> None:
    # The owner may permit the release again before the certificate expires.
    clock = Clock(25 * HOURS)

    def renew() -> Attested:
        raise AttestationCode.ATTEST_REFUSED.error("The broker rejects this enclave.")

    assert run(example, clock, renew, caplog) == []
    assert 50 < caplog.text.count("code=attest.refused") < 70
    assert "left=0min" in caplog.text


def test_an_unexpected_error_does_not_end_the_renewal(example: Example, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(20 * HOURS)
    outcomes: list[Exception] = [RuntimeError("unexpected")]

    def renew() -> Attested:
        if outcomes:
            raise outcomes.pop()
        return granted(example, clock.now)

    assert len(run(example, clock, renew, caplog)) == 1
    assert "code=internal" in caplog.text


def test_a_clock_that_the_host_moves_ahead_renews_at_once(example: Example, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(400 * HOURS)
    clock.now += 300 * HOURS

    assert run(example, clock, lambda: granted(example, clock.now), caplog)[0] == START + 300 * HOURS
