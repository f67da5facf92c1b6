"""Files with secrets, which are read only if other users cannot access them."""

import os
import stat
from pathlib import Path

from sealserve.codes import SealserveCode
from sealserve.errors import InputError, UnavailableError
from sealserve.regular_file import InputFileError, open_regular
from sealserve.secret import SecretBytes


class PrivateFileExposedError(InputError):
    """Users other than the owner can read or write a file that contains a secret."""

    code = "private-file.exposed"


class PrivateFileUnreadableError(UnavailableError):
    """A file that contains a secret does not exist or cannot be read."""

    code = "private-file.unreadable"


def read_private(path: Path, *, what: str, limit: int) -> SecretBytes:
    """Return the content of ``path`` without newlines at its end.

    Args:
        path: The file. Its mode must be 0600 or stricter.
        what: The kind of secret, for errors: ``"passphrase"``.
        limit: The maximum size in bytes.

    Raises:
        PrivateFileExposedError: Other users can read or write the file.
        PrivateFileUnreadableError: The file does not exist, cannot be read, or is a folder, a pipe or a device.
        InputError: `private-file.size` if the file is empty or exceeds the limit.
    """
    content = bytearray(read_private_bytes(path, what=what, limit=limit + 2))
    while content.endswith((b"\n", b"\r")):
        content.pop()
    try:
        if not 0 < len(content) <= limit:
            raise SealserveCode.PRIVATE_FILE_SIZE.error(
                f"The {what} in {path} has an invalid size: expected 1 to {limit} bytes.",
                hint="Write the secret, and nothing else, to the file.",
            )
        return SecretBytes(content)
    finally:
        content[:] = bytes(len(content))


def read_private_bytes(path: Path, *, what: str, limit: int) -> bytes:
    """Return up to ``limit`` bytes of ``path``, unchanged. Raises the same errors as `read_private`."""
    try:
        with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as stream:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise PrivateFileExposedError(
                    f"Other users can access the {what} in {path}: expected mode 0600, got {mode:04o}.",
                    hint=f"Run `chmod 600 {path}`, and check who may have read the file.",
                )
            return stream.read(limit)
    except InputFileError as error:
        raise _unreadable(path, what, error.reason) from error
    except OSError as error:
        raise _unreadable(path, what, str(error.strerror)) from error


def _unreadable(path: Path, what: str, reason: str) -> PrivateFileUnreadableError:
    return PrivateFileUnreadableError(
        f"The {what} in {path} cannot be read: {reason}.",
        hint="Check the path, and that the current user owns the file with mode 0600.",
    )
