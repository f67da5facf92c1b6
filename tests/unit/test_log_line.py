"""The forms of log lines: ours, NGINX's, and that of earlier versions."""

import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.log_line import LogFormatter, format_time, parse

MOMENT = datetime(2026, 11, 28, 22, 51, 25, 780_000, tzinfo=UTC)


def test_what_the_formatter_writes_is_read() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "step=%s", ("again",), None)
    record.created, record.msecs = MOMENT.timestamp(), 780.0
    line = LogFormatter().format(record)
    assert line == "2026-11-28T22:51:25.780Z WARNING step=again"
    found = parse(line)
    assert (found.time, found.level, found.text) == (MOMENT, "WARNING", "step=again")
    assert format_time(MOMENT) == "2026-11-28T22:51:25.780Z"


@pytest.mark.parametrize(
    ("line", "time", "level", "text"),
    [
        ("2026-11-28T22:51:25.780Z error[a.b]: no", MOMENT, "ERROR", "error[a.b]: no"),
        ("2026-11-28T23:51:25.780123456+01:00 hello", MOMENT.replace(microsecond=780123), None, "hello"),
        ('{"time":"2026-11-28T22:51:25+00:00","client":"x"}', MOMENT.replace(microsecond=0), "INFO", None),
        ("error[broker.port-taken]: Port 1.", None, "ERROR", None),
        ("Traceback (most recent call last):", None, None, None),
        ("2026-13-28T22:51:25.780Z INFO month 13", None, None, None),
        ("2026-11-28T22:51:25.780ZINFO glued", None, None, None),
        ("", None, None, None),
    ],
)
def test_forms(line: str, time: datetime | None, level: str | None, text: str | None) -> None:
    found = parse(line)
    assert (found.time, found.level, found.text) == (time, level, line if text is None else text)


def test_times_without_a_zone_are_the_machines() -> None:
    local = datetime(2026, 11, 28, 14, 12, 40).astimezone()  # local on purpose
    former = parse("2026-11-28 14:12:40,000 INFO step=measured")
    assert (former.time, former.level, former.text) == (local, "INFO", "step=measured")
    nginx = parse("2026/11/28 14:12:40 [warn] 7#7: upstream")
    assert (nginx.time, nginx.level, nginx.is_error) == (local, "WARNING", False)
    assert parse("2026/11/28 14:12:40 [emerg] 7#7: x").is_error


@given(st.text())
def test_any_text_is_a_line(text: str) -> None:
    assert parse(text).text in text
