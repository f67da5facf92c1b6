"""A sealed file from an untrusted host: arbitrary bytes in place of a sealed file.

For any input, either each byte that is read was sealed, or a typed error states the reason.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from sealserve.errors import VerificationError
from sealserve.sealing.reader import SealedReader
from sealserve.secret import SecretBytes

VECTORS = Path(__file__).parent.parent / "conformance" / "encrypted-files"
KEY = SecretBytes(bytes.fromhex("000102030405060708090a0b0c0d0e0f"))


def seeds() -> Iterator[bytes]:
    """Yield files from Gramine's tools, and truncated parts of them."""
    for path in sorted(VECTORS.glob("v*/*.pf")):
        raw = path.read_bytes()
        if len(raw) <= 3 * 4096:
            yield raw
            yield raw[:-1]
            yield raw + bytes(4096)


def fuzz(data: bytes) -> None:
    """Read ``data`` as a sealed file, in order and at an offset."""
    memory = os.memfd_create("sealed")
    try:
        os.pwrite(memory, data, 0)
        try:
            reader = SealedReader(
                memory, name="it", key=KEY, expected_path=None, allow_trailing=bool(data[-1:] > b"\x7f")
            )
            content = b"".join(map(bytes, reader.chunks()))
        except VerificationError as error:
            assert error.code.startswith("sealed-file.")  # noqa: PT017  # a fuzz target, not a test
            return
        assert len(content) == reader.size
        window = bytearray(100)
        count = reader.read_into(memoryview(window), reader.size // 2)
        assert window[:count] == content[reader.size // 2 :][:100]
    finally:
        os.close(memory)
