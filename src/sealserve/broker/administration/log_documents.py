"""The JSON documents of the operation that reads the audit log."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import AwareDatetime, BeforeValidator, Field

from sealserve.broker.administration.documents import (
    LABEL_PATTERN,
    LARGEST_SEQ,
    RELEASE_PATTERN,
    ReplyDocument,
    RequestDocument,
    Sha256,
)
from sealserve.broker.audit import AuditRow
from sealserve.broker.audit_entry import Content, Decision, Entry
from sealserve.broker.audit_selection import LogPage, Selection

LARGEST_PAGE: Final = 1000
"""The maximum number of audit rows in one reply."""
MOST_CODES: Final = 20
"""The maximum number of codes in a request for rows of the audit log."""
CODE_PATTERN: Final = r"[a-z0-9-]{1,40}(\.[a-z0-9-]{1,60})?"
"""The code of an error, or ``ok``."""

_CODES: Final = f"^{CODE_PATTERN}(,{CODE_PATTERN}){{0,{MOST_CODES - 1}}}$"


def _moment(value: object) -> object:
    """Check that a time is text with a time zone. pydantic would also accept a number of seconds."""
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("expected a time in the form of RFC 3339, such as 2026-01-31T12:00:00Z")
    if value.startswith("0000"):  # Python's calendar begins with the year 1
        return _EARLIEST
    try:
        # RFC 3339 has leap seconds, and Python does not.
        return datetime.fromisoformat(value.upper().replace(":60", ":59")).astimezone(UTC)
    except OverflowError:  # in UTC, it is before the year 1 or after the year 9999
        return _EARLIEST if value.startswith("0") else _LATEST


_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)

Since = Annotated[AwareDatetime, BeforeValidator(_moment)] | None


class LogQuery(RequestDocument):
    """The rows to return: the newest rows, or the rows after a number. A row must satisfy all conditions."""

    last: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] | None = None
    """Return this number of newest rows. It overrides ``limit``."""
    after: Annotated[int, Field(ge=0, le=LARGEST_SEQ)] = 0
    """Return only rows with a larger number."""
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = LARGEST_PAGE
    """The maximum number of rows."""
    since: Since = None
    """Return only rows from this time or later."""
    code: Annotated[str, Field(pattern=_CODES)] | None = None
    """Return only rows with one of these codes, separated by commas."""
    release: Annotated[str, Field(pattern=RELEASE_PATTERN)] | None = None
    """Return only rows of a release: its name, or at least 6 digits of its id."""
    platform: Annotated[str, Field(min_length=1, max_length=64, pattern=LABEL_PATTERN)] | None = None
    """Return only rows of a platform: its label, or at least 6 digits of its id."""

    def selection(self) -> Selection:
        """Return the conditions."""
        codes = () if self.code is None else tuple(self.code.split(","))
        return Selection(since=self.since, codes=codes, release=self.release, platform=self.platform, last=self.last)


class RowReply(ReplyDocument):
    """A row of the audit log."""

    seq: Annotated[int, Field(ge=1)]
    time: datetime
    peer: str
    decision: Decision
    code: str
    detail: str
    release_id: str | None
    platform: str | None
    mr_enclave: str | None
    mr_signer: str | None
    platform_id: str | None
    tcb_status: str | None
    advisories: str | None
    quote_digest: str | None
    actor: str | None
    """The administrator who made a change over the network."""
    broker: str | None
    claims: dict[str, Any]
    previous_hash: Sha256
    hash: Sha256

    @classmethod
    def of(cls, row: AuditRow) -> Self:
        """Convert a row of the audit log."""
        entry = {name: getattr(row.entry, name) for name in cls.model_fields if name not in _CHAIN}
        return cls(seq=row.seq, previous_hash=row.previous_hash, hash=row.hash, **entry)

    def value(self) -> AuditRow:
        """Return the row that the document describes."""
        entry = Entry(**{name: value for name, value in self if name not in _CHAIN})
        content = Content(seq=self.seq, previous_hash=self.previous_hash, entry=entry)
        return AuditRow(content=content, hash=self.hash)


_CHAIN: Final = frozenset({"seq", "previous_hash", "hash"})


class LogReply(ReplyDocument):
    """Rows of the audit log, oldest first."""

    rows: list[RowReply]
    next: Annotated[int, Field(ge=0)]
    """The value of ``after`` for the following rows. It equals ``end`` if no matching row follows."""
    end: Annotated[int, Field(ge=0)]
    """The number of the last row of the whole log."""

    @classmethod
    def of(cls, page: LogPage) -> Self:
        """Convert a part of the log."""
        return cls(rows=[RowReply.of(row) for row in page.rows], next=page.next, end=page.end)

    def value(self) -> LogPage:
        """Return the part of the log that the document describes."""
        return LogPage(rows=[row.value() for row in self.rows], next=self.next, end=self.end)
