"""TFRecord files: TensorFlow's format for a sequence of byte strings, as the file of warm-up requests has it.

A record consists of the length of its content, the length's checksum, the content, and the content's checksum.

Source: tensorflow/tensorflow, ``core/lib/io/record_writer.cc`` and ``record_reader.cc`` (layout),
``core/lib/hash/crc32c.h`` (checksums).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct("<QI")
_LENGTH: Final = struct.Struct("<Q")
_CHECKSUM: Final = struct.Struct("<I")
_CASTAGNOLI: Final = 0x82F63B78


class DamagedRecordError(ValueError):
    """A file is damaged, or is not a TFRecord file.

    Args:
        offset: Position of the record in the file, in bytes.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"corrupted record at {offset}")
        self.offset = offset


def record(content: bytes) -> bytes:
    """Return a record with this content. The checksum is computed in Python: use it for a few kilobytes at most."""
    length = _LENGTH.pack(len(content))
    return length + _CHECKSUM.pack(_masked_crc(length)) + content + _CHECKSUM.pack(_masked_crc(content))


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file's records.

    The checksum of the length is verified, which detects files of a different format. The checksum of the content is
    not.

    Raises:
        DamagedRecordError: The file is damaged, or is not a TFRecord file.
    """
    with path.open("rb") as stream:
        offset = 0
        while header := stream.read(_HEADER.size):
            if len(header) < _HEADER.size or _masked_crc(header[: _LENGTH.size]) != _HEADER.unpack(header)[1]:
                raise DamagedRecordError(offset)
            length = _HEADER.unpack(header)[0]
            if length > path.stat().st_size:
                raise DamagedRecordError(offset)
            content = stream.read(length)
            if len(content) < length or len(stream.read(_CHECKSUM.size)) < _CHECKSUM.size:
                raise DamagedRecordError(offset)
            yield content
            offset = stream.tell()


def _masked_crc(content: bytes) -> int:
    """Return the CRC-32C of ``content``, rotated and offset as in TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
