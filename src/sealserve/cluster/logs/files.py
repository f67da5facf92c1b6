"""Reads and follows the log files of several parts, with bounded memory for any file content."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.cluster.logs.merge import MOST_BYTES, LogLine, Timed, merged, wanted
from sealserve.cluster.logs.selection import LogSelection
from sealserve.regular_file import InputFileError, open_regular

_BLOCK: Final = 64 * 2**10
_POLL_SECONDS: Final = 0.2


def read_logs(files: Callable[[], Mapping[str, tuple[str, Path]]], selection: LogSelection) -> Iterator[LogLine]:
    """Yield the selected lines of all logs, ordered by time. When following, continue with new lines.

    Args:
        files: Returns the part and the file of each log, by the log's name. Files that appear later are also followed.
        selection: Which lines to yield, and whether to follow. When following, only complete lines are yielded.
    """
    tails: dict[str, _Tail] = {}
    for name, (part, path) in files().items():
        tails[name] = _Tail(part, path, whole_lines=selection.follow)
    yield from merged([wanted(tail.timed(tail.history(selection.last)), selection.since) for tail in tails.values()])
    while selection.follow:
        for name, (part, path) in files().items():
            if name not in tails:
                tails[name] = _Tail(part, path, whole_lines=True)
        yield from merged([tail.timed(tail.added()) for tail in tails.values()])
        time.sleep(_POLL_SECONDS)


@dataclass(slots=True)
class _Position:
    """Reading position in a file: the file's identity, the offset, and the start of an incomplete line."""

    file: tuple[int, int] | None = None
    offset: int = 0
    pending: bytes = b""


class _Tail:
    """The lines of one log file, which other processes append to, truncate or replace."""

    def __init__(self, part: str, path: Path, *, whole_lines: bool) -> None:
        self._timed = Timed(part)
        self._path = path
        self._whole_lines = whole_lines
        self._at = _Position()

    def timed(self, lines: Iterator[bytes]) -> Iterator[LogLine]:
        """Yield lines with their times. A line without a time gets the time of the previous line."""
        return map(self._timed.line, lines)

    def history(self, last: int | None) -> Iterator[bytes]:
        """Yield the existing lines: the last ones, or all if ``last`` is None."""
        with self._opened() as descriptor:
            if descriptor is None:
                return
            size = os.fstat(descriptor).st_size
            self._at.offset = 0 if last is None else _offset_of_last(descriptor, size, last)
            yield from self._lines(descriptor, until=size)
            if self._at.pending and not self._whole_lines:
                yield self._at.pending
                self._at.pending = b""

    def added(self) -> Iterator[bytes]:
        """Yield the lines that were added since. A truncated or replaced file is read from its beginning."""
        with self._opened() as descriptor:
            if descriptor is not None:
                yield from self._lines(descriptor, until=os.fstat(descriptor).st_size)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        try:
            with open_regular(self._path, follow_links=False) as descriptor:
                found = os.fstat(descriptor)
                identity = (found.st_dev, found.st_ino)
                if self._at.file not in {None, identity} or found.st_size < self._at.offset:
                    self._at = _Position()
                self._at.file = identity
                yield descriptor
        except InputFileError:  # the file was removed or is no longer a regular file
            yield None

    def _lines(self, descriptor: int, *, until: int) -> Iterator[bytes]:
        at = self._at
        while at.offset < until and (block := os.pread(descriptor, min(_BLOCK, until - at.offset), at.offset)):
            at.offset += len(block)
            *whole, rest = (at.pending + block).split(b"\n")
            at.pending = rest[: MOST_BYTES + 1]  # one byte more shows that the line is cut
            yield from whole


def _offset_of_last(descriptor: int, size: int, last: int) -> int:
    """Return the offset of the last ``last`` lines of a file."""
    found, offset = 0, size
    if last == 0:
        return size
    while offset > 0:
        begin = max(0, offset - _BLOCK)
        block = os.pread(descriptor, offset - begin, begin)
        place = len(block)
        while (place := block.rfind(b"\n", 0, place)) >= 0:
            if begin + place == size - 1:
                continue  # the newline at the end of the file ends the last line
            found += 1
            if found == last:
                return begin + place + 1
        offset = begin
    return 0
