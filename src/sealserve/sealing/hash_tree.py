"""The tree of MHT nodes in constant memory, while a file is written in order and while it is read in any order.

MHT nodes are numbered breadth first, and each precedes its data nodes in the file. So a node that has children is
needed early (its data nodes come first) and known late (its children must be encrypted before it). Keeping all such
nodes in memory would take a 3072nd of the file's size. Instead they are parked at their own place in the output,
encrypted under a key that never leaves this process, and fetched when their last child is done.

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
    """An MHT node is tampered with or missing. Internal: the caller knows the file, and raises its own error.

    Args:
        index: The number of the MHT node.
        present: How many of its bytes are there.
    """

    def __init__(self, index: int, present: int) -> None:
        super().__init__(index, present)
        self.index = index
        self.present = present


class HashTreeWriter:
    """Makes the MHT nodes of one file, whose groups are placed in ascending order.

    Memory: two nodes' worth of child entries for each level (there are five levels at 600 TB).

    Args:
        descriptor: The output, open for reading and writing.
        total: How many MHT nodes there will be, at least 1.
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
        """Put into ``slot`` what belongs at the position of MHT node ``index`` for now.

        Nodes whose last child this is are written to the output, where their groups must be already. After the last
        call, ``root_entry`` is there.

        Args:
            index: The number of the MHT node; 0, 1, 2 and so on.
            data_entries: Keys and MACs of its data nodes, zero-padded to 3072 bytes.
            slot: 4096 bytes; the caller writes them to the output before the next call.
        """
        if child_count(index, self._total):
            slot[:_PARKED_SIZE] = self._parking.encrypt(_nonce(index), bytes(data_entries), None)
            slot[_PARKED_SIZE:] = bytes(NODE_SIZE - _PARKED_SIZE)
            return
        entry = self._encrypt(data_entries, _NO_CHILDREN)
        slot[:] = self._node[:NODE_SIZE]
        while index:
            index, place = parent(index)  # the way up
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
        """Encrypt an MHT node into ``_node``, and return its entry."""
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
    return index.to_bytes(12, "little")  # each node is parked once: no nonce repeats


class HashTreeReader:
    """Decrypts and checks MHT nodes. It keeps one of each level: reading in order decrypts each node once.

    Args:
        descriptor: The encrypted file.
        root_entry: Key and MAC of MHT node 0.
        cipher: Decrypts nodes.
    """

    def __init__(self, descriptor: int, root_entry: bytes, cipher: NodeCipher) -> None:
        self._descriptor = descriptor
        self._root_entry = root_entry
        self._cipher = cipher
        self._path: dict[int, tuple[int, memoryview]] = {}  # level -> the node read last

    def node(self, index: int) -> memoryview:
        """Return the content of MHT node ``index``, 4096 bytes: 96 data entries, 32 child entries.

        Raises:
            TreeNodeError: It, or a node above it, does not match its MAC, or is not there.
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
