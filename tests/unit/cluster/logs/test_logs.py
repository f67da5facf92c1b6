"""Reading, merging and following the logs of several parts, with any file content."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from queue import Queue

import pytest
from tests.harness.errors import raises

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.logs import files as log_files
from sealserve.cluster.logs.files import read_logs
from sealserve.cluster.logs.merge import LONGEST, LogLine, Timed, cut, followed, merged, together, wanted
from sealserve.cluster.logs.selection import LogSelection, parse_since

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def at(second: int, text: str) -> str:
    return f"2026-11-28T12:00:{second:02}.000Z INFO {text}\n"


def files_of(*paths: Path) -> Callable[[], Mapping[str, tuple[str, Path]]]:
    return lambda: {path.stem: (path.stem, path) for path in paths}


def texts(lines: Iterator[LogLine]) -> list[str]:
    return [line.text for line in lines]


def test_lines_are_ordered_by_time_across_parts(tmp_path: Path) -> None:
    one, two = tmp_path / "a.log", tmp_path / "b.log"
    one.write_text("untimed\n" + at(1, "1") + "of 1\n" + at(4, "4"))
    two.write_text(at(2, "2") + at(3, "3") + at(5, "5"))
    assert texts(read_logs(files_of(one, two), LogSelection())) == ["untimed", "1", "of 1", "2", "3", "4", "5"]
    assert texts(read_logs(files_of(one, two), LogSelection(last=1))) == ["4", "5"]
    since = NOW + timedelta(seconds=3)
    assert texts(read_logs(files_of(one, two), LogSelection(since=since))) == ["3", "4", "5"]
    assert texts(read_logs(files_of(one, two), LogSelection(last=0))) == []


def test_a_line_without_a_time_keeps_its_place(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(at(1, "failed") + "Traceback\n  frame\n")
    times = {line.time for line in read_logs(files_of(log), LogSelection())}
    assert times == {NOW + timedelta(seconds=1)}


@pytest.mark.parametrize("last", [1, 2, 7, 64, None])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_lines_are_found_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int | None, end: str
) -> None:
    monkeypatch.setattr(log_files, "_BLOCK", 5)
    log = tmp_path / "a.log"
    lines = [str(number) * (number % 9 + 1) for number in range(64)]
    log.write_text("\n".join(lines) + end)
    expected = lines if last is None else lines[-last:]
    assert texts(read_logs(files_of(log), LogSelection(last=last))) == expected


def test_hostile_content_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"\xff\x00\x1b[2J\n" + b"x" * (5 * LONGEST) + b"\nend\n")
    binary, long, end = read_logs(files_of(log), LogSelection())
    assert binary.text == "\ufffd\x00\x1b[2J"
    assert len(long.text) < LONGEST + 100
    assert "line cut" in long.text
    assert end.text == "end"
    assert cut(b"\xc3\xa4" * LONGEST) == "\u00e4" * LONGEST


def test_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    (tmp_path / "a.log").symlink_to(secret)
    os.mkfifo(tmp_path / "b.log")
    found = read_logs(files_of(tmp_path / "a.log", tmp_path / "b.log", tmp_path / "none.log"), LogSelection())
    assert list(found) == []


def test_files_that_are_rotated_or_truncated_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, later = tmp_path / "a.log", tmp_path / "later.log"
    log.write_text("one\nhal")
    found = {"a": ("a", log)}
    steps: list[Callable[[], object]] = [
        lambda: log.write_text("one\nhalf\n"),
        lambda: log.write_text("new\n"),
        lambda: (log.rename(tmp_path / "a.log.1"), log.write_text("rotated and longer than before\n")),
        log.unlink,
        lambda: (later.write_text("appeared\n"), found.update(later=("later", later))),
    ]

    def pause(_seconds: float) -> None:
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    monkeypatch.setattr("sealserve.cluster.logs.files.time.sleep", pause)
    shown: list[str] = []
    lines = read_logs(lambda: found, LogSelection(follow=True))
    with pytest.raises(KeyboardInterrupt):
        shown.extend(line.text for line in lines)
    assert shown == ["one", "half", "new", "rotated and longer than before", "appeared"]


def test_the_targets_time_counts_more_than_the_lines() -> None:
    timed = Timed("nginx", "pod-a", stamped=True)
    line = timed.line(b"2026-11-28T12:00:01.123456789Z 2020/01/01 00:00:00 [error] 7#7: upstream")
    assert (line.part, line.instance, line.level, line.text) == ("nginx", "pod-a", "ERROR", "7#7: upstream")
    assert line.time == NOW + timedelta(seconds=1, microseconds=123456)
    assert timed.line(b"no time").time == line.time
    assert timed.line(b"2026-11-28T12:00:02Z ").text == ""


def test_streams_are_merged_until_all_have_ended() -> None:
    unread: Queue[LogLine | None] = Queue()
    for second in (3, 1, 2):
        unread.put(LogLine(part="a", text=str(second), time=NOW + timedelta(seconds=second)))
    for _ in range(2):
        unread.put(None)
    assert texts(followed(unread, 2)) == ["1", "2", "3"]
    assert texts(followed(Queue(), 0)) == []


def test_logs_that_are_followed_together() -> None:
    def fails() -> Iterator[LogLine]:
        yield LogLine(part="b", text="last")
        raise ValueError("its stream broke")

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        assert sorted(texts(together([iter([LogLine(part="a", text="one")]), fails()]))) == ["last", "one"]
    finally:
        threading.excepthook = hook


def test_merging_reads_no_further_than_it_must() -> None:
    def endless() -> Iterator[LogLine]:
        while True:
            yield LogLine(part="a", text="again", time=NOW)

    assert len(list(islice(merged([endless(), endless()]), 100))) == 100
    assert list(wanted([LogLine(part="a", text="untimed")], NOW)) == []


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", timedelta(seconds=90)), ("1h30m", timedelta(minutes=90)), ("2d", timedelta(days=2)),
     ("0s", timedelta()), ("2026-11-28T11:59:00Z", timedelta(minutes=1)),
     ("2026-11-28T12:59:00+01:00", timedelta(minutes=1)), ("2026-11-28", timedelta(hours=12))],
)  # fmt: skip
def test_since(text: str, ago: timedelta) -> None:
    assert parse_since(text, now=NOW) == NOW - ago


def test_a_duration_longer_than_time_itself_means_everything() -> None:
    assert parse_since("999999d", now=NOW) == datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "m", "10", "1m1h", "-5m", "2026-13-01", "\u0665m"])
def test_invalid_values_of_since(text: str) -> None:
    with raises(ClusterCode.LOGS_INVALID_SINCE, match="expected a duration such as 10m") as caught:
        parse_since(text, now=NOW)
    assert caught.value.code == "logs.invalid-since"
