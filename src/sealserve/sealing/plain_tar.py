"""Reading and writing of tar files that contain only regular files. Input is treated as malicious."""

import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from sealserve.errors import SealserveError
from sealserve.regular_file import open_regular
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import is_safe_relative
from sealserve.sealing.tar_headers import PlainTarFile

_MAX_HEADER: Final = 2**20  # tarfile reads an extended header in one call
_MIN_END: Final = 2 * tarfile.BLOCKSIZE  # two zero blocks
_MAX_END: Final = 2**20
_COPY_SIZE: Final = 2**18
_LIBRARY_ERRORS: Final = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError, EOFError)
"""Exceptions that tarfile raises for unexpected headers."""
_KINDS: Final = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.REGTYPE: "a sparse file",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def add(archive: tarfile.TarFile, source: Path, name: str, *, moment: int = 0) -> None:
    """Add the regular file ``source`` as ``name``, without machine-specific metadata such as owner and mode."""
    with open_regular(source, follow_links=False) as descriptor:
        member = tarfile.TarInfo(name)
        member.size = os.fstat(descriptor).st_size
        member.mtime = moment
        with open(descriptor, "rb", closefd=False) as stream:
            archive.addfile(member, stream)


def members(stream: BinaryIO, name: str) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Yield each member with its content, and check that the archive ends correctly.

    Args:
        stream: The file.
        name: The archive's name in errors.

    Raises:
        VerificationError: `archive.not-a-tar` if the file is not a tar archive.
        VerificationError: `archive.truncated` if the archive is incomplete.
        VerificationError: `archive.trailing-data` if data follows the end of the archive.
    """
    size = os.fstat(stream.fileno()).st_size
    if size < tarfile.BLOCKSIZE:
        raise SealingCode.ARCHIVE_NOT_A_TAR.error(
            f"{name} is not a tar archive: expected at least {tarfile.BLOCKSIZE} bytes, got {size}."
        )
    with _tar_errors(stream, size, name):
        archive = PlainTarFile.open(fileobj=_BoundedReads(stream), mode="r:")  # the caller owns the stream
    while True:
        with _tar_errors(stream, size, name):
            member = archive.next()
            if member is None:
                break
            content = archive.extractfile(member) if _is_plain(member) else None
            if content is not None and member.offset_data + member.size > size:
                raise _cut_off(name, f"inside the member {member.name!r}")
        yield member, cast("BinaryIO", content or io.BytesIO())
    stream.seek(archive.offset)
    rest = stream.read(_MAX_END + 1)
    if len(rest) < _MIN_END:
        raise _cut_off(name, "before its end marker")
    if len(rest) > _MAX_END or any(rest):
        raise SealingCode.ARCHIVE_TRAILING_DATA.error(
            f"{name} has invalid data at byte {archive.offset}: expected a member or the end of the archive.",
            hint="Copy the archive again. It was damaged, or data was appended to it.",
        )


def check_member(member: tarfile.TarInfo, name: str) -> None:
    """Check that a member is a regular file with a path below a folder.

    Raises:
        VerificationError: `archive.unsafe-path` if the path points outside the folder.
        VerificationError: `archive.unsafe-member` if the member is a link, device, pipe, folder or sparse file.
    """
    path = member.name
    if not is_safe_relative(path):
        raise SealingCode.ARCHIVE_UNSAFE_PATH.error(
            f"{name} contains an unsafe path: expected a path below a folder, got {path!r}.",
            hint="Run `sealserve release pack` to pack the release again.",
        )
    if not _is_plain(member):
        kind = _KINDS.get(member.type, "not a regular file")
        raise SealingCode.ARCHIVE_UNSAFE_MEMBER.error(
            f"{name} contains an unsafe member: {path!r} is {kind}, but only regular files are permitted.",
            hint="Run `sealserve release pack` to pack the release again.",
        )


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None


def write(content: BinaryIO, path: Path) -> None:
    """Write the content of a member to the new file ``path``. Missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as output:
        shutil.copyfileobj(content, output, _COPY_SIZE)


@contextlib.contextmanager
def _tar_errors(stream: BinaryIO, size: int, name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, *_LIBRARY_ERRORS) as error:
        if stream.tell() >= size:
            raise _cut_off(name, "inside a header") from error
        raise SealingCode.ARCHIVE_NOT_A_TAR.error(
            f"{name} is not a tar archive, or one of its headers is damaged: {error}.",
            hint="Copy the archive again.",
        ) from error


def _cut_off(name: str, where: str) -> SealserveError:
    return SealingCode.ARCHIVE_TRUNCATED.error(f"{name} is truncated: it ends {where}.", hint="Copy the archive again.")


class _BoundedReads(io.RawIOBase):
    """A file that limits the size of single reads, because tarfile trusts the claimed length of extended headers."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()
