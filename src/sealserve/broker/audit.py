"""The audit log: one row per decision. Each row contains the hash of the previous row. Heads of the chain are signed.

A changed, removed or inserted row breaks the hash chain. Truncation at the end is detected with a signed head that is
newer than the deleted rows. Therefore, store signed heads (`sign_head`) on another machine.

A process with write access to the database can write any value into a row. Therefore every value read from a row is
validated.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, RowMapping, Select, insert, select

from sealserve.broker import row_authentication
from sealserve.broker.audit_entry import FORMAT, GENESIS, Content, Entry, clean, digest, parse, to_content
from sealserve.broker.codes import BrokerCode
from sealserve.broker.prepared import Prepared
from sealserve.broker.stored_time import from_text, to_text
from sealserve.broker.tables import AUDIT, AUDIT_HEADS

_HEAD_DOMAIN: Final = b"sealserve audit head v1\n"
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LAST: Final = Prepared(select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1))
_APPEND: Final = Prepared(insert(AUDIT))
_BROKEN_VALUE: Final = (ValueError, TypeError, AttributeError, OverflowError)  # for values that sealserve never writes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A row of the hash chain.

    Args:
        content: The parsed content.
        hash: The hash of the row, as hex.
    """

    content: Content
    hash: str

    @property
    def seq(self) -> int:
        """The row number. The first row has the number 1."""
        return self.content.seq

    @property
    def entry(self) -> Entry:
        """The decision."""
        return self.content.entry

    @property
    def previous_hash(self) -> str:
        """The hash of the previous row, as hex."""
        return self.content.previous_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the chain at some time: the number of rows, the hash of the last row, and the owner's signature."""

    seq: int
    hash: str
    time: datetime
    signature: bytes


def append(connection: Connection, entry: Entry) -> AuditRow:
    """Append ``entry`` to the chain.

    Args:
        connection: A writing transaction. Only one exists at a time, so the chain cannot fork. The row is valid only
            after the transaction has committed. Nothing may act on the decision before that.
        entry: The entry to append.

    Raises:
        VerificationError: `broker.database-authentication` if the database did not write the row.
    """
    session = row_authentication.of(connection)
    last, previous = head(connection) if session is None else session.place(connection)
    content = to_content(entry, seq=last + 1, previous_hash=previous)
    written = Content(seq=last + 1, previous_hash=previous, entry=replace(entry, detail=clean(entry.detail)))
    row = AuditRow(content=written, hash=digest(content, FORMAT))
    copies: dict[str, Any] = {"changes": None, "tag": None, **_copies(row.entry)}
    if session is not None:
        copies |= session.appended(row.seq, row.hash, row.entry)
    values = {"seq": row.seq, "format": FORMAT, "content": content, "hash": row.hash, **copies}
    if _APPEND.execute(connection, **values) != 1:  # a trigger or a rule of the database can skip the insertion
        raise BrokerCode.DATABASE_AUTHENTICATION.error(
            f"Row {row.seq} of the audit log was not written: the database skipped it.",
            hint="Remove the triggers and rules that another program added to the database.",
        )
    return row


def rows(
    connection: Connection, *, last: int | None = None, after: int = 0, limit: int | None = None
) -> Iterator[AuditRow]:
    """Yield the rows in order. The rows are streamed, not collected.

    Args:
        connection: A transaction.
        last: Yield only the ``last`` rows. `None` means all rows.
        after: Yield only rows with a larger number.
        limit: The maximum number of rows. `None` means no limit.
    """
    query = select(AUDIT).where(AUDIT.c.seq > after).order_by(AUDIT.c.seq).limit(limit)
    if last is not None:
        query = query.where(AUDIT.c.seq > head(connection)[0] - last)
    yield from parsed(connection, query)


def parsed(connection: Connection, query: Select[Any]) -> Iterator[AuditRow]:
    """Yield the rows of a query of the table. The rows are streamed. They are not verified.

    Raises:
        VerificationError: `audit.chain` if a row is malformed.
    """
    with _raw_rows(connection, query) as found:
        for row in found:
            yield AuditRow(content=_content(row), hash=row["hash"])


def head(connection: Connection) -> tuple[int, str]:
    """Return the number of rows and the hash of the last row."""
    last = _LAST.first(connection)
    if last is None:
        return 0, GENESIS
    if not _is_place(last["seq"], last["hash"]):
        raise BrokerCode.AUDIT_CHAIN.error(
            "The last row of the audit log was changed: its row number or its hash is malformed."
        )
    return last["seq"], last["hash"]


def sign_head(connection: Connection, signer: Ed25519PrivateKey, *, now: datetime) -> Head:
    """Sign the end of the chain, store the signature and return the head.

    If this end is already signed, return the stored head.

    Raises:
        VerificationError: `audit.head-signature` if the database already has a malformed head for this end.
    """
    seq, digest = head(connection)
    for stored in heads(connection, seq=seq):
        return stored
    signed = Head(seq=seq, hash=digest, time=now, signature=signer.sign(_head_bytes(seq, digest, now)))
    row = {"seq": seq, "hash": digest, "time": to_text(now), "signature": signed.signature.hex()}
    connection.execute(insert(AUDIT_HEADS).values(row))
    return signed


def heads(connection: Connection, *, seq: int | None = None) -> list[Head]:
    """Return the stored signed heads in order, or only the head of row ``seq``. The signatures are not verified.

    Raises:
        VerificationError: `audit.head-signature` if a stored row is not a valid head.
    """
    query = select(AUDIT_HEADS).order_by(AUDIT_HEADS.c.seq)
    if seq is not None:
        query = query.where(AUDIT_HEADS.c.seq == seq)
    return [parse_head(row.seq, row.hash, row.time, row.signature) for row in connection.execute(query)]


def parse_head(seq: Any, digest: Any, time: Any, signature: Any) -> Head:
    """Return a head after checking the form of each part. The signature is not verified.

    Args:
        seq: The number of the row.
        digest: SHA-256 of the row, as hex.
        time: The time of the signature: ISO 8601, with a time zone.
        signature: The signature, as hex.

    Raises:
        VerificationError: `audit.head-signature` if a part has the wrong type or form.
    """
    try:
        if not _is_place(seq, digest):
            raise ValueError("its row number or hash is malformed")
        moment = from_text(time)
        to_text(moment)  # fails without a time zone, or if the time cannot be converted to UTC
        return Head(seq=seq, hash=digest, time=moment, signature=bytes.fromhex(signature))
    except _BROKEN_VALUE as error:
        raise BrokerCode.AUDIT_HEAD_SIGNATURE.error(
            f"The audit head at row {seq!r:.40} was changed: its content is not a valid signed head."
        ) from error


def verify_chain(
    connection: Connection,
    owner_key: Ed25519PublicKey | None = None,
    *,
    former_keys: Sequence[Ed25519PublicKey] = (),
    kept: tuple[Head, ...] = (),
) -> tuple[int, str]:
    """Verify the hash and position of every row, and the signed heads.

    Args:
        connection: A reading transaction.
        owner_key: The key that verifies the heads. `None` skips the heads.
        former_keys: Earlier keys of the owner. Heads with their signatures are valid too.
        kept: Heads that were stored outside the database. They are verified like the stored heads.

    Returns:
        The number of rows and the hash of the last row.

    Raises:
        VerificationError: `audit.chain` if a row was changed, removed or inserted.
        VerificationError: `audit.truncated` if a signed head is not in the chain.
        VerificationError: `broker.database-authentication` if a row has no valid tag.
        VerificationError: `audit.head-signature` if a head is malformed or not signed by the owner, or if ``kept`` is
            given without a key.
    """
    if kept and owner_key is None:
        raise BrokerCode.AUDIT_HEAD_SIGNATURE.error(
            "The given audit head cannot be verified: the public key for its signature is missing.",
            hint="Pass the public key of owner/audit-signing-key.pem.",
        )
    signed: dict[int, set[str]] = {}
    if owner_key is not None:
        for item in (*heads(connection), *kept):
            _verify_head(item, (owner_key, *former_keys))
            signed.setdefault(item.seq, set()).add(item.hash)
    seq, previous = 0, GENESIS
    with _raw_rows(connection, select(AUDIT).order_by(AUDIT.c.seq)) as found:
        for row in found:
            if row["seq"] != seq + 1:
                raise BrokerCode.AUDIT_CHAIN.error(
                    f"The audit log has a gap: row {row['seq']} does not follow row {seq}."
                )
            _verify_row(row, previous)
            seq, previous = seq + 1, row["hash"]
            if signed.pop(seq, {previous}) != {previous}:
                raise BrokerCode.AUDIT_TRUNCATED.error(
                    f"Row {seq} of the audit log was replaced: its hash differs from the signed head of that row."
                )
    if left := sorted(number for number in signed if number > 0):
        raise BrokerCode.AUDIT_TRUNCATED.error(
            f"The audit log is truncated: it ends at row {seq}, but a head was signed at row {left[-1]}.",
            hint="Check whether rows were deleted, the database was replaced, or an older backup was restored.",
        )
    row_authentication.verify_audit_tags(connection)
    return seq, previous


def check_holds(connection: Connection, kept: Head) -> None:
    """Check that the log contains the row of an externally stored head.

    The chain and the signature are not verified.

    Raises:
        VerificationError: `audit.truncated` if the row is missing or has a different hash.
    """
    found = connection.execute(select(AUDIT.c.hash).where(AUDIT.c.seq == kept.seq)).scalar()
    if found != kept.hash and kept.seq > 0:
        what = "is missing" if found is None else "was replaced"
        raise BrokerCode.AUDIT_TRUNCATED.error(
            f"Row {kept.seq} of the audit log {what}, although a signed head outside the database covers it."
        )


def _is_place(seq: object, digest: object) -> bool:
    """Return whether the row number and hash have the expected types and forms."""
    return type(seq) is int and seq >= 0 and isinstance(digest, str) and _HASH.fullmatch(digest) is not None


def _verify_head(item: Head, keys: Sequence[Ed25519PublicKey]) -> None:
    for key in keys:
        with contextlib.suppress(InvalidSignature):
            return key.verify(item.signature, _head_bytes(item.seq, item.hash, item.time))
    raise BrokerCode.AUDIT_HEAD_SIGNATURE.error(
        f"The audit head at row {item.seq} is invalid: its signature does not verify with the owner's key."
    )


def _verify_row(row: RowMapping, previous: str) -> None:
    seq = row["seq"]
    # The hash covers the content.
    try:
        expected = digest(row["content"], row["format"])
    except _BROKEN_VALUE as error:
        raise BrokerCode.AUDIT_CHAIN.error(
            f"Row {seq} of the audit log cannot be verified: it has the unknown format {row['format']!r:.40}.",
            hint="Use the version of sealserve that wrote the database.",
        ) from error
    if row["hash"] != expected:
        raise BrokerCode.AUDIT_CHAIN.error(
            f"Row {seq} of the audit log was changed: its hash does not match its content."
        )
    # The content belongs at this place of the chain.
    content = _content(row)
    if content.seq != seq or content.previous_hash != previous:
        raise BrokerCode.AUDIT_CHAIN.error(f"Row {seq} of the audit log does not follow the row before it.")
    # Queries use copies of some values.
    for name, value in _copies(content.entry).items():
        if row[name] != value:
            raise BrokerCode.AUDIT_CHAIN.error(
                f"Row {seq} of the audit log was changed: its column {name} differs from its content."
            )


def _content(row: RowMapping) -> Content:
    try:
        return parse(row["content"])
    except _BROKEN_VALUE as error:
        raise BrokerCode.AUDIT_CHAIN.error(
            f"Row {row['seq']!r:.40} of the audit log was changed: its content is not a valid entry."
        ) from error


def _copies(entry: Entry) -> dict[str, str | None]:
    """Return the values of an entry that also have a separate column, for queries."""
    return {
        "time": to_text(entry.time),
        "decision": str(entry.decision),
        "code": entry.code,
        "release_id": entry.release_id,
        "platform_id": entry.platform_id,
    }


@contextlib.contextmanager
def _raw_rows(connection: Connection, query: Select[Any]) -> Iterator[Iterable[RowMapping]]:
    with connection.execute(query, execution_options={"yield_per": 500}) as result:  # closes a cursor on the server
        yield result.mappings()


def _head_bytes(seq: int, digest: str, time: datetime) -> bytes:
    head = {"seq": seq, "hash": digest, "time": to_text(time)}
    return _HEAD_DOMAIN + json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
