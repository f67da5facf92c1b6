"""Decides which calls may send their message: a limited number, with clients in turns, and briefly while others wait.

gRPC stores only a flow-control window of a message that is not being received. So this limit bounds the memory that
clients can fill with incoming messages.
"""

import logging
import threading
import time
from collections.abc import Hashable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.turns import Turns

logger = logging.getLogger(__name__)

SENDERS: Final = 64
"""Maximum number of calls that may send their message at the same time."""
MOMENT: Final = 5.0
"""Maximum seconds for the transfer of a message while other calls wait."""


class Moving(Hashable, Protocol):
    """A call whose message may be in transfer."""

    moving_since: float | None
    """The time when the current transfer began, on the clock of `time.monotonic`; None if no message is in transfer."""

    def peer(self) -> bytes:
        """Return an identifier of the client."""

    def abort(self) -> None:
        """Cancel the call of a client that neither sends nor reads."""


C = TypeVar("C", bound=Moving)


class Senders(Generic[C]):
    """The calls that send, and the calls that wait for their turn.

    Args:
        patience: Maximum seconds for receiving a message or sending an answer.
        allowance: The bytes that requests and answers may use.
    """

    def __init__(self, patience: float, allowance: Allowance) -> None:
        self._patience = patience
        self._allowance = allowance
        self._sending: set[C] = set()
        self._waiting: Turns[C] = Turns()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The number of calls that wait for their turn."""
        return len(self._waiting)

    def enter(self, call: C) -> bool:
        """Return whether ``call`` may send now. If not, it waits until `received` returns it."""
        with self._lock:
            if len(self._sending) >= SENDERS:
                self._waiting.add(call.peer(), call)
                return False
            self._sending.add(call)
            return True

    def received(self, call: C) -> C | None:
        """Free the place of ``call``, whose message arrived or will not arrive; return the call whose turn it is."""
        with self._lock:
            self._sending.discard(call)
            successor = self._waiting.next() if len(self._sending) < SENDERS else None
            if successor is not None:
                self._sending.add(successor)
        return successor

    def withdraw(self, call: C) -> bool:
        """Remove ``call`` from the waiting calls; return whether it waited."""
        with self._lock:
            return self._waiting.remove(call)

    def forget(self, call: C) -> None:
        """Remove a call that has ended."""
        self._sending.discard(call)

    def sweep(self, calls: Iterable[C]) -> None:
        """Cancel those ``calls`` whose message takes too long to transfer."""
        with self._lock:
            waiting = frozenset(self._waiting)
        crowded = bool(waiting) or self._allowance.ran_out()
        patience = min(self._patience, MOMENT) if crowded else self._patience
        now = time.monotonic()
        late = [
            call
            for call in calls
            if call.moving_since is not None
            and call.moving_since < now - (self._patience if call in waiting else patience)
        ]
        for call in late:
            call.abort()
        if late:
            logger.warning("cancelled %d calls whose message was in transfer for more than %d s", len(late), patience)
