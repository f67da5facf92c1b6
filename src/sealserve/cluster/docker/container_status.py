"""Status of a container, from the engine's data and the container's log of its current run."""

import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sealserve.cluster.docker.fleet import Running
from sealserve.cluster.logs.launch_log import is_refused
from sealserve.cluster.logs.run_log import LoggedError, last_error
from sealserve.cluster.target import Health, State
from sealserve.log_line import ParsedLine, parse

_SIGNALLED: Final = 128
"""Offset of a signal's number in the exit status of a program that the signal ended (docker-container-run(1))."""

_HEALTH: Final = {"healthy": Health.HEALTHY, "unhealthy": Health.UNHEALTHY}


def ending(container: Running) -> LoggedError:
    """Return why a stopped container has ended, for a container whose log has no error."""
    status = container.exit_status
    if container.out_of_memory:
        text = "it ended because it ran out of memory"
    elif status > _SIGNALLED and (name := _signal(status - _SIGNALLED)):
        text = f"it ended by signal {status - _SIGNALLED} ({name})"
    elif container.error:
        text = container.error
    else:
        text = f"it ended with exit status {status}"
    return LoggedError(text=text, time=read_time(container.finished))


def error_of(container: Running, log: Sequence[str]) -> LoggedError | None:
    """Return the last error of a container's current run, or why it ended. None if no error occurred.

    Args:
        container: The container.
        log: The lines of its current run, each with the engine's time.
    """
    error = last_error([_line(line) for line in log])
    if container.is_running or container.status == "created":
        return error
    return error or ending(container)


def ended_state(container: Running, error: LoggedError | None) -> State:
    """Return the state of a container that does not run. The engine may be about to restart it."""
    if container.status not in {"created", "restarting"}:
        return State.ENDED
    return State.REFUSED if error is not None and is_refused(error.text) else State.STARTING


def health_of(container: Running) -> Health:
    """Return a container's health according to its last health check."""
    return _HEALTH.get(container.health, Health.UNKNOWN) if container.is_running else Health.UNKNOWN


def read_time(text: str) -> datetime | None:
    """Return a time of the engine (RFC 3339 with nanoseconds), or None. The year 1 means that no time is set."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.year > 1 and found.tzinfo is not None else None


def _line(line: str) -> ParsedLine:
    outer = parse(line)
    if outer.time is None:
        return outer
    inner = parse(line.partition(" ")[2])
    return ParsedLine(time=outer.time, level=inner.level, text=inner.text)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""
