"""Merges the lines of several logs by time."""

import heapq
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, Queue
from typing import Final

from sealserve.log_line import parse

LONGEST: Final = 64 * 2**10
"""Maximum number of characters shown of a line."""

MOST_BYTES: Final = 4 * LONGEST
"""Maximum number of bytes of a line with `LONGEST` characters."""

_TOGETHER_SECONDS: Final = 0.2
_MOST_TOGETHER: Final = 200
_MOST_UNREAD: Final = 1000
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of a part's log.

    Args:
        part: The part's role: ``broker``, ``nginx``, ``replica-0``, ...
        text: The line without its time and its level. It may contain any character, so a display must escape it.
        time: When it was logged, UTC. A line without a time gets that of the previous line. None for the first lines.
        level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR``, ``CRITICAL``, or None.
        instance: The target's name for the part (a container, a pod). Empty for a plain process.
    """

    part: str
    text: str
    time: datetime | None = None
    level: str | None = None
    instance: str = ""


class Timed:
    """Assigns times to the lines of one log.

    Args:
        part: The part that writes the log.
        instance: The target's name for the part.
        stamped: Whether each line begins with a time from the target, as in the output of `docker logs --timestamps`.
    """

    def __init__(self, part: str, instance: str = "", *, stamped: bool = False) -> None:
        self._part = part
        self._instance = instance
        self._stamped = stamped
        self._newest: datetime | None = None

    def line(self, content: bytes) -> LogLine:
        """Return the next line of the log."""
        text = cut(content)
        stamp = None
        if self._stamped and (outer := parse(text)).time is not None:
            # The target's time takes precedence: NGINX's own times are rounded to seconds.
            stamp, text = outer.time, text.partition(" ")[2]
        found = parse(text)
        self._newest = stamp or found.time or self._newest
        return LogLine(part=self._part, text=found.text, time=self._newest, level=found.level, instance=self._instance)


def cut(content: bytes) -> str:
    """Return a line as text of bounded length. A cut line ends with a note."""
    text = content[:MOST_BYTES].decode(errors="replace").rstrip("\r")
    if len(text) <= LONGEST and len(content) <= MOST_BYTES:
        return text
    return f"{text[:LONGEST]} [line cut: it is longer than {LONGEST} characters]"


def wanted(lines: Iterable[LogLine], since: datetime | None) -> Iterator[LogLine]:
    """Yield the lines that were logged since a time. Lines without a time count as older."""
    for line in lines:
        if since is None or (line.time is not None and line.time >= since):
            yield line


def merged(logs: Sequence[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Yield the lines of several logs, ordered by time. The order within each log is preserved. Memory is bounded."""
    return heapq.merge(*logs, key=lambda line: line.time or _LONG_AGO)


def followed(unread: Queue[LogLine | None], streams: int) -> Iterator[LogLine]:
    """Yield the lines that several streams put into a queue, until each stream has put None.

    Lines that arrive together are ordered by time: at the beginning, each stream sends the last lines of its log.

    Args:
        unread: The queue.
        streams: The number of streams that put lines into it.
    """
    while streams:
        batch: list[LogLine] = []
        line = unread.get()
        while True:
            if line is None:
                streams -= 1
            else:
                batch.append(line)
            if not streams or len(batch) >= _MOST_TOGETHER:
                break
            try:
                line = unread.get(timeout=_TOGETHER_SECONDS)
            except Empty:
                break
        yield from sorted(batch, key=lambda line: line.time or _LONG_AGO)


def together(logs: Sequence[Iterator[LogLine]]) -> Iterator[LogLine]:
    """Yield the lines of followed logs as they arrive. Each log is read in its own thread."""
    unread: Queue[LogLine | None] = Queue(_MOST_UNREAD)

    def read(log: Iterator[LogLine]) -> None:
        try:
            for line in log:
                unread.put(line)
        finally:
            unread.put(None)

    for log in logs:
        threading.Thread(target=read, args=(log,), daemon=True).start()
    yield from followed(unread, len(logs))
