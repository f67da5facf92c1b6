"""Files that are either whole or absent: written beside their place, then renamed into it."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sealserve.codes import SealserveCode
from sealserve.errors import InputError, SealserveError

PRIVATE = 0o600
PUBLIC = 0o644
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OutputExistsError(InputError):
    """The output is already there, and nothing said to replace it."""

    code = "file.exists"


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = PUBLIC, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; on success sync it and rename it to ``path``, on failure remove it.

    Args:
        path: Where the file appears. Its folder must exist.
        mode: The permission bits, set when the file is created: nobody can open a private one in between.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        UnavailableError: `file.disk-full`: There is no room for it.
        UnavailableError: `file.unwritable`: Its folder is missing, or does not admit it.
    """
    if not overwrite and path.exists():
        raise OutputExistsError(f"{path} exists already.", hint="Give another output, or --force to replace it.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise _output_error(path, error) from error
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            os.fchmod(descriptor, mode)
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


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    try:
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename, it refuses a file that appeared meanwhile
    except OSError as error:
        raise _output_error(path, error) from error


def _output_error(path: Path, error: OSError) -> SealserveError:
    if error.errno == errno.EEXIST:
        return OutputExistsError(f"{path} exists already.", hint="Give another output, or --force to replace it.")
    if error.errno in NO_ROOM:
        return SealserveCode.FILE_DISK_FULL.error(
            f"No room to write {path}.", hint="Free some space; nothing was left behind."
        )
    return SealserveCode.FILE_UNWRITABLE.error(
        f"{path} cannot be written: {error.strerror}.", hint="Its folder must exist, and be yours to write in."
    )


def write_file(path: Path, content: bytes, *, mode: int = PUBLIC, overwrite: bool = True) -> None:
    """Write ``content`` to ``path`` as `replacing` does."""
    with replacing(path, mode=mode, overwrite=overwrite) as stream:
        stream.write(content)
