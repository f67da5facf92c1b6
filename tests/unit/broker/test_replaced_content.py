"""The replacement of a file's content, as a mount of the file shows it."""

import os
import stat
from pathlib import Path

import pytest

from sealserve.broker.replaced_content import move_content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "key"
    made.write_bytes(b"former content")
    made.chmod(0o600)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "key.next"
    made.write_bytes(b"new")
    made.chmod(0o600)
    return made


@pytest.mark.parametrize("content", [b"new", b"a new content that is longer"])
def test_the_file_stays_and_its_content_changes(path: Path, source: Path, content: bytes) -> None:
    source.write_bytes(content)
    before = path.stat()
    with path.open("rb") as mounted:
        move_content(source, path)
        assert mounted.read() == content
    after = path.stat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode)) == (before.st_ino, 0o600)
    assert not source.exists()


def test_the_time_changes_even_if_the_clock_does_not(path: Path, source: Path) -> None:
    later = path.stat().st_mtime_ns + 10**12
    os.utime(path, ns=(later, later))
    move_content(source, path)
    assert path.stat().st_mtime_ns == later + 1


def test_a_copy_by_hard_link_keeps_its_content(path: Path, source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup"
    copy.hardlink_to(path)
    move_content(source, path)
    assert (copy.read_bytes(), path.read_bytes()) == (b"former content", b"new")


def test_a_link_is_replaced_and_not_followed(path: Path, source: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    path.rename(victim)
    path.symlink_to(victim)
    move_content(source, path)
    assert (victim.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"former content", b"new", False)


def test_a_missing_file_and_a_pipe_are_replaced(path: Path, source: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    move_content(source, path)
    path.rename(source)
    move_content(source, path)
    assert path.read_bytes() == b"new"


def test_a_failed_write_leaves_the_new_file(path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        move_content(source, path)
    assert source.read_bytes() == b"new"
