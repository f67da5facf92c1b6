"""What keeps the broker's memory to itself: no core dumps, and no ptrace by processes of the same user.

Source: prctl(2) PR_SET_DUMPABLE, ptrace(2) "Ptrace access mode checking", core(5).
"""

import ctypes
import os
import resource
from typing import Final

from sealserve.errors import UnavailableError

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4


class HardeningError(UnavailableError):
    """The kernel did not let the process protect its memory."""

    code = "broker.hardening"


def forbid_inspection() -> None:
    """Make this process leave no core dump, and let no other process of its user attach to it or read its memory.

    Root, and a process with CAP_SYS_PTRACE, still can.

    Raises:
        HardeningError: The kernel refused.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise HardeningError(f"Core dumps cannot be turned off: {error}.") from error
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise HardeningError(f"The process cannot be made undumpable: prctl(PR_SET_DUMPABLE, 0): {reason}.")
