"""Folders that are either whole or absent: filled under a hidden name, then renamed."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sealserve.atomic_file import DiskFullError, OutputExistsError, OutputUnwritableError

SUFFIX = ".partial"


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
        _sync_folders(self.folder)
        try:
            self.folder.rename(destination)  # an empty folder is replaced, anything else is refused
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise _exists(destination) from error
            raise
        _sync(destination.parent)


@contextlib.contextmanager
def staging(parent: Path, name: str, *, mode: int = 0o755) -> Iterator[Staging]:
    """Make a hidden folder in ``parent``; remove it at the end, unless it was published.

    After a crash it stays, under a name that begins with a dot and ends in ``.partial``.

    Args:
        parent: The folder where the result will appear. It must exist.
        name: Part of the hidden name, so that a person can tell what it was.
        mode: Permission bits of the folder.

    Raises:
        OutputUnwritableError: ``parent`` is no folder, or does not admit it.
        DiskFullError: No room.
    """
    folder = parent / f".{name[:40]}.{secrets.token_hex(6)}{SUFFIX}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise OutputUnwritableError(
            f"Nothing can be written to {parent}: {error.strerror}.",
            hint="It must be a folder, and yours to write in.",
        ) from error
    try:
        folder.chmod(mode)
        yield Staging(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(f"No room to write to {parent}.", hint="Free some space; nothing was left.") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(destination: Path) -> None:
    """Make sure that nothing is at ``destination``.

    Raises:
        OutputExistsError: There is something.
    """
    if os.path.lexists(destination):
        raise _exists(destination)


def _exists(destination: Path) -> OutputExistsError:
    return OutputExistsError(f"{destination} exists already.", hint="Nothing is overwritten: give another output.")


def _sync_folders(folder: Path) -> None:
    for root, _, _ in os.walk(folder):
        _sync(Path(root))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
