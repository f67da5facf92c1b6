"""What keeps the broker's memory to itself: no core dumps, no ptrace by processes of the same user, no swapping.

Source: prctl(2) PR_SET_DUMPABLE, ptrace(2) "Ptrace access mode checking", core(5), mlockall(2), capabilities(7).
"""

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

from sealserve.broker.codes import BrokerCode

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4  # a page is locked when it is used first: the stacks of threads stay small
_CAP_IPC_LOCK: Final = 14


def forbid_inspection() -> None:
    """Make this process leave no core dump, and let no other process of its user attach to it or read its memory.

    Root, and a process with CAP_SYS_PTRACE, still can.

    Raises:
        UnavailableError: `broker.hardening`: The kernel refused.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise BrokerCode.HARDENING.error(f"Core dumps cannot be turned off: {error}.") from error
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BrokerCode.HARDENING.error(f"The process cannot be made undumpable: prctl(PR_SET_DUMPABLE, 0): {reason}.")


def lock_memory() -> str | None:
    """Keep this process's memory, with the keys in it, out of the swap space.

    Nothing is locked under a limit: once it is reached, the process would get no memory any more.

    Returns:
        Why it was not possible, or None.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    elif not _has_capability(_CAP_IPC_LOCK):
        return f"RLIMIT_MEMLOCK is {hard} bytes, and the process lacks CAP_IPC_LOCK"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"mlockall: {os.strerror(ctypes.get_errno())}"
    return None


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
