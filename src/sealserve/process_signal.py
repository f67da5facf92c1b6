"""Signals for the process that was meant, and for no later process with the same id.

A process id says nothing about the next call with the same id: the process may have ended, and the kernel may have
given the id to another one. So the process is held by a descriptor first, then it is checked, then the descriptor gets
the signal.

Source: pidfd_open(2), pidfd_send_signal(2), proc_pid_stat(5).
"""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

_GONE: Final = (errno.ESRCH, errno.EINVAL)  # EINVAL: the id is no process's, but a thread's, or negative


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What the kernel tells of a running process.

    Args:
        group: Its process group.
        session: Its session.
        started: When it started, in clock ticks since boot.
        parent: Its parent, which changes when that ends; so it does not tell one process from another.
    """

    group: int
    session: int
    started: int
    parent: int = field(compare=False)


def facts_of(pid: int) -> ProcessFacts | None:
    """Return what the kernel tells of a process; None if it does not run. A zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":
        return None
    return ProcessFacts(group=int(fields[2]), session=int(fields[3]), started=int(fields[19]), parent=int(fields[1]))


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it does not run."""
    found = facts_of(pid)
    return None if found is None else found.started


def boot_id() -> str:
    """Return what tells this boot of the machine from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def is_stopped(pid: int) -> bool:
    """Return whether a process runs and is stopped, by a signal such as SIGSTOP or by a debugger."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def user_of(pid: int) -> int | None:
    """Return the real user id of a process; None if it does not run."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Uid:")), None)


def running() -> Iterator[tuple[int, ProcessFacts]]:
    """Yield the id and the facts of each running process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (found := facts_of(int(entry.name))) is not None:
                    yield int(entry.name), found


def group_members(group: int) -> Mapping[int, ProcessFacts]:
    """Return the running processes of a process group, by their ids."""
    return {pid: found for pid, found in running() if found.group == group}


def send_signal(pid: int, number: signal.Signals, *, if_still: Callable[[], bool]) -> bool:
    """Send a signal to a process, if it is the one that is meant; return whether it was sent.

    Args:
        pid: The process id. 0, 1 and negative numbers, which stand for several processes or for init, get nothing.
        number: The signal.
        if_still: Returns whether the process with this id is the one that is meant. It is called while the process is
            held, so its answer stays true.
    """
    if pid <= 1:
        return False
    try:
        held = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise
    try:
        if not if_still():
            return False
        signal.pidfd_send_signal(held, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(held)
    return True


def kill_group(group: int, *, if_member: Callable[[ProcessFacts], bool] = lambda _: True) -> bool:
    """Kill the processes of a group once; return whether any was there. Repeat it while it returns true.

    Args:
        group: The group's id.
        if_member: Returns whether a process of the group is one of those that are meant.
    """
    killed = False
    for pid, found in group_members(group).items():
        if if_member(found):
            still = partial(_is_still, pid, found)
            killed = send_signal(pid, signal.SIGKILL, if_still=still) or killed
    return killed


def _is_still(pid: int, before: ProcessFacts) -> bool:
    return facts_of(pid) == before
