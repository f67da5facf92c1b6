"""Start a program with the system calls that a unit's ``SystemCallFilter=`` permits, as systemd does.

Run as a program: ``python system_calls.py CALLS PROGRAM ARGUMENT...``, where the file CALLS has one name a line.

Source: seccomp_init(3), seccomp_rule_add(3), systemd.exec(5) "SystemCallFilter=".
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_KILL_WITH_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000
_PR_SET_NO_NEW_PRIVS = 38
_EPERM = 1


def members(*names: str) -> set[str]:
    """Return the system calls of systemd's groups, such as ``@system-service``."""
    found: set[str] = set()
    for name in names:
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
        )
        lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
        parts = [line for line in lines if line and not line.startswith("#")]
        found |= {part for part in parts if not part.startswith("@")}
        found |= members(*(part for part in parts if part.startswith("@")))
    return found


def permitted(unit: str) -> set[str]:
    """Return the system calls that a unit permits."""
    calls: set[str] = set()
    for line in unit.splitlines():
        if line.startswith("SystemCallFilter="):
            value = line.removeprefix("SystemCallFilter=")
            names = members(*value.removeprefix("~").split())
            calls = calls - names if value.startswith("~") else calls | names
    return calls


def _restrict(calls: list[str]) -> None:
    """Permit only some system calls in this process and in the programs that it runs; others fail with EPERM."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_KILL_WITH_ERRNO | _EPERM)))
    for name in (*calls, "execve"):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # this machine has the system call
            library.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if library.seccomp_load(context) != 0:
        raise OSError("the system call filter could not be loaded")


if __name__ == "__main__":
    _restrict(Path(sys.argv[1]).read_text().split())
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  # the program that the test gives
