"""Regular files by position: opened without surprises, read and written at offsets, short transfers continued."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sealserve.errors import InputError

LARGEST_TEXT: Final = 4 * 2**20
"""How many bytes a file of settings, certificates or keys may have."""
_OTHER_KIND: Final = (errno.ELOOP, errno.ENXIO, errno.EISDIR)  # a link, a socket or an unread pipe, a folder
_LINK: Final = "it is a symbolic link"


class InputFileError(InputError):
    """A file that was given cannot be used.

    Args:
        message: As for every error.
        reason: The same without the file's name, for a caller that says more of it.
        hint: As for every error.
    """

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class InputFileMissingError(InputFileError):
    """There is no such file."""

    code = "input-file.missing"


class InputFileKindError(InputFileError):
    """It is a folder, a link, a pipe or a device: no regular file."""

    code = "input-file.not-regular"


class InputFileUnreadableError(InputFileError):
    """The file is there, and the operating system does not let us read it."""

    code = "input-file.unreadable"


class InputFileSizeError(InputFileError):
    """The file is far larger than such a file can be."""

    code = "input-file.too-large"


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
        raise InputFileKindError(f"{path} is a symbolic link, where a regular file was expected.", reason=_LINK)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputFileMissingError(f"There is no file {path}.", reason="No such file") from error
    except OSError as error:
        raise InputFileUnreadableError(
            f"{path} cannot be read: {error.strerror}.", reason=str(error.strerror)
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise InputFileKindError(
                f"{path} is no regular file.",
                reason="Is a directory" if stat.S_ISDIR(mode) else "it is no regular file",
                hint="A folder, a pipe or a device cannot stand here.",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def read_regular(path: Path, *, limit: int = LARGEST_TEXT, follow_links: bool = True) -> bytes:
    """Return the content of the regular file ``path``; errors as in `open_regular`.

    Args:
        path: The file.
        limit: How many bytes it may have.
        follow_links: Whether ``path`` itself may be a symbolic link.

    Raises:
        InputFileSizeError: It has more.
    """
    with open_regular(path, follow_links=follow_links) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:  # a failing disk; in Gramine also a sealed file that was changed
            raise InputFileUnreadableError(
                f"{path} cannot be read: {error.strerror}.", reason=str(error.strerror)
            ) from error
    if len(content) > limit:
        reason = f"it has more than {limit:,} bytes"
        raise InputFileSizeError(f"{path} cannot be what it should: {reason}.", reason=reason)
    return content


def read_tail(path: Path, *, limit: int) -> bytes:
    """Return the last ``limit`` bytes of the regular file ``path``, which may be larger, and may not be a link.

    Raises:
        InputFileError: As for `open_regular`.
    """
    with open_regular(path, follow_links=False) as descriptor:
        size = os.fstat(descriptor).st_size
        content = bytearray(min(limit, size))
        return bytes(content[: read_at(descriptor, memoryview(content), size - len(content))])


@contextlib.contextmanager
def open_own(path: Path, flags: int) -> Iterator[int]:
    """Open a file that only we write, and yield its descriptor; it is created with mode 0600 if it does not exist.

    What would be written elsewhere than it seems is refused: a link, a pipe, a file with a second name.

    Args:
        path: The file. Its folder must exist.
        flags: ``O_RDWR``, or ``O_WRONLY | O_APPEND``.

    Raises:
        InputFileKindError: Something else is there.
        InputFileUnreadableError: The operating system refuses.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _OTHER_KIND:
            raise _other_kind(path) from error
        raise InputFileUnreadableError(
            f"{path} cannot be opened: {error.strerror}.", reason=str(error.strerror)
        ) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise _other_kind(path)
        os.set_blocking(descriptor, True)
        yield descriptor
    finally:
        os.close(descriptor)


def _other_kind(path: Path) -> InputFileKindError:
    return InputFileKindError(
        f"{path} is a link, a folder, a pipe or a device, where a regular file was expected.",
        reason="it is no regular file",
        hint="Remove it, and run the command again.",
    )


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
