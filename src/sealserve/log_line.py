"""One form for the lines of every log: a time in UTC (RFC 3339, milliseconds), a level, and a text.

`LogFormatter` writes this form. `parse` reads it, and the forms of programs that write another one: NGINX's two logs,
and logs that an earlier version of sealserve wrote.

Source: RFC 3339, section 5.6; nginx.org/en/docs/ngx_core_module.html#error_log (levels),
nginx/src/core/ngx_times.c (the time of an error line, which has no zone: it is the machine's).
"""

import logging
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S"
LINE_FORMAT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"
ERROR_LEVELS: Final = frozenset({"ERROR", "CRITICAL"})

_OWN = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d))(?: (?P<level>[A-Z]{4,8}))?(?: |$)"
)
_FORMER = re.compile(r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(?P<milliseconds>\d{3}) (?P<level>[A-Z]{4,8}) ")
_NGINX = re.compile(r"(?P<time>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[(?P<level>[a-z]{4,6})\] ")
_ACCESS = re.compile(r'\{"time":"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d)"')
_NGINX_LEVELS: Final = {
    "debug": "DEBUG", "info": "INFO", "notice": "INFO", "warn": "WARNING", "error": "ERROR",
    "crit": "CRITICAL", "alert": "CRITICAL", "emerg": "CRITICAL",
}  # fmt: skip
_BARE_ERROR: Final = "error["


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedLine:
    """A line of a log.

    Args:
        time: When it was written, UTC; None where the line has no time, as the second line of a traceback.
        level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``; None where the line has none.
        text: The line without its time and its level.
    """

    time: datetime | None
    level: str | None
    text: str

    @property
    def is_error(self) -> bool:
        """Whether the line reports an error."""
        return self.level in ERROR_LEVELS


class LogFormatter(logging.Formatter):
    """A formatter of lines as every part of sealserve writes them."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__(LINE_FORMAT, TIME_FORMAT)


def format_time(moment: datetime) -> str:
    """Return a time as it stands at the beginning of a line."""
    return f"{moment.astimezone(UTC):{TIME_FORMAT}}.{moment.microsecond // 1000:03d}Z"


def parse(line: str) -> ParsedLine:
    """Return the parts of a line. Any text is a line: what has no known form has neither time nor level."""
    for pattern, read in ((_OWN, _own), (_FORMER, _former), (_NGINX, _nginx), (_ACCESS, _access)):
        if (found := pattern.match(line)) is not None:
            try:
                return read(line, found)
            except (ValueError, OverflowError):  # the digits are not a time, such as month 13
                break
    return ParsedLine(time=None, level="ERROR" if line.startswith(_BARE_ERROR) else None, text=line)


def _own(line: str, found: re.Match[str]) -> ParsedLine:
    text = line[found.end() :]
    level = found["level"] or ("ERROR" if text.startswith(_BARE_ERROR) else None)
    return ParsedLine(time=datetime.fromisoformat(found["time"]).astimezone(UTC), level=level, text=text)


def _former(line: str, found: re.Match[str]) -> ParsedLine:
    moment = datetime.fromisoformat(f"{found['time']}.{found['milliseconds']}").astimezone(UTC)
    return ParsedLine(time=moment, level=found["level"], text=line[found.end() :])


def _nginx(line: str, found: re.Match[str]) -> ParsedLine:
    moment = datetime.fromisoformat(found["time"].replace("/", "-")).astimezone(UTC)
    return ParsedLine(time=moment, level=_NGINX_LEVELS.get(found["level"]), text=line[found.end() :])


def _access(line: str, found: re.Match[str]) -> ParsedLine:
    return ParsedLine(time=datetime.fromisoformat(found["time"]).astimezone(UTC), level="INFO", text=line)
