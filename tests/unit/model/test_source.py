"""The model that a path refers to, for all contents of the folder."""

import os
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.model.codes import ModelCode
from sealserve.model.source import candidates, check_source, find_source
from sealserve.terms import LARGEST_VERSION


def saved_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    return folder


def test_the_newest_version_is_the_largest_number(tmp_path: Path) -> None:
    for name in ("9", "10", "0100x", "-1", "\u0661", str(LARGEST_VERSION + 1), "9" * 400):
        saved_model(tmp_path / "m" / name[:200])
    found = find_source(tmp_path / "m")
    assert (found.path, found.version, found.other_versions) == (tmp_path / "m/10", 10, [9])


def test_a_saved_model_with_numbers_in_it_is_itself(tmp_path: Path) -> None:
    saved_model(tmp_path / "m")
    saved_model(tmp_path / "m/3")
    assert find_source(tmp_path / "m").path == tmp_path / "m"


def test_a_graph_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "net.pb").touch()
    found = find_source(tmp_path / "net.pb")
    assert (found.path, found.version) == (tmp_path / "net.pb", None)
    (tmp_path / "graph-without-suffix").touch()
    check_source(tmp_path / "graph-without-suffix")  # its content decides whether it is a graph


def test_what_lies_in_a_folder_is_bounded_and_may_be_anything(tmp_path: Path) -> None:
    saved_model(tmp_path / "flowers")
    saved_model(tmp_path / ".hidden")
    os.mkfifo(tmp_path / "pipe.pb")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere.pb").symlink_to("none")
    (tmp_path / "saved_model.pbx").touch()
    assert candidates(tmp_path) == [tmp_path / "flowers"]
    assert candidates(tmp_path / "none") == []
    with raises(ModelCode.MISSING):
        find_source(tmp_path / "loop")


def test_a_folder_that_cannot_be_read_has_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with raises(ModelCode.MISSING) as caught:
        find_source(tmp_path / "none")
    assert "make-example" in (caught.value.hint or "")
