import struct

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from tests.harness.errors import raises

from sealserve.sealing import protected_file
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.protected_file import (
    HEADER_1_0,
    HEADER_2_0,
    KEY_DERIVATION,
    METADATA,
    Group,
    Header,
    Layout,
    Metadata,
)
from sealserve.secret import SecretBytes


@pytest.mark.parametrize(
    ("layout", "size"), [(HEADER_1_0, 4096), (HEADER_2_0, 4096), (METADATA, 3884), (KEY_DERIVATION, 104)]
)
def test_fields_follow_each_other_without_gaps(layout: Layout, size: int) -> None:
    end = 0
    for field in layout:
        assert field.offset == end
        end += field.size
    assert end == size


def test_header_and_metadata_survive_a_round_trip() -> None:
    for version in FormatVersion:
        header = Header(version=version, nonce=b"n" * 32, metadata_mac=b"m" * 16, metadata=b"c" * 3884)
        assert Header.parse(header.to_bytes(), name="it") == header
    metadata = Metadata(path=b"a/b", file_size=2**40, root_entry=b"k" * 32, head=b"h" * 3072)
    assert Metadata.parse(metadata.to_bytes()) == metadata


def test_a_repr_shows_no_key() -> None:
    metadata = Metadata(path=b"a/b", file_size=1, root_entry=b"k" * 32, head=b"h" * 3072)
    assert repr(metadata) == "Metadata(path=b'a/b', file_size=1)"


def test_nodes_lie_where_counting_puts_them() -> None:
    position, data = 1, 0
    for mht in range(40):
        assert protected_file.mht_node_position(mht) == position
        position += 1
        for _ in range(96):
            assert protected_file.data_node_position(data) == position
            position, data = position + 1, data + 1


def test_parents_and_children_agree() -> None:
    for total in (1, 2, 33, 34, 1057, 1058, 1090):
        children: dict[int, list[int]] = {}
        for index in range(1, total):
            parent, slot = protected_file.parent(index)
            assert 0 <= slot < 32
            assert index == 32 * parent + 1 + slot
            children.setdefault(parent, []).append(index)
        for index in range(total):
            assert protected_file.child_count(index, total) == len(children.get(index, []))


@pytest.mark.parametrize(
    ("size", "data", "mht"),
    [
        (0, 0, 0),
        (1, 0, 0),
        (3072, 0, 0),
        (3073, 1, 1),
        (7168, 1, 1),
        (7169, 2, 1),
        (396288, 96, 1),
        (396289, 97, 2),
        (3072 + 96 * 4096 * 33, 96 * 33, 33),
        (2**40, 268435456, 2796203),
    ],
)
def test_sizes_decide_the_number_of_nodes(size: int, data: int, mht: int) -> None:
    assert protected_file.data_nodes(size) == data
    assert protected_file.mht_nodes(size) == mht
    assert protected_file.sealed_size(size) == 4096 * (1 + data + mht)


def test_groups_cover_the_content_once() -> None:
    size = 3072 + 96 * 4096 * 2 + 5000
    assert list(protected_file.groups(size)) == [
        Group(0, 3072, 393216),
        Group(1, 3072 + 393216, 393216),
        Group(2, 3072 + 2 * 393216, 5000),
    ]
    last = protected_file.group(2, size)
    assert (last.data_nodes, last.offset) == (2, (1 + 97 * 2) * 4096)
    assert list(protected_file.groups(3072)) == []


def test_nodes_are_described_by_kind_and_number() -> None:
    described = [protected_file.describe_node(position) for position in (0, 1, 2, 97, 98, 99)]
    assert described == [
        "node 0 (metadata)",
        "node 1 (MHT node 0)",
        "node 2 (data node 0)",
        "node 97 (data node 95)",
        "node 98 (MHT node 1)",
        "node 99 (data node 96)",
    ]


def test_the_metadata_key_is_a_cmac_of_104_bytes() -> None:
    wrap_key, nonce = bytes(range(16)), bytes(range(100, 132))
    message = struct.pack("<I64s32sI", 1, b"SGX-PROTECTED-FS-METADATA-KEY", nonce, 0x80)
    cmac = CMAC(AES(wrap_key))
    cmac.update(message)
    assert len(message) == 104
    assert protected_file.metadata_key(SecretBytes(wrap_key), nonce) == cmac.finalize()


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with raises(SealingCode.SEALED_FILE_KEY_LENGTH, match=f"expected 16 bytes, got {length}") as refused:
        protected_file.metadata_key(SecretBytes(bytes(length)), bytes(32))
    assert refused.value.code == "sealed-file.key-length"


def test_another_file_is_no_sealed_file() -> None:
    with raises(
        SealingCode.SEALED_FILE_BAD_MAGIC,
        match=r"it is not a sealed file: expected the magic bytes [0-9a-f]{16} \(GRAFS_PF\), got "
        r"[0-9a-f]{16}",
    ) as refused:
        Header.parse(b"." * 4096, name="it")
    assert refused.value.code == "sealed-file.bad-magic"


def test_another_version_is_refused() -> None:
    with raises(
        SealingCode.SEALED_FILE_UNKNOWN_VERSION,
        match=r"it has an unsupported format version: expected 1\.0 or 2\.0, got 3\.1",
    ) as refused:
        Header.parse((0x46505F5346415247).to_bytes(8, "little") + b"\3\1" + bytes(4086), name="it")
    assert refused.value.code == "sealed-file.unknown-version"


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="nonce has 33 bytes, but at most 32 are possible"):
        protected_file.pack(KEY_DERIVATION, nonce=bytes(33))
    with pytest.raises(ValueError, match=r"unknown fields: \['other'\]"):
        protected_file.pack(KEY_DERIVATION, other=b"")
    with pytest.raises(ValueError, match="expected 104 bytes, got 1"):
        protected_file.unpack(KEY_DERIVATION, b"1")
