"""The common format of log lines: a UTC time (RFC 3339, milliseconds), a level, and a text.

`LogFormatter` writes this format. `JsonFormatter` writes the same facts as one JSON object per line. `parse` reads both
formats, and it also reads NGINX's two log formats and the log format of earlier sealserve versions.

Source: RFC 3339, section 5.6; nginx.org/en/docs/ngx_core_module.html#error_log (levels),
nginx/src/core/ngx_times.c (the time of an error line is the machine's local time).
"""

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S"
LINE_FORMAT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"
ERROR_LEVELS: Final = frozenset({"ERROR", "CRITICAL"})

_OWN = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d))(?: (?P<level>[A-Z]{4,8}))?(?: |$)"
)
_FORMER = re.compile(r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(?P<milliseconds>\d{3}) (?P<level>[A-Z]{4,8}) ")
_NGINX = re.compile(r"(?P<time>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[(?P<level>[a-z]{4,6})\] ")
_JSON = re.compile(r'\{"time": "(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)", "level": "(?P<level>[A-Z]{4,8})", ')
_ACCESS = re.compile(r'\{"time":"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d)"')
_NGINX_LEVELS: Final = {
    "debug": "DEBUG", "info": "INFO", "notice": "INFO", "warn": "WARNING", "error": "ERROR",
    "crit": "CRITICAL", "alert": "CRITICAL", "emerg": "CRITICAL",
}  # fmt: skip
_BARE_ERROR: Final = "error["


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedLine:
    """A parsed log line.

    Args:
        time: The time of the line, UTC. `None` if the line lacks a time, such as a further line of a traceback.
        level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``. `None` if the line lacks a level.
        text: The line without its time and level. For a line in JSON, its message.
    """

    time: datetime | None
    level: str | None
    text: str

    @property
    def is_error(self) -> bool:
        """Whether the line reports an error."""
        return self.level in ERROR_LEVELS


class LogFormatter(logging.Formatter):
    """Formats the log lines of all parts of sealserve."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__(LINE_FORMAT, TIME_FORMAT)


class JsonFormatter(logging.Formatter):
    """Formats each log line as a JSON object: ``time``, ``level``, ``logger``, ``message``, and the line's fields.

    All characters outside of printable ASCII are escaped, so that a message cannot add a line or control a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": format_time(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields: Mapping[str, object] = getattr(record, _FIELDS, {})
        line.update({name: str(value) for name, value in fields.items() if value is not None and name not in line})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


_FIELDS: Final = "sealserve_fields"


def fields(**values: object) -> dict[str, Any]:
    """Return the argument ``extra`` of a log call, with fields for the JSON format such as ``peer`` and ``code``.

    A field must not be a secret. `None` omits a field. The text format shows only the message.
    """
    return {_FIELDS: values}


def format_time(moment: datetime) -> str:
    """Return a time in the format of a log line."""
    return f"{moment.astimezone(UTC):{TIME_FORMAT}}.{moment.microsecond // 1000:03d}Z"


def parse(line: str) -> ParsedLine:
    """Parse a log line. A line in an unknown format is accepted and has neither time nor level."""
    for pattern, read in ((_OWN, _own), (_JSON, _json), (_FORMER, _former), (_NGINX, _nginx), (_ACCESS, _access)):
        if (found := pattern.match(line)) is not None:
            try:
                return read(line, found)
            except (ValueError, OverflowError, RecursionError):  # not a valid time, such as month 13, or not valid JSON
                break
    return ParsedLine(time=None, level="ERROR" if line.startswith(_BARE_ERROR) else None, text=line)


def _own(line: str, found: re.Match[str]) -> ParsedLine:
    text = line[found.end() :]
    level = found["level"] or ("ERROR" if text.startswith(_BARE_ERROR) else None)
    return ParsedLine(time=datetime.fromisoformat(found["time"]).astimezone(UTC), level=level, text=text)


def _json(line: str, found: re.Match[str]) -> ParsedLine:
    value = json.loads(line)
    message = value.get("message")
    text = message if isinstance(message, str) else line
    return ParsedLine(time=datetime.fromisoformat(found["time"]).astimezone(UTC), level=found["level"], text=text)


def _former(line: str, found: re.Match[str]) -> ParsedLine:
    moment = datetime.fromisoformat(f"{found['time']}.{found['milliseconds']}").astimezone(UTC)
    return ParsedLine(time=moment, level=found["level"], text=line[found.end() :])


def _nginx(line: str, found: re.Match[str]) -> ParsedLine:
    moment = datetime.fromisoformat(found["time"].replace("/", "-")).astimezone(UTC)
    return ParsedLine(time=moment, level=_NGINX_LEVELS.get(found["level"]), text=line[found.end() :])


def _access(line: str, found: re.Match[str]) -> ParsedLine:
    return ParsedLine(time=datetime.fromisoformat(found["time"]).astimezone(UTC), level="INFO", text=line)
