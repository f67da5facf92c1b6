"""Attacks of a host on a sealed file: each is rejected with the position of the node and leaves no plaintext."""

import os
from pathlib import Path

import pytest

from sealserve.errors import VerificationError
from sealserve.sealing.codec import seal_bytes, unseal_bytes, unseal_file
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.reader import MovedNodeError, TamperedNodeError
from sealserve.secret import SecretBytes

GROUP = 96 * 4096

pytestmark = pytest.mark.usefixtures("each_cipher")
SIZE = 3072 + 40 * GROUP + 10000  # 41 MHT nodes: MHT node 1 has children (33 to 40)


def seal_large(path: Path) -> Path:
    seal_bytes(bytes(SIZE), path, key=SecretBytes(bytes(range(16))), embedded_path="models/m.bin")
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seal_large(tmp_path_factory.mktemp("large") / "sealed")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same content, sealed again with the same key and path."""
    return seal_large(tmp_path_factory.mktemp("older") / "sealed")


def refusal(path: Path, key: SecretBytes) -> VerificationError:
    plain = path.with_name("plain")
    with pytest.raises(VerificationError) as refused:
        unseal_file(path, plain, key=key, embedded_path="models/m.bin")
    assert list(path.parent.iterdir()) == [path]
    return refused.value


def refusal_with(large: Path, key: SecretBytes, patches: dict[int, bytes]) -> VerificationError:
    """Write each patch at its byte offset, return the resulting error, and restore the original bytes."""
    before = {}
    with large.open("r+b", buffering=0) as stream:
        for offset, patch in patches.items():
            before[offset] = os.pread(stream.fileno(), len(patch), offset)
            os.pwrite(stream.fileno(), patch, offset)
        try:
            return refusal(large, key)
        finally:
            for offset, patch in before.items():
                os.pwrite(stream.fileno(), patch, offset)


def node_at(path: Path, position: int) -> bytes:
    with path.open("rb") as stream:
        return os.pread(stream.fileno(), 4096, 4096 * position)


@pytest.mark.parametrize(
    "node",
    [
        (1, "MHT node 0"),
        (2, "data node 0"),
        (97, "data node 95"),
        (98, "MHT node 1"),
        (99, "data node 96"),
        (1 + 97 * 32, "MHT node 32"),
        (1 + 97 * 33, "MHT node 33"),
        (1 + 97 * 40, "MHT node 40"),
        (2 + 97 * 40 + 2, "data node 3842"),
    ],
)
@pytest.mark.parametrize("offset", [0, 16, 3071, 3072, 3088, 4095])  # in MHT nodes: keys and MACs, data and children
def test_a_changed_node_is_named(node: tuple[int, str], offset: int, large: Path, key: SecretBytes) -> None:
    position, kind = node
    flipped = node_at(large, position)[offset] ^ 0x80
    error = refusal_with(large, key, {4096 * position + offset: bytes([flipped])})
    assert isinstance(error, TamperedNodeError)
    assert error.code == "sealed-file.tampered-node"
    assert error.position == position
    assert f"node {position} ({kind}), at byte {position * 4096}, does not match its MAC" in error.message


@pytest.mark.parametrize(
    ("first", "second"), [(2, 3), (97, 99), (98, 1 + 97 * 33), (1, 98), (2, 1 + 97 * 32), (1 + 97 * 33, 1 + 97 * 34)]
)
def test_swapped_nodes_are_refused(first: int, second: int, large: Path, key: SecretBytes) -> None:
    swap = {4096 * first: node_at(large, second), 4096 * second: node_at(large, first)}
    error = refusal_with(large, key, swap)
    assert isinstance(error, TamperedNodeError)
    assert error.position == first


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (2, 3, ("node 2 (data node 0), at byte 8192,", "node 3 (data node 1)")),
        (2, 99, ("node 2 (data node 0), at byte 8192,", "node 99 (data node 96)")),
        (2, 1 + 97 * 32, ("node 2 (data node 0), at byte 8192,", "node 3105 (MHT node 32)")),
        (98, 1 + 97 * 32, ("node 98 (MHT node 1)", "node 3105 (MHT node 32)")),
        (1 + 97 * 33, 1 + 97 * 34, ("node 3202 (MHT node 33)", "node 3299 (MHT node 34)")),
    ],
)
def test_swapped_nodes_are_told_apart_from_other_changes(
    first: int, second: int, names: tuple[str, str], large: Path, key: SecretBytes
) -> None:
    swap = {4096 * first: node_at(large, second), 4096 * second: node_at(large, first)}
    error = refusal_with(large, key, swap)
    assert isinstance(error, MovedNodeError)
    assert error.code == "sealed-file.moved-node"
    assert (error.position, error.origin) == (first, second)
    assert names[0] in error.message
    assert f"contains the node that was sealed as {names[1]}" in error.message


@pytest.mark.parametrize("position", [0, 1, 2, 98, 99, 1 + 97 * 40])
def test_nodes_of_another_sealing_are_refused(position: int, large: Path, older: Path, key: SecretBytes) -> None:
    error = refusal_with(large, key, {4096 * position: node_at(older, position)})
    assert isinstance(error, TamperedNodeError)
    assert error.position == (position or 1)  # node 0 verifies by itself, but its child is missing


@pytest.mark.parametrize("nodes", [1, 2, 3, 97, 98, 99, 97 * 33, 97 * 40 + 3, 97 * 40 + 4])
def test_truncation_at_a_node_is_refused(nodes: int, large: Path, tmp_path: Path, key: SecretBytes) -> None:
    with large.open("rb") as stream:
        (tmp_path / "sealed").write_bytes(stream.read(4096 * nodes))
    assert isinstance(error := refusal(tmp_path / "sealed", key), VerificationError)
    assert error.code == SealingCode.SEALED_FILE_TRUNCATED


def test_a_file_of_another_release_does_not_open(tmp_path: Path) -> None:
    old, new = SecretBytes.random(16), SecretBytes.random(16)
    seal_bytes(b"old", tmp_path / "sealed", key=old, embedded_path="models/m.bin")
    assert isinstance(error := refusal(tmp_path / "sealed", new), VerificationError)
    assert error.code == SealingCode.SEALED_FILE_WRONG_KEY
    assert unseal_bytes(tmp_path / "sealed", key=old, embedded_path="models/m.bin").reveal() == b"old"
