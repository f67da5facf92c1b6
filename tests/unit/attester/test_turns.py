from collections.abc import Callable

import pytest
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attester.turns import Backoff, in_turn
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import SealserveError

BROKERS = [("first", 4433), ("second", 4433)]
UNREACHABLE = EnclaveCode.PROVISIONING_UNREACHABLE


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def turns(attempt: Callable[[tuple[str, int]], str], clock: Clock, *, limit: float = 100) -> str:
    backoff = Backoff(random=lambda: 1.0)
    return in_turn(BROKERS, attempt, limit=limit, backoff=backoff, clock=clock, sleep=clock.sleep)


def scripted(*outcomes: SealserveError | str) -> tuple[Callable[[tuple[str, int]], str], list[str]]:
    asked: list[str] = []
    rest = list(outcomes)

    def attempt(broker: tuple[str, int]) -> str:
        asked.append(broker[0])
        outcome = rest.pop(0)
        if isinstance(outcome, SealserveError):
            raise outcome
        return outcome

    return attempt, asked


def test_the_next_broker_is_asked_at_once() -> None:
    clock = Clock()
    attempt, asked = scripted(UNREACHABLE.error("down"), "granted")

    assert turns(attempt, clock) == "granted"
    assert asked == ["first", "second"]
    assert clock.slept == []


def test_the_pause_after_each_round_doubles() -> None:
    clock = Clock()
    down = [UNREACHABLE.error("down")] * 6
    attempt, asked = scripted(*down, "granted")

    turns(attempt, clock)

    assert asked == ["first", "second"] * 3 + ["first"]
    assert clock.slept == [1, 2, 4]


def test_a_final_refusal_ends_the_attempts() -> None:
    clock = Clock()
    attempt, asked = scripted(AttestationCode.ATTEST_REFUSED.error("refused"))

    with raises(AttestationCode.ATTEST_REFUSED):
        turns(attempt, clock)

    assert asked == ["first"]


@pytest.mark.parametrize(
    "code",
    [
        AttestationCode.ATTEST_UNAVAILABLE,
        AttestationCode.ATTEST_TRUNCATED,
        EnclaveCode.PROVISIONING_BROKER_CERTIFICATE,
    ],
)
def test_everything_else_is_repeated(code: AttestationCode) -> None:
    clock = Clock()
    attempt, _ = scripted(code.error("failed"), code.error("failed"), "granted")

    assert turns(attempt, clock) == "granted"


def test_after_the_limit_the_last_error_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def attempt(broker: tuple[str, int]) -> str:
        raise UNREACHABLE.error(f"{broker[0]} is down")

    with raises(UNREACHABLE, match="second is down"):
        turns(attempt, clock, limit=10)

    assert clock.now <= 10
    assert "step=attempt broker=first:4433 error[provisioning.unreachable]: first is down" in caplog.text


def test_the_random_part_is_at_most_half_of_a_pause() -> None:
    shortest = Backoff(first=8, longest=10, random=lambda: 0.0).pauses()
    longest = Backoff(first=8, longest=10, random=lambda: 1.0).pauses()

    assert [next(shortest) for _ in range(3)] == [4, 5, 5]
    assert [next(longest) for _ in range(3)] == [8, 10, 10]
