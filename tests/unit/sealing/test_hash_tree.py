"""MHT nodes of files of many GiB: only the tree is written to a sparse file, without the data nodes."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.sealing import node_cipher
from sealserve.sealing.hash_tree import HashTreeReader, HashTreeWriter, TreeNodeError
from sealserve.sealing.node_cipher import NodeMacError
from sealserve.sealing.protected_file import mht_node_position, mht_nodes

pytestmark = pytest.mark.usefixtures("each_cipher")


@pytest.fixture
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile(buffering=0) as stream:
        yield stream.fileno()


def data_entries(index: int) -> bytes:
    return index.to_bytes(4, "big") * 768


def write_tree(descriptor: int, total: int) -> tuple[HashTreeWriter, int]:
    """Write ``total`` MHT nodes. Return the writer, and the maximum number of nodes that it held."""
    writer = HashTreeWriter(descriptor, total, node_cipher.DEFAULT)
    slot = memoryview(bytearray(4096))
    most = 0
    for index in range(total):
        writer.place(index, data_entries(index), slot)
        os.pwrite(descriptor, slot, mht_node_position(index) * 4096)
        most = max(most, len(writer._children))
    return writer, most


@pytest.mark.parametrize("total", [1, 2, 32, 33, 34, 65, 66, 1056, 1057, 1058, 2100])
def test_every_node_holds_its_data_and_its_children(total: int, descriptor: int) -> None:
    writer, _ = write_tree(descriptor, total)
    assert writer.root_entry is not None
    entries = {0: writer.root_entry}
    for index in range(total):
        sealed = os.pread(descriptor, 4096, mht_node_position(index) * 4096)
        content = AESGCM(entries[index][:16]).decrypt(bytes(12), sealed + entries[index][16:], None)
        assert content[:3072] == data_entries(index)
        for slot in range(32):
            entry = content[3072 + 32 * slot : 3104 + 32 * slot]
            assert any(entry) == (32 * index + 1 + slot < total)
            if any(entry):
                entries[32 * index + 1 + slot] = entry
    assert len(entries) == total


def test_a_tree_over_four_gib_is_read_in_any_order(descriptor: int) -> None:
    total = mht_nodes(4 * 2**30 + 2**29)
    writer, most = write_tree(descriptor, total)
    assert os.fstat(descriptor).st_size > 2**32
    assert most <= 2 * 3  # two for each level above the leaves, for any file size
    assert not writer._children
    assert not writer._unfinished
    assert writer.root_entry is not None
    reader = HashTreeReader(descriptor, writer.root_entry, node_cipher.DEFAULT)
    for index in (*range(0, total, 7), total - 1, 0, 5000, 33, total - 1):
        assert reader.node(index)[:3072] == data_entries(index)
    assert len(reader._path) <= 4


def test_a_parked_node_is_not_readable_in_the_output(descriptor: int) -> None:
    writer = HashTreeWriter(descriptor, 2, node_cipher.DEFAULT)
    slot = memoryview(bytearray(4096))
    writer.place(0, data_entries(7), slot)
    assert data_entries(7)[:16] not in bytes(slot)


def test_a_node_that_is_not_there_is_told_from_a_changed_one(descriptor: int) -> None:
    writer, _ = write_tree(descriptor, 40)
    assert writer.root_entry is not None
    os.pwrite(descriptor, b"x", mht_node_position(1) * 4096)
    os.truncate(descriptor, mht_node_position(32) * 4096 + 5)
    reader = HashTreeReader(descriptor, writer.root_entry, node_cipher.DEFAULT)
    with pytest.raises(TreeNodeError) as changed:
        reader.node(34)  # its parent, MHT node 1, was changed
    assert (changed.value.index, changed.value.present) == (1, 4096)
    with pytest.raises(TreeNodeError) as missing:
        reader.node(32)
    assert (missing.value.index, missing.value.present) == (32, 5)


def test_the_cipher_names_the_first_bad_node_of_a_run() -> None:
    cipher = node_cipher.DEFAULT
    plain = memoryview(bytearray(os.urandom(5 * 4096)))
    sealed, entries = memoryview(bytearray(5 * 4096 + 16)), memoryview(bytearray(5 * 32))
    cipher.encrypt(plain, sealed, entries)
    for index in range(5):
        entry = bytes(entries[32 * index : 32 * index + 32])
        node = bytes(sealed[4096 * index : 4096 * index + 4096])
        expected = bytes(plain[4096 * index : 4096 * index + 4096])
        assert AESGCM(entry[:16]).decrypt(bytes(12), node + entry[16:], None) == expected
    back = memoryview(bytearray(5 * 4096))
    cipher.decrypt(memoryview(bytearray(sealed)), entries, back)
    assert back == plain
    for bad in (3, 1):
        sealed[4096 * bad] ^= 1
    with pytest.raises(NodeMacError) as refused:
        cipher.decrypt(sealed, entries, back)
    assert refused.value.index == 1
