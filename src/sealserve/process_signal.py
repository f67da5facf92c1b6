"""Signals to exactly the intended process, never to a later process with the same id.

Between two calls with the same process id, the process may end, and the kernel may assign its id to another process.
Therefore this module first opens a descriptor of the process, then checks the process, and then signals through the
descriptor.

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

_GONE: Final = (errno.ESRCH, errno.EINVAL)  # EINVAL: the id belongs to a thread, or is negative


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """Facts from the kernel about a running process.

    Args:
        group: The process group id.
        session: The session id.
        started: The start time, in clock ticks since boot.
        parent: The parent's process id. It changes when the parent ends, so it is not part of comparisons.
    """

    group: int
    session: int
    started: int
    parent: int = field(compare=False)


def facts_of(pid: int) -> ProcessFacts | None:
    """Return the kernel's facts about a process. `None` if it is not running; a zombie counts as not running."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":
        return None
    return ProcessFacts(group=int(fields[2]), session=int(fields[3]), started=int(fields[19]), parent=int(fields[1]))


def start_time(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, or `None` if it is not running."""
    found = facts_of(pid)
    return None if found is None else found.started


def boot_id() -> str:
    """Return the unique id of the machine's current boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def is_stopped(pid: int) -> bool:
    """Return whether a running process is stopped, by a signal such as SIGSTOP or by a debugger."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def user_of(pid: int) -> int | None:
    """Return the real user id of a process, or `None` if it is not running."""
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
    """Return the running processes of a process group, by their process ids."""
    return {pid: found for pid, found in running() if found.group == group}


def send_signal(pid: int, number: signal.Signals, *, if_still: Callable[[], bool]) -> bool:
    """Send a signal to a process if it is the intended process. Return whether the signal was sent.

    Args:
        pid: The process id. Nothing is sent to 0, 1 and negative ids, which mean several processes or init.
        number: The signal.
        if_still: Returns whether the process with this id is the intended process. It is called while the process is
            held by a descriptor, so its result stays valid.
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
    """Send SIGKILL to the processes of a group. Return whether any was sent. Repeat the call while it returns `True`.

    Args:
        group: The process group id.
        if_member: Returns whether a process of the group is one of the intended processes.
    """
    killed = False
    for pid, found in group_members(group).items():
        if if_member(found):
            still = partial(_is_still, pid, found)
            killed = send_signal(pid, signal.SIGKILL, if_still=still) or killed
    return killed


def _is_still(pid: int, before: ProcessFacts) -> bool:
    return facts_of(pid) == before
