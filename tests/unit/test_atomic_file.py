import errno
import os
import stat
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.atomic_file import PRIVATE, OutputExistsError, replacing, write_file
from sealserve.codes import SealserveCode


def test_a_private_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_file(tmp_path / "key", b"secret", mode=PRIVATE)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as stream:
            stream.write(b"new")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="already exists"):
        write_file(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"


def test_an_output_that_appears_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write() -> None:
        with replacing(path, overwrite=False) as stream:
            stream.write(b"new")
            path.write_bytes(b"of another")

    with pytest.raises(OutputExistsError, match="already exists"):
        write()
    assert path.read_bytes() == b"of another"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with raises(SealserveCode.FILE_DISK_FULL, match="The disk is full") as caught, replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.code == "file.disk-full"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with raises(SealserveCode.FILE_UNWRITABLE, match="cannot be written: No such file or directory") as caught:
        write_file(tmp_path / "none" / "file", b"x")
    assert caught.value.code == "file.unwritable"
