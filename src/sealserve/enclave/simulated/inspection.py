"""What a simulated enclave leaves of its memory for others to look at: no core dumps, and nothing of the launcher.

Only the launcher is made undumpable, which also keeps other processes of its user from reading it. Not the server:
exec undoes that, and an undumpable server's ``/proc/PID/fd`` would be root's, where the local target sees which process
listens; in a user namespace it would hide nothing either (see `private_memory`). None of it keeps root out.

Source: Linux manual pages core(5), "Controlling which mappings are written to the core dump" and "Piping core dumps to
a program"; prctl(2), PR_SET_DUMPABLE; Linux, ``fs/coredump.c``, do_coredump (a limit of exactly 1).
"""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode

_CORE_FILTER: Final = Path("/proc/self/coredump_filter")
_PR_SET_DUMPABLE: Final = 4
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def forbid_core_dumps() -> None:
    """Make this process, and what it starts, leave no core dump.

    A limit of 0 is not enough: the kernel ignores it when ``core_pattern`` is a pipe, as with systemd-coredump. A limit
    of exactly 1 stops a piped dump, and is too small for a file. Where the limit is 0 already and cannot be raised,
    the filter keeps the dump to its headers and the registers.
    """
    with suppress(FileNotFoundError):  # a kernel that dumps nothing at all
        _CORE_FILTER.write_text("0")
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_inspection() -> None:
    """Let no other process of this user attach to this one or read its memory. A started program is not covered.

    Call it after entering a user namespace: an undumpable process may not write its own ``/proc/self/uid_map``.

    Raises:
        UnavailableError: `enclave.inspection`: The kernel refused.
    """
    if _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise EnclaveCode.INSPECTION.error(
            f"The launcher cannot be made undumpable: prctl(PR_SET_DUMPABLE, 0): {reason}."
        )
