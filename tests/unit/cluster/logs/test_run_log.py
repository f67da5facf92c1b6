"""Log lines of the current run, and the error among them that is reported."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sealserve.cluster.logs.run_log import last_error, last_words, lines_of_run, of_run

BEGAN = datetime(2026, 11, 28, 12, 0, 10, tzinfo=UTC)
EARLIER = """2026-11-28T11:00:00.000Z ERROR error[broker.port-taken]: Port 4433 on 127.0.0.1 is taken.
error[broker.port-taken]: the same without a time
"""
RUN = """2026-11-28T12:00:10.500Z INFO the broker listens
2026-11-28T12:00:11.000Z ERROR a request failed
Traceback (most recent call last):
  frame
"""


def test_the_error_of_an_earlier_run_is_not_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text(EARLIER)
    assert lines_of_run(log, BEGAN) == []
    assert last_error(lines_of_run(log, BEGAN)) is None
    assert last_error(lines_of_run(log, None)) is not None
    assert lines_of_run(tmp_path / "none", BEGAN) == ()


def test_the_last_error_of_this_run_has_its_time(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text(EARLIER + RUN)
    found = last_error(lines_of_run(log, BEGAN))
    assert found is not None
    assert (found.text, found.time) == ("a request failed", BEGAN + timedelta(seconds=1))


def test_a_warning_is_not_an_error() -> None:
    began = datetime(2026, 11, 28, 12).astimezone()
    lines = ["2026/11/28 12:00:00 [warn] 7#7: another replica is down", "2026/11/28 12:00:01 [notice] 7#7: bye"]
    assert len(of_run(lines, began)) == 2
    assert last_error(of_run(lines, began)) is None
    assert last_error(of_run([*lines, "2026/11/28 12:00:02 [emerg] 7#7: bind() failed"], began)) is not None


def test_lines_before_the_first_log_line_belong_to_the_run(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("Traceback (most recent call last):\nImportError: no module\n")
    now = datetime.now(UTC)
    assert len(lines_of_run(log, now - timedelta(minutes=1))) == 2
    assert lines_of_run(log, now + timedelta(minutes=1)) == []
    log.write_text(log.read_text() + EARLIER)
    assert lines_of_run(log, BEGAN) == []


def test_an_error_is_of_bounded_length_and_on_one_line() -> None:
    (line,) = of_run(["error[a.b]: x\ty\r" + "z" * 10_000], None)
    error = last_error([line])
    assert error is not None
    assert error.text.startswith("error[a.b]: x y")
    assert len(error.text) == 500


def test_the_end_of_a_traceback_is_why_a_program_ended() -> None:
    lines = of_run(["Traceback (most recent call last):", "  frame", "ImportError: no module"], None)
    words = last_words(lines)
    assert words is not None
    assert words.text == "ImportError: no module"
    assert last_words(of_run(["hello"], None)) is None
