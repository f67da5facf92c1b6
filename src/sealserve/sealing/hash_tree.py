"""The tree of MHT nodes in constant memory, for writing a file in order and for reading it in any order.

MHT (Merkle hash tree) nodes are numbered breadth first, and each precedes its data nodes in the file. A node with
children is needed early, because its data nodes come first. It is complete only late, because its children must be
encrypted before it. Keeping all such nodes in memory would take 1/3072 of the file's size. Therefore they are stored
temporarily at their own position in the output, encrypted with a key that never leaves this process. They are read
back when their last child is complete.

Source: protected_files.c at gramineproject/gramine ff71d7af (ipf_read_mht_node, ipf_update_all_data_and_mht_nodes).
"""

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.regular_file import read_at, write_at
from sealserve.sealing.node_cipher import SPARE, NodeCipher, NodeMacError
from sealserve.sealing.protected_file import (
    CHILD_ENTRIES_SIZE,
    CHILDREN_PER_MHT,
    DATA_ENTRIES_SIZE,
    ENTRY_SIZE,
    MAC_SIZE,
    NODE_SIZE,
    child_count,
    mht_node_position,
    parent,
)

_NO_CHILDREN = bytes(CHILD_ENTRIES_SIZE)
_PARKED_SIZE = DATA_ENTRIES_SIZE + MAC_SIZE


class TreeNodeError(Exception):
    """An MHT node is missing or does not match its MAC. Internal: the caller raises its own error with the file's name.

    Args:
        index: The number of the MHT node.
        present: The number of its bytes that could be read.
    """

    def __init__(self, index: int, present: int) -> None:
        super().__init__(index, present)
        self.index = index
        self.present = present


class HashTreeWriter:
    """Writes the MHT nodes of one file. The groups must be placed in ascending order.

    Memory: the child entries of two nodes per level. A file of 600 TB has five levels.

    Args:
        descriptor: The output, open for reading and writing.
        total: The total number of MHT nodes, at least 1.
        cipher: Encrypts nodes.
    """

    def __init__(self, descriptor: int, total: int, cipher: NodeCipher) -> None:
        self._descriptor = descriptor
        self._total = total
        self._cipher = cipher
        self._children: dict[int, bytearray] = {}
        self._unfinished: dict[int, int] = {}
        self._parking = AESGCM(os.urandom(16))
        self._content = memoryview(bytearray(NODE_SIZE))
        self._node = memoryview(bytearray(NODE_SIZE + SPARE))
        self.root_entry: bytes | None = None

    def place(self, index: int, data_entries: bytes | bytearray, slot: memoryview) -> None:
        """Store in ``slot`` the current content for the position of MHT node ``index``.

        If this is the last child of a node, the node is written to the output. Its group must already be in the output.
        After the last call, ``root_entry`` is set.

        Args:
            index: The number of the MHT node; 0, 1, 2 and so on.
            data_entries: The keys and MACs of its data nodes, zero-padded to 3072 bytes.
            slot: 4096 bytes. The caller must write them to the output before the next call.
        """
        if child_count(index, self._total):
            slot[:_PARKED_SIZE] = self._parking.encrypt(_nonce(index), bytes(data_entries), None)
            slot[_PARKED_SIZE:] = bytes(NODE_SIZE - _PARKED_SIZE)
            return
        entry = self._encrypt(data_entries, _NO_CHILDREN)
        slot[:] = self._node[:NODE_SIZE]
        while index:
            index, place = parent(index)  # continue with the parent
            if not self._finish_child(index, place, entry):
                return
            entry = self._encrypt(self._fetch(index), self._children.pop(index))
            write_at(self._descriptor, self._node[:NODE_SIZE], mht_node_position(index) * NODE_SIZE)
        self.root_entry = entry

    def _finish_child(self, index: int, slot: int, entry: bytes) -> bool:
        entries = self._children.setdefault(index, bytearray(CHILD_ENTRIES_SIZE))
        entries[slot * ENTRY_SIZE : (slot + 1) * ENTRY_SIZE] = entry
        left = self._unfinished.pop(index, child_count(index, self._total)) - 1
        if left:
            self._unfinished[index] = left
        return left == 0

    def _encrypt(self, data_entries: bytes | bytearray, child_entries: bytes | bytearray) -> bytes:
        """Encrypt an MHT node into ``_node`` and return its entry (key and MAC)."""
        self._content[:DATA_ENTRIES_SIZE] = data_entries
        self._content[DATA_ENTRIES_SIZE:] = child_entries
        entry = bytearray(ENTRY_SIZE)
        self._cipher.encrypt(self._content, self._node, memoryview(entry))
        return bytes(entry)

    def _fetch(self, index: int) -> bytes:
        parked = bytearray(_PARKED_SIZE)
        read_at(self._descriptor, memoryview(parked), mht_node_position(index) * NODE_SIZE)
        return self._parking.decrypt(_nonce(index), parked, None)


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "little")  # each node is stored once, so no nonce repeats


class HashTreeReader:
    """Decrypts and verifies MHT nodes. It caches one node per level, so reading in order decrypts each node once.

    Args:
        descriptor: The encrypted file.
        root_entry: The key and MAC of MHT node 0.
        cipher: Decrypts nodes.
    """

    def __init__(self, descriptor: int, root_entry: bytes, cipher: NodeCipher) -> None:
        self._descriptor = descriptor
        self._root_entry = root_entry
        self._cipher = cipher
        self._path: dict[int, tuple[int, memoryview]] = {}  # level -> the last node read

    def node(self, index: int) -> memoryview:
        """Return the content of MHT node ``index``, 4096 bytes: 96 data entries, 32 child entries.

        Raises:
            TreeNodeError: The node or one of its ancestors does not match its MAC or is missing.
        """
        level = _level(index)
        known = self._path.get(level)
        if known is not None and known[0] == index:
            return known[1]
        if index == 0:
            entry = memoryview(self._root_entry)
        else:
            above, slot = parent(index)
            start = DATA_ENTRIES_SIZE + slot * ENTRY_SIZE
            entry = self.node(above)[start : start + ENTRY_SIZE]
        sealed, content = memoryview(bytearray(NODE_SIZE + SPARE)), memoryview(bytearray(NODE_SIZE))
        present = read_at(self._descriptor, sealed[:NODE_SIZE], mht_node_position(index) * NODE_SIZE)
        if present < NODE_SIZE:
            raise TreeNodeError(index, present)
        try:
            self._cipher.decrypt(sealed, entry, content)
        except NodeMacError as error:
            raise TreeNodeError(index, present) from error
        self._path[level] = (index, content)
        return content


def _level(index: int) -> int:
    level = 0
    while index:
        index = (index - 1) // CHILDREN_PER_MHT
        level += 1
    return level
