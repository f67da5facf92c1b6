"""Turns at writing to an SQLite database: writers wait for each other in a queue, also in different processes.

SQLite has a lock, but no queue: a waiting process sleeps for up to 100 ms and looks again. Under load, the lock is then
free only for moments, and a waiting process can miss all of them until its time limit. Therefore each writer first
takes a lock on a file beside the database, and the kernel wakes it when the lock is free. SQLite's lock remains the
lock that protects the data. A program that does not take turns still works, as slowly as before.

The file has two locks, on two bytes. A writer first takes the lock of the entrance, then the lock of the turn, and then
leaves the entrance. A writer whose turn has ended, and that asks for another turn at once, finds the next writer in the
entrance. So it cannot overtake it. The kernel releases both locks when a process ends.

The locks belong to an open file and not to a process (OFD locks). The lock call has no time limit, so a thread waits in
it, and the writer waits for the thread.

Source: fcntl(2) "Open file description locks".
"""

import contextlib
import fcntl
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SUFFIX: Final = "-turn"
"""The end of the file's name, after the name of the database."""

_ENTRANCE: Final = 0
_TURN: Final = 1
_MODE: Final = 0o600


class TurnError(Exception):
    """The turn could not be taken in time, or the file cannot be used. The message is the reason."""


class WriteTurn:
    """The turns of this process. Several threads may use it. The file is opened at the first use.

    Args:
        path: The file. It is created if it does not exist. Its folder must not be writable for other users.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._threads = threading.Lock()  # an OFD lock does not separate the threads of one process
        self._changed = threading.Condition()
        self._waiter: threading.Thread | None = None
        self._wanted = self._held = False
        self._error: OSError | None = None

    @contextlib.contextmanager
    def taken(self, seconds: float) -> Iterator[None]:
        """Wait for the turn, and hold it during the block.

        Args:
            seconds: The maximum time to wait.

        Raises:
            TurnError: The turn could not be taken in time, or the file cannot be used.
        """
        deadline = time.monotonic() + seconds
        # 1. Wait for the other threads of this process.
        if not self._threads.acquire(timeout=seconds):
            raise TurnError(f"other writers took more than {seconds:g} s")
        try:
            # 2. Wait for the other processes.
            try:
                taken = self._take(deadline)
            except OSError as error:
                raise TurnError(f"the lock file {self._path} cannot be used: {error.strerror or error}") from error
            if not taken:
                raise TurnError(f"other writers took more than {seconds:g} s")
            try:
                yield
            finally:
                assert self._file is not None  # noqa: S101  # `_take` has opened it
                _unlock(self._file, _TURN)
        finally:
            self._threads.release()

    def close(self) -> None:
        """Close the file. The next turn opens it again."""
        with self._changed:
            # A thread that still waits in the kernel keeps its file: its number must not be reused meanwhile.
            if self._file is not None and self._waiter is None:
                os.close(self._file)
            self._file = None

    def _take(self, deadline: float) -> bool:
        with self._changed:
            if self._file is None:
                self._file = _open(self._path)
            if self._waiter is None:
                # Without other writers, no thread is needed.
                if _try(self._file, _ENTRANCE):
                    free = _try(self._file, _TURN)
                    _unlock(self._file, _ENTRANCE)
                    if free:
                        return True
                self._waiter = threading.Thread(target=self._wait, args=(self._file,), name="write-turn", daemon=True)
                self._waiter.start()
            # Otherwise an earlier writer gave up, and its thread still waits: take over its place in the queue.
            self._wanted = True
            self._changed.wait_for(lambda: self._held or self._error is not None, max(0.0, deadline - time.monotonic()))
            held, error = self._held, self._error
            self._wanted = self._held = False
            self._error = None
        if error is not None:
            raise error
        return held

    def _wait(self, file: int) -> None:
        error = None
        try:
            _lock(file, _ENTRANCE)
            try:
                _lock(file, _TURN)
            finally:
                _unlock(file, _ENTRANCE)
        except OSError as failure:
            error = failure
        with self._changed:
            self._waiter = None
            if self._wanted:
                self._held, self._error = error is None, error
                self._changed.notify_all()
            elif error is None:  # the writer gave up
                _unlock(file, _TURN)
            if file != self._file:  # closed meanwhile
                os.close(file)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError:
        file = os.open(path, flags)
    else:
        folder = path.parent.stat()
        if os.geteuid() == 0 and folder.st_uid != 0:  # the container's user must also be able to open the file
            os.fchown(file, folder.st_uid, folder.st_gid)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("it is not a regular file")
    return file


def _try(file: int, place: int) -> bool:
    try:
        _call(file, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, place)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, see fcntl(2)
        return False
    return True


def _lock(file: int, place: int) -> None:
    _call(file, fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, place)


def _unlock(file: int, place: int) -> None:
    _call(file, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, place)


def _call(file: int, command: int, kind: int, place: int) -> None:
    # struct flock: type, whence, start, length, process (0 for these locks)
    fcntl.fcntl(file, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0))
