"""Paths inside sealed files and releases."""

import posixpath

from sealserve.errors import VerificationError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.protected_file import MAX_PATH_SIZE


class PathMismatchError(VerificationError):
    """The file was sealed for another path: a host may have put one sealed file in the place of another.

    Args:
        name: The file, as errors name it.
        expected: The path that was asked for.
        found: The path that is embedded and authenticated.
    """

    code = "sealed-file.path-mismatch"

    def __init__(self, name: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"{name} was sealed as {found!r}, and is used as {expected!r}.",
            hint="Somebody may have put one sealed file in another's place; or give the path that it was sealed with.",
        )
        self.expected = expected
        self.found = found


def encode(path: str) -> bytes:
    """Return ``path`` as it is embedded.

    Raises:
        InputError: `sealed-file.unusable-path`: Empty, over 771 bytes, with a NUL, or no valid Unicode.
    """
    try:
        raw = path.encode()
    except UnicodeEncodeError as error:
        raise SealingCode.SEALED_FILE_UNUSABLE_PATH.error(
            f"The embedded path {path!r} is not valid Unicode."
        ) from error
    if not raw or b"\0" in raw:
        raise SealingCode.SEALED_FILE_UNUSABLE_PATH.error(f"The embedded path {path!r} is empty or has a NUL in it.")
    if len(raw) > MAX_PATH_SIZE:
        raise SealingCode.SEALED_FILE_UNUSABLE_PATH.error(
            f"The embedded path {path[:60]!r}... has {len(raw)} bytes; {MAX_PATH_SIZE} fit.",
            hint="Use shorter names of folders and files.",
        )
    return raw


def decode(raw: bytes) -> str:
    """Return an embedded path as text for people; bytes that are not UTF-8 are escaped."""
    return raw.decode("utf-8", "backslashreplace")


def normalise(path: str) -> str:
    """Return ``path`` as Gramine 1.9's tool embeds it: ``./a//b/../c`` becomes ``a/c``, a leading ``..`` stays.

    Source: measured on gramine-sgx-pf-crypt 1.9.
    """
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal


def is_safe_relative(path: str) -> bool:
    """Tell whether ``path`` stays below a folder: relative, normalised, no ``..``, printable, not too long."""
    parts = path.split("/")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return False
    return size <= MAX_PATH_SIZE and path.isprintable() and not any(part in {"", ".", ".."} for part in parts)
