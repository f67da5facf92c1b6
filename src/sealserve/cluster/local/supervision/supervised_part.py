"""A part from the supervisor's point of view: its process, and how to restart it.

This module has few imports; see `sealserve.cluster.local.supervision.supervisor`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sealserve.process_signal import start_time

INHERITED_SOCKETS: Final = "NGINX"
"""NGINX uses the descriptors that this environment variable lists as its listening sockets."""


@dataclass(slots=True, kw_only=True, eq=False)
class Part:
    """A part that the supervisor watches.

    Args:
        role: The role, such as ``broker``.
        command: The command line for a restart.
        directory: Its working directory. None for the supervisor's.
        pid: Its process ID.
        started: Start time of the process, in clock ticks since boot.
        child: The process, if the supervisor started it. None for an adopted process.
        failures: Number of consecutive failures without a long run in between.
        restarts: Number of restarts since the part was last started on purpose.
        last_exit: How it ended the last time, such as ``ended by signal 9 (SIGKILL)``. Empty if it never ended.
        last_exit_at: When it ended the last time, in seconds since the epoch.
        due: Time of the next restart, on the monotonic clock. None while it runs.
        reported: Whether its end was logged.
        helper: The running program that restarts it, or None.
    """

    role: str
    command: list[str]
    directory: str | None
    pid: int
    started: int
    child: "subprocess.Popen[bytes] | None" = None
    failures: int = 0
    restarts: int = 0
    last_exit: str = ""
    last_exit_at: float | None = None
    due: float | None = None
    reported: bool = False
    helper: "subprocess.Popen[bytes] | None" = None
    began: float = field(default_factory=time.monotonic)

    def note_end(self) -> None:
        """Record how and when the process ended. If it is a child process, also collect its exit status."""
        self.last_exit_at = time.time()
        if self.child is None:
            self.last_exit = "ended; its exit status is unknown, because an earlier supervisor started it"
            return
        status = self.child.wait()
        self.last_exit = f"ended with exit status {status}" if status >= 0 else f"ended by {_signal_name(-status)}"


def start_part(role: str, command: list[str], directory: str | None, log: int) -> Part:
    """Start a part in its own session.

    Args:
        role: Its role.
        command: Its command line.
        directory: Its working directory. None for the current process's.
        log: The descriptor for its output.

    Raises:
        OSError: The program cannot be started.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=directory,
        env=part_environment(os.environ),
        start_new_session=True,
    )
    try:
        started = start_time(child.pid) or 0
    except OSError:
        kill_child(child)
        raise
    return Part(role=role, command=command, directory=directory, pid=child.pid, started=started, child=child)


def kill_child(child: "subprocess.Popen[bytes]") -> None:
    """Kill a child process that was just started and that cannot be watched."""
    child.kill()
    child.wait()


def part_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a part: the given environment without a variable that passes sockets to NGINX."""
    return {name: value for name, value in environment.items() if name != INHERITED_SOCKETS}


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return f"signal {number}"
