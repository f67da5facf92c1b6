"""A streaming writer for one encrypted file, to an open descriptor.

The work is divided into runs of groups. One thread reads, encrypts and writes each run, in any order. The resulting
entries of the MHT nodes are added to the tree by the caller's thread, in order.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.errors import SealserveError
from sealserve.regular_file import read_at, write_at
from sealserve.sealing import node_cipher, protected_file
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.hash_tree import HashTreeWriter
from sealserve.sealing.node_cipher import SPARE, ZERO_IV, NodeCipher
from sealserve.sealing.ordered_work import GroupBuffers, fitting_threads, in_order, runs
from sealserve.sealing.protected_file import (
    DATA_ENTRIES_SIZE,
    ENTRY_SIZE,
    HEAD_SIZE,
    MAC_SIZE,
    NODE_SIZE,
    NONCE_SIZE,
    Group,
    Header,
    Metadata,
)
from sealserve.secret import SecretBytes

MAX_SIZE: Final = 2**63 - 1  # file offsets are signed


class Plaintext(Protocol):
    """The plaintext to seal: content of a known size that can be read at any offset."""

    @property
    def size(self) -> int:
        """The size in bytes."""
        ...

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the content from byte ``offset``."""
        ...


class FilePlaintext:
    """An open regular file as the plaintext. It must not change during sealing.

    Args:
        descriptor: The file, open for reading.
        path: The file's path, for errors.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self._status = os.fstat(descriptor)

    @property
    def size(self) -> int:
        """The size in bytes at the time of opening."""
        return self._status.st_size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the content from byte ``offset``.

        Raises:
            InputError: `sealed-file.source-changed` if the file became shorter.
        """
        if read_at(self._descriptor, buffer, offset) < len(buffer):
            raise self._changed()

    def check_unchanged(self) -> None:
        """Check that the file has not changed since it was opened.

        Raises:
            InputError: `sealed-file.source-changed` if its size or modification time differs.
        """
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise self._changed()

    def _changed(self) -> SealserveError:
        return SealingCode.SEALED_FILE_SOURCE_CHANGED.error(
            f"{self._path} changed while it was being sealed (its initial size was {self._status.st_size} bytes).",
            hint="Wait until no program writes to the file, and seal it again.",
        )


class BytesPlaintext:
    """Bytes in memory as the plaintext."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self._content)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the content from byte ``offset``."""
        buffer[:] = self._content[offset : offset + len(buffer)]


def write_sealed(
    plaintext: Plaintext,
    descriptor: int,
    *,
    key: SecretBytes,
    embedded_path: bytes,
    version: FormatVersion,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
    cipher: NodeCipher | None = None,
) -> None:
    """Write ``plaintext`` as an encrypted file.

    The memory use is independent of the size: one group (384 KiB) of plaintext and one of ciphertext for each thread.
    Node 0 is written last.

    Args:
        plaintext: The content.
        descriptor: An empty file, open for reading and writing.
        key: The wrap key, 16 bytes.
        embedded_path: The path that is authenticated with the content.
        version: The format version.
        progress: Called in this thread with the number of bytes processed since the last call. An exception from it
            ends the work.
        threads: The number of threads. `None` selects the number that is useful for the file size.
        cipher: Encrypts nodes. `None` selects the fastest available cipher.

    Raises:
        InputError: `sealed-file.key-length` if the key does not have 16 bytes.
        InputError: `sealed-file.source-changed` if the source became shorter.
    """
    cipher = cipher or node_cipher.DEFAULT
    nonce = os.urandom(NONCE_SIZE)
    metadata_cipher = AESGCM(protected_file.metadata_key(key, nonce))
    size = plaintext.size
    head = memoryview(bytearray(HEAD_SIZE))
    plaintext.read_into(head[: min(size, HEAD_SIZE)], 0)
    if progress is not None:
        progress(min(size, HEAD_SIZE))

    threads = threads or fitting_threads(size, cipher)
    tree = HashTreeWriter(descriptor, protected_file.mht_nodes(size), cipher)
    encrypt = _GroupEncryptor(plaintext, descriptor, cipher)
    slot = memoryview(bytearray(NODE_SIZE))
    with in_order(encrypt, runs(size, threads), threads=threads) as results:
        for run, entries in results:
            for group, data_entries in zip(run, entries, strict=True):
                tree.place(group.index, data_entries, slot)
                write_at(descriptor, slot, group.offset)
            if progress is not None:
                progress(sum(group.plain_size for group in run))

    metadata = Metadata(
        path=embedded_path, file_size=size, root_entry=tree.root_entry or bytes(ENTRY_SIZE), head=bytes(head)
    )
    encrypted = metadata_cipher.encrypt(ZERO_IV, metadata.to_bytes(), None)
    header = Header(version=version, nonce=nonce, metadata=encrypted[:-MAC_SIZE], metadata_mac=encrypted[-MAC_SIZE:])
    write_at(descriptor, header.to_bytes(), 0)


class _GroupEncryptor:
    """Reads, encrypts and writes the data nodes of runs of groups. Each thread has its own buffers."""

    def __init__(self, plaintext: Plaintext, descriptor: int, cipher: NodeCipher) -> None:
        self._plaintext = plaintext
        self._descriptor = descriptor
        self._cipher = cipher
        self._buffers = GroupBuffers(plaintext.size)

    def __call__(self, run: Sequence[Group]) -> list[bytearray]:
        """Return the data entries of each group's MHT node, zero-padded to 3072 bytes."""
        return [self._encrypt(group) for group in run]

    def _encrypt(self, group: Group) -> bytearray:
        used = group.data_nodes * NODE_SIZE
        sealed, plain = self._buffers.of_this_thread()
        self._plaintext.read_into(plain[: group.plain_size], group.plain_offset)
        plain[group.plain_size : used] = bytes(used - group.plain_size)
        entries = bytearray(DATA_ENTRIES_SIZE)
        self._cipher.encrypt(plain[:used], sealed[: used + SPARE], memoryview(entries)[: group.data_nodes * ENTRY_SIZE])
        write_at(self._descriptor, sealed[:used], group.offset + NODE_SIZE)
        return entries
