"""Rows of the audit log that match conditions, in order.

The conditions use the columns for queries, which have indexes, and then the content of each row. A program that can
write to the database can hide a row by changing such a column. `sealserve broker log --verify` detects this.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, or_, select

from sealserve.broker import audit
from sealserve.broker.audit import AuditRow
from sealserve.broker.codes import BrokerCode
from sealserve.broker.releases import ReleaseUnknownError
from sealserve.broker.stored_time import to_text
from sealserve.broker.tables import AUDIT, PLATFORMS, RELEASES

_ID_PREFIX: Final = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Conditions for rows of the audit log. A row must satisfy all of them.

    Args:
        since: The earliest time.
        codes: The codes. Empty: any code.
        release: The name of a registered release, or the beginning of a release id (at least 6 digits).
        platform: The label of an enrolled platform, or the beginning of a platform id (at least 6 digits).
        last: The number of newest rows. `None`: all rows.
    """

    since: datetime | None = None
    codes: tuple[str, ...] = ()
    release: str | None = None
    platform: str | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """A part of the selected rows.

    Args:
        rows: The rows, oldest first.
        next: The number after which the next page begins. It equals ``end`` if this is the last page.
        end: The number of the last row of the whole log.
    """

    rows: list[AuditRow]
    next: int
    end: int


def page(connection: Connection, selection: Selection, *, after: int, limit: int) -> LogPage:
    """Return at most ``limit`` rows that match ``selection``, oldest first.

    Args:
        connection: A transaction.
        selection: The conditions. With ``last``, the newest rows are returned, and nothing follows them.
        after: Only rows with a higher number.
        limit: The maximum number of rows, unless ``last`` states it.

    Raises:
        SealserveError: As `selected`.
    """
    end, _ = audit.head(connection)
    if selection.last is not None:
        return LogPage(rows=list(selected(connection, selection, after=after)), next=end, end=end)
    found = list(audit.parsed(connection, _query(connection, selection, after).order_by(AUDIT.c.seq).limit(limit)))
    rows = [row for row in found if _matches(row, selection)]
    # The last row that the query found decides, even if its content does not match.
    return LogPage(rows=rows, next=found[-1].seq if len(found) == limit else end, end=end)


def selected(connection: Connection, selection: Selection, *, after: int = 0) -> Iterator[AuditRow]:
    """Yield the rows that match ``selection``, oldest first.

    Args:
        connection: A transaction.
        selection: The conditions.
        after: Only rows with a higher number.

    Raises:
        ReleaseUnknownError: No registered release has the name, and it is not the beginning of an id.
        InputError: `broker.platform-not-enrolled` if the same applies to the platform.
        VerificationError: `audit.chain` if a row is malformed.
    """
    query = _query(connection, selection, after)
    # The newest rows are read in reverse, so that the database reads no others.
    if selection.last is None:
        rows = audit.parsed(connection, query.order_by(AUDIT.c.seq))
    else:
        newest = query.order_by(AUDIT.c.seq.desc()).limit(selection.last)
        rows = iter(list(audit.parsed(connection, newest))[::-1])
    for row in rows:
        if _matches(row, selection):
            yield row


def _query(connection: Connection, selection: Selection, after: int) -> Select[Any]:
    """Return the query with the conditions that the database evaluates."""
    where: list[ColumnElement[bool]] = [AUDIT.c.seq > after] if after else []
    if selection.codes:
        where.append(AUDIT.c.code.in_(selection.codes))
    if selection.since is not None:
        where.append(AUDIT.c.time >= to_text(selection.since))
    if selection.release is not None:
        where.append(_of_release(connection, selection.release))
    if selection.platform is not None:
        where.append(_of_platform(connection, selection.platform))
    return select(AUDIT).where(*where)


def _matches(row: AuditRow, selection: Selection) -> bool:
    """Return whether the content matches. It decides, because only the content is covered by the hash of the row."""
    if selection.codes and row.entry.code not in selection.codes:
        return False
    return selection.since is None or row.entry.time >= selection.since


def _of_release(connection: Connection, release: str) -> ColumnElement[bool]:
    query = select(RELEASES.c.release_id).where(RELEASES.c.name == release)
    if (found := _matching(connection, AUDIT.c.release_id, query, release)) is None:
        raise ReleaseUnknownError(
            f"The release {release!r} is not registered with the broker.",
            hint="Specify the name of a registered release, or at least 6 digits of a release id.",
        )
    return found


def _of_platform(connection: Connection, platform: str) -> ColumnElement[bool]:
    query = select(PLATFORMS.c.platform_id).where(PLATFORMS.c.label == platform)
    if (found := _matching(connection, AUDIT.c.platform_id, query, platform)) is None:
        raise BrokerCode.PLATFORM_NOT_ENROLLED.error(
            f"No enrolled platform has the label {platform!r}.",
            hint="Specify the label of an enrolled platform, or at least 6 digits of a platform id.",
        )
    return found


def _matching(
    connection: Connection, column: ColumnElement[Any], named: Select[Any], text: str
) -> ColumnElement[bool] | None:
    """Return the condition for the ids with a name, or with this beginning. `None`: it is neither."""
    ids = connection.execute(named).scalars().all()
    conditions: list[ColumnElement[bool]] = [column.in_(ids)] if ids else []
    if _ID_PREFIX.fullmatch(text):
        conditions.append(column.startswith(text))
    return or_(*conditions) if conditions else None
