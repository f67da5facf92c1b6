"""The file of the broker's SQLite database: private, opened by one process at a time, and never through a link.

The user of the broker's container can write to the database folder, and root also opens the database. Therefore this
module never follows a link in that folder. It changes an existing file through a descriptor, not through its name.

Source: SQLite documentation, "Write-Ahead Logging", and "How To Corrupt An SQLite Database File", section 2.2: closing
any descriptor of the file drops the POSIX locks that SQLite holds. ``O_PATH`` descriptors are exempt, see open(2).
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.atomic_file import PRIVATE
from sealserve.broker.codes import BrokerCode
from sealserve.broker.write_turn import SUFFIX
from sealserve.errors import SealserveError
from sealserve.held_tree import held

BUSY_SECONDS: Final = 15.0
"""Maximum time to wait for another process, in seconds."""

_POLL_SECONDS: Final = 0.01
_BESIDE: Final = ("-wal", "-shm", "-journal", SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFile:
    """An existing, private database file.

    Args:
        path: The path that SQLite opens.
        resolved: The same path with the links in its parent folders resolved. SQLite must report this path as opened.
        identity: Device and inode of the file.
    """

    path: Path
    resolved: str
    identity: tuple[int, int]

    def check_in_place(self) -> None:
        """Check that the file is still at its path. SQLite would continue to use a file that was deleted or replaced.

        The audit rows of released keys would then be lost, and later revocations would have no effect.

        Raises:
            UnavailableError: `broker.database` if another file, or no file, is at the path.
        """
        try:
            found = _identity(self.path.lstat())
        except OSError:
            found = None
        if found != self.identity:
            raise BrokerCode.DATABASE.error(
                f"The database {self.path} was deleted or replaced while it was in use.",
                hint="Restart the broker after the file is in place. Restore it from a backup: `sealserve restore`.",
            )


@contextlib.contextmanager
def opening(path: Path, *, former: Path | None = None) -> Iterator[DatabaseFile]:
    """Lock the folder of the database and yield the database file. The file is created if it does not exist.

    The lock serializes the switch to write-ahead logging. SQLite does not wait for that switch: it fails immediately
    while another process also switches.

    Args:
        path: The file. Its folder must exist.
        former: An earlier location of the file. If the file is there, it is moved to ``path``.

    Raises:
        UnavailableError: `broker.database` if the file cannot be created or opened, if it is a link, or if another
            process holds the lock for too long.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(path, str(error.strerror)) from error
    try:
        _lock(folder, path)
        if former is not None:
            _move(former, path)
        try:
            _make_private(folder, path)
        except OSError as error:
            raise _failed(path, str(error.strerror)) from error
        yield DatabaseFile(
            path=path,
            resolved=str(Path(f"/proc/self/fd/{folder}").readlink() / path.name),
            identity=_identity(os.stat(path.name, dir_fd=folder, follow_symlinks=False)),
        )
    finally:
        os.close(folder)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lock(folder: int, path: Path) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise BrokerCode.DATABASE.error(
                    f"The database {path} cannot be opened: another process has locked its folder for more than "
                    f"{BUSY_SECONDS:g} s.",
                    hint="Run `fuser` on the folder to find that process, and end it.",
                ) from error
        time.sleep(_POLL_SECONDS)


def _make_private(folder: int, path: Path) -> None:
    here = Path(f"/proc/self/fd/{folder}")  # refers to the same folder even if the folder is renamed
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        created = os.open(path.name, flags, PRIVATE, dir_fd=folder)
    except FileExistsError:
        pass
    else:
        owner = os.fstat(folder)
        if os.geteuid() == 0 and owner.st_uid != 0:  # the container's user must also be able to open the file
            os.fchown(created, owner.st_uid, owner.st_gid)
        os.close(created)
    for name in (path.name, *(path.name + suffix for suffix in _BESIDE)):
        for found in held(here / name):
            if not found.is_plain_file:
                raise _failed(path, f"{path.with_name(name)} is {found.kind}, but a regular file is expected")
            found.change_mode(PRIVATE)


def _move(former: Path, path: Path) -> None:
    """Move a database and the content of its write-ahead log from its former location."""
    if os.path.lexists(path):
        return
    for found in held(former):
        if not found.is_plain_file:
            raise _failed(former, f"the path is {found.kind}, but a regular file is expected")
        try:
            with contextlib.closing(sqlite3.connect(former, isolation_level=None, timeout=1)) as connection:
                # This merges the log into the file. It fails if another process has the database open.
                (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
                connection.execute("BEGIN EXCLUSIVE")
                if mode == "delete":
                    former.rename(path)
                    former.with_name(former.name + SUFFIX).unlink(missing_ok=True)
        except (sqlite3.Error, OSError) as error:
            raise BrokerCode.DATABASE.error(
                f"The database {former} cannot be moved to {path}: {error}.",
                hint="Stop the broker that uses the database, and run the command again.",
            ) from error


def _failed(path: Path, reason: str) -> SealserveError:
    return BrokerCode.DATABASE.error(
        f"The database {path} cannot be opened: {reason}.",
        hint="Check that the folder exists and that no other user can write to it.",
    )
