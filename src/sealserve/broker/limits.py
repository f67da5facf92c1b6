"""The limits on the keys and attestation results that one platform receives in a period, counted from the audit log.

A host that starts enclaves repeatedly, or a stolen platform, gets few keys before the owner notices. All brokers with
the same database count together, and a restart of a broker does not reset the count. Keys and attestation results are
counted separately, because a running enclave requests a new result each time its result expires.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, select

from sealserve.broker.audit_entry import Decision
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import reading
from sealserve.broker.stored_time import from_text, to_text
from sealserve.broker.tables import AUDIT

_REMEMBERED: Final = 10_000  # platforms with keys or results, each with at most as many times as its limit
_NAMES: Final[Mapping[Decision, tuple[str, str]]] = {
    Decision.RELEASED: ("key", "keys_per_platform"),
    Decision.ATTESTED: ("attestation result", "results_per_platform"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLimit:
    """The maximum numbers of keys and of attestation results for one platform in a period.

    Args:
        keys: The number of keys. Each key of each release counts. `None` means no limit.
        results: The number of attestation results. `None` means no limit.
        period: The period, which ends now.
    """

    keys: int | None = None
    results: int | None = None
    period: timedelta

    def of(self, decision: Decision) -> int | None:
        """Return the maximum number of keys (`Decision.RELEASED`) or attestation results (`Decision.ATTESTED`)."""
        return self.keys if decision is Decision.RELEASED else self.results


class PlatformLimiter:
    """Enforces the limit for each platform.

    The count comes from the audit log, so that it holds for all brokers of a database and across restarts. A program
    that changes the database could lower it. Therefore, the limiter also remembers the keys of its own process.

    Args:
        limit: The limit.
    """

    def __init__(self, limit: PlatformLimit) -> None:
        self._limit = limit
        self._given: OrderedDict[tuple[str, Decision], deque[datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, platform_id: str, decision: Decision, *, now: datetime) -> None:
        """Remember that a platform received a key or an attestation result at ``now``."""
        if (limit := self._limit.of(decision)) is None:
            return
        with self._lock:
            self._given.setdefault((platform_id, decision), deque(maxlen=limit)).appendleft(now)
            self._given.move_to_end((platform_id, decision))
            if len(self._given) > _REMEMBERED:
                self._given.popitem(last=False)

    def check(
        self, connection: Connection, platform_id: str, *, now: datetime, decision: Decision = Decision.RELEASED
    ) -> None:
        """Check that a platform may receive one more key or attestation result.

        Args:
            connection: The transaction that also writes the row of the new key or result. Writing transactions do not
                overlap, so two concurrent requests cannot both receive the last key.
            platform_id: The id of the verified platform.
            now: The current time on the owner's clock.
            decision: What the platform would receive: `Decision.RELEASED` or `Decision.ATTESTED`.

        Raises:
            VerificationError: `policy.limit` if the platform received the maximum number.
        """
        if (limit := self._limit.of(decision)) is None:
            return
        # An index contains both columns. Times are text in a format that sorts like the times.
        received = (
            select(AUDIT.c.time)
            .where(AUDIT.c.platform_id == platform_id, AUDIT.c.time > to_text(now - self._limit.period))
            .where(AUDIT.c.decision == decision)
            .order_by(AUDIT.c.time.desc())
            .limit(limit)
        )
        with reading("audit"):
            times = [from_text(text) for text in connection.execute(received).scalars()]
        with self._lock:
            own = [time for time in self._given.get((platform_id, decision), ()) if time > now - self._limit.period]
        if max(len(times), len(own)) >= limit:
            what, setting = _NAMES[decision]
            minutes = self._limit.period // timedelta(minutes=1)
            oldest = max(found[limit - 1] for found in (times, own) if len(found) >= limit)
            raise BrokerCode.POLICY_LIMIT.error(
                f"The platform {platform_id} gets no further {what} now: expected at most {limit} in {minutes} "
                "minutes, got one more request.",
                hint=f"Wait until {oldest + self._limit.period:%Y-%m-%d %H:%M:%S} UTC, or raise "
                f"broker.limits.{setting}.",
            )
