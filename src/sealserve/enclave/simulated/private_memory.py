"""Memory for a simulated enclave's plaintext files: three ways to have it, the best that works here.

1. A mount namespace with a tmpfs (see `mount_namespace`). As root, only the enclave's own processes have the files on a
   path; another root process gets there through ``/proc/PID/root``. Without root the namespace needs a user namespace,
   whose owner has every privilege in it: so each other process of the same user gets there too, and neither an
   undumpable server nor Yama changes that (user_namespaces(7), "Capabilities"; ptrace(2)).
2. The tmpfs that a container's target mounted at the manifest's place, since a container's default seccomp profile
   forbids unshare: every process of this user in the container sees it. One enclave has it at a time.
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

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated import container_tmpfs, mount_namespace

LOGGER: Final = logging.getLogger(__name__)
_ZEROS: Final = bytes(2**20)
_MEBIBYTE: Final = 2**20
_SPARE: Final = 16  # MiB beside the model's files, for what the server writes to its scratch folder
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a tmpfs, which is what is looked for; the folder in it is ours


class PrivateMemoryMethod(StrEnum):
    """How the memory is kept from others."""

    NAMESPACE = "mount-namespace"
    USER_NAMESPACE = "user-mount-namespace"
    CONTAINER = "container-tmpfs"
    SHARED = "shared-memory-folder"

    @property
    def note(self) -> str:
        """Who can look in beside root and the enclave; empty if nobody on the machine, or in the container, can."""
        return _NOTES.get(self, "")


_NOTES: Final = {
    PrivateMemoryMethod.USER_NAMESPACE: "mount namespace in a user namespace: other processes of this user can look in",
    PrivateMemoryMethod.SHARED: "no mount namespace here: other processes of this user can read that memory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMemory:
    """A folder in memory, where a manifest's private files go.

    Args:
        inside: The folder's path as the manifest has it, such as ``/release``.
        root: Its real path for this process and its children.
        method: How it is kept from others.
    """

    inside: str
    root: Path
    method: PrivateMemoryMethod

    def path(self, inside: str) -> Path:
        """Return the real path of a private file."""
        return self.root / inside.removeprefix(self.inside).lstrip("/")

    def translate(self, text: str) -> str:
        """Return ``text``, an argument or a variable, with the manifest's private paths as they really are."""
        if str(self.root) == self.inside:
            return text
        return re.sub(rf"(?<![\w./-]){re.escape(self.inside)}(?=/|$)", lambda _: str(self.root), text)


def available_method(inside: str) -> tuple[PrivateMemoryMethod, str]:
    """Return the best method that works on this machine for the folder ``inside``, and why a better one does not."""
    refused = mount_namespace.why_not(inside)
    if refused is None:
        return (PrivateMemoryMethod.NAMESPACE if os.geteuid() == 0 else PrivateMemoryMethod.USER_NAMESPACE), ""
    refused = f"no mount namespace here ({refused})"
    unusable = container_tmpfs.why_not(inside)
    return (
        (PrivateMemoryMethod.CONTAINER, refused)
        if unusable is None
        else (PrivateMemoryMethod.SHARED, f"{refused}, and {unusable}")
    )


@contextmanager
def private_memory(inside: str, *, needed: int = 0) -> Iterator[PrivateMemory]:
    """Obtain private memory for the folder ``inside``, and wipe it at the end.

    It may move this process into a mount namespace for good: call it in a process of its own, before threads start.

    Args:
        inside: An absolute path of one level.
        needed: How much will be written to it, in bytes.

    Raises:
        UnavailableError: `enclave.private-memory`: None of the three ways works.
        UnavailableError: `enclave.private-memory-room`: It has less than ``needed`` free.
    """
    method, refused = available_method(inside)
    claim = None
    if method is PrivateMemoryMethod.CONTAINER:
        try:
            claim = container_tmpfs.claim(inside)
        except BlockingIOError:
            method, refused = PrivateMemoryMethod.SHARED, f"{refused}, and the tmpfs at {inside} is another enclave's"
    if method is PrivateMemoryMethod.SHARED:
        root = _shared_folder(inside, refused, needed)
        LOGGER.warning(
            "private memory: %s: %s takes its place in arguments and environment, and other processes of this user can "
            "read it",
            refused,
            root,
        )
    else:
        root = Path(inside)
        if method is PrivateMemoryMethod.CONTAINER:
            wipe(root)  # what an earlier run left when it was killed
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


def _shared_folder(inside: str, refused: str, needed: int) -> Path:
    """Make a folder in shared memory: in the place that has room, or else in the first that can be written."""
    candidates = [_SHARED_MEMORY, *(Path(place) for place in [os.environ.get("XDG_RUNTIME_DIR")] if place)]
    usable = [place for place in candidates if place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)]
    for place in sorted(usable, key=lambda place: _free(place) < needed):
        with suppress(OSError):
            return Path(tempfile.mkdtemp("", "sealserve-", place))
    raise EnclaveCode.PRIVATE_MEMORY.error(
        f"There is no memory for the enclave's private files: {refused}; and {' and '.join(map(str, candidates))} "
        "cannot be written.",
        hint=f"In a container, mount a tmpfs at {inside} (mode 0700, owned by its user).",
    )


def _free(folder: Path) -> float:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize if found.f_blocks else float("inf")  # a tmpfs with size=0 has no bound


def _check_room(root: Path, method: PrivateMemoryMethod, inside: str, needed: int) -> None:
    free = _free(root)
    if free >= needed:
        return
    size = f"{-(-needed // _MEBIBYTE) + _SPARE}m"
    tmpfs = f"--tmpfs {inside}:size={size},mode=0700,uid={os.geteuid()}"
    hints = {
        PrivateMemoryMethod.CONTAINER: f"Give the container a larger tmpfs: `{tmpfs}`.",
        PrivateMemoryMethod.SHARED: (
            f"Give the container `{tmpfs}`, or `--shm-size={size}` for each enclave in it; or run as root "
            "where a mount namespace is allowed."
        ),
    }
    raise EnclaveCode.PRIVATE_MEMORY_ROOM.error(
        f"The release takes {needed / _MEBIBYTE:.1f} MiB of private memory, and {root} ({method}) has "
        f"{free / _MEBIBYTE:.1f} MiB free.",
        hint=hints.get(method, "A tmpfs takes at most half of the machine's memory: use a machine with more."),
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
