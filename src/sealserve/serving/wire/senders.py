"""Which calls may send their message: a limited number at once, the peers in turns, and not for long while others wait.

gRPC keeps no more than a flow-control window of a message that nobody takes. So this limit bounds the memory that
clients can fill with messages that are on their way.
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
"""So many calls may send their message at once."""
MOMENT: Final = 5.0
"""Seconds that a message may be on its way while others wait for its place."""


class Moving(Hashable, Protocol):
    """A call whose message may be on its way."""

    moving_since: float | None
    """Since when a message of it is on its way, on the clock of `time.monotonic`."""

    def peer(self) -> bytes:
        """Return who sends the call."""

    def abort(self) -> None:
        """Give up on a peer that neither sends nor reads."""


C = TypeVar("C", bound=Moving)


class Senders(Generic[C]):
    """The calls that send, and those that wait for their turn.

    Args:
        patience: Seconds that a message may be on its way, in either direction.
        allowance: The bytes that requests and answers may take.
    """

    def __init__(self, patience: float, allowance: Allowance) -> None:
        self._patience = patience
        self._allowance = allowance
        self._sending: set[C] = set()
        self._waiting: Turns[C] = Turns()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    def enter(self, call: C) -> bool:
        """Return whether ``call`` may send now. If not, it waits for its turn, which `received` gives."""
        with self._lock:
            if len(self._sending) >= SENDERS:
                self._waiting.add(call.peer(), call)
                return False
            self._sending.add(call)
            return True

    def received(self, call: C) -> C | None:
        """Take the place of ``call``, whose message arrived or never will; return the call whose turn it is."""
        with self._lock:
            self._sending.discard(call)
            successor = self._waiting.next() if len(self._sending) < SENDERS else None
            if successor is not None:
                self._sending.add(successor)
        return successor

    def withdraw(self, call: C) -> bool:
        """Take ``call`` out of the waiting ones; return whether it waited."""
        with self._lock:
            return self._waiting.remove(call)

    def forget(self, call: C) -> None:
        """Forget a call that ended."""
        self._sending.discard(call)

    def sweep(self, calls: Iterable[C]) -> None:
        """Give up on those of ``calls`` whose message is on its way for too long."""
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
            logger.warning("gave up on %d calls whose message was on its way for %d s", len(late), patience)
