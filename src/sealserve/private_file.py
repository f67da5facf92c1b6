"""Files with secrets: read if nobody but their owner can."""

import os
import stat
from pathlib import Path

from sealserve.codes import SealserveCode
from sealserve.errors import InputError, UnavailableError
from sealserve.regular_file import InputFileError, open_regular
from sealserve.secret import SecretBytes


class PrivateFileExposedError(InputError):
    """Others than its owner can read or write a file with a secret."""

    code = "private-file.exposed"


class PrivateFileUnreadableError(UnavailableError):
    """A file with a secret is missing, or cannot be read."""

    code = "private-file.unreadable"


def read_private(path: Path, *, what: str, limit: int) -> SecretBytes:
    """Return the content of ``path``, without a newline at its end.

    Args:
        path: The file. Its mode must be 0600 or stricter.
        what: What is in it, for errors: ``"passphrase"``.
        limit: How many bytes it may have.

    Raises:
        PrivateFileExposedError: Others can read or write it.
        PrivateFileUnreadableError: It is missing, cannot be read, or is a folder, a pipe or a device.
        InputError: `private-file.size`: It is empty, or longer.
    """
    content = bytearray(read_private_bytes(path, what=what, limit=limit + 2))
    while content.endswith((b"\n", b"\r")):
        content.pop()
    try:
        if not 0 < len(content) <= limit:
            raise SealserveCode.PRIVATE_FILE_SIZE.error(f"{path} holds no {what}: it should have 1 to {limit} bytes.")
        return SecretBytes(content)
    finally:
        content[:] = bytes(len(content))


def read_private_bytes(path: Path, *, what: str, limit: int) -> bytes:
    """Return up to ``limit`` bytes of ``path``, as they are; errors as in `read_private`."""
    try:
        with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as stream:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise PrivateFileExposedError(
                    f"{path} has mode {mode:04o}: others than its owner can use the {what}; expected 0600.",
                    hint=f"chmod 600 {path}, and think of who may have read it.",
                )
            return stream.read(limit)
    except InputFileError as error:
        raise PrivateFileUnreadableError(f"The {what} in {path} cannot be read: {error.reason}.") from error
    except OSError as error:
        raise PrivateFileUnreadableError(f"The {what} in {path} cannot be read: {error.strerror}.") from error
