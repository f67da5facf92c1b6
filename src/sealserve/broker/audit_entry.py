"""An entry of the audit log, and the canonical bytes that its row stores.

The hash of a row covers exactly these bytes. A new field of `Entry` therefore changes no existing row. Readers ignore
fields that they do not know.

- Format 2: the hash is SHA-256 of the line ``sealserve audit row v2`` and the content. The content is a JSON object
  with the fields that have a value, ``seq`` and ``previous_hash``: keys sorted, no whitespace, ASCII only.
- Format 1: the same with ``v1``. Each field of that time is present, with ``null`` if it has no value. Versions 0.1 and
  0.2 wrote such rows. The upgrade computes their content from the columns that they had.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import JsonValue

from sealserve.broker.stored_time import from_text, to_text

FORMAT: Final = 2
"""The format of new rows."""

GENESIS: Final = "0" * 64
"""The value of ``previous_hash`` in the first row."""

_DOMAINS: Final = {1: b"sealserve audit row v1\n", 2: b"sealserve audit row v2\n"}
_DETAIL_LENGTH: Final = 1000
_LARGEST: Final = 64 * 1024
_ALWAYS_TEXT: Final = frozenset({"peer", "code", "detail"})


class Decision(StrEnum):
    """The kind of decision. The broker makes the first three and raises the floor. The owner makes the others."""

    RELEASED = "released"
    ATTESTED = "attested"
    """The broker issued an attestation result and released no key."""
    REFUSED = "refused"
    ALLOWED = "allowed"
    REACTIVATED = "reactivated"
    DRAINING = "draining"
    REVOKED = "revoked"
    ENROLLED = "enrolled"
    WITHDRAWN = "withdrawn"
    FLOOR_RAISED = "floor-raised"
    APPROVED = "approved"
    APPROVAL_REMOVED = "approval-removed"
    STATED = "stated"
    """The owner signed a statement about a release, for users."""
    AUTHENTICATED = "authenticated"
    ISSUING_KEY_ROTATED = "issuing-rotated"
    TOKEN_KEY_ROTATED = "token-rotated"  # noqa: S105  # not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A decision and the known facts about the requester. It never contains a secret. Text from a peer is sanitized.

    Args:
        time: The time of the decision.
        peer: The peer's address and port, or ``owner``.
        decision: The kind of decision.
        code: ``ok``, or the code of the error.
        detail: The message of the error, or the id and the audience of an attestation result.
        release_id: The release with this MRENCLAVE.
        platform: ``sgx`` or ``simulated``.
        mr_enclave: MRENCLAVE as hex. In a refusal, this and MRSIGNER can come from a quote that did not verify.
        mr_signer: MRSIGNER as hex.
        platform_id: The id of the verified platform.
        tcb_status: The TCB status of the verified platform.
        advisories: The security advisories that affect the platform, joined by commas.
        quote_digest: SHA-256 of the quote, as hex.
        actor: The person or program that made a change, if it is not the owner at this machine.
        broker: The broker that decided, if several brokers share the database.
        claims: Further verified facts about the platform. The verifier of its kind of evidence names them.
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
    actor: str | None = None
    broker: str | None = None
    claims: Mapping[str, JsonValue] = field(default_factory=dict)


_NAMES: Final = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The parsed content of a row.

    Args:
        seq: The row number.
        previous_hash: The hash of the previous row, as hex.
        entry: The decision.
    """

    seq: int
    previous_hash: str
    entry: Entry


def clean(text: str) -> str:
    """Return at most 1000 characters of ``text`` without control characters, because it may quote a peer's bytes."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} else c for c in text)
    return shown[:_DETAIL_LENGTH]


def digest(content: bytes, format_: int) -> str:
    """Return the hash of a row with this content, as hex.

    Raises:
        ValueError: The format is unknown.
    """
    if format_ not in _DOMAINS:
        raise ValueError("unknown format")
    return hashlib.sha256(_DOMAINS[format_] + content).hexdigest()


def to_content(entry: Entry, *, seq: int, previous_hash: str) -> bytes:
    """Return the canonical bytes of a new row. Control characters in the detail are replaced."""
    given = {name: getattr(entry, name) for name in _NAMES}
    given |= {"time": to_text(entry.time), "detail": clean(entry.detail), "claims": dict(entry.claims) or None}
    values = {name: value for name, value in given.items() if value is not None}
    return json.dumps(
        {"seq": seq, "previous_hash": previous_hash, **values}, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode("ascii")


def parse(content: bytes) -> Content:
    """Parse the content of a row. The result is not verified: only the hash chain shows that a row is genuine.

    Raises:
        ValueError: The content is not a JSON object with the fields of a row.
    """
    if not isinstance(content, bytes) or len(content) > _LARGEST:
        raise ValueError("not the bytes of a row")
    try:
        values = json.loads(content, object_pairs_hook=_without_doubles)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("not an object")  # noqa: TRY004  # the caller expects one type of error
    seq, previous = values.get("seq"), values.get("previous_hash")
    if type(seq) is not int or not isinstance(previous, str):
        raise ValueError("no position in the chain")
    try:
        known = {name: value for name, value in values.items() if name in _NAMES and value is not None}
        claims = known.pop("claims", {})
        if not isinstance(claims, dict) or not all(isinstance(value, str) for value in known.values()):
            raise ValueError("a field has an unexpected type")
        if not known.keys() >= _ALWAYS_TEXT:
            raise ValueError("a field is missing")
        time, decision = from_text(known.pop("time")), Decision(known.pop("decision"))
        entry = Entry(time=time, decision=decision, claims=claims, **known)
    except KeyError as error:
        raise ValueError("a field is missing") from error
    return Content(seq=seq, previous_hash=previous, entry=entry)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
