"""Reader for the shared libraries that an ELF file requires (DT_NEEDED). The file is parsed and never executed.

Source: System V ABI, "Object Files" and "Dynamic Section"; System V ABI for AMD64; Linux ``include/uapi/linux/elf.h``.

| structure (64 bits, little-endian) | fields that are read: name, offset, size |
|---|---|
| ELF header | ``class`` 4 1, ``data`` 5 1, ``machine`` 18 2, ``phoff`` 32 8, ``phentsize`` 54 2, ``phnum`` 56 2 |
| program header, 56 bytes | ``type`` 0 4, ``offset`` 8 8, ``vaddr`` 16 8, ``filesz`` 32 8 |
| dynamic entry, 16 bytes | ``tag`` 0 8, ``value`` 8 8 |
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MAGIC: Final = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_X86_64: Final = 62
_HEADER: Final = 64
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_ENTRY: Final = struct.Struct("<qQ")
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRING_TABLE = 1, 5
_LONGEST_NAME: Final = 255
_MOST_HEADERS: Final = 1024
_MOST_ENTRIES: Final = 4096


def needed_libraries(path: Path) -> tuple[str, ...]:
    """Return the names of the libraries that a file requires; empty if it is not an ELF file for x86-64.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        if not stream.read(len(_MAGIC)).startswith(_MAGIC):
            return ()
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return tuple(_needed(content))
            except (struct.error, OverflowError, ValueError):
                return ()  # truncated or malformed: the dynamic loader would not load it either


def _needed(content: mmap.mmap) -> Iterator[str]:
    (machine,) = struct.unpack_from("<H", content, 18)
    if machine != _X86_64:
        return
    table, size, count = (
        struct.unpack_from("<Q", content, 32)[0],
        struct.unpack_from("<H", content, 54)[0],
        struct.unpack_from("<H", content, 56)[0],
    )
    if size != _PROGRAM_HEADER.size:
        return
    # type, flags, offset in the file, address, -, size in the file, ...
    headers = [_PROGRAM_HEADER.unpack_from(content, table + index * size) for index in range(min(count, _MOST_HEADERS))]
    loads = [(header[3], header[2], header[5]) for header in headers if header[0] == _LOAD]
    for header in headers:
        if header[0] == _DYNAMIC:
            entries = list(_entries(content, header[2], header[5]))
            strings = next((value for tag, value in entries if tag == _STRING_TABLE), None)
            if strings is not None:
                names = (_offset(strings, loads) + value for tag, value in entries if tag == _NEEDED)
                yield from (_text(content, at) for at in names)


def _entries(content: mmap.mmap, offset: int, size: int) -> Iterator[tuple[int, int]]:
    for index in range(min(size // _ENTRY.size, _MOST_ENTRIES)):
        tag, value = _ENTRY.unpack_from(content, offset + index * _ENTRY.size)
        if tag == 0:
            return
        yield tag, value


def _offset(address: int, loads: list[tuple[int, int, int]]) -> int:
    """Return the offset in the file of a virtual address."""
    for start, offset, size in loads:
        if start <= address < start + size:
            return address - start + offset
    raise ValueError("no segment contains the string table")


def _text(content: mmap.mmap, at: int) -> str:
    end = content.find(b"\0", at, at + _LONGEST_NAME)
    if end <= at:
        raise ValueError("the name of a library is not terminated")
    return content[at:end].decode("ascii")
