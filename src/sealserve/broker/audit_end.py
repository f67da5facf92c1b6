"""The authenticated end of the audit log: which rows it has, and how many changes are recorded up to it.

Each audit row has a tag over its number, its hash, and the number of changes up to this row. A program without the key
can therefore neither append an audit row nor hide a change. A process remembers the end that it has verified.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select

from sealserve.broker import prepared
from sealserve.broker.audit_entry import GENESIS, Decision, Entry, digest, parse
from sealserve.broker.audited_subjects import CHANGES, subjects_of
from sealserve.broker.codes import BrokerCode
from sealserve.broker.prepared import Prepared
from sealserve.broker.row_key import RowKey
from sealserve.broker.tables import AUDIT
from sealserve.errors import SealserveError

# Each key release executes some of these statements, so they are built only once.
HEAD: Final = Prepared(
    select(AUDIT.c.seq, AUDIT.c.hash, AUDIT.c.changes, AUDIT.c.tag).order_by(AUDIT.c.seq.desc()).limit(1)
)
_HASH_AT: Final = select(AUDIT.c.hash).where(AUDIT.c.seq == bindparam("at"))
_START: Final = select(func.max(AUDIT.c.seq)).where(AUDIT.c.decision == Decision.AUTHENTICATED)
ROWS: Final = select(AUDIT.c.seq, AUDIT.c.format, AUDIT.c.content, AUDIT.c.hash, AUDIT.c.changes, AUDIT.c.tag)
_CHANGES_AFTER: Final = ROWS.where(AUDIT.c.decision.in_(sorted(CHANGES)), AUDIT.c.seq > bindparam("after")).order_by(
    AUDIT.c.seq
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The part of the audit log that a process has verified.

    Args:
        seq: The number of the newest row.
        hash: Its hash, as hex.
        loaded: Whether the fields below describe that row. They do not if only a signed head was read.
        changes: The number of changes up to the row.
        last_change: The number of the newest row that records a change.
        start: The row that authenticated the rows of an earlier version, or 0.
        newest: The newest change of each subject (`subject_of`).
    """

    seq: int = 0
    hash: str = GENESIS
    loaded: bool = False
    changes: int = 0
    last_change: int = 0
    start: int = 0
    newest: Mapping[str, int] = field(default_factory=dict)


def verified_end(connection: Connection, key: RowKey, known: Known) -> Known:
    """Return the end of the log and the changes up to it, starting with what is already known."""
    # 1. The last row must have a tag. It states the number of changes.
    last = prepared.first(connection, HEAD)
    seq, hash_, changes = (0, GENESIS, 0) if last is None else (last["seq"], last["hash"], last["changes"])
    if (seq, hash_) == (known.seq, known.hash) and known.loaded:
        return known
    if last is not None:
        check_tag(key, last)
    # 2. The log must still contain the row that was its end before. Otherwise an older database was restored. The last
    #    row must not be an earlier row either, because a database can answer each query with another log.
    found = hash_ if seq <= known.seq else connection.execute(_HASH_AT, {"at": known.seq}).scalar()
    if known.seq > 0 and found != known.hash:
        raise BrokerCode.AUDIT_TRUNCATED.error(
            f"Row {known.seq} of the audit log is missing or was replaced, although it was the end of the log before.",
            hint="Find out whether rows were deleted or an older database was restored. "
            "See docs/how-to/loss-and-theft.md.",
        )
    # 3. Read the changes that are not known yet. A hidden, repeated or invented change leads to another number.
    fresh = known if known.loaded else Known(start=_start(connection, key))
    count, last_change = fresh.changes, fresh.last_change
    newest = fresh.newest
    if changes != count:
        newest = dict(newest)  # a copy, because concurrent transactions may use the earlier state
        after = last_change if fresh.loaded else max(fresh.start - 1, 0)
        for row in prepared.rows(connection, _CHANGES_AFTER, after=after):
            check_tag(key, row)
            entry = authentic_entry(row)
            # The column selected the row, but only the content is authentic. A row that only looks like a change could
            # otherwise take the place of a hidden change in the count.
            if entry.decision not in CHANGES:
                raise _wrong_column(row["seq"])
            count, last_change = count + 1, row["seq"]
            if row["changes"] != count:
                raise _hidden(f"row {last_change} states {row['changes']} changes", count)
            newest.update(dict.fromkeys(subjects_of(entry), last_change))
    if changes != count:
        raise _hidden(f"its last row states {changes} changes", count)
    return replace(fresh, seq=seq, hash=hash_, loaded=True, changes=count, last_change=last_change, newest=newest)


def _start(connection: Connection, key: RowKey) -> int:
    """Return the number of the row that authenticated the rows of an earlier version, or 0 without such a row."""
    if (start := connection.execute(_START).scalar()) is None:
        return 0
    for row in prepared.rows(connection, ROWS.where(AUDIT.c.seq == start)):
        check_tag(key, row)
        if authentic_entry(row).decision is Decision.AUTHENTICATED:
            return row["seq"]  # type: ignore[no-any-return]  # its tag is right, so sealserve wrote the number
    raise _wrong_column(start)


def _wrong_column(seq: object) -> SealserveError:
    return BrokerCode.AUDIT_CHAIN.error(
        f"Row {seq!r:.40} of the audit log was changed: its column decision differs from its content.",
        hint="Run `sealserve broker log --verify`. Another program changed the database.",
    )


def _hidden(stated: str, count: int) -> SealserveError:
    return BrokerCode.DATABASE_AUTHENTICATION.error(
        f"The audit log lacks changes: {stated}, but {count} were found.",
        hint="Run `sealserve broker log --verify`. Another program changed the database.",
    )


def authentic_entry(row: Mapping[str, Any]) -> Entry:
    """Return the entry in an audit row whose tag was verified. Its hash must be the hash of its content."""
    try:
        content = parse(row["content"])
        if digest(row["content"], row["format"]) == row["hash"] and content.seq == row["seq"]:
            return content.entry
    except (ValueError, TypeError, AttributeError, OverflowError):
        pass
    raise BrokerCode.AUDIT_CHAIN.error(
        f"Row {row['seq']} of the audit log was changed: its hash does not match its content."
    )


def check_tag(key: RowKey, row: Mapping[str, Any]) -> None:
    """Verify the tag of one audit row.

    Raises:
        VerificationError: `broker.database-authentication` if it is missing or wrong.
    """
    if not key.is_tag(row["tag"], AUDIT.name, place(row["seq"], row["hash"], row["changes"])):
        raise BrokerCode.DATABASE_AUTHENTICATION.error(
            f"Row {row['seq']!r:.40} of the audit log is not authentic: its tag is missing or wrong.",
            hint="Run `sealserve broker log --verify`. Another program changed the database.",
        )


def place(seq: Any, hash_: Any, changes: Any) -> dict[str, Any]:
    """Return the values that the tag of an audit row covers."""
    return {"seq": seq, "hash": hash_, "changes": changes}
