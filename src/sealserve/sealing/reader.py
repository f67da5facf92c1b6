"""A reader for one encrypted file. It returns only authenticated data."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.errors import SealserveError, VerificationError
from sealserve.regular_file import read_at, write_at
from sealserve.sealing import embedded_path as paths
from sealserve.sealing import node_cipher, protected_file
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.hash_tree import HashTreeReader, TreeNodeError
from sealserve.sealing.node_cipher import SPARE, ZERO_IV, NodeCipher, NodeMacError
from sealserve.sealing.ordered_work import GroupBuffers, fitting_threads, in_order, runs
from sealserve.sealing.protected_file import (
    CHILDREN_PER_MHT,
    DATA_ENTRIES_SIZE,
    DATA_PER_MHT,
    ENTRY_SIZE,
    GROUP_PLAIN_SIZE,
    HEAD_SIZE,
    NODE_SIZE,
    Group,
    Header,
    Metadata,
)
from sealserve.secret import SecretBytes

_TRIED_ENTRIES: Final = 2**18
"""The maximum number of entries that are tried to find the origin of a wrong node: about half a second of work."""


class TamperedNodeError(VerificationError):
    """A node does not match its MAC: it was changed, moved, or comes from an older version or another file.

    Args:
        name: The file's name in errors.
        position: The node's position in the file, counted in nodes.
    """

    code = "sealed-file.tampered-node"

    def __init__(self, name: str, position: int) -> None:
        super().__init__(
            f"{name} was changed or damaged after it was sealed: {protected_file.describe_node(position)}, "
            f"at byte {position * NODE_SIZE}, does not match its MAC.",
            hint="Copy the file again from where it was sealed.",
        )
        self.position = position


class MovedNodeError(TamperedNodeError):
    """A node is at the position of another node of the same file: nodes were swapped or copied.

    This error is reported only if the entry that the node was sealed with is still readable. It is not readable if its
    MHT node was moved or changed as well. In a file of more than 1 GiB, only nearby entries are tried.

    Args:
        name: The file's name in errors.
        position: The node's position in the file, counted in nodes.
        origin: The position of the node when it was sealed.
    """

    code = "sealed-file.moved-node"

    def __init__(self, name: str, position: int, origin: int) -> None:
        super().__init__(name, position)
        self.message = (
            f"{name} was tampered with: {protected_file.describe_node(position)}, at byte {position * NODE_SIZE}, "
            f"contains the node that was sealed as {protected_file.describe_node(origin)}."
        )
        self.origin = origin


class SealedReader:
    """An open encrypted file whose metadata has been verified.

    The verification has these steps:

    1. Node 0 exists, with the file id and a supported format version.
    2. The metadata matches its MAC with the key derived from the wrap key and the nonce.
    3. The embedded path equals the expected path.
    4. The file has exactly as many nodes as its content requires.
    5. Each MHT node matches its MAC in the metadata or in its parent. Each data node matches its MAC in its MHT node.

    The constructor performs steps 1 to 4. Step 5 is performed for each part that is read. The memory use is independent
    of the file size. For each thread it is one group (384 KiB) of ciphertext and one of plaintext, in addition to one
    MHT node per level.

    Args:
        descriptor: The file, open for reading.
        name: The file's name in errors.
        key: The wrap key, 16 bytes.
        expected_path: The path that the file must be bound to. `None` accepts any path.
        allow_trailing: Whether data after the last node is accepted. Gramine's tool leaves old nodes there when it
            overwrites a longer file.
        cipher: Decrypts nodes. `None` selects the fastest available cipher.

    Raises:
        VerificationError: `sealed-file.bad-magic` if the file is not an encrypted file.
        VerificationError: `sealed-file.unknown-version` if the format version is not supported.
        InputError: `sealed-file.key-length` if the key does not have 16 bytes.
        VerificationError: `sealed-file.wrong-key` if the key is wrong or node 0 was changed.
        PathMismatchError: The file was sealed with another path.
        VerificationError: `sealed-file.truncated` if the file is too short.
        VerificationError: `sealed-file.trailing-data` if the file is too long and ``allow_trailing`` is `False`.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        key: SecretBytes,
        expected_path: str | None,
        allow_trailing: bool = False,
        cipher: NodeCipher | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._name = name
        self._cipher = cipher or node_cipher.DEFAULT
        header = read_header(descriptor, name=name)  # (1)
        self._metadata = _decrypt_metadata(header, key, name)  # (2)
        if expected_path is not None and self._metadata.path != paths.encode(expected_path):  # (3)
            raise paths.PathMismatchError(name, expected=expected_path, found=self.embedded_path)
        self._check_length(os.fstat(descriptor).st_size, allow_trailing=allow_trailing)  # (4)
        self._buffers = GroupBuffers(self.size)
        self._tree = HashTreeReader(descriptor, self._metadata.root_entry, self._cipher)

    @property
    def embedded_path(self) -> str:
        """The path that the file is bound to."""
        return paths.decode(self._metadata.path)

    @property
    def size(self) -> int:
        """The size of the content in bytes."""
        return self._metadata.file_size

    def chunks(self) -> Iterator[memoryview]:
        """Yield the content in order, in verified pieces. A piece is valid only until the next one is requested.

        Raises:
            TamperedNodeError: A node does not match its MAC.
            VerificationError: `sealed-file.truncated` if the file became shorter meanwhile.
        """
        if self.size:
            yield self._head()
        for group in protected_file.groups(self.size):
            yield self._open_group(group, self._entries(group))

    def write_to(
        self, descriptor: int, *, progress: Callable[[int], object] | None = None, threads: int | None = None
    ) -> None:
        """Write the content to an empty file. After an error, the written part is verified but incomplete.

        Args:
            descriptor: The file, open for writing.
            progress: Called in this thread with the number of bytes processed since the last call. An exception from it
                ends the work.
            threads: The number of threads. `None` selects the number that is useful for the file size.

        Raises:
            TamperedNodeError: A node does not match its MAC. If several nodes fail, a node of the first run is
                reported.
            VerificationError: `sealed-file.truncated` if the file became shorter meanwhile.
        """
        write_at(descriptor, self._head(), 0)
        if progress is not None:
            progress(len(self._head()))

        def open_run(run: Sequence[tuple[Group, memoryview]]) -> int:
            for group, entries in run:
                write_at(descriptor, self._open_group(group, entries), group.plain_offset)
            return sum(group.plain_size for group, _ in run)

        threads = threads or fitting_threads(self.size, self._cipher)
        parts = ([(group, self._entries(group)) for group in run] for run in runs(self.size, threads))
        with in_order(open_run, parts, threads=threads) as results:
            for _, done in results:
                if progress is not None:
                    progress(done)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from byte ``offset`` of the content. Only the nodes that contain these bytes are decrypted.

        Returns:
            The number of bytes read. It is smaller than ``len(buffer)`` only at the end of the content.

        Raises:
            TamperedNodeError: A node does not match its MAC.
            VerificationError: `sealed-file.truncated` if the file became shorter meanwhile.
        """
        wanted = max(0, min(len(buffer), self.size - offset))
        done = 0
        while done < wanted:
            piece = self._piece(offset + done, wanted - done)
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _piece(self, offset: int, wanted: int) -> memoryview:
        """Return up to ``wanted`` bytes of content at ``offset``, at most to the end of the head or group."""
        if offset < HEAD_SIZE:
            return self._head()[offset : offset + wanted]
        index, start = divmod(offset - HEAD_SIZE, GROUP_PLAIN_SIZE)
        group = protected_file.group(index, self.size)
        end = min(start + wanted, group.plain_size)
        first, last = start // NODE_SIZE, (end - 1) // NODE_SIZE
        plain = self._open_nodes(group, self._entries(group), first, last - first + 1)
        return plain[start - first * NODE_SIZE : end - first * NODE_SIZE]

    def _head(self) -> memoryview:
        return memoryview(self._metadata.head)[: min(self.size, HEAD_SIZE)]

    def _entries(self, group: Group) -> memoryview:
        """Return the keys and MACs of the group's data nodes (step 5). Only one thread may call this."""
        try:
            return self._tree.node(group.index)[: group.data_nodes * ENTRY_SIZE]
        except TreeNodeError as error:
            position = protected_file.mht_node_position(error.index)
            if error.present < NODE_SIZE:
                raise self._cut_off(position) from error
            above = protected_file.parent(error.index)[0] if error.index else 0
            raise self._tampered(position, above) from error

    def _tampered(self, position: int, parent: int) -> TamperedNodeError:
        """Return the error for the node at ``position``, whose entry is in MHT node ``parent``.

        Other entries are tried, starting with the entries of ``parent``, because the node may be from another position.
        """
        node, plain = memoryview(bytearray(NODE_SIZE + SPARE)), memoryview(bytearray(NODE_SIZE))
        for origin, entry in itertools.islice(self._entries_from(parent), _TRIED_ENTRIES):
            read_at(self._descriptor, node[:NODE_SIZE], position * NODE_SIZE)
            with contextlib.suppress(NodeMacError):
                self._cipher.decrypt(node, entry, plain)
                if origin != position:  # otherwise the host restored the correct node meanwhile
                    return MovedNodeError(self._name, position, origin)
        return TamperedNodeError(self._name, position)

    def _entries_from(self, start: int) -> Iterator[tuple[int, memoryview]]:
        """Yield the position and entry of each node except the first two, starting with MHT node ``start``."""
        tree = HashTreeReader(self._descriptor, self._metadata.root_entry, self._cipher)  # other threads use self._tree
        total = protected_file.mht_nodes(self.size)
        for index in itertools.chain(range(start, total), range(start)):
            try:
                entries = tree.node(index)
            except TreeNodeError:
                continue
            for slot in range(protected_file.group(index, self.size).data_nodes):
                yield protected_file.data_node_position(index * DATA_PER_MHT + slot), _entry(entries, slot)
            for slot in range(protected_file.child_count(index, total)):
                child = index * CHILDREN_PER_MHT + 1 + slot
                yield protected_file.mht_node_position(child), _entry(entries[DATA_ENTRIES_SIZE:], slot)

    def _open_group(self, group: Group, entries: memoryview) -> memoryview:
        return self._open_nodes(group, entries, 0, group.data_nodes)[: group.plain_size]

    def _open_nodes(self, group: Group, entries: memoryview, first: int, count: int) -> memoryview:
        """Return ``count`` data nodes of the group from its node ``first`` (step 5), in a buffer of this thread."""
        sealed, plain = self._buffers.of_this_thread()
        used = count * NODE_SIZE
        present = read_at(self._descriptor, sealed[:used], group.offset + (1 + first) * NODE_SIZE)
        number = group.index * DATA_PER_MHT + first
        if present < used:
            raise self._cut_off(protected_file.data_node_position(number + present // NODE_SIZE))
        try:
            self._cipher.decrypt(
                sealed[: used + SPARE], entries[first * ENTRY_SIZE : (first + count) * ENTRY_SIZE], plain[:used]
            )
        except NodeMacError as error:
            raise self._tampered(protected_file.data_node_position(number + error.index), group.index) from error
        return plain[:used]

    def _check_length(self, found: int, *, allow_trailing: bool) -> None:
        needed = protected_file.sealed_size(self.size)
        if found < needed:
            raise SealingCode.SEALED_FILE_TRUNCATED.error(
                f"{self._name} is truncated: expected {needed} bytes for a content of {self.size} bytes, got {found}.",
                hint="Copy the file again from where it was sealed.",
            )
        if found > needed and not allow_trailing:
            raise SealingCode.SEALED_FILE_TRAILING_DATA.error(
                f"{self._name} has data after its last node: expected {needed} bytes, got {found}.",
                hint="Seal the plaintext to a new file: Gramine's tool leaves old data if it overwrites a longer file.",
            )

    def _cut_off(self, position: int) -> SealserveError:
        return SealingCode.SEALED_FILE_TRUNCATED.error(
            f"{self._name} became shorter while it was read: {protected_file.describe_node(position)} is missing.",
            hint="Copy the file again from where it was sealed.",
        )


def _entry(entries: memoryview, slot: int) -> memoryview:
    return entries[slot * ENTRY_SIZE : (slot + 1) * ENTRY_SIZE]


def read_header(descriptor: int, *, name: str) -> Header:
    """Return the plain part of node 0, without a key and without verification.

    Raises:
        VerificationError: `sealed-file.bad-magic` if the file is not an encrypted file.
        VerificationError: `sealed-file.unknown-version` if the format version is not supported.
        VerificationError: `sealed-file.truncated` if the file is shorter than one node.
    """
    node = bytearray(NODE_SIZE)
    present = read_at(descriptor, memoryview(node), 0)
    if present < NODE_SIZE:
        raise SealingCode.SEALED_FILE_TRUNCATED.error(
            f"{name} is too short for a sealed file: expected at least {NODE_SIZE} bytes, got {present}.",
            hint="Check the path, or copy the file again from where it was sealed.",
        )
    return Header.parse(bytes(node), name=name)


def _decrypt_metadata(header: Header, key: SecretBytes, name: str) -> Metadata:
    cipher = AESGCM(protected_file.metadata_key(key, header.nonce))
    try:
        return Metadata.parse(cipher.decrypt(ZERO_IV, header.metadata + header.metadata_mac, None))
    except InvalidTag as error:
        raise SealingCode.SEALED_FILE_WRONG_KEY.error(
            f"{name} cannot be decrypted with this key: the MAC of its metadata (node 0) does not match.",
            hint="Use the key that sealed the file. If it is this key, the first 4096 bytes were changed.",
        ) from error
