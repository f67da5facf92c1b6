"""A part as the supervisor has it: the process, and how it is started again.

This module imports little, see `sealserve.cluster.local.supervision.supervisor`.
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
"""NGINX takes the descriptors that this environment variable names for its own listening sockets."""


@dataclass(slots=True, kw_only=True, eq=False)
class Part:
    """A part that the supervisor watches.

    Args:
        role: Such as ``broker``.
        command: The command line that starts it again.
        directory: Its working directory; None for the supervisor's.
        pid: Its process.
        started: When the process started, in clock ticks since boot.
        child: The process, if the supervisor started it; None for an adopted one.
        failures: How often it has ended in a row, without a long run.
        restarts: How often it was started again since it was last started on purpose.
        last_exit: How it ended the last time, such as ``ended by signal 9 (SIGKILL)``; empty if it never did.
        last_exit_at: When that was, in seconds since the epoch.
        due: When it is started again, on the monotonic clock; None while it runs.
        reported: Whether its end was logged.
        helper: The program that starts it again, while that runs.
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
        """Take down how and when the process ended, and let the kernel forget it if it is a child."""
        self.last_exit_at = time.time()
        if self.child is None:
            self.last_exit = "ended; its exit status is unknown, because an earlier supervisor started it"
            return
        status = self.child.wait()
        self.last_exit = f"ended with exit status {status}" if status >= 0 else f"ended by {_signal_name(-status)}"


def start_part(role: str, command: list[str], directory: str | None, log: int) -> Part:
    """Start a part in a session of its own.

    Args:
        role: Its role.
        command: Its command line.
        directory: Its working directory; None for this process's.
        log: The descriptor that its output goes to.

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
    """End a child that was just started and that nobody could watch."""
    child.kill()
    child.wait()


def part_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a part: this one, without what would give NGINX sockets of another program."""
    return {name: value for name, value in environment.items() if name != INHERITED_SOCKETS}


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return f"signal {number}"
