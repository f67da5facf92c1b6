"""The file of the broker's SQLite database: made private, opened by one process at a time, never through a link.

The user of the broker's container can write to the folder of the database, and root opens it as well. So nothing here
follows a link in that folder, and an existing file is changed by a descriptor, not by its name.

Source: SQLite documentation, "Write-Ahead Logging", and "How To Corrupt An SQLite Database File", section 2.2: closing
any descriptor of the file drops the POSIX locks that SQLite holds. Descriptors of ``O_PATH`` are exempt, see open(2).
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
from sealserve.errors import SealserveError
from sealserve.held_tree import held

BUSY_SECONDS: Final = 15.0
"""How long to wait for another process, in seconds."""

_POLL_SECONDS: Final = 0.01
_BESIDE: Final = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFile:
    """The file of a database, which exists and is private.

    Args:
        path: Under this name SQLite opens it.
        resolved: The same without links in the folders above: what SQLite must report to have opened.
    """

    path: Path
    resolved: str


@contextlib.contextmanager
def opening(path: Path, *, former: Path | None = None) -> Iterator[DatabaseFile]:
    """Hold the lock of the database's folder, and yield the database's file, which is created if it does not exist.

    Switching a database to write-ahead logging fails at once while another process does the same: SQLite does not wait
    for that lock. Whoever holds this lock is alone with it.

    Args:
        path: The file. Its folder must exist.
        former: An earlier place of the file, from which it is moved.

    Raises:
        UnavailableError: `broker.database`: The file cannot be created or opened, is a link, or the lock is not free in
            time.
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
        yield DatabaseFile(path=path, resolved=str(Path(f"/proc/self/fd/{folder}").readlink() / path.name))
    finally:
        os.close(folder)


def _lock(folder: int, path: Path) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise BrokerCode.DATABASE.error(
                    f"The database {path} cannot be opened: another process has locked its folder for "
                    f"{BUSY_SECONDS:g} s.",
                    hint="Find that process with `fuser`, and end it.",
                ) from error
        time.sleep(_POLL_SECONDS)


def _make_private(folder: int, path: Path) -> None:
    here = Path(f"/proc/self/fd/{folder}")  # whatever happens to the folder's own name
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        created = os.open(path.name, flags, PRIVATE, dir_fd=folder)
    except FileExistsError:
        pass
    else:
        owner = os.fstat(folder)
        if os.geteuid() == 0 and owner.st_uid != 0:  # the container's user must be able to open it as well
            os.fchown(created, owner.st_uid, owner.st_gid)
        os.close(created)
    for name in (path.name, *(path.name + suffix for suffix in _BESIDE)):
        for found in held(here / name):
            if not found.is_plain_file:
                raise _failed(path, f"{path.with_name(name)} is {found.kind}, and a plain file was expected")
            found.change_mode(PRIVATE)


def _move(former: Path, path: Path) -> None:
    """Move a database from its former place, with everything that its write-ahead log holds."""
    if os.path.lexists(path):
        return
    for found in held(former):
        if not found.is_plain_file:
            raise _failed(former, f"it is {found.kind}, and a plain file was expected")
        try:
            with contextlib.closing(sqlite3.connect(former, isolation_level=None, timeout=1)) as connection:
                # The log goes into the file, and no other process has the database open: both fail otherwise.
                (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
                connection.execute("BEGIN EXCLUSIVE")
                if mode == "delete":
                    former.rename(path)
        except (sqlite3.Error, OSError) as error:
            raise BrokerCode.DATABASE.error(
                f"The database {former} cannot be moved to {path}: {error}.",
                hint="Stop the broker that has it open, and run the command again.",
            ) from error


def _failed(path: Path, reason: str) -> SealserveError:
    return BrokerCode.DATABASE.error(
        f"The database {path} cannot be opened: {reason}.",
        hint="Check that its folder exists, and that no other user can write to it.",
    )
