"""Folders that are either complete or absent: filled under a hidden name, synced, then renamed.

The creating process locks the hidden folder while it fills the folder. A killed process leaves an unlocked hidden
folder behind. The next process that creates a folder of the same name removes it.
"""

import contextlib
import ctypes
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
from sealserve.interruptions import uninterrupted

SUFFIX: Final = ".partial"
_HERE: Final = -100  # AT_FDCWD
_EXCHANGE: Final = 2  # RENAME_EXCHANGE
_OTHER_PATH: Final = "Choose another output path. Existing output is kept."
_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_LONGEST_NAME: Final = 40  # maximum number of characters of the final name in the hidden name


class Staging:
    """A hidden folder beside the final path of its content.

    Attributes:
        folder: The folder to fill.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(self, destination: Path) -> None:
        """Rename the folder to its final name. It is then complete and visible.

        Args:
            destination: The final path, in the same parent folder.

        Raises:
            OutputExistsError: The path already exists.
        """
        refuse_existing(destination)
        _sync_tree(self.folder)
        self._appear(destination)

    def replace(self, destination: Path) -> None:
        """Publish the folder and replace an existing one. At any time, the old folder or the new one is in place.

        The two folders are exchanged, so the old one is removed as an unpublished one. A file system that cannot
        exchange them needs two steps. A process that is killed between them leaves neither.

        Args:
            destination: The final path, on the same file system.
        """
        _sync_tree(self.folder)
        if destination.exists() and exchange(self.folder, destination):
            _sync(destination.parent)
            return
        with staging(destination.parent, destination.name) as old, uninterrupted():
            with contextlib.suppress(FileNotFoundError):
                destination.rename(old.folder)
            try:
                self._appear(destination)
            except BaseException:
                if not destination.exists():
                    old.folder.rename(destination)
                raise

    def _appear(self, destination: Path) -> None:
        above = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.folder.rename(destination)  # replaces an empty folder, but fails for anything else
            os.fsync(above)
        except OSError as error:
            if error.errno in _OCCUPIED:
                raise OutputExistsError(f"The output {destination} already exists.", hint=_OTHER_PATH) from error
            raise
        finally:
            os.close(above)


@contextlib.contextmanager
def staging(parent: Path, name: str, *, mode: int = 0o755) -> Iterator[Staging]:
    """Create a hidden folder in ``parent``. Remove it at the end, unless it was published.

    After a crash, it remains under a name that begins with a dot and ends in ``.partial``. The next `staging` with the
    same name removes it.

    Args:
        parent: The parent folder of the result. It must exist.
        name: A part of the hidden name, so that people can identify the folder.
        mode: The permission bits of the folder.

    Raises:
        UnavailableError: `file.unwritable` if ``parent`` is not a folder or not writable.
        UnavailableError: `file.disk-full` if the disk is full.
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
    """Yield an empty folder that becomes ``destination`` on success. Missing parent folders are created.

    Args:
        destination: The final path. It appears only when the folder is complete.
        mode: The permission bits of the folder.

    Raises:
        OutputExistsError: The path already exists.
        UnavailableError: `file.unwritable` if the parent folder is not writable.
        UnavailableError: `file.disk-full` if the disk is full.
    """
    refuse_existing(destination)
    with folder_made(destination.parent), staging(destination.parent, destination.name, mode=mode) as stage:
        yield stage.folder
        stage.publish(destination)


@contextlib.contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """Create ``folder`` and its missing parents. On failure, remove the created folders that are empty.

    Raises:
        UnavailableError: `file.unwritable` if a folder cannot be created.
        UnavailableError: `file.disk-full` if the disk is full.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):  # the folder is not empty, or was not created
                path.rmdir()
        raise


def refuse_existing(destination: Path, *, hint: str = _OTHER_PATH) -> None:
    """Check that ``destination`` does not exist.

    Args:
        destination: The path.
        hint: What the user can do if it exists.

    Raises:
        OutputExistsError: The path already exists.
    """
    if os.path.lexists(destination):
        raise OutputExistsError(f"The output {destination} already exists.", hint=hint)


def _make_locked(parent: Path, stem: str, mode: int) -> tuple[Path, int]:
    """Remove abandoned hidden folders and create a new one. Return its path and the descriptor that holds its lock."""
    above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(above, fcntl.LOCK_EX)  # a new folder must not look abandoned before it is locked
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
        except OSError:  # published meanwhile, or not a folder of sealserve
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:  # its creator is still running
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
                f"The disk is full: nothing can be written to {parent}.",
                hint="Free some disk space. The incomplete folder was removed.",
            ) from error
        if only_room:
            raise
        raise SealserveCode.FILE_UNWRITABLE.error(
            f"The folder {parent} cannot be written to: {error.strerror}.",
            hint="Check that it is a folder and is writable for this user.",
        ) from error


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step. Return whether the file system and the C library can do this.

    Source: Linux, renameat2(2); ``linux/fs.h`` and ``fcntl.h`` for the numbers.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0:
        return rename is not None
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _sync_tree(folder: Path) -> None:
    """Sync every file and folder, so that the code that fills the folder need not sync them."""
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
