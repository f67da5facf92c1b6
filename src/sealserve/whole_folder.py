"""Folders that are either whole or absent: filled under a hidden name, synced, then renamed into their place.

While it is filled, the hidden folder is locked by its maker. A process that was killed leaves it behind, unlocked: the
next one that makes a folder of that name removes it.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sealserve.atomic_file import NO_ROOM, OutputExistsError
from sealserve.codes import SealserveCode

SUFFIX: Final = ".partial"
_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_LONGEST_NAME: Final = 40  # of the name that is part of the hidden one


class Staging:
    """A hidden folder beside the place where its content will appear.

    Attributes:
        folder: Fill this one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(self, destination: Path) -> None:
        """Give the folder its name: from now on it is whole.

        Args:
            destination: The name; in the same parent folder.

        Raises:
            OutputExistsError: There is something already.
        """
        refuse_existing(destination)
        _sync_tree(self.folder)
        above = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.folder.rename(destination)  # an empty folder is replaced, anything else is refused
            os.fsync(above)
        except OSError as error:
            if error.errno in _OCCUPIED:
                raise _exists(destination) from error
            raise
        finally:
            os.close(above)

    def replace(self, destination: Path) -> None:
        """Publish, in the place of a folder that may be there: after a crash the old one, the new one or none is there.

        Args:
            destination: The name; in the same parent folder.
        """
        with staging(destination.parent, destination.name) as old:
            with contextlib.suppress(FileNotFoundError):
                destination.rename(old.folder)
            self.publish(destination)


@contextlib.contextmanager
def staging(parent: Path, name: str, *, mode: int = 0o755) -> Iterator[Staging]:
    """Make a hidden folder in ``parent``; remove it at the end, unless it was published.

    After a crash it stays, under a name that begins with a dot and ends in ``.partial``, until the next `staging` of
    the same name.

    Args:
        parent: The folder where the result will appear. It must exist.
        name: Part of the hidden name, so that a person can tell what it was.
        mode: Permission bits of the folder.

    Raises:
        UnavailableError: `file.unwritable`: ``parent`` is no folder, or does not admit it.
        UnavailableError: `file.disk-full`: No room.
    """
    with _output_errors(parent):
        folder, lock = _make_locked(parent, f".{name[:_LONGEST_NAME]}.", mode)
    try:
        with _output_errors(parent, only_room=True):
            yield Staging(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def appearing(destination: Path, *, mode: int = 0o755) -> Iterator[Path]:
    """Yield an empty folder that becomes ``destination`` if all goes well; missing folders above it are made.

    Args:
        destination: Where it appears, whole or not at all.
        mode: Permission bits of the folder.

    Raises:
        OutputExistsError: There is something already.
        UnavailableError: `file.unwritable`: Its parent does not admit it.
        UnavailableError: `file.disk-full`: No room.
    """
    refuse_existing(destination)
    with folder_made(destination.parent), staging(destination.parent, destination.name, mode=mode) as stage:
        yield stage.folder
        stage.publish(destination)


@contextlib.contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """Make ``folder`` and those above it that are missing; on failure remove those that were made and are empty.

    Raises:
        UnavailableError: `file.unwritable`: It cannot be made.
        UnavailableError: `file.disk-full`: No room.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):  # somebody put something into it, or it was never made
                path.rmdir()
        raise


def refuse_existing(destination: Path) -> None:
    """Make sure that nothing is at ``destination``.

    Raises:
        OutputExistsError: There is something.
    """
    if os.path.lexists(destination):
        raise _exists(destination)


def _make_locked(parent: Path, stem: str, mode: int) -> tuple[Path, int]:
    """Make a hidden folder, after removing those whose makers are gone; return it, and the descriptor that locks it."""
    above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(above, fcntl.LOCK_EX)  # nobody takes a folder for abandoned that is not locked yet
        _remove_abandoned(parent, stem)
        folder = parent / f"{stem}{secrets.token_hex(6)}{SUFFIX}"
        folder.mkdir(mode=0o700)
        try:
            folder.chmod(mode)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BaseException:
            folder.rmdir()
            raise
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(above)
    return folder, lock


def _remove_abandoned(parent: Path, stem: str) -> None:
    pattern = re.compile(rf"{re.escape(stem)}[0-9a-f]{{12}}{re.escape(SUFFIX)}")
    for path in [path for path in parent.iterdir() if pattern.fullmatch(path.name)]:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # published meanwhile, or no folder of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:  # its maker is at work
            pass
        finally:
            os.close(lock)


@contextlib.contextmanager
def _output_errors(parent: Path, *, only_room: bool = False) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise SealserveCode.FILE_DISK_FULL.error(
                f"No room to write to {parent}.", hint="Free some space; nothing was left."
            ) from error
        if only_room:
            raise
        raise SealserveCode.FILE_UNWRITABLE.error(
            f"Nothing can be written to {parent}: {error.strerror}.",
            hint="It must be a folder, and yours to write in.",
        ) from error


def _exists(destination: Path) -> OutputExistsError:
    return OutputExistsError(f"{destination} exists already.", hint="Nothing is overwritten: give another output.")


def _sync_tree(folder: Path) -> None:
    """Sync every file and folder: who fills it need not."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
