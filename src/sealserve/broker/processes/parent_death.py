"""Ends a worker together with its supervisor, however the supervisor ends.

Source: prctl(2) PR_SET_PDEATHSIG. The signal is sent when the thread ends that started the worker. Therefore the
supervisor starts workers in its main thread only.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. Exit if the parent has ended already.

    Args:
        parent: The process id of the supervisor.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the call
        sys.exit(1)
