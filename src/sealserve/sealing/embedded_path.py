"""Paths that are embedded in sealed files and listed in releases."""

import posixpath

from sealserve.errors import VerificationError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.protected_file import MAX_PATH_SIZE


class PathMismatchError(VerificationError):
    """The embedded path of a sealed file differs from the expected path: the file may have been swapped with another.

    Args:
        name: The file's name in errors.
        expected: The expected path.
        found: The embedded, authenticated path.
    """

    code = "sealed-file.path-mismatch"

    def __init__(self, name: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"{name} was sealed for another path: expected {expected!r}, got {found!r}.",
            hint="Use the path that it was sealed with, or check whether another file was put in its place.",
        )
        self.expected = expected
        self.found = found


def encode(path: str) -> bytes:
    """Return ``path`` as the bytes that are embedded in a sealed file.

    Raises:
        InputError: `sealed-file.unusable-path` if the path is empty, is longer than 771 bytes, contains a NUL, or is
            not valid Unicode.
    """
    try:
        raw = path.encode()
    except UnicodeEncodeError as error:
        raise SealingCode.SEALED_FILE_UNUSABLE_PATH.error(
            f"The embedded path is not valid Unicode: {path!r}.",
            hint="Rename the file.",
        ) from error
    if not raw or b"\0" in raw:
        raise SealingCode.SEALED_FILE_UNUSABLE_PATH.error(
            f"The embedded path is empty or contains a NUL character: {path!r}."
        )
    if len(raw) > MAX_PATH_SIZE:
        raise SealingCode.SEALED_FILE_UNUSABLE_PATH.error(
            f"The embedded path {path[:60]!r}... is too long: expected at most {MAX_PATH_SIZE} bytes, got {len(raw)}.",
            hint="Use shorter folder and file names.",
        )
    return raw


def decode(raw: bytes) -> str:
    """Return an embedded path as readable text. Bytes that are not UTF-8 are escaped."""
    return raw.decode("utf-8", "backslashreplace")


def normalise(path: str) -> str:
    """Normalize ``path`` like Gramine 1.9's tool: ``./a//b/../c`` becomes ``a/c``, and a leading ``..`` is retained.

    Source: measured with gramine-sgx-pf-crypt 1.9.
    """
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal


def is_safe_relative(path: str) -> bool:
    """Return whether ``path`` stays below a folder: relative, normalized, without ``..``, printable, not too long."""
    parts = path.split("/")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return False
    return size <= MAX_PATH_SIZE and path.isprintable() and not any(part in {"", ".", ".."} for part in parts)
