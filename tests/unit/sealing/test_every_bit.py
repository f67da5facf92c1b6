"""Each single bit of small files: flipping it is rejected with the position of the node, or changes nothing."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sealserve.errors import VerificationError
from sealserve.sealing.codec import seal_bytes
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.protected_file import Header, Metadata
from sealserve.sealing.reader import SealedReader, TamperedNodeError
from sealserve.secret import SecretBytes

pytestmark = pytest.mark.usefixtures("each_cipher")

KEY = SecretBytes(bytes(range(16)))
NODE = 4096
METADATA_END = {FormatVersion.V1_0: 58 + 3884, FormatVersion.V2_0: 59 + 3884}
PARTS = 4  # parallel parts of one file's bits


def outcome(descriptor: int) -> bytes | VerificationError:
    try:
        reader = SealedReader(descriptor, name="it", key=KEY, expected_path="p")
        return b"".join(map(bytes, reader.chunks()))
    except VerificationError as error:
        return error


def flips(raw: bytes, offsets: Sequence[int]) -> Iterator[tuple[int, bytes | VerificationError]]:
    """Yield each offset with the results of flipping each of its bits."""
    memory = os.memfd_create("sealed")
    try:
        os.pwrite(memory, raw, 0)
        for offset in offsets:
            for bit in range(8):
                os.pwrite(memory, bytes([raw[offset] ^ 1 << bit]), offset)
                yield offset, outcome(memory)
            os.pwrite(memory, raw[offset : offset + 1], offset)
    finally:
        os.close(memory)


def unauthenticated(offset: int, version: FormatVersion) -> bool:
    """Return whether the format ignores this byte of node 0: minor version, feature flags, padding."""
    flags = version is FormatVersion.V2_0 and offset == 58
    return offset == 9 or flags or METADATA_END[version] <= offset < NODE


def sealed(size: int, version: FormatVersion, folder: Path) -> tuple[bytes, bytes]:
    content = hashlib.shake_128(b"every bit").digest(size)
    seal_bytes(content, folder / "sealed", key=KEY, embedded_path="p", version=version)
    return content, (folder / "sealed").read_bytes()


@pytest.mark.parametrize("version", FormatVersion)
@pytest.mark.parametrize("size", [1500, 7168])
@pytest.mark.parametrize("part", range(PARTS))
def test_every_bit_of_node_0(size: int, version: FormatVersion, part: int, tmp_path: Path) -> None:
    content, raw = sealed(size, version, tmp_path)
    for offset, found in flips(raw, range(part, NODE, PARTS)):
        if unauthenticated(offset, version):
            assert found == content
        elif offset < 8:
            assert isinstance(found, VerificationError)
            assert found.code == SealingCode.SEALED_FILE_BAD_MAGIC
        elif offset == 8:  # the major version: another supported version has its metadata at another offset
            assert isinstance(found, VerificationError)
            assert found.code in {SealingCode.SEALED_FILE_UNKNOWN_VERSION, SealingCode.SEALED_FILE_WRONG_KEY}
        else:
            assert isinstance(found, VerificationError)
            assert found.code == SealingCode.SEALED_FILE_WRONG_KEY
            assert "node 0" in found.message


@pytest.mark.parametrize("part", range(PARTS))
def test_every_bit_of_the_nodes_behind_it(part: int, tmp_path: Path) -> None:
    _, raw = sealed(7168, FormatVersion.V1_0, tmp_path)  # an MHT node and a data node: 12 KiB in all
    assert len(raw) == 3 * NODE
    for offset, found in flips(raw, range(NODE + part, len(raw), PARTS)):
        assert isinstance(found, TamperedNodeError)
        assert found.position == offset // NODE


def test_one_bit_of_each_field_of_the_metadata_is_authenticated(tmp_path: Path) -> None:
    """One MAC covers the plaintext of node 0. A change of a field in it is always a change of the ciphertext."""
    _, raw = sealed(7168, FormatVersion.V1_0, tmp_path)
    header = Header.parse(raw[:NODE], name="it")
    for field_offset in (0, 771, 772, 779, 780, 795, 796, 811, 812, 3883):  # ends of METADATA's fields
        ((_, found), *_) = flips(raw, [58 + field_offset])
        assert isinstance(found, VerificationError)
        assert found.code == SealingCode.SEALED_FILE_WRONG_KEY
    assert len(header.metadata) == len(Metadata(path=b"", file_size=0, root_entry=b"", head=b"").to_bytes()) == 3884
