"""Regular files by position: opened without surprises, read and written at offsets, short transfers continued."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sealserve.errors import InputError


class InputFileMissingError(InputError):
    """There is no such file."""

    code = "input-file.missing"


class InputFileKindError(InputError):
    """It is a folder, a link, a pipe or a device: no regular file."""

    code = "input-file.not-regular"


class InputFileUnreadableError(InputError):
    """The file is there, and the operating system does not let us read it."""

    code = "input-file.unreadable"


@contextlib.contextmanager
def open_regular(path: Path, *, follow_links: bool = True) -> Iterator[int]:
    """Open ``path`` for reading and yield its descriptor.

    A pipe or a device is refused before anything is read from it, so that none can make us wait.

    Args:
        path: The file.
        follow_links: Whether ``path`` itself may be a symbolic link.

    Raises:
        InputFileMissingError: No such file.
        InputFileKindError: No regular file.
        InputFileUnreadableError: The operating system refuses.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    if not follow_links and path.is_symlink():
        raise InputFileKindError(f"{path} is a symbolic link, where a regular file was expected.")
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputFileMissingError(f"There is no file {path}.") from error
    except OSError as error:
        raise InputFileUnreadableError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputFileKindError(f"{path} is no regular file.", hint="Give a file; a folder is sealed as a tree.")
        yield descriptor
    finally:
        os.close(descriptor)


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from byte ``offset`` of the file.

    Returns:
        How many bytes were read; fewer than ``len(buffer)`` only at the end of the file.
    """
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_at(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write all of ``content`` at byte ``offset`` of the file."""
    view = memoryview(content)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)
