"""Tar files of plain regular files, read as what a hostile sender may have made of them."""

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

_MAX_HEADER: Final = 2**20  # tarfile reads an extended header in one piece
_MIN_END: Final = 2 * tarfile.BLOCKSIZE  # two blocks of zeros
_MAX_END: Final = 2**20
_COPY_SIZE: Final = 2**18
_LIBRARY_ERRORS: Final = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError, EOFError)
"""What tarfile raises for headers that it does not foresee."""
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
    """Add the regular file ``source`` as ``name``; what the machine knows of it besides its content is left out."""
    with open_regular(source, follow_links=False) as descriptor:
        member = tarfile.TarInfo(name)
        member.size = os.fstat(descriptor).st_size
        member.mtime = moment
        with open(descriptor, "rb", closefd=False) as stream:
            archive.addfile(member, stream)


def members(stream: BinaryIO, name: str) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Yield each member with its content, and make sure that the archive ends as a tar file does.

    Args:
        stream: The file.
        name: What to call it in errors.

    Raises:
        VerificationError: `archive.not-a-tar`: No tar file.
        VerificationError: `archive.truncated`: It is cut off.
        VerificationError: `archive.trailing-data`: There is something behind its end.
    """
    size = os.fstat(stream.fileno()).st_size
    if size < tarfile.BLOCKSIZE:
        raise SealingCode.ARCHIVE_NOT_A_TAR.error(f"{name} is no tar file: it has {size} bytes.")
    with _tar_errors(stream, size, name):
        archive = PlainTarFile.open(fileobj=_BoundedReads(stream), mode="r:")  # the caller owns the stream
    while True:
        with _tar_errors(stream, size, name):
            member = archive.next()
            if member is None:
                break
            content = archive.extractfile(member) if _is_plain(member) else None
            if content is not None and member.offset_data + member.size > size:
                raise _cut_off(name, f"in {member.name!r}")
        yield member, cast("BinaryIO", content or io.BytesIO())
    stream.seek(archive.offset)
    rest = stream.read(_MAX_END + 1)
    if len(rest) < _MIN_END:
        raise _cut_off(name, "before the mark of its end")
    if len(rest) > _MAX_END or any(rest):
        raise SealingCode.ARCHIVE_TRAILING_DATA.error(
            f"{name}: what follows byte {archive.offset} is neither a member nor the end of a tar file.",
            hint="It was damaged, or something was added to it.",
        )


def check_member(member: tarfile.TarInfo, name: str) -> None:
    """Make sure that a member is a plain regular file with a path below a folder.

    Raises:
        VerificationError: `archive.unsafe-path`: A path that leads outside.
        VerificationError: `archive.unsafe-member`: A link, device, pipe, folder or sparse file.
    """
    path = member.name
    if not is_safe_relative(path):
        raise SealingCode.ARCHIVE_UNSAFE_PATH.error(f"{name}: the path {path!r} is not one below a folder.")
    if not _is_plain(member):
        kind = _KINDS.get(member.type, "no regular file")
        raise SealingCode.ARCHIVE_UNSAFE_MEMBER.error(
            f"{name}: {path!r} is {kind}; a packed release has plain files only."
        )


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None


def write(content: BinaryIO, path: Path) -> None:
    """Write a member's content to the new file ``path``; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as output:
        shutil.copyfileobj(content, output, _COPY_SIZE)


@contextlib.contextmanager
def _tar_errors(stream: BinaryIO, size: int, name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, *_LIBRARY_ERRORS) as error:
        if stream.tell() >= size:
            raise _cut_off(name, "in a header") from error
        raise SealingCode.ARCHIVE_NOT_A_TAR.error(
            f"{name} is no tar file, or a header in it is damaged: {error}."
        ) from error


def _cut_off(name: str, where: str) -> SealserveError:
    return SealingCode.ARCHIVE_TRUNCATED.error(f"{name} was cut off: it ends {where}.", hint="Copy the archive again.")


class _BoundedReads(io.RawIOBase):
    """A file of which nobody reads a lot in one piece: tarfile trusts the length of extended headers."""

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
