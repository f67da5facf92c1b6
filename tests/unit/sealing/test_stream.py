"""Reading a sealed file at any offset."""

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness.errors import raises
from tests.harness.sparse_sealed import data_position, write_sparse

from sealserve.sealing.codec import seal_bytes
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import PathMismatchError
from sealserve.sealing.protected_file import sealed_size
from sealserve.sealing.reader import TamperedNodeError
from sealserve.sealing.stream import open_sealed
from sealserve.secret import SecretBytes

pytestmark = pytest.mark.usefixtures("each_cipher")

KEY = bytes(range(16))
SIZE = 3072 + 3 * 96 * 4096 + 12345
CONTENT = hashlib.shake_128(b"stream").digest(SIZE)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "sealed"
    seal_bytes(CONTENT, path, key=SecretBytes(KEY), embedded_path="models/m.bin")
    return path


def test_a_stream_behaves_as_a_file_does(sealed: Path) -> None:
    with open_sealed(sealed, key=SecretBytes(KEY), embedded_path="models/m.bin") as stream:
        assert (stream.readable(), stream.seekable(), stream.writable()) == (True, True, False)
        assert (stream.raw.size, stream.raw.embedded_path) == (SIZE, "models/m.bin")
        assert stream.read(10) == CONTENT[:10]
        assert stream.seek(-5, os.SEEK_END) == SIZE - 5
        assert stream.read() == CONTENT[-5:]
        assert stream.read(1) == b""
        assert stream.seek(3000) == 3000
        assert stream.seek(70, os.SEEK_CUR) == stream.tell() == 3070
        assert stream.read(4) == CONTENT[3070:3074]
        assert stream.seek(SIZE + 100) == SIZE + 100
        assert stream.read(1) == b""
        stream.seek(0)
        assert stream.read() == CONTENT
        with pytest.raises(io.UnsupportedOperation):
            stream.write(b"x")
        with pytest.raises(ValueError, match="the offset -1 is negative"):
            stream.raw.seek(-1)
        with pytest.raises(ValueError, match="whence must be 0, 1 or 2, not 3"):
            stream.raw.seek(0, 3)
    with pytest.raises(ValueError, match="closed"):
        stream.raw.tell()


@settings(max_examples=60)
@given(pieces=st.lists(st.tuples(st.integers(0, SIZE + 10), st.integers(0, 500_000)), min_size=1, max_size=4))
def test_any_piece_can_be_read_in_any_order(sealed: Path, pieces: list[tuple[int, int]]) -> None:
    with open_sealed(sealed, key=SecretBytes(KEY), embedded_path=None) as stream:
        for offset, size in pieces:
            stream.seek(offset)
            assert stream.read(size) == CONTENT[offset : offset + size]


def test_hashing_a_stream_needs_no_copy_of_the_content(sealed: Path) -> None:
    with open_sealed(sealed, key=SecretBytes(KEY), embedded_path=None) as stream:
        assert hashlib.file_digest(stream, "sha256").digest() == hashlib.sha256(CONTENT).digest()


def test_the_path_counts_before_anything_is_read(sealed: Path) -> None:
    with (
        pytest.raises(PathMismatchError, match=r"was sealed for another path: expected 'other', got 'models/m\.bin'"),
        open_sealed(sealed, key=SecretBytes(KEY), embedded_path="other"),
    ):
        pytest.fail("it opened")


def test_only_the_nodes_that_are_read_count(sealed: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "sealed"
    raw = bytearray(sealed.read_bytes())
    raw[4096 * data_position(100) + 5] ^= 1
    damaged.write_bytes(raw)
    node = 3072 + 4096 * 100  # offset of its content
    with open_sealed(damaged, key=SecretBytes(KEY), embedded_path=None) as stream:
        raw_stream = stream.raw
        raw_stream.seek(node - 4096)
        assert raw_stream.read(4096) == CONTENT[node - 4096 : node]
        raw_stream.seek(node + 4096)
        assert raw_stream.read(4096) == CONTENT[node + 4096 : node + 8192]
        raw_stream.seek(node + 4095)
        with pytest.raises(TamperedNodeError, match=r"data node 100\)"):
            raw_stream.read(1)
        assert raw_stream.tell() == node + 4095
        os.truncate(damaged, 4096 * data_position(200))
        raw_stream.seek(node + 4096 * 100)
        with raises(SealingCode.SEALED_FILE_TRUNCATED, match=r"data node 200\) is missing"):
            raw_stream.read(1)


@pytest.mark.parametrize("size", [5 * 2**30 + 1, 1300 * 2**30 + 4097])
def test_a_file_of_many_gib_is_read_without_its_memory(size: int, tmp_path: Path) -> None:
    """A file of 1300 GiB has five levels of MHT nodes, and positions far beyond 32 bits."""
    last = -(-(size - 3072) // 4096) - 1
    numbers = [0, 95, 96, 96 * 33, 2**20, last - 96, last]
    nodes = {number: hashlib.shake_128(str(number).encode()).digest(4096) for number in numbers}
    path = tmp_path / "sealed"
    write_sparse(path, size=size, nodes=nodes, wrap_key=KEY)
    assert path.stat().st_size == sealed_size(size) > size
    assert path.stat().st_blocks * 512 < 2**20
    with open_sealed(path, key=SecretBytes(KEY), embedded_path="sparse") as stream:
        assert stream.raw.size == size
        for number in reversed(numbers):
            stream.seek(3072 + 4096 * number)
            expected = nodes[number][: size - stream.tell()]
            assert stream.raw.read(4096) == expected
        stream.raw.seek(3072 + 4096 * (last - 200))
        with pytest.raises(TamperedNodeError, match=rf"data node {last - 200}\)|MHT node {(last - 200) // 96}\)"):
            stream.raw.read(1)  # a hole in the sparse file: no sealed node
