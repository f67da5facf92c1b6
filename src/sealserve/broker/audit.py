"""The audit log: one row per decision. Each row contains the hash of the previous row. Heads of the chain are signed.

A changed, removed or inserted row breaks the hash chain. Truncation at the end is detected with a signed head that is
newer than the deleted rows. Therefore, store signed heads (`sign_head`) on another machine.

A process with write access to the database can write any value into a row. Therefore every value read from a row is
validated.
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
"""The value of ``previous_hash`` in the first row."""

_ROW_DOMAIN: Final = b"sealserve audit row v1\n"
_HEAD_DOMAIN: Final = b"sealserve audit head v1\n"
_DETAIL_LENGTH: Final = 1000
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ALWAYS_TEXT: Final = ("peer", "code", "detail")
_BROKEN_VALUE: Final = (ValueError, TypeError, AttributeError, OverflowError)  # for values that sealserve never writes


class Decision(StrEnum):
    """The kind of decision. The broker makes the first two, the owner makes the others."""

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
    """A decision and the known facts about the requester. It never contains a secret. Text from a peer is sanitized.

    Args:
        time: The time of the decision.
        peer: The peer's address and port, or ``owner``.
        decision: The kind of decision.
        code: ``ok``, or the code of the error.
        detail: The message of the error.
        release_id: The release with this MRENCLAVE.
        platform: ``sgx`` or ``simulated``.
        mr_enclave: MRENCLAVE as hex. In a refusal, this and MRSIGNER can come from a quote that did not verify.
        mr_signer: MRSIGNER as hex.
        platform_id: The id of the verified platform.
        tcb_status: The TCB status of the verified platform.
        advisories: The security advisories that affect the platform, joined by commas.
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
    """An entry with its position in the hash chain."""

    seq: int
    entry: Entry
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the chain at some time: the number of rows, the hash of the last row, and the owner's signature."""

    seq: int
    hash: str
    time: datetime
    signature: bytes


def clean(text: str) -> str:
    """Return at most 1000 characters of ``text`` without control characters, because it may quote a peer's bytes."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} else c for c in text)
    return shown[:_DETAIL_LENGTH]


def append(connection: Connection, entry: Entry) -> AuditRow:
    """Append ``entry`` to the chain.

    Args:
        connection: A writing transaction. Only one exists at a time, so the chain cannot fork. The row is valid only
            after the transaction has committed. Nothing may act on the decision before that.
        entry: The entry to append.
    """
    last, previous = head(connection)
    seq, values = last + 1, _values(entry)
    digest = _row_hash(seq, values, previous)
    connection.execute(insert(AUDIT).values(seq=seq, previous_hash=previous, hash=digest, **values))
    return AuditRow(seq=seq, entry=_entry(values), previous_hash=previous, hash=digest)


def rows(connection: Connection, *, last: int | None = None) -> Iterator[AuditRow]:
    """Yield the rows in order: the ``last`` rows, or all rows if it is `None`. The rows are streamed, not collected."""
    query = select(AUDIT).order_by(AUDIT.c.seq)
    if last is not None:
        query = query.where(AUDIT.c.seq > head(connection)[0] - last)
    for row in _raw_rows(connection, query):
        values = {field.name: row[field.name] for field in fields(Entry)}
        yield AuditRow(seq=row["seq"], entry=_entry(values), previous_hash=row["previous_hash"], hash=row["hash"])


def head(connection: Connection) -> tuple[int, str]:
    """Return the number of rows and the hash of the last row."""
    last = connection.execute(select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)).first()
    if last is None:
        return 0, GENESIS
    if not _is_place(last.seq, last.hash):
        raise BrokerCode.AUDIT_CHAIN.error(
            "The last row of the audit log was changed: its row number or its hash is malformed."
        )
    return last.seq, last.hash


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
    for row in _raw_rows(connection, select(AUDIT).order_by(AUDIT.c.seq)):
        if row["seq"] != seq + 1 or row["previous_hash"] != previous:
            raise BrokerCode.AUDIT_CHAIN.error(f"The audit log has a gap: row {row['seq']} does not follow row {seq}.")
        if row["hash"] != _row_hash(seq + 1, {field.name: row[field.name] for field in fields(Entry)}, previous):
            raise BrokerCode.AUDIT_CHAIN.error(
                f"Row {seq + 1} of the audit log was changed: its hash does not match its content."
            )
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


def _raw_rows(connection: Connection, query: Select[Any]) -> Iterator[RowMapping]:
    yield from connection.execute(query, execution_options={"yield_per": 500}).mappings()


def _head_bytes(seq: int, digest: str, time: datetime) -> bytes:
    return _HEAD_DOMAIN + _canonical({"seq": seq, "hash": digest, "time": to_text(time)})


def _row_hash(seq: int, values: dict[str, Any], previous: str) -> str:
    return hashlib.sha256(_ROW_DOMAIN + _canonical({"seq": seq, "previous_hash": previous, **values})).hexdigest()


def _canonical(value: dict[str, Any]) -> bytes:
    # ``default``: a value of an unexpected type (in a changed database) results in a different hash, not in a crash
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr).encode()


def _values(entry: Entry) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in fields(Entry)}
    return {**values, "time": to_text(entry.time), "decision": str(entry.decision), "detail": clean(entry.detail)}


def _entry(values: dict[str, Any]) -> Entry:
    for name, value in values.items():
        if name not in {"time", "decision"} and not (
            isinstance(value, str) or (value is None and name not in _ALWAYS_TEXT)
        ):
            raise BrokerCode.AUDIT_CHAIN.error(f"A row of the audit log was changed: its field {name} is not text.")
    try:
        return Entry(**{**values, "time": from_text(values["time"]), "decision": Decision(values["decision"])})
    except _BROKEN_VALUE as error:
        raise BrokerCode.AUDIT_CHAIN.error(
            "A row of the audit log was changed: its time or its decision is invalid."
        ) from error
