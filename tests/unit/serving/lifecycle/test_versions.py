from pathlib import Path

import pytest
from google.protobuf import text_format

from sealserve.canonical_document import ListedFile
from sealserve.serving.file_list import FileList
from sealserve.serving.lifecycle import versions
from sealserve.serving.lifecycle.versions import BasePathMissingError, NoVersionError
from sealserve.serving.runtime.protos import VersionPolicy


def listing(folder: Path, *paths: str) -> FileList:
    rows = {path: ListedFile(path=path, size=0, sha256="0" * 64) for path in paths}
    return FileList(folder=folder, rows=rows)


def test_the_highest_number_is_the_latest(tmp_path: Path) -> None:
    for name in ("2", "10", "9", "latest", ".11", "-12", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "13").write_bytes(b"no folder")
    found = versions.available(tmp_path)
    assert found == {2: tmp_path / "2", 9: tmp_path / "9", 10: tmp_path / "10"}
    assert list(versions.aspired(found, VersionPolicy())) == [10]


def test_leading_zeros_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "00000123").mkdir()
    assert versions.available(tmp_path) == {123: tmp_path / "00000123"}


def test_a_listed_version_that_was_hidden_still_counts(tmp_path: Path) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    files = listing(tmp_path, "m/1/saved_model.pb", "m/2/saved_model.pb", "m/README")
    assert set(versions.available(tmp_path / "m", files)) == {1, 2}


def test_a_model_that_was_hidden_as_a_whole_still_counts(tmp_path: Path) -> None:
    assert versions.available(tmp_path / "m", listing(tmp_path, "m/1/saved_model.pb")) == {1: tmp_path / "m/1"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BasePathMissingError, match=r"The folder .*/m of the model does not exist") as caught:
        versions.available(tmp_path / "m")
    assert (caught.value.code, caught.value.exit_status) == ("servable.base-path-missing", 2)


def test_a_folder_without_versions(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    with pytest.raises(NoVersionError, match="does not contain a version folder") as caught:
        versions.available(tmp_path)
    assert caught.value.code == "servable.no-version"


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("", [9]),
        ("latest {}", [9]),
        ("latest { num_versions: 2 }", [9, 5]),
        ("latest { num_versions: 7 }", [9, 5, 2]),
        ("all {}", [9, 5, 2]),
        ("specific { versions: 2 versions: 9 }", [9, 2]),
        ("specific { versions: 2 versions: 3 }", [2]),
    ],
)
def test_a_policy_chooses(policy: str, wanted: list[int]) -> None:
    found = {number: Path(str(number)) for number in (2, 9, 5)}
    assert list(versions.aspired(found, text_format.Parse(policy, VersionPolicy()))) == wanted


def test_specific_versions_of_which_none_is_there() -> None:
    policy = text_format.Parse("specific { versions: 3 }", VersionPolicy())
    with pytest.raises(NoVersionError, match=r"None of the specific versions \[3\] exists: got \[1\]"):
        versions.aspired({1: Path("1")}, policy)


def test_a_number_that_is_too_great_is_no_version(tmp_path: Path) -> None:
    for name in (str(2**63 - 1), str(2**63), "9" * 200):
        (tmp_path / name).mkdir()
    assert set(versions.available(tmp_path)) == {2**63 - 1}
