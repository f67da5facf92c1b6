"""Files that are either complete or absent: written to a temporary file in the same folder, then renamed."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sealserve.codes import SealserveCode
from sealserve.errors import InputError, SealserveError

PRIVATE = 0o600
PUBLIC = 0o644
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OutputExistsError(InputError):
    """The output file or folder already exists, and replacing it was not requested."""

    code = "file.exists"


@contextlib.contextmanager
def replacing(
    path: Path, *, mode: int = PUBLIC, overwrite: bool = True, keep_owner: bool = False
) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``. On success, sync it and rename it to ``path``. On failure, remove it.

    Args:
        path: The path of the new file. Its folder must exist.
        mode: The permission bits. They are set at creation, so that a private file is never accessible to other users.
        overwrite: Whether an existing file may be replaced.
        keep_owner: Whether a file that root replaces keeps its owner and group. A container that runs as another user
            can then read the new file. This applies only in a folder that only root can change.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is `False`.
        UnavailableError: `file.disk-full` if the disk is full.
        UnavailableError: `file.unwritable` if its folder does not exist or is not writable.
    """
    if not overwrite and path.exists():
        raise OutputExistsError(
            f"The output {path} already exists.", hint="Choose another output path, or use --force to replace it."
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise _output_error(path, error) from error
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            os.fchmod(descriptor, mode)
            if keep_owner and os.geteuid() == 0:
                _take_owner(descriptor, path)
            yield stream
            stream.flush()
            os.fsync(descriptor)
        _publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _output_error(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _take_owner(descriptor: int, path: Path) -> None:
    """Give the open file the owner of the file at ``path``, if only root can have put that file there."""
    folder = path.parent.stat()
    if folder.st_uid != 0 or folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    with contextlib.suppress(FileNotFoundError):
        former = path.lstat()
        if stat.S_ISREG(former.st_mode):
            os.fchown(descriptor, former.st_uid, former.st_gid)


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    try:
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename, it fails if the file was created meanwhile
    except OSError as error:
        raise _output_error(path, error) from error


def _output_error(path: Path, error: OSError) -> SealserveError:
    if error.errno == errno.EEXIST:
        return OutputExistsError(
            f"The output {path} already exists.", hint="Choose another output path, or use --force to replace it."
        )
    if error.errno in NO_ROOM:
        return SealserveCode.FILE_DISK_FULL.error(
            f"The disk is full: {path} cannot be written.", hint="Free disk space. The incomplete file was removed."
        )
    return SealserveCode.FILE_UNWRITABLE.error(
        f"The file {path} cannot be written: {error.strerror}.",
        hint="Check that its folder exists and is writable for this user.",
    )


def write_file(
    path: Path, content: bytes, *, mode: int = PUBLIC, overwrite: bool = True, keep_owner: bool = False
) -> None:
    """Write ``content`` to ``path`` atomically. See `replacing`."""
    with replacing(path, mode=mode, overwrite=overwrite, keep_owner=keep_owner) as stream:
        stream.write(content)
