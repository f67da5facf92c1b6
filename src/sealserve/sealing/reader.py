"""Reads one encrypted file: nothing leaves here that was not authenticated."""

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
"""How many entries are tried to find out where a wrong node comes from: half a second's work."""


class TamperedNodeError(VerificationError):
    """A node is not the one that was sealed: changed, moved, or from an older or another file.

    Args:
        name: The file, as errors name it.
        position: The node's position in the file.
    """

    code = "sealed-file.tampered-node"

    def __init__(self, name: str, position: int) -> None:
        super().__init__(
            f"{name} was tampered with or damaged: {protected_file.describe_node(position)}, "
            f"at byte {position * NODE_SIZE}, does not match its MAC.",
            hint="Copy the file again from where it was sealed.",
        )
        self.position = position


class MovedNodeError(TamperedNodeError):
    """A node stands in the place of another one of the same file: somebody swapped or copied nodes.

    That is told apart from other changes where the entry that the node was sealed with can still be read: not if the
    MHT node that holds it was moved or changed as well, and in a file of more than 1 GiB only near the node.

    Args:
        name: The file, as errors name it.
        position: The node's position in the file.
        origin: Where it was sealed to be.
    """

    code = "sealed-file.moved-node"

    def __init__(self, name: str, position: int, origin: int) -> None:
        super().__init__(name, position)
        self.message = (
            f"{name} was tampered with: {protected_file.describe_node(position)}, at byte {position * NODE_SIZE}, "
            f"is what was sealed as {protected_file.describe_node(origin)}."
        )
        self.origin = origin


class SealedReader:
    """An open encrypted file whose metadata has been verified.

    How a file is verified:

    1. node 0 is there, with the file id and a known format version;
    2. the metadata matches its MAC under the key derived from the wrap key and the nonce;
    3. the embedded path is the expected one;
    4. the file has exactly as many nodes as its content needs;
    5. each MHT node matches the MAC in the metadata or in its parent, each data node that in its MHT node.

    Steps 1 to 4 are taken here at once, step 5 for each part that is read. Memory, whatever the size: one group
    (384 KiB) of ciphertext and one of plaintext for each thread, and one MHT node of each level.

    Args:
        descriptor: The file, open for reading.
        name: What to call it in errors.
        key: The wrap key, 16 bytes.
        expected_path: The path that it must have been sealed with, or None to accept any.
        allow_trailing: Whether there may be something behind the last node. Gramine's tool leaves old nodes there when
            it overwrites a longer file.
        cipher: Decrypts nodes; None stands for the fastest one here.

    Raises:
        VerificationError: `sealed-file.bad-magic`: No encrypted file.
        VerificationError: `sealed-file.unknown-version`: A format that is not known.
        InputError: `sealed-file.key-length`: The key does not have 16 bytes.
        VerificationError: `sealed-file.wrong-key`: Another key, or a changed node 0.
        PathMismatchError: Sealed with another path.
        VerificationError: `sealed-file.truncated`: Too short.
        VerificationError: `sealed-file.trailing-data`: Too long.
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
        """The path that the file was sealed with."""
        return paths.decode(self._metadata.path)

    @property
    def size(self) -> int:
        """Size of the content in bytes."""
        return self._metadata.file_size

    def chunks(self) -> Iterator[memoryview]:
        """Yield the content in order, in verified pieces. A piece is valid until the next one is asked for.

        Raises:
            TamperedNodeError: A node does not match its MAC.
            VerificationError: `sealed-file.truncated`: The file became shorter meanwhile.
        """
        if self.size:
            yield self._head()
        for group in protected_file.groups(self.size):
            yield self._open_group(group, self._entries(group))

    def write_to(
        self, descriptor: int, *, progress: Callable[[int], object] | None = None, threads: int | None = None
    ) -> None:
        """Write the content to an empty file. What was written before an error is verified, and not all.

        Args:
            descriptor: The file, open for writing.
            progress: Called in this thread with the number of bytes done since the last call; what it raises ends the
                work.
            threads: How many work at a time, or None for as many as help.

        Raises:
            TamperedNodeError: A node does not match its MAC; of several such nodes, the first run's.
            VerificationError: `sealed-file.truncated`: The file became shorter meanwhile.
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
        """Fill ``buffer`` from byte ``offset`` of the content on; only the nodes that it lies in are decrypted.

        Returns:
            How many bytes were read; fewer than ``len(buffer)`` only at the end of the content.

        Raises:
            TamperedNodeError: A node does not match its MAC.
            VerificationError: `sealed-file.truncated`: The file became shorter meanwhile.
        """
        wanted = max(0, min(len(buffer), self.size - offset))
        done = 0
        while done < wanted:
            piece = self._piece(offset + done, wanted - done)
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _piece(self, offset: int, wanted: int) -> memoryview:
        """Return up to ``wanted`` bytes of content at ``offset``: the rest of the head, or of a group."""
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
        """Return keys and MACs of the group's data nodes (5). One thread only."""
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

        Each entry is tried, those of ``parent`` first: the node may be another one of this file.
        """
        node, plain = memoryview(bytearray(NODE_SIZE + SPARE)), memoryview(bytearray(NODE_SIZE))
        for origin, entry in itertools.islice(self._entries_from(parent), _TRIED_ENTRIES):
            read_at(self._descriptor, node[:NODE_SIZE], position * NODE_SIZE)
            with contextlib.suppress(NodeMacError):
                self._cipher.decrypt(node, entry, plain)
                if origin != position:  # else the host has put the right node back meanwhile
                    return MovedNodeError(self._name, position, origin)
        return TamperedNodeError(self._name, position)

    def _entries_from(self, start: int) -> Iterator[tuple[int, memoryview]]:
        """Yield the position of each node but the first two, and its entry: those in MHT node ``start`` come first."""
        tree = HashTreeReader(self._descriptor, self._metadata.root_entry, self._cipher)  # other threads use ours
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
        """Return ``count`` data nodes of the group from its node ``first`` on (5), in a buffer of this thread."""
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
                f"{self._name} is cut off: it has {found} bytes, and its content of {self.size} bytes needs {needed}.",
                hint="Copy the file again from where it was sealed.",
            )
        if found > needed and not allow_trailing:
            raise SealingCode.SEALED_FILE_TRAILING_DATA.error(
                f"{self._name} has {found - needed} bytes behind its last node: {found} bytes, expected {needed}.",
                hint="Gramine's tool leaves such bytes when it overwrites a longer file: seal it to a new file.",
            )

    def _cut_off(self, position: int) -> SealserveError:
        return SealingCode.SEALED_FILE_TRUNCATED.error(
            f"{self._name} became shorter while it was read: {protected_file.describe_node(position)} is missing."
        )


def _entry(entries: memoryview, slot: int) -> memoryview:
    return entries[slot * ENTRY_SIZE : (slot + 1) * ENTRY_SIZE]


def read_header(descriptor: int, *, name: str) -> Header:
    """Return the plain part of node 0; no key is needed, and nothing is verified.

    Raises:
        VerificationError: `sealed-file.bad-magic`: No encrypted file.
        VerificationError: `sealed-file.unknown-version`: A format that is not known.
        VerificationError: `sealed-file.truncated`: Not even one node.
    """
    node = bytearray(NODE_SIZE)
    present = read_at(descriptor, memoryview(node), 0)
    if present < NODE_SIZE:
        raise SealingCode.SEALED_FILE_TRUNCATED.error(
            f"{name} has {present} bytes; a sealed file has at least one node of {NODE_SIZE} bytes."
        )
    return Header.parse(bytes(node), name=name)


def _decrypt_metadata(header: Header, key: SecretBytes, name: str) -> Metadata:
    cipher = AESGCM(protected_file.metadata_key(key, header.nonce))
    try:
        return Metadata.parse(cipher.decrypt(ZERO_IV, header.metadata + header.metadata_mac, None))
    except InvalidTag as error:
        raise SealingCode.SEALED_FILE_WRONG_KEY.error(
            f"{name} does not open with this key: the MAC of its metadata (node 0) does not match.",
            hint="It was sealed with another key, or its first 4096 bytes were changed.",
        ) from error
