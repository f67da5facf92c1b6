"""Limits on how other processes can read a simulated enclave's memory: no core dumps, and an undumpable launcher.

Only the launcher is made undumpable, which also prevents other processes of its user from reading its memory. The
server cannot be: exec undoes the setting. An undumpable server's ``/proc/PID/fd`` would also belong to root, and the
local target reads it to find the process that listens. In a user namespace, the setting would have no effect (see
`private_memory`). None of these measures protects from root.

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
    """Disable core dumps of this process and of the programs that it starts.

    A limit of 0 is not enough: the kernel ignores it if ``core_pattern`` is a pipe, as with systemd-coredump. A limit
    of exactly 1 stops a piped dump, and is too small for a file. If the limit is already 0 and cannot be raised, the
    filter reduces the dump to its headers and the registers.
    """
    with suppress(FileNotFoundError):  # a kernel without support for core dumps
        _CORE_FILTER.write_text("0")
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_inspection() -> None:
    """Prevent other processes of this user from attaching to this process or reading its memory.

    A started program is not covered. Call this function after entering a user namespace: an undumpable process may not
    write its own ``/proc/self/uid_map``.

    Raises:
        UnavailableError: `enclave.inspection`: The kernel refused.
    """
    if _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise EnclaveCode.INSPECTION.error(
            f"The launcher's memory cannot be protected from other processes: prctl(PR_SET_DUMPABLE, 0) failed: "
            f"{reason}.",
            hint="Allow prctl in the sandbox or seccomp profile of this process.",
        )
