"""Notifications of the broker's decisions: a bounded queue, and one thread that sends them in order.

A decision puts its audit row into the queue after its commit, and never waits. `sealserve.broker.change_watch` adds the
rows of changes by the owner. The audit log is the record. A notification is best effort. It is lost if the queue is
full, if the receiver rejects it, if the receiver is down for a long time, or if the broker ends first. The broker
counts and logs each loss.
"""

import json
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final, Self

from sealserve.broker.audit import AuditRow
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.webhook import NotDeliveredError

_LOG: Final = logging.getLogger(__name__)

TYPES: Final = {
    Decision.RELEASED: "key.released",
    Decision.REFUSED: "key.refused",
    Decision.ATTESTED: "result.issued",
    Decision.ALLOWED: "release.allowed",
    Decision.REACTIVATED: "release.reactivated",
    Decision.DRAINING: "release.draining",
    Decision.REVOKED: "release.revoked",
    Decision.ENROLLED: "platform.enrolled",
    Decision.WITHDRAWN: "acceptance.withdrawn",
    Decision.APPROVED: "platform.approved",
    Decision.APPROVAL_REMOVED: "platform.approval-removed",
    Decision.STATED: "release.stated",
    Decision.AUTHENTICATED: "database.accepted",
    Decision.ISSUING_KEY_ROTATED: "issuing-key.rotated",
    Decision.TOKEN_KEY_ROTATED: "token-key.rotated",
}
"""The ``type`` of a notification, for each decision that can have a notification."""

CHANGES: Final = frozenset(TYPES) - {Decision.RELEASED, Decision.REFUSED, Decision.ATTESTED}
"""The decisions of the owner and of administrators."""

MOST_WAITING: Final = 1000
"""The maximum number of waiting notifications of a broker."""

_FACTS: Final = tuple(field.name for field in fields(Entry) if field.name not in {"time", "claims"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds.

    Args:
        first: The longest pause after the first failure. It doubles with each further failure.
        longest: The upper limit of a pause, unless the receiver asks for a longer pause.
        longest_asked: The upper limit of a pause that the receiver asks for with ``Retry-After``.
        patience: How long a notification is retried.
        flush: How long the notifier continues to send when it stops.
        report: The shortest time between two log lines about lost notifications.
    """

    first: float = 1
    longest: float = 60
    longest_asked: float = 300
    patience: float = 600
    flush: float = 3
    report: float = 60


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    row: AuditRow
    since: float


class Notifier:
    """Sends a notification for each row that it is called with. Use it as a context manager.

    Args:
        send: Sends a message with an id and a body. It raises a `NotDeliveredError` if it fails.
        decisions: The kinds of decisions to report.
        limit: The maximum number of waiting notifications.
        timing: The times of retries and of the end.
    """

    def __init__(
        self,
        send: Callable[[str, bytes], object],
        *,
        decisions: Collection[Decision],
        limit: int = MOST_WAITING,
        timing: Timing | None = None,
    ) -> None:
        self._send = send
        self._decisions = frozenset(decisions)
        self._limit = limit
        self._timing = timing or Timing()
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._ends: float | None = None  # the end of the flush, as monotonic time
        self._ended = False
        self._dropped = self._undelivered = 0  # since the last report
        self._totals = {"sent": 0, "failed": 0, "dropped": 0}
        self._reason: str | None = None
        self._next_report = 0.0
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def __call__(self, row: AuditRow) -> None:
        """Put the row of a decision into the queue. Never waits for the receiver, and never raises an error."""
        if row.entry.decision not in self._decisions:
            return
        with self._changed:
            if self._ended or len(self._queue) >= self._limit:
                self._dropped += 1
                self._totals["dropped"] += 1
                return
            self._queue.append(_Waiting(row, time.monotonic()))
            self._changed.notify_all()

    def totals(self) -> Mapping[str, int]:
        """Return the numbers of notifications so far: sent, failed (given up), and dropped (the queue was full)."""
        with self._changed:
            return dict(self._totals)

    def waiting(self) -> int:
        """Return the number of waiting notifications."""
        with self._changed:
            return len(self._queue)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Send the waiting notifications for a limited time. A request in progress is abandoned after it.
        with self._changed:
            self._ends = time.monotonic() + self._timing.flush
            self._changed.notify_all()
        self._thread.join(self._timing.flush)
        with self._changed:
            self._ended = True
            self._undelivered += len(self._queue)
            self._totals["failed"] += len(self._queue)
            self._queue.clear()
        self._report(final=True)

    def _run(self) -> None:
        failures = 0
        while (waiting := self._next()) is not None:
            try:
                self._send(message_id(waiting.row), body(waiting.row))
            except NotDeliveredError as error:
                failures = failures + 1 if error.retry else 0
                self._failed(waiting, error)
                if failures:
                    self._pause(failures, error.retry_after)
            except Exception:  # noqa: BLE001  # an unexpected error must not end the notifications
                if not self._ended:  # otherwise, the receiver is closed
                    _LOG.exception("internal error while sending the notification of row %d", waiting.row.seq)
                self._remove(waiting, delivered=False)
            else:
                failures = 0
                self._remove(waiting, delivered=True)

    def _next(self) -> _Waiting | None:
        """Return the first waiting notification, which remains in the queue, or `None` at the end."""
        while True:
            self._report()
            with self._changed:
                if self._ended or (self._ends is not None and time.monotonic() >= self._ends):
                    return None
                if self._queue:
                    return self._queue[0]
                if self._ends is not None:
                    return None
                self._changed.wait(self._timing.report)

    def _failed(self, waiting: _Waiting, error: NotDeliveredError) -> None:
        with self._changed:
            self._reason = error.message
            too_old = time.monotonic() - waiting.since >= self._timing.patience
            lost = too_old or not error.retry or self._ends is not None
        if lost:
            self._remove(waiting, delivered=False)

    def _remove(self, waiting: _Waiting, *, delivered: bool) -> None:
        with self._changed:
            if self._queue and self._queue[0] is waiting:  # otherwise `__exit__` has counted it
                self._queue.popleft()
                self._undelivered += not delivered
                self._totals["sent" if delivered else "failed"] += 1

    def _pause(self, failures: int, asked: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ends is not None, pause(self._timing, failures, asked))

    def _report(self, *, final: bool = False) -> None:
        with self._changed:
            new = self._dropped or self._undelivered or self._reason
            if not new or (not final and time.monotonic() < self._next_report):
                return
            self._next_report = time.monotonic() + self._timing.report
            dropped, undelivered, reason = self._dropped, self._undelivered, self._reason
            self._dropped, self._undelivered, self._reason = 0, 0, None
            waiting = len(self._queue)
        _LOG.warning(
            "notifications: %d not delivered, %d dropped because too many were waiting, %d waiting. %s",
            undelivered, dropped, waiting, reason or "The audit log contains all decisions.",
        )  # fmt: skip


def pause(timing: Timing, failures: int, asked: float | None) -> float:
    """Return the seconds to wait before the next attempt.

    Args:
        timing: The limits.
        failures: The number of failures in a row, at least 1.
        asked: The pause that the receiver asked for. It is honored up to ``timing.longest_asked``, because a receiver
            must not stop the notifications for days.
    """
    # The jitter separates the retries of several brokers.
    longest = min(timing.longest, timing.first * 2 ** min(failures - 1, 30))
    chosen: float = longest * random.uniform(0.5, 1)  # noqa: S311
    return max(chosen, min(asked or 0.0, timing.longest_asked))


def message_id(row: AuditRow) -> str:
    """Return the id of a row's notification, which is the same for each attempt and differs between databases."""
    return f"audit-{row.seq}-{row.hash[:32]}"


def body(row: AuditRow) -> bytes:
    """Return the JSON document of a row's notification: ASCII only, and never a key."""
    facts = {name: getattr(row.entry, name) for name in _FACTS}
    data = {"seq": row.seq, "hash": row.hash, **{name: value for name, value in facts.items() if value is not None}}
    return document(TYPES[row.entry.decision], row.entry.time, data)


def document(kind: str, when: datetime, data: dict[str, object]) -> bytes:
    """Return a notification with the fields that the specification recommends."""
    timestamp = when.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": kind, "timestamp": timestamp, "data": data}, separators=(",", ":")).encode("ascii")
