"""The cache of the converted example: its entries, and the entries that it rejects."""

import json
import os
import threading
from pathlib import Path

import pytest
from tests.harness.tiny_model import WEIGHTS, saved_model

from sealserve.cli.demo import conversion_cache
from sealserve.deployment import ModelSection

MODEL = ModelSection(name="example", inputs=("input",), outputs=("predict",))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.pb"
    path.write_bytes(b"graph")
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = saved_model(tmp_path / "saved")
    (folder / "assets").mkdir()
    (folder / "assets" / "words.txt").write_text("words")
    return folder


@pytest.fixture
def entry(graph: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An entry that was kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = conversion_cache.entry_for(graph, MODEL)
    assert found is not None
    conversion_cache.keep(found, saved)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(entry: Path, destination: Path) -> None:
    """The entry is not used, nothing is left of it, and nothing appears."""
    assert conversion_cache.restore(entry, destination) is None
    assert not os.path.lexists(entry)
    assert not destination.exists()
    assert not list(destination.parent.glob(".*.partial"))


def test_a_kept_model_comes_back_as_it_was(entry: Path, saved: Path, tmp_path: Path) -> None:
    info = conversion_cache.restore(entry, tmp_path / "workspace" / "1")
    assert info is not None
    assert contents(tmp_path / "workspace" / "1") == contents(saved)
    assert entry.stat().st_mode & 0o777 == 0o700
    assert entry.is_relative_to(tmp_path / "cache" / "sealserve" / "demo")


def test_the_folders_are_private_whatever_the_umask(
    graph: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian gives each user a group, and many systems the umask 002: the group may write into new folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "deep" / "cache"))
    entry = conversion_cache.entry_for(graph, MODEL)
    assert entry is not None
    before = os.umask(0o002)
    try:
        conversion_cache.keep(entry, saved)
    finally:
        os.umask(before)
    for folder in (tmp_path / "deep", entry.parent.parent, entry.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert conversion_cache.restore(entry, tmp_path / "out" / "1") is not None


def test_an_entry_belongs_to_one_graph_one_converter_and_one_tensorflow(
    entry: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conversion_cache.entry_for(graph, MODEL) == entry
    others = [conversion_cache.entry_for(graph, MODEL.model_copy(update={"outputs": ("other",)}))]
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda _package: "2.99.0")
        others.append(conversion_cache.entry_for(graph, MODEL))
    with monkeypatch.context() as patch:
        patch.setattr("sealserve.model.__file__", str(graph.parent / "model" / "__init__.py"))
        others.append(conversion_cache.entry_for(graph, MODEL))
    graph.write_bytes(b"another graph")
    others.append(conversion_cache.entry_for(graph, MODEL))
    assert len({entry, *others}) == 5


def test_a_changed_file_is_found_by_its_digest(entry: Path, tmp_path: Path) -> None:
    file = next(path for path in entry.rglob("*") if WEIGHTS[:16] in (path.read_bytes() if path.is_file() else b""))
    file.write_bytes(file.read_bytes().replace(WEIGHTS[:16], bytes(16)))
    refused(entry, tmp_path / "out" / "1")


@pytest.mark.parametrize(
    "digests",
    [
        "",
        "[]",
        '{"files": {"saved_model.pb": 1}}',
        '{"files": {}, "more": 1}',
        '{"files": {}}',
        '{"files": {"../../../outside": "00"}}',
        '{"files": {"/etc/passwd": "00"}}',
        '{"files": {"variables": "00"}}',
        '{"files": {"missing": "00"}}',
        '{"files": {' + " " * (1 << 16) + "}}",
    ],
)
def test_a_hostile_list_of_digests_is_refused(digests: str, entry: Path, tmp_path: Path) -> None:
    (entry / conversion_cache.DIGESTS).write_text(digests)
    refused(entry, tmp_path / "out" / "1")
    assert not list(tmp_path.rglob("outside"))


def test_links_pipes_and_endless_files_are_refused(
    saved: Path, entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe(path: Path) -> None:
        os.mkfifo(path)

    def link(path: Path) -> None:
        path.symlink_to(saved / "saved_model.pb")

    def endless(path: Path) -> None:
        path.touch()
        os.truncate(path, 1 << 40)

    for make in (pipe, link, endless):
        for name in ("saved_model.pb", conversion_cache.DIGESTS):
            monkeypatch.setattr(conversion_cache, "_LARGEST_FILE", 1 << 20)
            (entry / name).unlink()
            make(entry / name)
            refused(entry, tmp_path / "out" / "1")
            conversion_cache.keep(entry, saved)
    assert conversion_cache.restore(entry, tmp_path / "out" / "1") is not None


def test_an_entry_that_others_can_write_is_refused(entry: Path, saved: Path, tmp_path: Path) -> None:
    entry.chmod(0o770)
    refused(entry, tmp_path / "out" / "1")
    for folder in (entry.parent, entry.parent.parent):
        folder.chmod(0o777)
        conversion_cache.keep(entry, saved)
        assert not entry.exists()
        folder.chmod(0o700)
    conversion_cache.keep(entry, saved)
    (tmp_path / "elsewhere").mkdir()
    entry.rename(tmp_path / "elsewhere" / "entry")
    entry.symlink_to(tmp_path / "elsewhere" / "entry")
    refused(entry, tmp_path / "out" / "1")
    assert (tmp_path / "elsewhere" / "entry" / conversion_cache.DIGESTS).is_file()


def test_an_entry_of_another_user_is_refused(entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: entry.stat().st_uid + 1)
    refused(entry, tmp_path / "out" / "1")


def test_two_demos_at_once_leave_one_whole_entry(entry: Path, saved: Path, tmp_path: Path) -> None:
    def demo(number: int) -> None:
        for turn in range(10):
            conversion_cache.restore(entry, tmp_path / f"out-{number}" / str(turn))
            conversion_cache.keep(entry, saved)

    threads = [threading.Thread(target=demo, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversion_cache.restore(entry, tmp_path / "out" / "1") is not None
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]
    for number in range(2):
        assert {str(contents(path)) for path in (tmp_path / f"out-{number}").iterdir()} <= {str(contents(saved))}


def test_the_newest_entry_is_the_only_one(entry: Path, graph: Path, saved: Path) -> None:
    graph.write_bytes(b"another graph")
    newer = conversion_cache.entry_for(graph, MODEL)
    assert newer is not None
    conversion_cache.keep(newer, saved)
    assert list(entry.parent.iterdir()) == [newer]


def test_a_cache_that_cannot_be_written_is_not_used(
    graph: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    entry = conversion_cache.entry_for(graph, MODEL)
    assert entry is not None
    conversion_cache.keep(entry, saved)
    assert conversion_cache.restore(entry, tmp_path / "out" / "1") is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert conversion_cache.cache_folder() == tmp_path / ".cache" / "sealserve" / "demo"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert conversion_cache.entry_for(graph, MODEL) is None


def test_a_full_disk_leaves_no_entry(entry: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversion_cache._remove(entry)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion_cache, "_copy", full)
    conversion_cache.keep(entry, saved)
    assert list(entry.parent.iterdir()) == []


def test_the_list_of_digests_names_every_file(entry: Path, saved: Path) -> None:
    listed = json.loads((entry / conversion_cache.DIGESTS).read_text())["files"]
    assert set(listed) == set(contents(saved))
