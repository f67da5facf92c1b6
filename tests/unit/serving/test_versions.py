from pathlib import Path

import pytest

from sealserve.serving import versions
from sealserve.serving.file_list import FileList, _Row
from sealserve.serving.versions import BasePathMissingError, NoVersionError


def listing(folder: Path, *paths: str) -> FileList:
    rows = {path: _Row(path=path, size=0, sha256="0" * 64) for path in paths}
    return FileList(folder=folder, rows=rows)


def test_the_highest_number_is_the_latest(tmp_path: Path) -> None:
    for name in ("2", "10", "9", "latest", ".11", "-12", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "13").write_bytes(b"no folder")
    found = versions.available(tmp_path)
    assert found == {2: tmp_path / "2", 9: tmp_path / "9", 10: tmp_path / "10"}
    assert versions.latest(found) == 10


def test_leading_zeros_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "00000123").mkdir()
    assert versions.available(tmp_path) == {123: tmp_path / "00000123"}


def test_a_listed_version_that_was_hidden_still_counts(tmp_path: Path) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    files = listing(tmp_path, "m/1/saved_model.pb", "m/2/saved_model.pb", "m/README")
    assert versions.latest(versions.available(tmp_path / "m", files)) == 2


def test_a_model_that_was_hidden_as_a_whole_still_counts(tmp_path: Path) -> None:
    assert versions.available(tmp_path / "m", listing(tmp_path, "m/1/saved_model.pb")) == {1: tmp_path / "m/1"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BasePathMissingError, match=r"There is no folder .*/m") as caught:
        versions.available(tmp_path / "m")
    assert (caught.value.code, caught.value.exit_status) == ("servable.base-path-missing", 2)


def test_a_folder_without_versions(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    with pytest.raises(NoVersionError, match="has no version folder") as caught:
        versions.available(tmp_path)
    assert caught.value.code == "servable.no-version"
