import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealserve.serving.lifecycle import emptying
from sealserve.serving.lifecycle.emptying import empty_files


def make_version(folder: Path) -> Path:
    for name, size in {
        "saved_model.pb": 5,
        "variables/variables.index": 3,
        "variables/variables.data-00000-of-00001": 9,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    (folder / "assets").mkdir()
    (folder / "assets/words.txt").write_bytes(b"words")
    return folder


def sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder on a tmpfs, which every Linux has for shared memory."""
    shared = Path("/dev/shm")  # noqa: S108  # the files lie in a folder of this test's own below it
    if not shared.is_dir() or not emptying._is_in_memory(shared):
        pytest.skip("this machine has no tmpfs at /dev/shm: mount one to run this test")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder) / "1"


def test_what_is_read_once_is_emptied_and_the_rest_stays(in_memory: Path) -> None:
    assert empty_files(make_version(in_memory)) == 17
    assert sizes(in_memory) == {
        "saved_model.pb": 0,
        "variables/variables.index": 0,
        "variables/variables.data-00000-of-00001": 0,
        "assets/words.txt": 5,
    }


def test_files_on_a_disk_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emptying, "_TMPFS", -1)  # so that it holds where the temporary folder is in memory
    folder = make_version(tmp_path / "1")
    before = sizes(folder)
    assert empty_files(folder) == 0
    assert sizes(folder) == before


def test_a_link_out_of_memory_is_not_followed(in_memory: Path, tmp_path: Path) -> None:
    precious = tmp_path / "saved_model.pb"
    precious.write_bytes(b"precious")
    in_memory.mkdir()
    (in_memory / "saved_model.pb").symlink_to(precious)
    assert empty_files(in_memory) == 0
    assert precious.read_bytes() == b"precious"
