"""A lock for every command that changes a deployment. Concurrent commands would lose track of processes and keys.

The lock is an exclusive ``flock`` on a file of the workspace. The kernel releases it when the holder ends, even if it
is killed. So there is never a stale lock to remove. The file's content only shows other commands who holds the lock.

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
"""Default timeout of a command that waits for the lock: longer than a roll-out on one machine takes."""

DEPLOYMENT: Final = DEPLOYMENT_LOCK
"""Lock file for changes to running parts. While it is locked, the supervisor restarts nothing."""
OWNERS: Final = "owner.lock"
"""Lock file for creating models and releases, which can take long. It is locked before `DEPLOYMENT`."""

_INTERVAL: Final = 0.1
_VISIBLE_AFTER: Final = 1.0
"""Seconds after which a command reports that it waits. Shorter waits are not reported."""
_LONGEST: Final = 1024


class _Content(BaseModel):
    """The content of the lock file, as JSON."""

    model_config = ConfigDict(extra="ignore", frozen=True, regex_engine="python-re")

    pid: int = Field(gt=1)
    started: int
    verb: str = Field(pattern=r"^[a-z][a-z ]{0,30}\Z")
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds the lock.

    Args:
        pid: Its process ID.
        verb: The command that it runs, such as ``up``.
        since: When it got the lock.
    """

    pid: int
    verb: str
    since: datetime

    def __str__(self) -> str:
        return f"`sealserve {self.verb}` (pid {self.pid}, since {self.since:%H:%M:%S} UTC)"


def _quietly(_text: str) -> None:
    """Discard the text."""


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

    The lock is not reentrant: a process that already holds it would wait for itself.

    Args:
        workspace: The workspace whose deployment changes.
        verb: The command that changes it, such as ``up``. Waiting commands show it.
        lock: The lock: `DEPLOYMENT` or `OWNERS`.
        seconds: Timeout. With 0, a busy lock is an immediate error.
        tell: Called with a text if the wait takes longer than a second.

    Raises:
        UnavailableError: `deployment.busy` if a different command still holds the lock after ``seconds``.
        InputFileKindError: The lock file's path is not a regular file.
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
    """Return the command that is changing a workspace's deployment, or None. This neither locks nor creates a file."""
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
    """Return whether the locked file is still the file at its path: the folder may have been removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _description(verb: str) -> bytes:
    """Return the lock file's content for this process. The start time distinguishes it from a later process's ID."""
    started = start_time(os.getpid()) or 0
    return _Content(pid=os.getpid(), started=started, verb=verb, since=datetime.now(UTC)).model_dump_json().encode()


def _write(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(OSError):  # on a full disk the lock still works without the description
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)


def _read(descriptor: int) -> Holder | None:
    """Return the holder that the file describes, or None if the description is missing, damaged or outdated."""
    try:
        found = _Content.model_validate_json(os.pread(descriptor, _LONGEST, 0))
    except (ValidationError, OSError):
        return None
    if start_time(found.pid) != found.started:
        return None  # a killed holder left it; a current holder is about to write its own description
    return Holder(pid=found.pid, verb=found.verb, since=found.since)


def _busy(lock: str, holding: Holder | None, seconds: float) -> SealserveError:
    still = f"still being changed after {seconds:.0f} s" if seconds else "being changed"
    what = "The deployment is" if lock == DEPLOYMENT else "The owner's models and releases are"
    return ClusterCode.DEPLOYMENT_BUSY.error(
        f"{what} {still} by {holding or 'another sealserve command'}.",
        hint="Wait until that command ends, or stop it. Then run this command again.",
    )
