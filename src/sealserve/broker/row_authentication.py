"""Authentication of the rows that a decision reads, by a key that the database does not contain.

A program that can write to the database must not decide which enclaves receive keys. Therefore:

- Each row of `TABLES` has a tag: HMAC-SHA-256 over the table's name and all columns that have a value. A new column
  must permit NULL, so that the tags of existing rows stay valid.
- Each row names in ``changed`` the audit row that recorded its newest change. An old row with its old tag, for example
  the row of a release before its revocation, is therefore rejected.
- Each audit row has a tag over its number, its hash, and the number of changes up to this row. A program without the
  key can therefore neither append an audit row nor hide a change.
- A process remembers the end of the log. It rejects a log that is shorter or has other rows than before. After a
  restart, a signed head in a file outside the database replaces this memory.

Rows without a tag are accepted only once, when the key is created (`sealserve.broker.row_adoption`).
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, Table, and_, insert, select, update

from sealserve.broker import audit_end, prepared
from sealserve.broker.audit_end import Known
from sealserve.broker.audit_entry import GENESIS, Entry
from sealserve.broker.audited_subjects import CHANGES, KEPT, subject_of, subjects_of
from sealserve.broker.codes import BrokerCode
from sealserve.broker.row_key import RowKey
from sealserve.broker.tables import (
    APPROVALS,
    AUDIT,
    EVALUATION_FLOOR,
    PLATFORMS,
    REFERENCE_VALUES,
    RELEASES,
    STATEMENTS,
)
from sealserve.errors import SealserveError

TABLES: Final = (RELEASES, REFERENCE_VALUES, PLATFORMS, EVALUATION_FLOOR, APPROVALS, STATEMENTS)
"""The tables whose rows have tags. A referenced table is listed before the table that refers to it."""

OPTION: Final = "sealserve_authentication"
"""The execution option of a connection that holds its `Session`."""

_OWN_COLUMNS: Final = frozenset({"changed", "tag"})

_TAGGED: Final[Mapping[Table, tuple[str, ...]]] = {
    table: tuple(column.name for column in table.c if column.name != "tag") for table in TABLES
}
"""The columns that a tag covers. Asking a table for its columns takes longer than the verification."""


class History:
    """The authentication of one database in one process. Several threads may use it.

    Args:
        key: Authenticates the rows.
        known: The end of the log as a signed head outside of the database states it.
    """

    def __init__(self, key: RowKey, known: Known | None = None) -> None:
        self.key = key
        self.known = known or Known()
        self.changed = False
        """Whether this process has recorded a change, or the rotation of a key."""
        self._lock = threading.Lock()

    def session(self) -> "Session":
        """Return the authentication of a transaction. Call this before the transaction reads anything."""
        return Session(self, self.known)

    def publish(self, known: Known) -> None:
        """Remember a later end of the log. It must be committed."""
        with self._lock:
            if known.seq >= self.known.seq:
                self.known = known


class Session:
    """The authentication of one transaction. Its methods take the transaction's connection."""

    def __init__(self, history: History, known: Known) -> None:
        self._history = history
        self._key = history.key
        self._known = known
        self._read = False
        # Rows of this transaction. They may still be rolled back, so other transactions do not see them.
        self._place = (0, GENESIS)
        self._changes = 0
        self._last_change = 0
        self._own: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._start: int | None = None

    def place(self, connection: Connection) -> tuple[int, str]:
        """Return the number and the hash of the last audit row, after its authentication.

        Raises:
            VerificationError: `broker.database-authentication` or `audit.truncated`.
        """
        self._catch_up(connection)
        return self._place

    def appended(self, seq: int, hash_: str, entry: Entry) -> dict[str, Any]:
        """Take note of a new audit row. Return its columns for the authentication."""
        if entry.decision in CHANGES:
            self._changes, self._last_change = self._changes + 1, seq
            self._own.update(dict.fromkeys(subjects_of(entry), seq))
        if entry.decision in KEPT:
            self._history.changed = True
        self._place = (seq, hash_)
        return {"changes": self._changes, "tag": self._key.tag(AUDIT.name, audit_end.place(seq, hash_, self._changes))}

    def committed(self) -> None:
        """Remember the rows that this transaction appended. The commit must have succeeded.

        A trigger that removes such a row, or another program that deletes it immediately, is then found by the next
        transaction, although no transaction has read the row.
        """
        if self._read and self._start is None and self._place[0] > self._known.seq:
            newest = {**self._known.newest, **self._own} if self._own else self._known.newest
            self._history.publish(
                replace(
                    self._known,
                    seq=self._place[0],
                    hash=self._place[1],
                    changes=self._changes,
                    last_change=max(self._last_change, self._known.last_change),
                    newest=newest,
                )
            )

    def _newest(self, connection: Connection, subject: str) -> int | None:
        """Return the number of the audit row that the row of a subject must name, or None if it must not exist.

        A change is first appended to the log, and then written. Until then, the row names the change before it.
        """
        self._catch_up(connection)
        return self._written.get(subject, self._known.newest.get(subject, self._known.start or None))

    def recorded(self, connection: Connection, subject: str) -> int | None:
        """Return the number of the audit row that records a change of exactly this subject, or None."""
        self._catch_up(connection)
        return self._own.get(subject, self._known.newest.get(subject))

    def verify(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
        """Verify a row: its tag, and that it is the newest version of the row.

        Raises:
            VerificationError: `broker.database-authentication` if it is not.
            VerificationError: `audit.truncated` if the audit log lost rows.
        """
        values = {name: row[name] for name in _TAGGED[table]}
        # 1. A row that another program wrote or changed has no valid tag.
        if not self._key.is_tag(row["tag"], table.name, values):
            raise _rejected(table, row, "its tag is missing or wrong")
        # 2. A row with a valid tag may be a copy of an earlier version, for example from before a revocation.
        if (newest := self._newest(connection, subject_of(table, row))) != row["changed"]:
            where = (
                "the audit log does not record it" if newest is None else f"audit row {newest} records a later change"
            )
            raise _rejected(table, row, f"it is outdated, because {where}")

    def sealed(self, table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with its tag. The audit row of the change must already be appended in this transaction."""
        subject = subject_of(table, values)
        changed = self._own.get(subject, self._start)
        if changed is None:  # otherwise the earlier version of the row would stay valid too
            raise ValueError(f"the transaction recorded no change of this row of {table.name}")
        self._written[subject] = changed
        full = {**values, "changed": changed}
        return {**full, "tag": self._key.tag(table.name, full)}

    @property
    def newest_changes(self) -> Mapping[str, int]:
        """The newest change of each subject, as the transaction read it. It is the same object until a change."""
        return self._known.newest

    def verify_audit_tags(self, connection: Connection) -> None:
        """See the function `verify_audit_tags`."""
        self._catch_up(connection)
        query = select(AUDIT.c.seq, AUDIT.c.hash, AUDIT.c.changes, AUDIT.c.tag).where(AUDIT.c.seq >= self._known.start)
        for row in connection.execute(query, execution_options={"yield_per": 500}):
            audit_end.check_tag(self._key, row._asdict())

    def verify_audit_row(self, connection: Connection, row: Mapping[str, Any]) -> None:
        """Verify the tag of one audit row. A row from before the creation of the key has none."""
        self._catch_up(connection)
        if row["seq"] >= self._known.start:
            audit_end.check_tag(self._key, row)

    def start_here(self, seq: int, digest_: str) -> None:
        """Accept all existing audit rows. The next audit row is the first row with a tag."""
        self._read, self._place, self._changes, self._start = True, (seq, digest_), 0, seq + 1

    def _catch_up(self, connection: Connection) -> None:
        if self._read:
            return
        self._known = audit_end.verified_end(connection, self._key, self._known)
        self._history.publish(self._known)
        self._place, self._changes = (self._known.seq, self._known.hash), self._known.changes
        self._read = True


def of(connection: Connection) -> Session | None:
    """Return the authentication of a transaction, or None if the database was opened without a key."""
    session: Session | None = connection.get_execution_options().get(OPTION)
    return session


def verify(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Verify a row, if the database was opened with a key. See `Session.verify`."""
    if (session := of(connection)) is not None:
        session.verify(connection, table, row)


def verify_absence(connection: Connection, table: Table, key: Mapping[str, Any]) -> None:
    """Verify that a missing row never existed, if the database was opened with a key.

    Raises:
        VerificationError: `broker.database-authentication` if the audit log records the row.
    """
    session = of(connection)
    if session is not None and (recorded := session.recorded(connection, subject_of(table, key))) is not None:
        raise _rejected(table, key, f"it was deleted, although audit row {recorded} records it")


def put(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Write a whole row with its tag: insert it, or replace the row with the same primary key.

    The audit row of the change must already be appended in the same transaction. Values for an existing row must come
    from a verified row. Otherwise the new tag would cover what another program wrote.
    """
    row = {column.name: values.get(column.name) for column in table.c if column.name not in _OWN_COLUMNS}
    if (session := of(connection)) is not None:
        row = session.sealed(table, row)
    where = and_(*(column == row[column.name] for column in table.primary_key))
    if connection.execute(update(table).where(where).values(row)).rowcount == 0:
        connection.execute(insert(table).values(row))


def is_authenticated(connection: Connection) -> bool:
    """Return whether any row of the database has a tag."""
    tables = (AUDIT, *TABLES)
    return any(connection.execute(select(1).where(table.c.tag.is_not(None)).limit(1)).first() for table in tables)


def is_authenticated_by(connection: Connection, key: RowKey) -> bool:
    """Return whether ``key`` authenticates the last row of the audit log."""
    last = prepared.first(connection, audit_end.HEAD)
    return last is not None and key.is_tag(
        last["tag"], AUDIT.name, audit_end.place(last["seq"], last["hash"], last["changes"])
    )


def verify_audit_tags(connection: Connection) -> None:
    """Verify the tags of all audit rows, if the database was opened with a key.

    Rows from before the creation of the key have no tag. The first row with a tag covers them by its previous hash.

    Raises:
        VerificationError: `broker.database-authentication` if a tag is missing or wrong.
    """
    if (session := of(connection)) is not None:
        session.verify_audit_tags(connection)


def audit_entries(connection: Connection, numbers: Collection[int]) -> dict[int, Entry]:
    """Return the entries of some audit rows by number, after verifying the hash and the tag of each row.

    Raises:
        VerificationError: `audit.chain` or `broker.database-authentication` if another program changed a row.
    """
    session, found = of(connection), {}
    for row in prepared.rows(connection, audit_end.ROWS.where(AUDIT.c.seq.in_(numbers))):
        if session is not None:
            session.verify_audit_row(connection, row)
        found[row["seq"]] = audit_end.authentic_entry(row)
    return found


def _rejected(table: Table, row: Mapping[str, Any], why: str) -> SealserveError:
    key = ", ".join(str(row[column.name])[:64] for column in table.primary_key)
    return BrokerCode.DATABASE_AUTHENTICATION.error(
        f"The row {key} of the table {table.name} in the broker's database is not authentic: {why}.",
        hint="Run `sealserve broker log --verify` to compare the database with its audit log. Another program changed "
        "the database.",
    )
