"""Reports the changes by the owner and by administrators, from the audit log.

The owner's commands change the database in their own processes, and another broker may share the database. Therefore
the broker reads new rows of the audit log, instead of observing its own changes. It begins at the end of the log: a
change while no broker runs is not reported.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final, Self

from sqlalchemy import select

from sealserve.broker import audit
from sealserve.broker.audit import AuditRow
from sealserve.broker.database import Database
from sealserve.broker.notification import CHANGES
from sealserve.broker.tables import AUDIT
from sealserve.errors import SealserveError

_LOG: Final = logging.getLogger(__name__)
_POLL_SECONDS: Final = 1.0
_PAGE: Final = 500
_QUERY: Final = select(AUDIT).where(AUDIT.c.decision.in_(sorted(CHANGES))).order_by(AUDIT.c.seq)


class ChangeWatch:
    """Calls a function with the row of each change. Use it as a context manager.

    Args:
        database: The broker's database.
        notify: Called with each row, in order. It must neither wait nor raise an error.
        seconds: The time between two reads of the log.
        after: The last row that an earlier watch reported. `None` begins at the end of the log.

    Raises:
        SealserveError: The database cannot be read.
    """

    def __init__(
        self,
        database: Database,
        notify: Callable[[AuditRow], None],
        *,
        seconds: float = _POLL_SECONDS,
        after: int | None = None,
    ) -> None:
        self._database, self._notify, self._seconds = database, notify, seconds
        self._after = self._end() if after is None else after
        self._problem: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="change-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.poll()  # report the changes since the last look

    @property
    def reported(self) -> int:
        """The last row of the log whose changes were reported."""
        return self._after

    def poll(self) -> None:
        """Report the new changes. An error is logged once, and the next call repeats the attempt."""
        try:
            while self._page():
                pass
        except SealserveError as error:
            if error.code != self._problem:
                _LOG.warning("cannot read the changes for notifications: [%s] %s", error.code, error.message)
            self._problem = error.code
        except Exception:  # noqa: BLE001  # an unexpected error must not end the notifications
            if self._problem != "internal":
                _LOG.exception("internal error while reading the changes for notifications")
            self._problem = "internal"
        else:
            self._problem = None

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            self.poll()

    def _end(self) -> int:
        with self._database.read() as connection:
            return audit.head(connection)[0]

    def _page(self) -> bool:
        """Report the next changes. Return whether there may be more of them."""
        with self._database.read() as connection:
            end, _ = audit.head(connection)
            self._after = min(self._after, end)  # an older copy of the database may have been restored
            if end == self._after:
                return False
            rows = list(audit.parsed(connection, _QUERY.where(AUDIT.c.seq > self._after).limit(_PAGE)))
        for row in rows:
            self._after = row.seq
            # The column found the row. Only its content is authentic.
            if row.entry.decision in CHANGES:
                self._notify(row)
        if len(rows) < _PAGE:
            self._after = end
            return False
        return True
