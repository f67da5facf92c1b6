"""Read the logs of several parts, and follow them."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sealserve.cluster.target import LogLine


def read_logs(files: Mapping[str, Path], *, last: int, follow: bool) -> Iterator[LogLine]:
    """Yield the last lines of each log, and then, to follow, what is added to any.

    Args:
        files: The log of each part.
        last: How many lines of each.
        follow: Go on for ever. A line must be whole then.
    """
    streams = {part: _lines(path, last, follow=follow) for part, path in files.items()}
    for part, stream in streams.items():
        yield from _available(part, stream)
    while follow:
        for part, stream in streams.items():
            yield from _available(part, stream)
        time.sleep(0.2)


def _available(part: str, stream: Iterator[str | None]) -> Iterator[LogLine]:
    for line in stream:
        if line is None:
            return
        yield LogLine(part, line)


def _lines(path: Path, last: int, *, follow: bool) -> Iterator[str | None]:
    """Yield a log's last lines, then None each time there is nothing new yet."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        lines = stream.read().splitlines(keepends=True)
        pending = lines.pop() if follow and lines and not lines[-1].endswith("\n") else ""
        yield from (line.rstrip("\n") for line in lines[len(lines) - last :]) if last else []
        while True:
            pending += stream.readline()
            if pending.endswith("\n"):
                yield pending.rstrip("\n")
                pending = ""
            else:
                yield None
