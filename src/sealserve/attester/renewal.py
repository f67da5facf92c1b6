"""The renewal of the enclave's certificate and of its attestation result, while the server runs.

After two thirds of the certificate's lifetime, the enclave attests again over a new connection, with the same keys.
Existing connections continue. A failure is logged and counted, and repeated after a growing pause. Without success, the
certificate expires: this is the effect of a revocation. At least a third of the lifetime is between two renewals,
because the host can set the clock.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sealserve.attester.session import Attested
from sealserve.attester.turns import Backoff
from sealserve.errors import SealserveError

LOGGER: Final = logging.getLogger(__name__)
FIRST_PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 600.0
ATTEMPTS: Final = 20
"""At least this many attempts fit into the last third of a lifetime, so that a broker that is back is noticed in time.
Shorter pauses follow from it for certificates that are valid for less than ten hours. After the end of the certificate,
the pauses grow to `LONGEST_PAUSE`: at the end of a release, the last certificates are valid for seconds.
"""
_STEP: Final = 60.0
"""Seconds between looks at the clock. The host can set the clock, so a wait until a time must not be one long wait."""


def renewal_time(granted: Attested) -> datetime:
    """Return the time at which a certificate is renewed: after two thirds of its lifetime."""
    return granted.issued + granted.lifetime * 2 / 3


def pauses_for(granted: Attested) -> Backoff:
    """Return the pauses after failed renewals of a certificate."""
    longest = min(LONGEST_PAUSE, granted.lifetime.total_seconds() / 3 / ATTEMPTS)
    return Backoff(first=min(FIRST_PAUSE, longest), longest=longest)


class Renewal:
    """Renews the certificate in a separate thread.

    Args:
        renew: Attests for a renewal, once with each broker.
        use: Makes the server use the new certificate.
        failed: Counts a failure.
        first: The grant of the start.
        now: Returns the current time.
        backoff: Returns the pauses after failures to renew a certificate.
        wait: Waits for a number of seconds, and returns whether the thread must end.
    """

    def __init__(
        self,
        *,
        renew: Callable[[], Attested],
        use: Callable[[Attested], None],
        failed: Callable[[], None],
        first: Attested,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        backoff: Callable[[Attested], Backoff] = pauses_for,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._renew = renew
        self._use = use
        self._count_failure = failed
        self._granted = first
        self._now = now
        self._backoff = backoff
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._thread = threading.Thread(target=self.run, name="renewal", daemon=True)

    def start(self) -> None:
        """Start the thread. It ends with the process."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread at its next wait, and wait for its end."""
        self._stopping.set()
        self._thread.join()

    def run(self) -> None:
        """Renew until `stop` is called."""
        while self._reached(renewal_time(self._granted)) and self._renewed():
            # With a clock that is ahead of the broker's, each new certificate seems to be almost at its end.
            if self._wait((self._granted.lifetime / 3).total_seconds()):
                return

    def _reached(self, moment: datetime) -> bool:
        """Wait for a time. Return whether it was reached before the end."""
        while (left := (moment - self._now()).total_seconds()) > 0:
            if self._wait(min(left, _STEP)):
                return False
        return True

    def _renewed(self) -> bool:
        """Attest until an attempt succeeds. Return whether it did so before the end."""
        for pause in self._pauses():
            try:
                granted = self._renew()
                self._use(granted)
            except SealserveError as error:
                self._failed(error.code, error.message)
            except Exception:
                LOGGER.exception("step=renewal-failed code=internal %s", self._granted.validity)
                self._count_failure()
            else:
                self._granted = granted
                LOGGER.info("step=renewed %s", granted.validity)
                return True
            if self._wait(pause):
                return False
        raise AssertionError("the pauses never end")

    def _pauses(self) -> Iterator[float]:
        """Yield the pauses after failed attempts: short until the certificate's end, and then longer and longer."""
        backoff = self._backoff(self._granted)
        for pause in backoff.pauses():
            if self._now() >= self._granted.expires:
                break
            yield pause
        yield from replace(backoff, longest=LONGEST_PAUSE).pauses()

    def _failed(self, code: str, message: str) -> None:
        self._count_failure()
        left = max(self._granted.expires - self._now(), timedelta())
        LOGGER.error(
            "step=renewal-failed code=%s %s left=%dmin: %s",
            code,
            self._granted.validity,
            left.total_seconds() // 60,
            message,
        )
