"""The audit log: one row for each decision, each holding the hash of the one before, with signed heads.

A changed, removed or inserted row breaks the chain. Rows cut off at the end are found by a head that was signed later
than they were written: keep heads (`sign_head`) on another machine.

Whoever can write to the database can write any value into a row, so everything that is read from one is checked.
"""

import contextlib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, RowMapping, Select, insert, select

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import AUDIT, AUDIT_HEADS, from_text, to_text

GENESIS: Final = "0" * 64
"""The hash before the first row."""

_ROW_DOMAIN: Final = b"sealserve audit row v1\n"
_HEAD_DOMAIN: Final = b"sealserve audit head v1\n"
_DETAIL_LENGTH: Final = 1000
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ALWAYS_TEXT: Final = ("peer", "code", "detail")
_BROKEN_VALUE: Final = (ValueError, TypeError, AttributeError, OverflowError)  # of a value that none of our code wrote


class Decision(StrEnum):
    """What was decided: by the broker (the first two), or by the owner."""

    RELEASED = "released"
    REFUSED = "refused"
    ALLOWED = "allowed"
    REACTIVATED = "reactivated"
    DRAINING = "draining"
    REVOKED = "revoked"
    ENROLLED = "enrolled"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A decision, and what is known about who asked. Never a secret; text that comes from a peer is cleaned.

    Args:
        time: When it was decided.
        peer: The peer's address and port, or ``owner``.
        decision: What was decided.
        code: ``ok``, or the error's code.
        detail: The error's message.
        release_id: The release that the MRENCLAVE belongs to.
        platform: ``sgx`` or ``simulated``.
        mr_enclave: As hex. Of a quote that did not verify, it is what the quote claims; so is MRSIGNER.
        mr_signer: As hex.
        platform_id: The verified platform's id.
        tcb_status: The verified platform's TCB status.
        advisories: Its advisories, joined by commas.
        quote_digest: SHA-256 of the quote, as hex.
    """

    time: datetime
    peer: str
    decision: Decision
    code: str
    detail: str = ""
    release_id: str | None = None
    platform: str | None = None
    mr_enclave: str | None = None
    mr_signer: str | None = None
    platform_id: str | None = None
    tcb_status: str | None = None
    advisories: str | None = None
    quote_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """An entry in its place in the chain."""

    seq: int
    entry: Entry
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the chain at some time: how many rows, and the last one's hash. ``signature`` is the owner's."""

    seq: int
    hash: str
    time: datetime
    signature: bytes


def clean(text: str) -> str:
    """Return ``text`` without control characters and bounded in length: a message may quote a peer's bytes."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} else c for c in text)
    return shown[:_DETAIL_LENGTH]


def append(connection: Connection, entry: Entry) -> AuditRow:
    """Write ``entry`` at the end of the chain.

    Args:
        connection: A writing transaction: the database has one at a time, so the chain cannot fork. The row counts
            when that has committed, and only then may anything act on the decision.
        entry: What to write.
    """
    last, previous = head(connection)
    seq, values = last + 1, _values(entry)
    digest = _row_hash(seq, values, previous)
    connection.execute(insert(AUDIT).values(seq=seq, previous_hash=previous, hash=digest, **values))
    return AuditRow(seq=seq, entry=_entry(values), previous_hash=previous, hash=digest)


def rows(connection: Connection, *, last: int | None = None) -> Iterator[AuditRow]:
    """Yield the rows in order, all of them or the ``last`` ones, without holding them in memory."""
    query = select(AUDIT).order_by(AUDIT.c.seq)
    if last is not None:
        query = query.where(AUDIT.c.seq > head(connection)[0] - last)
    for row in _raw_rows(connection, query):
        values = {field.name: row[field.name] for field in fields(Entry)}
        yield AuditRow(seq=row["seq"], entry=_entry(values), previous_hash=row["previous_hash"], hash=row["hash"])


def head(connection: Connection) -> tuple[int, str]:
    """Return the number of rows and the last one's hash."""
    last = connection.execute(select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)).first()
    if last is None:
        return 0, GENESIS
    if not _is_place(last.seq, last.hash):
        raise BrokerCode.AUDIT_CHAIN.error("The last row of the audit log was changed: its number or hash is not one.")
    return last.seq, last.hash


def sign_head(connection: Connection, signer: Ed25519PrivateKey, *, now: datetime) -> Head:
    """Sign the end of the chain, store the signature, and return it; an end that is signed is returned as it is.

    Raises:
        VerificationError: `audit.head-signature`: What is stored for this end is not a head.
    """
    seq, digest = head(connection)
    for stored in heads(connection, seq=seq):
        return stored
    signed = Head(seq=seq, hash=digest, time=now, signature=signer.sign(_head_bytes(seq, digest, now)))
    row = {"seq": seq, "hash": digest, "time": to_text(now), "signature": signed.signature.hex()}
    connection.execute(insert(AUDIT_HEADS).values(row))
    return signed


def heads(connection: Connection, *, seq: int | None = None) -> list[Head]:
    """Return the stored signed heads in order, or the one of row ``seq``. The signatures are not verified.

    Raises:
        VerificationError: `audit.head-signature`: A stored row is not a head.
    """
    query = select(AUDIT_HEADS).order_by(AUDIT_HEADS.c.seq)
    if seq is not None:
        query = query.where(AUDIT_HEADS.c.seq == seq)
    return [parse_head(row.seq, row.hash, row.time, row.signature) for row in connection.execute(query)]


def parse_head(seq: Any, digest: Any, time: Any, signature: Any) -> Head:
    """Return a head of which each part is what it should be; the signature is not verified.

    Args:
        seq: Number of the row.
        digest: SHA-256 of the row, as hex.
        time: When it was signed: ISO 8601, with a time zone.
        signature: As hex.

    Raises:
        VerificationError: `audit.head-signature`: A part is of another type or form.
    """
    try:
        if not _is_place(seq, digest):
            raise ValueError("its number or hash is not one")
        moment = from_text(time)
        to_text(moment)  # it has a time zone, and can be told in UTC
        return Head(seq=seq, hash=digest, time=moment, signature=bytes.fromhex(signature))
    except _BROKEN_VALUE as error:
        raise BrokerCode.AUDIT_HEAD_SIGNATURE.error(
            f"The audit head at row {seq!r:.40} was changed: it is not a signed head."
        ) from error


def verify_chain(
    connection: Connection,
    owner_key: Ed25519PublicKey | None = None,
    *,
    former_keys: Sequence[Ed25519PublicKey] = (),
    kept: tuple[Head, ...] = (),
) -> tuple[int, str]:
    """Check every row's hash and place, and the signed heads.

    Args:
        connection: A reading transaction.
        owner_key: Verifies the heads; None to leave them out.
        former_keys: Keys that signed heads earlier: heads that they signed are valid as well.
        kept: Heads that were kept elsewhere, checked as the stored ones are.

    Returns:
        The number of rows and the last one's hash.

    Raises:
        VerificationError: `audit.chain`: A row was changed, removed or inserted.
        VerificationError: `audit.truncated`: A signed head is not in the chain.
        VerificationError: `audit.head-signature`: A head is not signed by the owner, or is not a head; or there is no
            key to check ``kept`` with.
    """
    if kept and owner_key is None:
        raise BrokerCode.AUDIT_HEAD_SIGNATURE.error(
            "A kept audit head cannot be checked: no key was given that verifies its signature.",
            hint="Give the public key of owner/audit-signing-key.pem.",
        )
    signed: dict[int, set[str]] = {}
    if owner_key is not None:
        for item in (*heads(connection), *kept):
            _verify_head(item, (owner_key, *former_keys))
            signed.setdefault(item.seq, set()).add(item.hash)
    seq, previous = 0, GENESIS
    for row in _raw_rows(connection, select(AUDIT).order_by(AUDIT.c.seq)):
        if row["seq"] != seq + 1 or row["previous_hash"] != previous:
            raise BrokerCode.AUDIT_CHAIN.error(f"The audit log has a gap: row {row['seq']} does not follow row {seq}.")
        if row["hash"] != _row_hash(seq + 1, {field.name: row[field.name] for field in fields(Entry)}, previous):
            raise BrokerCode.AUDIT_CHAIN.error(
                f"Row {seq + 1} of the audit log was changed: its hash does not fit its content."
            )
        seq, previous = seq + 1, row["hash"]
        if signed.pop(seq, {previous}) != {previous}:
            raise BrokerCode.AUDIT_TRUNCATED.error(f"Row {seq} of the audit log is not the one that was signed.")
    if left := sorted(number for number in signed if number > 0):
        raise BrokerCode.AUDIT_TRUNCATED.error(
            f"The audit log ends at row {seq}; a head was signed at row {left[-1]}.",
            hint="Rows were deleted, the database was replaced, or a backup older than the head was restored.",
        )
    return seq, previous


def check_holds(connection: Connection, kept: Head) -> None:
    """Check that the log has the row of a head that was kept elsewhere. Neither chain nor signature is verified.

    Raises:
        VerificationError: `audit.truncated`: The row is missing, or is another one.
    """
    found = connection.execute(select(AUDIT.c.hash).where(AUDIT.c.seq == kept.seq)).scalar()
    if found != kept.hash and kept.seq > 0:
        what = "is missing" if found is None else "is not the one that was signed"
        raise BrokerCode.AUDIT_TRUNCATED.error(
            f"Row {kept.seq} of the audit log {what}; a head that was kept elsewhere names it."
        )


def _is_place(seq: object, digest: object) -> bool:
    """Return whether a number and a hash of the chain have the types and forms that they should have."""
    return type(seq) is int and seq >= 0 and isinstance(digest, str) and _HASH.fullmatch(digest) is not None


def _verify_head(item: Head, keys: Sequence[Ed25519PublicKey]) -> None:
    for key in keys:
        with contextlib.suppress(InvalidSignature):
            return key.verify(item.signature, _head_bytes(item.seq, item.hash, item.time))
    raise BrokerCode.AUDIT_HEAD_SIGNATURE.error(f"The audit head at row {item.seq} is not signed by the owner's key.")


def _raw_rows(connection: Connection, query: Select[Any]) -> Iterator[RowMapping]:
    yield from connection.execute(query, execution_options={"yield_per": 500}).mappings()


def _head_bytes(seq: int, digest: str, time: datetime) -> bytes:
    return _HEAD_DOMAIN + _canonical({"seq": seq, "hash": digest, "time": to_text(time)})


def _row_hash(seq: int, values: dict[str, Any], previous: str) -> str:
    return hashlib.sha256(_ROW_DOMAIN + _canonical({"seq": seq, "previous_hash": previous, **values})).hexdigest()


def _canonical(value: dict[str, Any]) -> bytes:
    # ``default``: a value of another type than was written (a changed database) has another hash, and is no crash
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr).encode()


def _values(entry: Entry) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in fields(Entry)}
    return {**values, "time": to_text(entry.time), "decision": str(entry.decision), "detail": clean(entry.detail)}


def _entry(values: dict[str, Any]) -> Entry:
    for name, value in values.items():
        if name not in {"time", "decision"} and not (
            isinstance(value, str) or (value is None and name not in _ALWAYS_TEXT)
        ):
            raise BrokerCode.AUDIT_CHAIN.error(f"A row of the audit log was changed: its {name} is not text.")
    try:
        return Entry(**{**values, "time": from_text(values["time"]), "decision": Decision(values["decision"])})
    except _BROKEN_VALUE as error:
        raise BrokerCode.AUDIT_CHAIN.error(
            "A row of the audit log was changed: its time or decision is none."
        ) from error
