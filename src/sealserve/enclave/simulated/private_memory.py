"""Memory for a simulated enclave's decrypted files. Three methods exist; the best method that works is used.

1. A mount namespace with a tmpfs (see `mount_namespace`). As root, only the enclave's processes see the files at a
   path. Other root processes can reach them through ``/proc/PID/root``. Without root, the namespace needs a user
   namespace, whose owner has every privilege in it. So every other process of the same user can reach the files too.
   Neither an undumpable server nor Yama prevents this (user_namespaces(7), "Capabilities"; ptrace(2)).
2. The tmpfs that the container's target mounted at the manifest's path. It is needed because a container's default
   seccomp profile forbids unshare. Every process of this user in the container can read it. One enclave uses it at a
   time.
3. A folder (mode 0700) in shared memory. Every process of this user, and root, can read it. The paths in the measured
   arguments are then replaced by the folder's path, which is logged.

None of the methods protects from root. On SGX, the processor does.
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

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated import container_tmpfs, mount_namespace

LOGGER: Final = logging.getLogger(__name__)
_ZEROS: Final = bytes(2**20)
_MEBIBYTE: Final = 2**20
_SPARE: Final = 16  # MiB in addition to the model's files, for the server's scratch folder
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # must be a tmpfs; a folder with mode 0700 is created in it


class PrivateMemoryMethod(StrEnum):
    """How the memory is protected from other processes."""

    NAMESPACE = "mount-namespace"
    USER_NAMESPACE = "user-mount-namespace"
    CONTAINER = "container-tmpfs"
    SHARED = "shared-memory-folder"

    @property
    def note(self) -> str:
        """The processes besides root and the enclave that can read the memory; empty if none can."""
        return _NOTES.get(self, "")


_NOTES: Final = {
    PrivateMemoryMethod.USER_NAMESPACE: "mount namespace in a user namespace: other processes of this user can read it",
    PrivateMemoryMethod.SHARED: "no mount namespace available: other processes of this user can read the memory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMemory:
    """A folder in memory for a manifest's private files.

    Args:
        inside: The folder's path in the manifest, such as ``/release``.
        root: Its real path for this process and its children.
        method: How it is protected from other processes.
    """

    inside: str
    root: Path
    method: PrivateMemoryMethod

    def path(self, inside: str) -> Path:
        """Return the real path of a private file."""
        return self.root / inside.removeprefix(self.inside).lstrip("/")

    def translate(self, text: str) -> str:
        """Return ``text``, an argument or a variable, with the manifest's private paths replaced by the real paths."""
        if str(self.root) == self.inside:
            return text
        return re.sub(rf"(?<![\w./-]){re.escape(self.inside)}(?=/|$)", lambda _: str(self.root), text)


def available_method(inside: str) -> tuple[PrivateMemoryMethod, str]:
    """Return the best method that works on this machine for ``inside``, and why a better method does not work."""
    refused = mount_namespace.why_not(inside)
    if refused is None:
        return (PrivateMemoryMethod.NAMESPACE if os.geteuid() == 0 else PrivateMemoryMethod.USER_NAMESPACE), ""
    refused = f"no mount namespace available ({refused})"
    unusable = container_tmpfs.why_not(inside)
    return (
        (PrivateMemoryMethod.CONTAINER, refused)
        if unusable is None
        else (PrivateMemoryMethod.SHARED, f"{refused}, and {unusable}")
    )


@contextmanager
def private_memory(inside: str, *, needed: int = 0) -> Iterator[PrivateMemory]:
    """Obtain private memory for the folder ``inside``, and wipe it at the end.

    The call may move this process into a mount namespace permanently. Call it in a separate process, before threads
    start.

    Args:
        inside: An absolute path of one level.
        needed: The number of bytes that will be written.

    Raises:
        UnavailableError: `enclave.private-memory`: None of the three methods works.
        UnavailableError: `enclave.private-memory-room`: The memory has less than ``needed`` bytes free.
    """
    method, refused = available_method(inside)
    claim = None
    if method is PrivateMemoryMethod.CONTAINER:
        try:
            claim = container_tmpfs.claim(inside)
        except BlockingIOError:
            method, refused = PrivateMemoryMethod.SHARED, f"{refused}, and another enclave uses the tmpfs at {inside}"
    if method is PrivateMemoryMethod.SHARED:
        root = _shared_folder(inside, refused, needed)
        LOGGER.warning(
            "private memory: %s: %s replaces it in arguments and environment, and other processes of this user can "
            "read that folder",
            refused,
            root,
        )
    else:
        root = Path(inside)
        if method is PrivateMemoryMethod.CONTAINER:
            wipe(root)  # remove files of an earlier run that was killed
        else:
            mount_namespace.enter(inside)
    watch = _wipe_when_killed(root) if method is PrivateMemoryMethod.SHARED else None
    try:
        _check_room(root, method, inside, needed)
        yield PrivateMemory(inside=inside, root=root, method=method)
    finally:
        wipe(root)
        if method is PrivateMemoryMethod.SHARED:
            root.rmdir()
        if watch is not None:
            os.close(watch[1])
            os.waitpid(watch[0], 0)
        if claim is not None:
            os.close(claim)


def wipe(folder: Path) -> None:
    """Overwrite every file below ``folder`` with zeros, and remove all contents of the folder."""
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


def _shared_folder(inside: str, refused: str, needed: int) -> Path:
    """Create a folder in shared memory: in the first place with enough space, or else in the first writable place."""
    candidates = [_SHARED_MEMORY, *(Path(place) for place in [os.environ.get("XDG_RUNTIME_DIR")] if place)]
    usable = [place for place in candidates if place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)]
    for place in sorted(usable, key=lambda place: _free(place) < needed):
        with suppress(OSError):
            return Path(tempfile.mkdtemp("", "sealserve-", place))
    raise EnclaveCode.PRIVATE_MEMORY.error(
        f"No memory is available for the enclave's private files: {refused}, and {' and '.join(map(str, candidates))} "
        "cannot be written.",
        hint=f"In a container, mount a tmpfs at {inside} (mode 0700, owned by the container's user).",
    )


def _free(folder: Path) -> float:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize if found.f_blocks else float("inf")  # a tmpfs with size=0 has no limit


def _check_room(root: Path, method: PrivateMemoryMethod, inside: str, needed: int) -> None:
    free = _free(root)
    if free >= needed:
        return
    size = f"{-(-needed // _MEBIBYTE) + _SPARE}m"
    tmpfs = f"--tmpfs {inside}:size={size},mode=0700,uid={os.geteuid()}"
    hints = {
        PrivateMemoryMethod.CONTAINER: f"Give the container a larger tmpfs: `{tmpfs}`.",
        PrivateMemoryMethod.SHARED: (
            f"Start the container with `{tmpfs}`, or with `--shm-size={size}` for each enclave in it. "
            "Or run as root where a mount namespace is allowed."
        ),
    }
    raise EnclaveCode.PRIVATE_MEMORY_ROOM.error(
        f"The private memory is too small: the release needs {needed / _MEBIBYTE:.1f} MiB, and {root} ({method}) has "
        f"{free / _MEBIBYTE:.1f} MiB free.",
        hint=hints.get(method, "Use a machine with more memory: a tmpfs has at most half of the machine's memory."),
    )


def _wipe_when_killed(folder: Path) -> tuple[int, int]:
    """Start a process that wipes ``folder`` if this process is killed. It ends when the returned descriptor is closed.

    Returns:
        The id of the new process, and the descriptor.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(writing)
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.read(reading, 1)  # returns at the end of the pipe, when the other process has ended for any reason
            if folder.is_dir():
                wipe(folder)
                folder.rmdir()
        finally:
            os._exit(0)
    os.close(reading)
    return child, writing
