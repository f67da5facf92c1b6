import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.canonical_document import ListedFile
from sealserve.codes import SealserveCode
from sealserve.sealing.codec import unseal_bytes
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import PathMismatchError
from sealserve.sealing.file_tree import TreeMissingError, list_folder, regular_files
from sealserve.sealing.tree import file_list, seal_tree, unseal_tree
from sealserve.secret import SecretBytes

FILES = ("saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_tree_comes_back(model: Path, tmp_path: Path, key: SecretBytes) -> None:
    (model / "assets").mkdir()  # empty, so it is omitted
    done: list[int] = []
    sealed = seal_tree(model, tmp_path / "sealed", key=key, prefix="models/m", progress=done.append)
    assert tuple(entry.path for entry in sealed) == FILES
    assert sum(done) == sum(entry.sealed.plain_size for entry in sealed)
    assert list_folder(tmp_path / "sealed").files == FILES
    assert list_folder(tmp_path / "sealed").empty_folders == ()
    one = unseal_bytes(tmp_path / "sealed" / FILES[0], key=key, embedded_path=f"models/m/{FILES[0]}")
    assert one.reveal() == (model / FILES[0]).read_bytes()

    plain = unseal_tree(tmp_path / "sealed", tmp_path / "plain", key=key, prefix="models/m")
    assert tuple(entry.path for entry in plain) == FILES
    for entry, before in zip(plain, sealed, strict=True):
        assert (tmp_path / "plain" / entry.path).read_bytes() == (model / entry.path).read_bytes()
        assert entry.unsealed.size == before.sealed.plain_size
    assert stat.S_IMODE((tmp_path / "plain" / "variables").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "plain" / FILES[0]).stat().st_mode) == 0o600


def test_without_a_prefix_the_relative_path_is_embedded(model: Path, tmp_path: Path, key: SecretBytes) -> None:
    seal_tree(model, tmp_path / "sealed", key=key)
    entries = unseal_tree(tmp_path / "sealed", tmp_path / "plain", key=key)
    assert tuple(entry.unsealed.embedded_path for entry in entries) == FILES


def test_a_file_in_the_place_of_another_is_refused(model: Path, tmp_path: Path, key: SecretBytes) -> None:
    seal_tree(model, tmp_path / "sealed", key=key, prefix="m")
    (tmp_path / "sealed" / FILES[2]).write_bytes((tmp_path / "sealed" / FILES[0]).read_bytes())
    with pytest.raises(
        PathMismatchError,
        match=r"variables\.index was sealed for another path: expected 'm/variables/variables\.index', "
        r"got 'm/saved_model\.pb'",
    ):
        unseal_tree(tmp_path / "sealed", tmp_path / "plain", key=key, prefix="m")
    assert not (tmp_path / "plain").exists()
    assert hidden(tmp_path) == []
    assert len(unseal_tree(tmp_path / "sealed", tmp_path / "plain", key=key, prefix=None)) == 3


def test_a_failure_leaves_no_folder(model: Path, tmp_path: Path, key: SecretBytes) -> None:
    seal_tree(model, tmp_path / "sealed", key=key)
    with raises(SealingCode.SEALED_FILE_WRONG_KEY):
        unseal_tree(tmp_path / "sealed", tmp_path / "plain", key=SecretBytes(bytes(16)))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "sealed"}


def test_an_existing_folder_is_kept(model: Path, tmp_path: Path, key: SecretBytes) -> None:
    (tmp_path / "sealed").mkdir()
    with pytest.raises(OutputExistsError, match=r"The output .*sealed already exists"):
        seal_tree(model, tmp_path / "sealed", key=key)
    with pytest.raises(OutputExistsError, match=r"The output .*sealed already exists"):
        unseal_tree(model, tmp_path / "sealed", key=key)
    assert list((tmp_path / "sealed").iterdir()) == []


def test_an_output_in_no_folder_is_refused(model: Path, tmp_path: Path, key: SecretBytes) -> None:
    with raises(
        SealserveCode.FILE_UNWRITABLE, match=r"The folder .*none cannot be written to: No such file or directory"
    ):
        seal_tree(model, tmp_path / "none" / "sealed", key=key)


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_links_and_special_files_are_refused(kind: str, model: Path, tmp_path: Path, key: SecretBytes) -> None:
    if kind == "pipe":
        os.mkfifo(model / "odd")
    else:
        (model / "odd").symlink_to("variables" if kind == "folder link" else "saved_model.pb")
    with raises(
        SealingCode.TREE_NOT_REGULAR, match="odd is not a regular file: only folders and regular files can be sealed"
    ) as refused:
        seal_tree(model, tmp_path / "sealed", key=key)
    assert refused.value.code == "tree.not-regular"
    assert not (tmp_path / "sealed").exists()


def test_a_missing_folder_is_told(tmp_path: Path, model: Path) -> None:
    for path in (tmp_path / "none", model / FILES[0]):
        with pytest.raises(TreeMissingError, match=f"The folder {path} does not exist") as refused:
            regular_files(path)
        assert refused.value.code == "tree.missing"


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty" / "assets").mkdir(parents=True)
    with raises(SealingCode.TREE_EMPTY, match=r"The folder .*empty does not contain any files") as refused:
        regular_files(tmp_path / "empty")
    assert refused.value.code == "tree.empty"
    assert list_folder(tmp_path / "empty").empty_folders == ("assets",)


def test_an_unreadable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)  # tests also run as root, which can list every folder
    with raises(SealingCode.TREE_UNREADABLE, match="cannot be listed: Permission denied") as refused:
        regular_files(tmp_path)
    assert refused.value.code == "tree.unreadable"


@pytest.mark.parametrize("name", [b"a\nb", b"\xff"])
def test_an_unusable_name_is_told(name: bytes, model: Path) -> None:
    os.mknod(os.fsencode(model) + b"/" + name)
    with raises(
        SealingCode.TREE_UNUSABLE_NAME, match=r"The name of a file in .*model is not permitted in a release:"
    ) as refused:
        regular_files(model)
    assert refused.value.code == "tree.unusable-name"


def test_a_deep_tree_is_listed(tmp_path: Path) -> None:
    depth = 1100  # deeper than Python's recursion limit
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        assert list_folder(tmp_path).empty_folders == ("/".join(["d"] * depth),)
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # pytest cannot remove folders of this depth


def test_the_file_list_is_canonical() -> None:
    one, two = "1" * 64, "2" * 64
    files = [ListedFile(path="b", size=2, sha256=two), ListedFile(path="ä", size=1, sha256=one)]
    rows = f'{{"path":"b","sha256":"{two}","size":2}},{{"path":"ä","sha256":"{one}","size":1}}'
    expected = f'{{"files":[{rows}],"version":1}}'
    assert file_list(files) == file_list(reversed(files)) == expected.encode()
    assert json.loads(expected)["version"] == 1
