"""Reads and follows the logs of several containers, and names the files of saved logs."""

import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

from sealserve.cluster.docker.fleet import Running
from sealserve.cluster.logs.merge import LogLine, Timed, followed, merged, wanted
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.target import BROKER
from sealserve.containers.engine import Engine, EngineAbsentError
from sealserve.log_line import format_time
from sealserve.workspace import Workspace

_UNREAD_LINES: Final = 10_000
_BLOCK: Final = 64 * 2**10
_EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)


def log_file(workspace: Workspace, container: Running) -> Path:
    """Return the file that a container's log is saved to when the container is removed."""
    folder = workspace.owner.logs if container.role == BROKER else workspace.host.logs
    return folder / f"{container.role}.log"


def container_logs(
    engine: Engine, containers: Mapping[str, tuple[str, str]], selection: LogSelection
) -> Iterator[LogLine]:
    """Yield the log lines of containers, ordered by time. When following, continue until all containers have ended.

    Args:
        engine: The Docker engine.
        containers: The role and the name of each container, by its ID.
        selection: Which lines to yield.
    """
    if selection.follow:
        return _follow(containers, selection)
    logs = [
        wanted(_finished(engine, Timed(role, name, stamped=True), container, selection), selection.since)
        for container, (role, name) in containers.items()
    ]
    return merged(logs)


def _finished(engine: Engine, timed: Timed, container: str, selection: LogSelection) -> Iterator[LogLine]:
    try:
        text = engine.run_merged("logs", *_options(selection), container)
    except EngineAbsentError:  # the container was removed meanwhile
        return
    for line in text.split("\n")[:-1] if text.endswith("\n") else text.split("\n") if text else ():
        yield timed.line(line.encode())


def _options(selection: LogSelection) -> list[str]:
    options = ["--timestamps"]
    if selection.last is not None:
        options += ["--tail", str(selection.last)]
    if selection.since is not None:
        # The engine's timestamps have nanoseconds. Subtract a millisecond so that no line of `since` is lost.
        options += ["--since", format_time(max(selection.since, _EARLIEST) - timedelta(milliseconds=1))]
    return options


def _follow(containers: Mapping[str, tuple[str, str]], selection: LogSelection) -> Iterator[LogLine]:
    lines: queue.Queue[LogLine | None] = queue.Queue(_UNREAD_LINES)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for container, (role, name) in containers.items():
            process = subprocess.Popen(
                ["docker", "logs", "--follow", *_options(selection), container], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            started.append(process)
            timed = Timed(role, name, stamped=True)
            threading.Thread(target=_read, args=(process.stdout, timed, lines), daemon=True).start()
        yield from wanted(followed(lines, len(started)), selection.since)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _read(stream: IO[bytes], timed: Timed, lines: "queue.Queue[LogLine | None]") -> None:
    """Put the lines of a stream into a queue. The rest of an overlong line is put as separate lines."""
    while line := stream.readline(_BLOCK):
        lines.put(timed.line(line.rstrip(b"\n")))
    lines.put(None)
