import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import Expected, raises

from sealserve.serving.codes import ServingCode
from sealserve.serving.file_list import UNREADABLE_HINT, FileList
from sealserve.serving.lifecycle.versions import available

FILES = {
    "models/m/1/saved_model.pb": b"graph",
    "models/m/1/variables/variables.index": b"index",
    "models/m/2/saved_model.pb": b"other",
    "tls/ssl.cfg": b"settings",
}


def rows(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]


def document(files: list[dict[str, Any]], **changes: Any) -> bytes:
    return json.dumps({"version": 1, "files": files} | changes).encode()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "files.json").write_bytes(document(rows(FILES)))
    return tmp_path


def test_what_is_as_listed_passes(release: Path) -> None:
    files = FileList.read(release / "files.json")
    files.check_folder(release / "models/m/1")
    assert sorted(files.below(release / "models/m")) == [
        "1/saved_model.pb",
        "1/variables/variables.index",
        "2/saved_model.pb",
    ]
    assert files.read_file(release / "tls/ssl.cfg") == b"settings"


def test_an_empty_folder_is_no_file(release: Path) -> None:
    (release / "models/m/1/assets").mkdir()
    FileList.read(release / "files.json").check_folder(release / "models/m/1")


def test_the_whole_release_can_be_checked(release: Path) -> None:
    content = (release / "files.json").read_bytes()
    (release / "files.json").unlink()
    FileList.parse(content, folder=release).check_folder(release)


def remove(folder: Path) -> None:
    (folder / "variables/variables.index").unlink()


def remove_all(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def add(folder: Path) -> None:
    (folder / "variables/variables.data").write_bytes(b"")


def add_a_link(folder: Path) -> None:
    (folder / "assets").symlink_to(folder)


def grow(folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes(b"graph2")


def change(folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes(b"grapf")


def replace_by_a_folder(folder: Path) -> None:
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pb").mkdir()


@pytest.mark.parametrize(
    ("tamper", "error", "code", "message"),
    [
        (
            remove,
            ServingCode.SERVABLE_FILE_MISSING,
            "servable.file-missing",
            "models/m/1/variables/variables.index is in the file list",
        ),
        (
            remove_all,
            ServingCode.SERVABLE_FILE_MISSING,
            "servable.file-missing",
            "models/m/1/saved_model.pb is in the file list",
        ),
        (
            add,
            ServingCode.SERVABLE_FILE_UNLISTED,
            "servable.file-unlisted",
            "models/m/1/variables/variables.data is not in the file list",
        ),
        (
            add_a_link,
            ServingCode.SERVABLE_FILE_UNLISTED,
            "servable.file-unlisted",
            "models/m/1/assets is not in the file list",
        ),
        (
            grow,
            ServingCode.SERVABLE_FILE_CHANGED,
            "servable.file-changed",
            "saved_model.pb does not match the file list: expected 5 bytes, got 6",
        ),
        (
            change,
            ServingCode.SERVABLE_FILE_CHANGED,
            "servable.file-changed",
            "saved_model.pb does not match the file list: expected SHA-256 ",
        ),
        (
            replace_by_a_folder,
            ServingCode.SERVABLE_FILE_MISSING,
            "servable.file-missing",
            "models/m/1/saved_model.pb is in",
        ),
    ],
)
def test_what_is_not_as_listed_is_refused(
    release: Path, tamper: Callable[[Path], None], error: Expected, code: str, message: str
) -> None:
    files = FileList.read(release / "files.json")
    tamper(release / "models/m/1")
    with raises(error, match=message) as caught:
        files.check_folder(release / "models/m/1")
    assert (caught.value.code, caught.value.exit_status) == (code, 3)
    files.check_folder(release / "models/m/2")


def test_a_file_that_cannot_be_read_counts_as_changed(release: Path) -> None:
    files = FileList.read(release / "files.json")
    (release / "tls/ssl.cfg").unlink()
    (release / "tls/ssl.cfg").mkdir()
    with raises(ServingCode.SERVABLE_FILE_CHANGED, match=r"tls/ssl.cfg cannot be read: Is a directory"):
        files.read_file(release / "tls/ssl.cfg")


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that makes a system call fail as in Gramine for an invalid sealed file."""

    def deny(call: str, name: str) -> None:
        original = getattr(os, call)

        def denied(path: Any, *rest: Any, **options: Any) -> Any:
            if str(path).endswith(name):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *rest, **options)

        monkeypatch.setattr(os, call, denied)

    return deny


@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_sealed_file_that_gramine_refuses_has_one_clear_message(
    release: Path, deny: Callable[[str, str], None], call: str
) -> None:
    files = FileList.read(release / "files.json")
    deny(call, "saved_model.pb")
    with raises(
        ServingCode.SERVABLE_FILE_UNREADABLE, match=r"saved_model\.pb cannot be read: Permission denied\."
    ) as caught:
        files.check_folder(release / "models/m/1")
    assert (caught.value.code, caught.value.exit_status) == ("servable.file-unreadable", 3)
    for part in ("changed or moved", "not writable", "Copy the release again"):
        assert part in (caught.value.hint or "")


def test_a_file_list_that_gramine_refuses_has_the_same_hint(release: Path, deny: Callable[[str, str], None]) -> None:
    deny("open", "files.json")
    with raises(ServingCode.FILE_LIST_UNREADABLE, match=r"files\.json cannot be read: Permission denied") as caught:
        FileList.read(release / "files.json")
    assert (caught.value.code, caught.value.hint) == ("file-list.unreadable", UNREADABLE_HINT)


def test_a_block_that_does_not_verify_is_an_error_with_a_name(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = FileList.read(release / "files.json")

    @contextmanager
    def failing(path: Path) -> Iterator[int]:
        descriptor = os.open(path.parent, os.O_RDONLY)  # reading from it fails: it is a folder
        yield descriptor
        os.close(descriptor)

    monkeypatch.setattr("sealserve.serving.file_list.open_regular", failing)
    with raises(ServingCode.SERVABLE_FILE_UNREADABLE, match=r"tls/ssl\.cfg cannot be read"):
        files.read_file(release / "tls/ssl.cfg")


def test_a_refused_file_beside_the_versions_is_named(release: Path, deny: Callable[[str, str], None]) -> None:
    (release / "models/m/README").touch()
    deny("stat", "README")
    with raises(ServingCode.SERVABLE_FILE_UNREADABLE, match=r"README cannot be read"):
        available(release / "models/m", FileList.read(release / "files.json"))


def test_a_single_file_is_checked_as_it_is_read(release: Path) -> None:
    files = FileList.read(release / "files.json")
    (release / "tls/ssl.cfg").write_bytes(b"settingz")
    with raises(ServingCode.SERVABLE_FILE_CHANGED, match=r"tls/ssl.cfg does not match the file list: expected SHA-256"):
        files.read_file(release / "tls/ssl.cfg")
    (release / "tls/ssl.cfg").write_bytes(b"settings" * 1000)
    with raises(
        ServingCode.SERVABLE_FILE_CHANGED, match=r"tls/ssl.cfg does not match the file list: expected 8 bytes, got 9"
    ):
        files.read_file(release / "tls/ssl.cfg")
    (release / "tls/ssl.cfg").unlink()
    with raises(ServingCode.SERVABLE_FILE_MISSING, match=r"tls/ssl.cfg is in the file list"):
        files.read_file(release / "tls/ssl.cfg")
    with raises(ServingCode.SERVABLE_FILE_UNLISTED, match=r"tls/other.cfg is not in the file list"):
        files.read_file(release / "tls/other.cfg")


def test_a_folder_that_the_list_says_nothing_about(release: Path) -> None:
    files = FileList.read(release / "files.json")
    with raises(ServingCode.FILE_LIST_OUTSIDE, match="is outside of the folder that the file list covers") as caught:
        files.below(release.parent)
    assert caught.value.code == "file-list.outside"
    assert files.relative(release.parent / "ssl.cfg") is None
    with raises(ServingCode.SERVABLE_FILE_UNLISTED):
        files.read_file(release.parent / "ssl.cfg")


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with raises(ServingCode.FILE_LIST_MISSING, match=r"files.json cannot be read: No such file") as caught:
        FileList.read(tmp_path / "files.json")
    assert (caught.value.code, caught.value.exit_status) == ("file-list.missing", 3)


def test_a_list_that_was_emptied(tmp_path: Path) -> None:
    with raises(ServingCode.FILE_LIST_EMPTY, match="does not list any file") as caught:
        FileList.parse(document([]), folder=tmp_path)
    assert caught.value.code == "file-list.empty"
    with raises(ServingCode.FILE_LIST_MALFORMED, match="is not a valid file list"):
        FileList.parse(b"", folder=tmp_path)


ROW = rows({"a": b"x"})[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "is not a valid file list"),
        (b"[]", "is not a valid file list: the document: "),
        (b'{"files":[]}', "is not a valid file list: version: Field required"),
        (document([ROW], version=2), "has an unsupported version: expected 1, got 2"),
        (document([ROW], more=1), "is not a valid file list: more: "),
        (document([ROW | {"size": -1}]), "is not a valid file list: files.0.size: "),
        (document([ROW | {"size": "1"}]), "is not a valid file list: files.0.size: "),
        (document([ROW | {"sha256": "AB"}]), "is not a valid file list: files.0.sha256: "),
        (document([ROW | {"mode": 1}]), "is not a valid file list: files.0.mode: "),
        (document([ROW, ROW]), "lists 'a' twice"),
        *(
            (document([ROW | {"path": path}]), "is not a plain relative path")
            for path in ("/a", "../a", "a/../b", "a//b", "./a", "a/", "", ".", "a/.", "a\0")
        ),
    ],
)
def test_a_list_that_is_not_what_it_should_be(tmp_path: Path, content: bytes, message: str) -> None:
    with raises(ServingCode.FILE_LIST_MALFORMED, match=message) as caught:
        FileList.parse(content, folder=tmp_path)
    assert caught.value.code == "file-list.malformed"
