"""The lines of several logs as one, ordered by time."""

import heapq
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, Queue
from typing import Final

from sealserve.log_line import parse

LONGEST: Final = 64 * 2**10
"""Characters that are shown of a line."""

MOST_BYTES: Final = 4 * LONGEST
"""Bytes that a line with so many characters may have."""

_TOGETHER_SECONDS: Final = 0.2
_MOST_TOGETHER: Final = 200
_MOST_UNREAD: Final = 1000
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that a part logged.

    Args:
        part: The part's role: ``broker``, ``nginx``, ``replica-0``, ...
        text: The line without its time and its level. It may hold any character: whoever shows it replaces some.
        time: When it was logged, UTC. A line without a time has that of the line before it; None if there is none.
        level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR``, ``CRITICAL``, or None.
        instance: What the target calls the part (a container, a pod); empty where it is just a process.
    """

    part: str
    text: str
    time: datetime | None = None
    level: str | None = None
    instance: str = ""


class Timed:
    """Gives the lines of one log their times.

    Args:
        part: The part that writes the log.
        instance: What the target calls it.
        stamped: Whether each line begins with a time of the target's own, such as that of `docker logs --timestamps`.
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
            # What the target has measured counts: NGINX's own times are rounded to seconds.
            stamp, text = outer.time, text.partition(" ")[2]
        found = parse(text)
        self._newest = stamp or found.time or self._newest
        return LogLine(part=self._part, text=found.text, time=self._newest, level=found.level, instance=self._instance)


def cut(content: bytes) -> str:
    """Return a line as text, of bounded length: what is cut off is counted."""
    text = content[:MOST_BYTES].decode(errors="replace").rstrip("\r")
    if len(text) <= LONGEST and len(content) <= MOST_BYTES:
        return text
    return f"{text[:LONGEST]} [line cut: it is longer than {LONGEST} characters]"


def wanted(lines: Iterable[LogLine], since: datetime | None) -> Iterator[LogLine]:
    """Yield the lines that were logged since a time; lines without a time are older."""
    for line in lines:
        if since is None or (line.time is not None and line.time >= since):
            yield line


def merged(logs: Sequence[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Yield the lines of several logs, ordered by time. The order within a log stays, and memory is bounded."""
    return heapq.merge(*logs, key=lambda line: line.time or _LONG_AGO)


def followed(unread: Queue[LogLine | None], streams: int) -> Iterator[LogLine]:
    """Yield the lines that several streams put into a queue, until each has put None.

    Lines that arrive together are ordered by time: at the beginning, each stream has the last lines of its log.

    Args:
        unread: The queue.
        streams: How many streams put lines into it.
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
    """Yield the lines of logs that are followed, as they come. Each is read in a thread of its own."""
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
