"""The tmpfs that a container's runtime mounted for an enclave: one enclave has it at a time, and nobody else sees in.

It is claimed by an exclusive lock on the folder itself, which the kernel releases when its holder ends, in whatever
way: nothing is left behind, and nobody wipes what a running enclave has opened.

Source: Linux manual pages flock(2), proc_pid_mountinfo(5).
"""

import fcntl
import os
from pathlib import Path
from typing import Final

_MOUNT_TABLE: Final = Path("/proc/self/mountinfo")


def why_not(folder: str) -> str | None:
    """Return why ``folder`` cannot be an enclave's private memory, or None if it can. Nothing is changed.

    Args:
        folder: Where the tmpfs should be mounted, exactly.
    """
    mounted = [line.split() for line in _MOUNT_TABLE.read_text().splitlines()]
    kinds = [fields[fields.index("-") + 1] for fields in mounted if fields[4] == folder]
    if not kinds or kinds[-1] != "tmpfs":
        return f"no tmpfs at {folder}"
    found = Path(folder).stat()
    if found.st_uid != os.geteuid():  # its owner can always look in, and open it to others
        return f"the tmpfs at {folder} belongs to user {found.st_uid}, not to {os.geteuid()}"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return f"the tmpfs at {folder} cannot be written"
    return None


def claim(folder: str) -> int:
    """Take ``folder`` for this process alone, and let only its user in, as Docker's default (1777) does not.

    Args:
        folder: One for which `why_not` found nothing.

    Returns:
        The descriptor that holds the claim until it is closed. Started programs do not inherit it.

    Raises:
        BlockingIOError: Another enclave has it. Nothing was changed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
