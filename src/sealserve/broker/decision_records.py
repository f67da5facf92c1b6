"""The records of the broker's decisions: audit rows, which are written in groups, log lines, and signed heads.

The steps are the steps of `sealserve.broker.decision`. These records are written:

- Each released key and each attestation result has its own audit row, committed before it is sent. If the row cannot
  be written, the broker sends neither.
- A refusal at step 5 or later has a quote and produces an audit row with its code. So that unauthenticated clients
  cannot fill the disk, each network has a limited number of rows. Further refusals are only counted. A row with the
  code ``several`` contains the number of refusals for each code. One such row is written before the next row
  of any peer. When the broker stops, it writes all outstanding rows.
- A refusal before step 5 (TLS, request, certificate) also produces a row, because it may come from an honest enclave.
  Any client can cause such refusals just by connecting. Therefore these rows have a separate, much lower limit, and
  they never use up the limit of the rows above. Silent, slow and disconnected peers, and refusals because the broker
  is busy, appear only in the log.
- Each refusal also produces a log line, limited and counted in the same way.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache, partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection

from sealserve.broker import audit
from sealserve.broker.audit import AuditRow, Head
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.database import Database
from sealserve.broker.decision_state import DecisionState
from sealserve.broker.group_commit import GroupCommit
from sealserve.broker.limiter import Limiter, Rate, Tally
from sealserve.broker.refusal_lines import RefusalLines
from sealserve.broker.releases import Release
from sealserve.errors import SealserveError, UnavailableError

_LOG: Final = logging.getLogger(__name__)
_ROWS_PER_HEAD: Final = 64

SEVERAL: Final = "several"
"""The code of an audit row that summarizes several refusals. Its detail contains their number, network and codes."""

ROWS_OF_EACH: Final = Rate(burst=60, seconds=60)
ROWS_OF_ALL: Final = Rate(burst=600, seconds=5)  # at most about 18,000 rows a day
EARLY_ROWS_OF_EACH: Final = Rate(burst=10, seconds=600)
EARLY_ROWS_OF_ALL: Final = Rate(burst=100, seconds=60)  # at most 1,540 rows a day
"""Limit for refusals without a quote, which any client can cause."""


class LogTransaction:
    """The audit log in one writing transaction, and the head that was signed in it, if any.

    Args:
        connection: The transaction.
        signer: Signs the head after a number of rows. `None` signs no head.
    """

    def __init__(self, connection: Connection, signer: Ed25519PrivateKey | None) -> None:
        self.connection = connection
        self.head: Head | None = None
        self.rows: list[AuditRow] = []
        self._signer = signer
        # All decisions of one transaction see the same state, so each value is read once.
        self.state = cache(partial(DecisionState.read, connection))

    def append(self, entry: Entry) -> None:
        """Append a row."""
        row = audit.append(self.connection, entry)
        self.rows.append(row)
        if self._signer is not None and row.seq % _ROWS_PER_HEAD == 0:
            self.head = audit.sign_head(self.connection, self._signer, now=entry.time)


class DecisionRecords:
    """Writes the records of decisions. Several threads may use it at the same time.

    Args:
        database: The database with the audit log.
        signer: Signs the head of the audit log periodically. `None` signs no head.
        keep: Called with each signed head, to store it outside the database. A failure is logged and otherwise ignored.
        notify: Called with each row after its commit, in order. It must neither wait nor raise an error.
        clock: Returns the time on the owner's clock.
        name: The broker's name in its audit rows.
        parts: The number of processes that share the limits on rows and lines.
    """

    def __init__(
        self,
        *,
        database: Database,
        signer: Ed25519PrivateKey | None,
        keep: Callable[[Head], None] | None,
        notify: Callable[[AuditRow], None],
        clock: Callable[[], datetime],
        name: str | None,
        parts: int = 1,
    ) -> None:
        self._database = database
        self._signer = signer
        self._keep = keep
        self._keeping = threading.Lock()
        self._notify = notify
        self._clock = clock
        self._name = name
        self._rows = Limiter(each=ROWS_OF_EACH.divided(parts), together=ROWS_OF_ALL.divided(parts))
        self._early_rows = Limiter(each=EARLY_ROWS_OF_EACH.divided(parts), together=EARLY_ROWS_OF_ALL.divided(parts))
        self._lines = RefusalLines(clock, parts=parts if parts == 1 else parts + 1)  # the supervisor writes lines too
        self._group = GroupCommit(self._transaction)

    def grant(self, peer: str, prepare: Callable[[LogTransaction], Entry]) -> None:
        """Write the row of a key or an attestation result. Return when the row is durable.

        Args:
            peer: The peer's address and port.
            prepare: Repeats the checks in the transaction, and returns the row. It must only read.

        Raises:
            SealserveError: ``prepare`` raised this error, or the database failed. The row is not written.
        """
        self._record(peer, self._rows, prepare)

    def refuse(
        self,
        peer: str,
        error: SealserveError,
        entry: Callable[[datetime], Entry],
        *,
        evidence: bool,
        release: Release | None,
    ) -> None:
        """Write the log line and the row of a refusal, or count them.

        Args:
            peer: The peer's address and port.
            error: The reason.
            entry: Returns the row, with the given time.
            evidence: Whether the peer presented a quote that parses.
            release: The release of the enclave, if it is known.
        """
        self._lines.write(peer, error, release)
        if not evidence and isinstance(error, UnavailableError):
            return  # the peer is silent or gone, for example a port scan
        # Any client can cause a refusal without evidence, so such rows have a separate, much lower limit.
        limiter = self._rows if evidence else self._early_rows
        if not limiter.admit(peer, error.code, self._clock()):
            return
        try:
            self._record(peer, limiter, lambda _: entry(self._clock()))
        except SealserveError as failure:  # the refusal stands; the log line above is then its only record
            _LOG.error("the refusal of %s could not be written to the audit log: %s", peer, failure.message)

    def settle(self) -> None:
        """Write all counted but unwritten refusals and sign the audit log's head. Called before the broker ends."""
        # Write the outstanding counts as log lines.
        self._lines.settle()
        # Write the outstanding counts as audit rows, in one transaction. If it fails, the counts are restored.
        with contextlib.ExitStack() as owed:
            tallies = [
                tally
                for limiter in (self._rows, self._early_rows)
                for tally in iter(partial(_next_owed, owed, limiter), None)
            ]
            with self._transaction() as log:
                for tally in tallies:
                    log.append(_tally_entry(tally, self._clock(), self._name))
        self.sign_head()

    def sign_head(self) -> None:
        """Sign the head of the audit log, if a signer is configured."""
        if self._signer is not None:
            with self._database.write() as connection:
                head = audit.sign_head(connection, self._signer, now=self._clock())
            self._keep_head(head)

    def _record(self, peer: str, limiter: Limiter, prepare: Callable[[LogTransaction], Entry]) -> None:
        """Write one outstanding count and the row that ``prepare`` returns. Return when the rows are durable."""
        with limiter.owed(peer) as tally:
            owed = [] if tally is None else [_tally_entry(tally, self._clock(), self._name)]
            self._group.submit(lambda log: [*owed, prepare(log)])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[LogTransaction]:
        with self._database.write() as connection:
            log = LogTransaction(connection, self._signer)
            yield log
        for row in log.rows:  # after the commit, so that no notification reports a decision that was rolled back
            self._notify(row)
        if log.head is not None:  # after the commit, so that the chain certainly has this end
            self._keep_head(log.head)

    def _keep_head(self, head: Head) -> None:
        if self._keep is None:
            return
        try:
            with self._keeping:
                self._keep(head)
        except (SealserveError, OSError) as error:  # the log itself is intact: the broker continues
            _LOG.error(
                "the head of the audit log at row %d could not be stored outside the database: %s", head.seq, error
            )


def _next_owed(owed: contextlib.ExitStack, limiter: Limiter) -> Tally | None:
    return owed.enter_context(limiter.owed())


def _tally_entry(tally: Tally, now: datetime, broker: str | None) -> Entry:
    return Entry(
        time=now, peer=tally.network, decision=Decision.REFUSED, code=SEVERAL, detail=str(tally), broker=broker
    )
