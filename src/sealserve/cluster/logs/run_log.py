"""Reads the log lines of a part's current run. The same file also holds earlier runs, whose errors do not count."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sealserve.log_line import ParsedLine, parse
from sealserve.regular_file import InputFileError, read_tail

_SLACK: Final = timedelta(seconds=1)
"""Tolerance: process times have hundredths of a second, and NGINX's log times have whole seconds."""

_MOST_READ: Final = 2**20
_LONGEST: Final = 500
_CODE: Final = re.compile(r"error\[[a-z0-9.-]+\].*")
_SINGLE_LINE: Final = re.compile(r"[\r\n\t]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedError:
    """An error that a part logged.

    Args:
        text: The line without its time, of bounded length.
        time: When it was logged, UTC. None where it is unknown.
    """

    text: str
    time: datetime | None


def lines_of_run(log: Path, since: datetime | None) -> Sequence[ParsedLine]:
    """Return the last lines that a part has logged since its run began.

    Args:
        log: The part's log file. A missing file has no lines.
        since: Start of the run. None for every line.
    """
    try:
        content = read_tail(log, limit=_MOST_READ)
        written = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    except (InputFileError, OSError):
        return ()
    return of_run(content.decode(errors="replace").split("\n"), since, written=written)


def of_run(lines: Iterable[str], since: datetime | None, *, written: datetime | None = None) -> Sequence[ParsedLine]:
    """Return the lines of a log that were written since a time.

    A line without a time, as in a traceback, gets the time of the previous line. The first lines of a log may have no
    time, if a program failed before it could log. They belong to this run if all following lines do.

    Args:
        lines: The lines.
        since: Start of the run. None for every line.
        written: When the last line was written. None if it is unknown.
    """
    parsed = [line for line in map(parse, lines) if line.text.strip()]
    if since is None:
        return parsed
    begin = since - _SLACK
    newest = next((line.time for line in parsed if line.time is not None), written)
    found: list[ParsedLine] = []
    for line in parsed:
        newest = line.time or newest
        if newest is not None and newest >= begin:
            found.append(ParsedLine(time=newest, level=line.level, text=line.text))
    return found


def last_error(lines: Sequence[ParsedLine]) -> LoggedError | None:
    """Return the last error among the lines, or None. A line with an error code counts at any level."""
    for line in reversed(lines):
        coded = _CODE.search(line.text)
        if coded is not None or line.is_error:
            text = coded[0] if coded is not None else line.text
            return LoggedError(text=_SINGLE_LINE.sub(" ", text)[:_LONGEST].strip(), time=line.time)
    return None


def last_words(lines: Sequence[ParsedLine]) -> LoggedError | None:
    """Return the last line of a traceback: the reason why a program ended before it could log an error."""
    if any(line.text.startswith("Traceback (most recent call last)") for line in lines):
        return LoggedError(text=lines[-1].text[:_LONGEST].strip(), time=lines[-1].time)
    return None
