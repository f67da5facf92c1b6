"""Several attempts with several brokers: each broker in turn, and a growing pause after each round."""

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sealserve.attestation.codes import AttestationCode
from sealserve.errors import SealserveError

LOGGER: Final = logging.getLogger(__name__)
START_LIMIT: Final = 30.0
"""Seconds after which a start without success ends. This is enough for the restart of a broker.

A longer time would hide the reason from the person who waits for the start, such as an approval that is missing. The
supervisor or the container platform starts the enclave again.
"""
_Broker = tuple[str, int]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses that grow from ``first`` to ``longest`` seconds, each between half and all of its length at random.

    The random part prevents enclaves that started together from always reaching the broker together.

    Args:
        first: The first pause in seconds.
        longest: The longest pause in seconds.
        random: Returns a number from 0 to 1.
    """

    first: float = 1.0
    longest: float = 60.0
    random: Callable[[], float] = random.random

    def pauses(self) -> Iterator[float]:
        """Yield the pauses."""
        pause = self.first
        while True:
            yield pause * (1 + self.random()) / 2
            pause = min(2 * pause, self.longest)


def in_turn(
    brokers: Sequence[_Broker],
    attempt: Callable[[_Broker], _T],
    *,
    limit: float = START_LIMIT,
    backoff: Backoff | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> _T:
    """Return the result of the first attempt that succeeds.

    A final refusal ends the attempts: the broker decided about this enclave. All other errors are repeated, because
    they can end without a change of the enclave.

    Args:
        brokers: Hosts and ports, in order of preference.
        attempt: Attests to a broker.
        limit: Seconds after which no new round begins.
        backoff: The pauses between rounds.
        clock: Returns the seconds since a fixed time.
        sleep: Waits for a number of seconds.

    Raises:
        VerificationError: `attest.refused`: A broker's refusal is final.
        SealserveError: The last error, after ``limit``.
    """
    started = clock()
    for pause in (backoff or Backoff()).pauses():
        last: SealserveError | None = None
        for broker in brokers:
            try:
                return attempt(broker)
            except SealserveError as error:
                if error.code == AttestationCode.ATTEST_REFUSED:
                    raise
                # `status` finds the reason by this form of the code.
                LOGGER.warning("step=attempt broker=%s:%d error[%s]: %s", *broker, error.code, error.message)
                last = error
        if last is not None and clock() - started + pause > limit:
            raise last
        LOGGER.warning("step=attest-again after=%.1fs", pause)
        sleep(pause)
    raise AssertionError("the pauses never end")
