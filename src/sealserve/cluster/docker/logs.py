"""Follow the logs of several containers at once."""

import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping

from sealserve.cluster.target import LogLine


def follow_logs(containers: Mapping[str, str], *, last: int) -> Iterator[LogLine]:
    """Yield what containers log, as it comes, until all have ended.

    Args:
        containers: The part of each, by the container's id.
        last: How many lines of each are yielded first.
    """
    lines: queue.Queue[LogLine | None] = queue.Queue()
    started: list[subprocess.Popen[str]] = []
    try:
        for container, part in containers.items():
            process = subprocess.Popen(
                ["docker", "logs", "--follow", "--tail", str(last), container], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
            started.append(process)
            threading.Thread(target=_read, args=(process, part, lines), daemon=True).start()
        open_streams = len(started)
        while open_streams:
            if (line := lines.get()) is None:
                open_streams -= 1
            else:
                yield line
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _read(process: "subprocess.Popen[str]", part: str, lines: "queue.Queue[LogLine | None]") -> None:
    for line in process.stdout or ():
        lines.put(LogLine(part, line.rstrip("\n")))
    lines.put(None)
