"""Times in the broker's database: ISO 8601 text in UTC with microseconds, so that the text order is the time order."""

from datetime import UTC, datetime


def to_text(time: datetime) -> str:
    """Return ``time`` in the format of the database: ISO 8601, UTC, microseconds.

    Raises:
        ValueError: ``time`` lacks a time zone.
    """
    if time.tzinfo is None:
        raise ValueError("a time in the database requires a time zone")
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def from_text(written: str) -> datetime:
    """Parse a time that `to_text` wrote."""
    return datetime.fromisoformat(written)
