"""Group commit: concurrent decisions share one writing transaction, and therefore one fsync.

The first thread that has a decision to write becomes the leader. It writes its own decision at once, together with the
decisions that have queued. While it commits, further decisions queue. They are the next group, and one of their threads
is its leader. A lone decision therefore never waits for others, and a busy broker needs one fsync for many decisions.

Each decision is prepared inside the transaction: its checks read the state that holds until the commit, and return the
rows to append. A failed check refuses only its own decision. It has written nothing, so that the transaction needs no
savepoint. If the database itself fails, before or during the commit, the whole group fails and nothing is written.

`GroupCommit.submit` returns only after the commit. So a key leaves the broker only after its audit row is durable.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from sealserve.broker.audit_entry import Entry
from sealserve.errors import SealserveError

MAXIMUM: Final = 64
"""The maximum number of decisions in one group."""


class Log(Protocol):
    """One writing transaction of the audit log."""

    def append(self, entry: Entry) -> None:
        """Append a row."""


_L = TypeVar("_L", bound=Log)


@dataclass(slots=True, eq=False)
class _Ticket(Generic[_L]):
    """A decision in the queue. ``awake`` is set when the decision is settled, or when its thread has to lead."""

    prepare: Callable[[_L], Sequence[Entry]]
    awake: threading.Event = field(default_factory=threading.Event)
    settled: bool = False
    error: BaseException | None = None
    shared: bool = False  # whether ``error`` is the error of the whole group


class GroupCommit(Generic[_L]):
    """Writes decisions in groups. Several threads may use it.

    Args:
        transaction: Opens a writing transaction. It commits when the context ends without an error.
        maximum: The maximum number of decisions in one group.
    """

    def __init__(
        self, transaction: Callable[[], contextlib.AbstractContextManager[_L]], *, maximum: int = MAXIMUM
    ) -> None:
        self._transaction = transaction
        self._maximum = maximum
        self._queue: deque[_Ticket[_L]] = deque()
        self._lock = threading.Lock()
        self._led = False  # whether a thread leads now, or was woken to lead

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, prepare: Callable[[_L], Sequence[Entry]]) -> None:
        """Write one decision, and return after its transaction has committed.

        Args:
            prepare: Called in the transaction, possibly in another thread. It checks that the decision still holds, and
                returns the rows to append. It must only read, and must not call `submit`.

        Raises:
            SealserveError: ``prepare`` raised this error, or the transaction failed. The decision is not written.
        """
        ticket = _Ticket(prepare)
        with self._lock:
            self._queue.append(ticket)
            leads, self._led = not self._led, True
        if not leads:
            ticket.awake.wait()
        # A thread that is awake and not settled leads the group that begins with its own decision.
        if not ticket.settled:
            self._lead()
        if ticket.error is None:
            return
        if ticket.shared and isinstance(ticket.error, SealserveError):  # threads must not raise the same object
            raise _copy(ticket.error) from ticket.error
        raise ticket.error

    def _lead(self) -> None:
        with self._lock:
            group = [self._queue.popleft() for _ in range(min(len(self._queue), self._maximum))]
        try:
            self._write(group)
        except BaseException as error:  # noqa: BLE001  # the members of the group raise it
            for ticket in group:
                if ticket.error is None:
                    ticket.error, ticket.shared = error, True
        finally:
            # The next leader begins with the decisions that have queued meanwhile.
            with self._lock:
                if self._queue:
                    self._queue[0].awake.set()
                else:
                    self._led = False
            for ticket in group:
                ticket.settled = True
                ticket.awake.set()

    def _write(self, group: Sequence[_Ticket[_L]]) -> None:
        with self._transaction() as log:
            for ticket in group:
                try:
                    entries = ticket.prepare(log)
                except SQLAlchemyError:  # the state of the transaction is unknown
                    raise
                except Exception as error:  # noqa: BLE001  # the ticket's own thread raises it
                    ticket.error = error
                    continue
                # After an error here, a part of the decision may be written. Only the roll-back of the group undoes it.
                for entry in entries:
                    log.append(entry)


def _copy(error: SealserveError) -> SealserveError:
    copy = type(error)(error.message, hint=error.hint)
    copy.code = error.code
    return copy
