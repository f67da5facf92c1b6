"""What the log of a part tells of its present run. Earlier runs are in the same file, and their errors have passed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sealserve.log_line import ParsedLine, parse
from sealserve.regular_file import InputFileError, read_tail

_SLACK: Final = timedelta(seconds=1)
"""Times of processes have hundredths of a second, and NGINX's times have whole seconds."""

_MOST_READ: Final = 2**20
_LONGEST: Final = 500
_CODE: Final = re.compile(r"error\[[a-z0-9.-]+\].*")
_SINGLE_LINE: Final = re.compile(r"[\r\n\t]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedError:
    """An error that a part logged.

    Args:
        text: What the line says, without its time; of bounded length.
        time: When it was logged, UTC; None where that is not known.
    """

    text: str
    time: datetime | None


def lines_of_run(log: Path, since: datetime | None) -> Sequence[ParsedLine]:
    """Return the last lines that a part has logged since its run began.

    Args:
        log: The part's log file. A missing file has no lines.
        since: When the run began; None for every line.
    """
    try:
        content = read_tail(log, limit=_MOST_READ)
        written = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    except (InputFileError, OSError):
        return ()
    return of_run(content.decode(errors="replace").split("\n"), since, written=written)


def of_run(lines: Iterable[str], since: datetime | None, *, written: datetime | None = None) -> Sequence[ParsedLine]:
    """Return those of a log's lines that were written since a time.

    A line without a time, as those of a traceback, belongs to the line before it. The first lines of the log may have
    no time: a program failed before it could log. They are of this run if all that follows is.

    Args:
        lines: The lines.
        since: When the run began; None for every line.
        written: When the last line was written; None if that is not known.
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
    """Return the last error among lines, or None. A line with an error's code counts, whatever its level."""
    for line in reversed(lines):
        coded = _CODE.search(line.text)
        if coded is not None or line.is_error:
            text = coded[0] if coded is not None else line.text
            return LoggedError(text=_SINGLE_LINE.sub(" ", text)[:_LONGEST].strip(), time=line.time)
    return None


def last_words(lines: Sequence[ParsedLine]) -> LoggedError | None:
    """Return the end of a traceback that no log line precedes: why a program ended that had no time to log it."""
    if any(line.text.startswith("Traceback (most recent call last)") for line in lines):
        return LoggedError(text=lines[-1].text[:_LONGEST].strip(), time=lines[-1].time)
    return None
