"""The selection of log lines."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sealserve.cluster.codes import ClusterCode

_DURATION: Final = re.compile(r"(?=\d)(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSelection:
    """The selection of log lines.

    Args:
        last: Maximum number of lines per part, newest first. None for all lines.
        since: Yield only lines from this time on, UTC. None for all lines.
        follow: Continue with new lines until interrupted.
    """

    last: int | None = None
    since: datetime | None = None
    follow: bool = False


def parse_duration(text: str) -> timedelta | None:
    """Parse a duration such as ``90s``, ``10m``, ``1h30m`` or ``30d``. Return `None` for another text.

    Raises:
        OverflowError: The duration exceeds `timedelta.max`.
    """
    if not text or (found := _DURATION.fullmatch(text)) is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def parse_since(text: str, *, now: datetime) -> datetime:
    """Return the time that ``--since`` names: a duration before now (``90s``, ``10m``, ``1h30m``, ``2d``), or a time.

    A time has the form of RFC 3339. Without an offset, it is UTC, as in the logs. Without a time of day, it is the
    beginning of the day.

    Raises:
        InputError: `logs.invalid-since` if the text is neither a duration nor a time.
    """
    try:
        if (duration := parse_duration(text)) is not None:
            return now - duration
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ClusterCode.LOGS_INVALID_SINCE.error(
            f"--since {text!r}: expected a duration such as 10m or 1h30m, or a time such as 2026-01-31T12:00:00Z.",
            hint="Write a duration with the units d, h, m and s, in this order.",
        ) from error
