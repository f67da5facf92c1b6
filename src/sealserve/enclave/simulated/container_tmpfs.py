"""The tmpfs that a container runtime mounted for an enclave. One enclave uses it at a time.

Other users of the container cannot read it. An enclave claims it with an exclusive lock on the folder itself. The
kernel releases the lock when the process ends for any reason. So no stale lock remains, and no process wipes the files
that a running enclave has opened.

Source: Linux manual pages flock(2), proc_pid_mountinfo(5).
"""

import fcntl
import os
from pathlib import Path
from typing import Final

_MOUNT_TABLE: Final = Path("/proc/self/mountinfo")


def why_not(folder: str) -> str | None:
    """Return why ``folder`` cannot be an enclave's private memory, or None if it can. The folder is not changed.

    Args:
        folder: The exact mount point of the tmpfs.
    """
    mounted = [line.split() for line in _MOUNT_TABLE.read_text().splitlines()]
    kinds = [fields[fields.index("-") + 1] for fields in mounted if fields[4] == folder]
    if not kinds or kinds[-1] != "tmpfs":
        return f"no tmpfs is mounted at {folder}"
    found = Path(folder).stat()
    if found.st_uid != os.geteuid():  # the owner of a folder can always read it and open it to others
        return f"the tmpfs at {folder} belongs to user {found.st_uid}, not to {os.geteuid()}"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return f"the tmpfs at {folder} cannot be written"
    return None


def claim(folder: str) -> int:
    """Claim ``folder`` for this process, and restrict it to its user, because Docker's default mode is 1777.

    Args:
        folder: A folder for which `why_not` returned None.

    Returns:
        The descriptor that holds the claim until it is closed. Started programs do not inherit it.

    Raises:
        BlockingIOError: A different enclave uses the folder. The folder was not changed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
