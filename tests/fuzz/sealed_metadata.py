"""Metadata and an MHT node with arbitrary content, sealed correctly, as an attacker with the key could create them.

Their sizes, paths and entries may be nonsense. They must not consume more memory or time than the file size justifies.
"""

import hashlib
import os
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.errors import VerificationError
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.protected_file import METADATA_SIZE, Header, Metadata, metadata_key
from sealserve.sealing.reader import SealedReader
from sealserve.secret import SecretBytes

KEY = SecretBytes(bytes(16))
NONCE = bytes(32)
NODE = 4096


def seeds() -> Iterator[bytes]:
    """Yield metadata with small, odd and impossible sizes, each followed by an MHT node."""
    for size in (0, 1, 3072, 3073, 7168, 2**31, 2**63, 2**64 - 1):
        for path in (b"p", b"", b"\xff\xfe", b"x" * 771):
            head = hashlib.shake_128(path).digest(3072)
            yield Metadata(path=path, file_size=size, root_entry=bytes(32), head=head).to_bytes() + bytes(32)


def fuzz(data: bytes) -> None:
    """Seal ``data`` as metadata, MHT node and data nodes, and read the result."""
    metadata = bytearray(data[:METADATA_SIZE].ljust(METADATA_SIZE, b"\0"))
    tree = data[METADATA_SIZE:][:NODE].ljust(NODE, b"\0")
    sealed_tree = AESGCM(bytes(16)).encrypt(bytes(12), tree, None)
    metadata[780:812] = bytes(16) + sealed_tree[NODE:]
    version = FormatVersion.V2_0 if data[:1] > b"\x7f" else FormatVersion.V1_0
    encrypted = AESGCM(metadata_key(KEY, NONCE)).encrypt(bytes(12), bytes(metadata), None)
    header = Header(version=version, nonce=NONCE, metadata=encrypted[:METADATA_SIZE], metadata_mac=encrypted[-16:])
    memory = os.memfd_create("sealed")
    try:
        os.pwrite(memory, header.to_bytes() + sealed_tree[:NODE] + data[METADATA_SIZE + NODE :], 0)
        try:
            reader = SealedReader(memory, name="it", key=KEY, expected_path=None, allow_trailing=True)
            _ = reader.embedded_path.encode()
            content = b"".join(map(bytes, reader.chunks()))
        except VerificationError as error:
            assert error.code.startswith("sealed-file.")  # noqa: PT017  # a fuzz target, not a test
        else:
            assert len(content) == reader.size
            assert content[:3072] == bytes(metadata[812:])[: reader.size]
    finally:
        os.close(memory)
