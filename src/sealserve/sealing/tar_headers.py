"""Tar headers from an untrusted sender, read with tarfile but without its unsafe features.

tarfile reads the map of a sparse file before its caller gets the member. It applies global headers to all later
members. It searches extended headers with regular expressions that take quadratic time (CVE-2024-6232). A packed
release has only regular files. Therefore a sparse member is returned unread for the caller to reject, and this module
rejects the other features.

Source: POSIX.1-2017, pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files"; CPython, Lib/tarfile.py: "To
implement a new type, override ``_proc_member``".
"""

import tarfile
from typing import Any, Final, Self

MAX_EXTENDED: Final = 64 * 1024
"""Maximum size of one extended header in bytes. A path and a size take a few hundred bytes."""

MAX_CHAINED: Final = 4
"""Maximum number of extended headers before one member. GNU tar writes a long name and a long link, pax writes one."""

_LONGEST_LENGTH: Final = 6  # maximum digits of the length of a record
_LONGEST_SIZE: Final = 20  # maximum digits of the size of a member
_EXTENDED: Final = (
    tarfile.XGLTYPE, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class PlainTarInfo(tarfile.TarInfo):
    """The header of one member."""

    def _proc_member(self, archive: Any) -> Self:
        if self.type not in _EXTENDED:
            archive.chained = 0
            return self._proc_builtin(archive)  # type: ignore[attr-defined,no-any-return]  # a sparse member too: unread
        archive.chained += 1
        if not 0 <= self.size <= MAX_EXTENDED:
            raise tarfile.ReadError(f"a header claims {self.size} bytes")
        if self.type == tarfile.XGLTYPE or archive.chained > MAX_CHAINED:
            raise tarfile.ReadError("a global header, or too many consecutive extended headers")
        if self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            return self._proc_gnulong(archive)  # type: ignore[attr-defined,no-any-return]
        return self._proc_pax(archive)

    def _proc_pax(self, archive: Any) -> Self:
        blocks = archive.fileobj.read(self._block(self.size))  # type: ignore[attr-defined]
        records = pax_records(blocks[: self.size])
        try:
            member: Self = self.fromtarfile(archive)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header follows an extended header: {error}") from None
        member.offset = self.offset
        member.name = records.get("path", member.name)
        member.linkname = records.get("linkpath", member.linkname)
        if "size" in records:
            member.size = _size(records["size"])
            archive.offset = member.offset_data + self._block(member.size)  # type: ignore[attr-defined]
        if any(keyword.startswith("GNU.sparse.") for keyword in records):
            member.type = tarfile.GNUTYPE_SPARSE  # independently of its map
        return member


class PlainTarFile(tarfile.TarFile):
    """An archive whose members are parsed with `PlainTarInfo`.

    Attributes:
        chained: The number of extended headers since the last member.
    """

    tarinfo = PlainTarInfo
    chained = 0


def pax_records(content: bytes) -> dict[str, str]:
    """Parse the records of a pax extended header: length of the record, blank, keyword, ``=``, value, newline.

    Raises:
        tarfile.ReadError: A record does not have this form.
    """
    records: dict[str, str] = {}
    position = 0
    while position < len(content):
        digits, blank, _ = content[position : position + _LONGEST_LENGTH + 1].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = content[position + len(digits) + 1 : position + length]
        keyword, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not (keyword and equals and record.endswith(b"\n") and position + length <= len(content)):
            raise tarfile.ReadError("a record of an extended header is damaged")
        records[keyword.decode("utf-8", "replace")] = value.decode("utf-8")
        position += length
    return records


def _size(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_SIZE):
        raise tarfile.ReadError("the size in an extended header is not a number")
    return int(text)
