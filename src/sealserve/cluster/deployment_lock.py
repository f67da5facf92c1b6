"""One lock for every command that changes a deployment: two commands at once would lose track of processes and keys.

The lock is an exclusive ``flock`` on a file of the workspace. The kernel frees it when the holder ends, killed or not,
so there is no stale lock to remove. The file's content only tells other commands who holds the lock.

A program that this process starts does not inherit the lock, because the descriptor is closed on exec.

Source: flock(2), open(2) O_CLOEXEC.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.supervision.state_files import DEPLOYMENT_LOCK
from sealserve.errors import SealserveError
from sealserve.process_signal import start_time
from sealserve.regular_file import open_own
from sealserve.workspace import Workspace

WAIT_SECONDS: Final = 600.0
"""How long a command waits by default: longer than a roll-out on one machine takes."""

DEPLOYMENT: Final = DEPLOYMENT_LOCK
"""The file whose lock is held while what runs is changed. The supervisor restarts nothing meanwhile."""
OWNERS: Final = "owner.lock"
"""The file whose lock is held while models and releases are made, which can take long. It is taken first."""

_INTERVAL: Final = 0.1
_VISIBLE_AFTER: Final = 1.0
"""Seconds after which a command says that it waits. A shorter wait is not worth a line."""
_LONGEST: Final = 1024


class _Content(BaseModel):
    """The file's content, as JSON."""

    model_config = ConfigDict(extra="ignore", frozen=True, regex_engine="python-re")

    pid: int = Field(gt=1)
    started: int
    verb: str = Field(pattern=r"^[a-z][a-z ]{0,30}\Z")
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds the lock.

    Args:
        pid: Its process id.
        verb: The command that it runs, such as ``up``.
        since: When it got the lock.
    """

    pid: int
    verb: str
    since: datetime

    def __str__(self) -> str:
        return f"`sealserve {self.verb}` (pid {self.pid}, since {self.since:%H:%M:%S} UTC)"


def _quietly(_text: str) -> None:
    """Report nothing."""


@contextlib.contextmanager
def held(
    workspace: Workspace,
    verb: str,
    *,
    lock: str = DEPLOYMENT,
    seconds: float = WAIT_SECONDS,
    tell: Callable[[str], None] = _quietly,
) -> Iterator[None]:
    """Hold the lock of a workspace's deployment during the block.

    The lock is not reentrant: a process that holds it waits for itself.

    Args:
        workspace: Whose deployment is changed.
        verb: The command that changes it, such as ``up``. Other commands show it while they wait.
        lock: Which lock: `DEPLOYMENT`, or `OWNERS`.
        seconds: How long to wait for the present holder. With 0, a busy lock is an error at once.
        tell: Called with a line if the wait takes more than a moment.

    Raises:
        UnavailableError: `deployment.busy`: Another command still holds the lock after ``seconds``.
        InputFileKindError: Something else than a regular file is in the lock's place.
    """
    workspace.root.mkdir(exist_ok=True)
    path = workspace.root / lock
    started = time.monotonic()
    told = False
    while True:
        with open_own(path, os.O_RDWR) as descriptor:
            if _locked(descriptor) and _is_still(descriptor, path):
                _write(descriptor, _description(verb))
                try:
                    yield
                finally:
                    _write(descriptor, b"")
                return
            holding = _read(descriptor)
        waited = time.monotonic() - started
        if waited >= seconds:
            raise _busy(lock, holding, seconds)
        if not told and waited >= _VISIBLE_AFTER:
            tell(f"waiting for {holding or 'another sealserve command'}")
            told = True
        time.sleep(_INTERVAL)


def holder(workspace: Workspace) -> Holder | None:
    """Return the command that changes a workspace's deployment now, or None. This neither locks nor creates a file."""
    try:
        descriptor = os.open(workspace.root / DEPLOYMENT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """Return whether the locked file is still the one at its path: the folder may have been removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _description(verb: str) -> bytes:
    """Return what the file says of this process. The start time tells it from a later process with the same id."""
    started = start_time(os.getpid()) or 0
    return _Content(pid=os.getpid(), started=started, verb=verb, since=datetime.now(UTC)).model_dump_json().encode()


def _write(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(OSError):  # on a full disk the lock still holds, only its description is missing
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)


def _read(descriptor: int) -> Holder | None:
    """Return the holder that the file describes, or None if the description is missing, damaged or outdated."""
    try:
        found = _Content.model_validate_json(os.pread(descriptor, _LONGEST, 0))
    except (ValidationError, OSError):
        return None
    if start_time(found.pid) != found.started:
        return None  # a killed holder wrote it; the present holder, if there is one, is about to write its own
    return Holder(pid=found.pid, verb=found.verb, since=found.since)


def _busy(lock: str, holding: Holder | None, seconds: float) -> SealserveError:
    still = f"still being changed after {seconds:.0f} s" if seconds else "being changed"
    what = "The deployment is" if lock == DEPLOYMENT else "The owner's models and releases are"
    return ClusterCode.DEPLOYMENT_BUSY.error(
        f"{what} {still} by {holding or 'another sealserve command'}.",
        hint="Wait until that command ends, or stop it. Then run this command again.",
    )
