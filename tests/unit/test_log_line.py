"""The forms of log lines: ours, NGINX's, and that of earlier versions."""

import json
import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.log_line import JsonFormatter, LogFormatter, fields, format_time, parse

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


def record_of(text: str, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("sealserve.broker", logging.WARNING, "", 0, "%s", (text,), None)
    record.created, record.msecs = MOMENT.timestamp(), 780.0
    vars(record).update(fields(**extra))
    return record


def test_a_line_in_json_has_the_facts_as_fields_and_is_read() -> None:
    line = JsonFormatter().format(record_of("no key", peer="192.0.2.1:5", code="policy.mr-enclave", release=None))
    assert json.loads(line) == {
        "time": "2026-11-28T22:51:25.780Z",
        "level": "WARNING",
        "logger": "sealserve.broker",
        "message": "no key",
        "peer": "192.0.2.1:5",
        "code": "policy.mr-enclave",
    }
    found = parse(line)
    assert (found.time, found.level, found.text) == (MOMENT, "WARNING", "no key")


def test_a_field_cannot_replace_the_facts_of_a_line() -> None:
    found = json.loads(JsonFormatter().format(record_of("true", message="forged", time="never", level="INFO")))
    assert (found["message"], found["level"], found["time"]) == ("true", "WARNING", "2026-11-28T22:51:25.780Z")


def test_an_exception_is_a_field_of_its_line() -> None:
    record = record_of("broken")
    error = ValueError("two\nlines")
    record.exc_info = (type(error), error, error.__traceback__)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


@given(st.text(), st.text())
def test_no_text_adds_a_line_or_controls_a_terminal(text: str, peer: str) -> None:
    line = JsonFormatter().format(record_of(text, peer=peer))
    assert line.isascii()
    assert line.isprintable()
    assert (json.loads(line)["message"], json.loads(line)["peer"]) == (text, peer)
    assert parse(line).text == text


@pytest.mark.parametrize(
    "rest", ["", "}", '"message": 7}', '"message": "x"', '"a": ' + "[" * 100_000, '"a": ' + "9" * 5000 + "}", "\x00"]
)
def test_a_damaged_line_in_json_is_plain_text(rest: str) -> None:
    line = '{"time": "2026-11-28T22:51:25.780Z", "level": "WARNING", ' + rest
    assert parse(line).text == line
