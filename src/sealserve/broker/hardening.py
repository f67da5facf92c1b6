"""Protection of the broker's memory: no core dumps, no ptrace by processes of the same user, no swapping.

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
_MCL_ONFAULT: Final = 4  # lock a page at its first use, so that thread stacks do not occupy memory early
_CAP_IPC_LOCK: Final = 14


def forbid_inspection() -> None:
    """Disable core dumps, and prevent other processes of the same user from attaching or reading this process's memory.

    Root, and processes with CAP_SYS_PTRACE, can still do both.

    Raises:
        UnavailableError: `broker.hardening` if the kernel refuses.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise BrokerCode.HARDENING.error(f"The broker cannot disable core dumps: {error}.") from error
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BrokerCode.HARDENING.error(
            f"The broker cannot protect its memory from other processes: prctl(PR_SET_DUMPABLE, 0): {reason}."
        )


def lock_memory() -> str | None:
    """Lock this process's memory, which contains keys, so that it is never written to swap space.

    Nothing is locked if a limit applies: at the limit, the process could no longer allocate memory.

    Returns:
        The reason why the memory cannot be locked, or `None` if it is locked.
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
