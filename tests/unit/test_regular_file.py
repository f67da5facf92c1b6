import os
from pathlib import Path

import pytest

from sealserve.regular_file import (
    InputFileKindError,
    InputFileMissingError,
    InputFileSizeError,
    InputFileUnreadableError,
    open_regular,
    read_at,
    read_regular,
    write_at,
)
from sealserve.sealing.codec import seal_file
from sealserve.secret import SecretBytes


def test_reads_and_writes_at_offsets(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w+b") as stream:
        write_at(stream.fileno(), b"world", 5)
        write_at(stream.fileno(), b"hello", 0)
    with open_regular(path) as descriptor:
        buffer = bytearray(8)
        assert read_at(descriptor, memoryview(buffer), 2) == 8
        assert buffer == b"lloworld"
        assert read_at(descriptor, memoryview(buffer), 7) == 3


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputFileMissingError, match=r"The file .*plain does not exist") as refused:
        seal_file(tmp_path / "plain", tmp_path / "sealed", key=SecretBytes(bytes(16)), embedded_path="p")
    assert refused.value.code == "input-file.missing"
    assert refused.value.exit_status == 2
    assert not any(tmp_path.iterdir())


def test_folders_and_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InputFileKindError, match=f"{path} is not a regular file") as refused, open_regular(path):
            pass
        assert refused.value.code == "input-file.not-regular"


def test_a_link_is_followed_only_where_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link"):
        pass
    with (
        pytest.raises(InputFileKindError, match="is a symbolic link"),
        open_regular(tmp_path / "link", follow_links=False),
    ):
        pass


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with (
        pytest.raises(InputFileUnreadableError, match="cannot be read: Too many levels of symbolic links") as refused,
        open_regular(tmp_path / "loop"),
    ):
        pass
    assert refused.value.code == "input-file.unreadable"


def test_a_file_that_is_too_large_is_not_read_further(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"four")
    assert read_regular(tmp_path / "file", limit=4) == b"four"
    with pytest.raises(
        InputFileSizeError, match=r"file is too large for its purpose: it has more than 3 bytes"
    ) as refused:
        read_regular(tmp_path / "file", limit=3)
    assert refused.value.code == "input-file.too-large"
