"""Memory for a simulated enclave's plaintext files: three ways to have it, the best that works here.

1. A mount namespace with a tmpfs (see `mount_namespace`): only the enclave's own processes see the files.
2. The tmpfs that a container's target mounted at the manifest's place, since a container's default seccomp profile
   forbids unshare: every process of the container sees it.
3. A folder of ours (0700) in shared memory: every process of this user sees it, and so does root. The paths in the
   measured arguments are then replaced by the folder's, which is said.

None of them keeps anything from root: on SGX it is the processor that does.
"""

import logging
import os
import re
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from sealserve.enclave.simulated import mount_namespace
from sealserve.errors import UnavailableError

LOGGER: Final = logging.getLogger(__name__)
_ZEROS: Final = bytes(2**20)
_MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a tmpfs, which is what is looked for; the folder in it is ours


class PrivateMemoryError(UnavailableError):
    """There is no memory for private files on this machine."""

    code = "enclave.private-memory"


class Way(StrEnum):
    """How the memory is kept from others."""

    NAMESPACE = "mount-namespace"
    CONTAINER = "container-tmpfs"
    SHARED = "shared-memory-folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMemory:
    """A folder in memory, where a manifest's private files go.

    Args:
        inside: The folder's path as the manifest has it, such as ``/release``.
        root: Its real path for this process and its children.
        way: How it is kept from others.
    """

    inside: str
    root: Path
    way: Way

    def path(self, inside: str) -> Path:
        """Return the real path of a private file."""
        return self.root / inside.removeprefix(self.inside).lstrip("/")

    def translate(self, text: str) -> str:
        """Return ``text``, an argument or a variable, with the manifest's private paths as they really are."""
        if str(self.root) == self.inside:
            return text
        return re.sub(rf"(?<![\w./-]){re.escape(self.inside)}(?=/|$)", lambda _: str(self.root), text)


def available_way(inside: str) -> tuple[Way, str]:
    """Return which way works on this machine for the folder ``inside``, and why none that is better does."""
    refused = mount_namespace.why_not(inside)
    if refused is None:
        return Way.NAMESPACE, ""
    return (Way.CONTAINER if _is_usable_tmpfs(inside) else Way.SHARED), refused


@contextmanager
def private_memory(inside: str) -> Iterator[PrivateMemory]:
    """Obtain private memory for the folder ``inside``, and wipe it at the end.

    It may move this process into a mount namespace for good: call it in a process of its own, before threads start.

    Args:
        inside: An absolute path of one level.

    Raises:
        PrivateMemoryError: None of the three ways works.
    """
    way, refused = available_way(inside)
    if way is Way.NAMESPACE:
        mount_namespace.enter(inside)
        memory = PrivateMemory(inside=inside, root=Path(inside), way=Way.NAMESPACE)
    elif way is Way.CONTAINER:
        memory = PrivateMemory(inside=inside, root=Path(inside), way=Way.CONTAINER)
        wipe(memory.root)  # what an earlier run left when it was killed
    else:
        memory = _shared_folder(inside, refused)
        LOGGER.warning(
            "private memory: no mount namespace here (%s), and no tmpfs at %s: %s takes its place in arguments and "
            "environment, and other processes of this user can read it",
            refused,
            inside,
            memory.root,
        )
    watch = _wipe_when_killed(memory.root) if memory.way is Way.SHARED else None
    try:
        yield memory
    finally:
        wipe(memory.root)
        if memory.way is Way.SHARED:
            memory.root.rmdir()
        if watch is not None:
            os.close(watch[1])
            os.waitpid(watch[0], 0)


def wipe(folder: Path) -> None:
    """Overwrite every file below ``folder`` with zeros, and remove all that is in it."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                if stat.S_ISREG(path.lstat().st_mode):
                    _overwrite(path)
                path.unlink()
        for name in folders:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                path.unlink() if path.is_symlink() else path.rmdir()


def _overwrite(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b", buffering=0) as stream:
        left = os.fstat(stream.fileno()).st_size
        while left > 0:
            left -= stream.write(_ZEROS[:left]) or 0


def _is_usable_tmpfs(folder: str) -> bool:
    """Whether a tmpfs is mounted exactly there, made by us or by the container's runtime, and we may write to it."""
    mounted = [line.split() for line in _MOUNT_TABLE.read_text().splitlines()]
    kinds = [fields[fields.index("-") + 1] for fields in mounted if fields[4] == folder]
    if not kinds or kinds[-1] != "tmpfs":
        return False
    owner = Path(folder).stat().st_uid
    return owner in {0, os.geteuid()} and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _shared_folder(inside: str, refused: str) -> PrivateMemory:
    candidates = [_SHARED_MEMORY, *(Path(place) for place in [os.environ.get("XDG_RUNTIME_DIR")] if place)]
    for place in candidates:
        with suppress(OSError):
            return PrivateMemory(inside=inside, root=Path(tempfile.mkdtemp("", "sealserve-", place)), way=Way.SHARED)
    raise PrivateMemoryError(
        f"There is no memory for the enclave's private files: a mount namespace is refused ({refused}), there is no "
        f"tmpfs at {inside}, and {' and '.join(map(str, candidates))} cannot be written.",
        hint=f"In a container, mount a tmpfs at {inside} (mode 0700, owned by its user).",
    )


def _wipe_when_killed(folder: Path) -> tuple[int, int]:
    """Start a process that wipes ``folder`` if this one is killed; it ends when the returned descriptor is closed.

    Returns:
        Its process id, and the descriptor.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(writing)
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.read(reading, 1)  # returns at the end of the pipe: the other process is gone, whatever the reason
            if folder.is_dir():
                wipe(folder)
                folder.rmdir()
        finally:
            os._exit(0)
    os.close(reading)
    return child, writing
