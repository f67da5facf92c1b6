"""Safe access to regular files: safe opening, reads and writes at offsets, and continuation of short transfers."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sealserve.errors import InputError

LARGEST_TEXT: Final = 4 * 2**20
"""Maximum size in bytes of a file with settings, certificates or keys."""
_OTHER_KIND: Final = (errno.ELOOP, errno.ENXIO, errno.EISDIR)  # a link, a socket or an unread pipe, a folder
_LINK: Final = "it is a symbolic link"


class InputFileError(InputError):
    """An input file cannot be used.

    Args:
        message: The complete message, as in `SealserveError`.
        reason: The reason without the file's name, for use in a caller's message.
        hint: The hint, as in `SealserveError`.
    """

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class InputFileMissingError(InputFileError):
    """The input file does not exist."""

    code = "input-file.missing"


class InputFileKindError(InputFileError):
    """The input path is a folder, link, pipe or device instead of a regular file."""

    code = "input-file.not-regular"


class InputFileUnreadableError(InputFileError):
    """The input file exists, but the operating system denies reading it."""

    code = "input-file.unreadable"


class InputFileSizeError(InputFileError):
    """The input file exceeds the size limit for its kind of file."""

    code = "input-file.too-large"


@contextlib.contextmanager
def open_regular(path: Path, *, follow_links: bool = True) -> Iterator[int]:
    """Open ``path`` for reading and yield its descriptor.

    A pipe or a device is rejected before anything is read from it, so that it cannot block this process.

    Args:
        path: The file.
        follow_links: Whether ``path`` itself may be a symbolic link.

    Raises:
        InputFileMissingError: The file does not exist.
        InputFileKindError: The path is not a regular file.
        InputFileUnreadableError: The operating system denies access.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    if not follow_links and path.is_symlink():
        raise InputFileKindError(f"{path} is a symbolic link, but a regular file is expected.", reason=_LINK)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputFileMissingError(
            f"The file {path} does not exist.", reason="No such file", hint="Check the path."
        ) from error
    except OSError as error:
        raise InputFileUnreadableError(
            f"The file {path} cannot be read: {error.strerror}.", reason=str(error.strerror)
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise InputFileKindError(
                f"{path} is not a regular file.",
                reason="Is a directory" if stat.S_ISDIR(mode) else "it is not a regular file",
                hint="Specify a regular file instead of a folder, pipe or device.",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def read_regular(path: Path, *, limit: int = LARGEST_TEXT, follow_links: bool = True) -> bytes:
    """Return the content of the regular file ``path``. The errors of `open_regular` apply.

    Args:
        path: The file.
        limit: The maximum size in bytes.
        follow_links: Whether ``path`` itself may be a symbolic link.

    Raises:
        InputFileSizeError: The file exceeds the limit.
    """
    with open_regular(path, follow_links=follow_links) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:  # a failing disk, or in Gramine a changed sealed file
            raise InputFileUnreadableError(
                f"The file {path} cannot be read: {error.strerror}.", reason=str(error.strerror)
            ) from error
    if len(content) > limit:
        reason = f"it has more than {limit:,} bytes"
        raise InputFileSizeError(f"The file {path} is too large for its purpose: {reason}.", reason=reason)
    return content


def read_tail(path: Path, *, limit: int) -> bytes:
    """Return the last ``limit`` bytes of the regular file ``path``. The file may be larger but must not be a link.

    Raises:
        InputFileError: The errors of `open_regular`.
    """
    with open_regular(path, follow_links=False) as descriptor:
        size = os.fstat(descriptor).st_size
        content = bytearray(min(limit, size))
        return bytes(content[: read_at(descriptor, memoryview(content), size - len(content))])


@contextlib.contextmanager
def open_own(path: Path, flags: int) -> Iterator[int]:
    """Open a file that only sealserve writes, and yield its descriptor. If it does not exist, create it with mode 0600.

    Links, pipes and files with a second hard link are rejected, because a write would change another file.

    Args:
        path: The file. Its folder must exist.
        flags: ``O_RDWR``, or ``O_WRONLY | O_APPEND``.

    Raises:
        InputFileKindError: The path is not a regular file with one hard link.
        InputFileUnreadableError: The operating system denies access.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _OTHER_KIND:
            raise _other_kind(path) from error
        raise InputFileUnreadableError(
            f"The file {path} cannot be opened: {error.strerror}.", reason=str(error.strerror)
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
        f"{path} is a link, a folder, a pipe or a device, but a regular file is expected.",
        reason="it is not a regular file",
        hint="Remove it, and run the command again.",
    )


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from byte ``offset`` of the file.

    Returns:
        The number of bytes read. It is smaller than ``len(buffer)`` only at the end of the file.
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
