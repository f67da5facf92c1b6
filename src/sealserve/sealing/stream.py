"""A sealed file as a Python stream: reads at any offset, from verified nodes only."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sealserve.regular_file import open_regular
from sealserve.sealing.reader import SealedReader
from sealserve.secret import SecretBytes

_BUFFER: Final = 2**16  # buffer size for small reads


class SealedStream(io.RawIOBase):
    """The content of an open sealed file as a seekable stream. Each read decrypts and verifies the nodes that it needs.

    Args:
        reader: The file with verified metadata. It must stay open as long as the stream.
    """

    def __init__(self, reader: SealedReader) -> None:
        super().__init__()
        self._reader = reader
        self._position = 0

    @property
    def embedded_path(self) -> str:
        """The path that the file is bound to."""
        return self._reader.embedded_path

    @property
    def size(self) -> int:
        """The size of the content in bytes."""
        return self._reader.size

    def readable(self) -> bool:
        """Return `True`: the stream supports reading."""
        return True

    def seekable(self) -> bool:
        """Return `True`: the stream supports seeking to any offset."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read into ``buffer`` and return the number of bytes, or 0 at the end of the content.

        Raises:
            TamperedNodeError: A node does not match its MAC. No data of this node was returned.
            VerificationError: `sealed-file.truncated` if the file became shorter meanwhile.
        """
        self._check_open()
        count = self._reader.read_into(memoryview(buffer).cast("B"), self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to ``offset`` and return the new position. Reads at a position after the end are empty."""
        self._check_open()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if position < 0:
            raise ValueError(f"the offset {position} is negative")
        self._position = position
        return position

    def tell(self) -> int:
        """Return the current position."""
        self._check_open()
        return self._position

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the stream is closed")


@contextlib.contextmanager
def open_sealed(
    path: Path,
    *,
    key: SecretBytes,
    embedded_path: str | None,
    allow_trailing: bool = False,
    follow_links: bool = True,
) -> Iterator["io.BufferedReader[SealedStream]"]:
    """Open the content of the sealed file ``path`` like ``open(..., "rb")``. See `SealedReader` for its errors.

    Args:
        path: A sealed file.
        key: The wrap key, 16 bytes.
        embedded_path: The path that the file must be bound to. `None` accepts any path.
        allow_trailing: Whether data after the last node is accepted.
        follow_links: Whether ``path`` itself may be a symbolic link.
    """
    with open_regular(path, follow_links=follow_links) as descriptor:
        reader = SealedReader(
            descriptor, name=str(path), key=key, expected_path=embedded_path, allow_trailing=allow_trailing
        )
        with io.BufferedReader(SealedStream(reader), _BUFFER) as stream:
            yield stream
