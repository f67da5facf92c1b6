"""Owners and modes change for the file that was found, whatever takes its name in between."""

import os
import stat
from pathlib import Path

import pytest

from sealserve import held_tree as module
from sealserve.held_tree import Held, held, held_tree


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_below_is_held_and_no_link_is_followed(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("x")
    outside.mkdir()
    (outside / "secret").write_text("x")
    (top / "link").symlink_to(outside)
    os.link(outside / "secret", top / "second-name")
    os.mkfifo(top / "pipe")
    found = {entry.path.relative_to(top).as_posix(): entry.kind for entry in held_tree(top)}
    assert found == {
        ".": "a folder", "a": "a folder", "a/b": "a folder", "a/b/file": "a file", "link": "a symbolic link",
        "pipe": "a pipe, socket or device", "second-name": "a file with 2 hard links",
    }  # fmt: skip
    plain = {entry.path.name for entry in held_tree(top) if entry.is_plain_file}
    assert plain == {"file"}


def test_a_top_that_is_a_link_or_missing_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert [entry.kind for entry in held_tree(tmp_path / "link")] == ["a symbolic link"]
    assert list(held(tmp_path / "missing")) == []


def test_a_name_that_is_exchanged_before_the_change_changes_nothing_else(tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("x")
    victim.chmod(0o600)
    target = tmp_path / "top" / "file"
    target.parent.mkdir()
    target.write_text("x")
    for entry in held_tree(target.parent):
        if entry.is_plain_file:
            target.rename(tmp_path / "moved")  # what a container does between the check and the change
            target.symlink_to(victim)
            entry.change_mode(0o640)
    assert mode_of(victim) == 0o600
    assert mode_of(tmp_path / "moved") == 0o640


def test_a_folder_that_is_exchanged_for_a_link_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "etc"
    victim.mkdir()
    (victim / "shadow").write_text("x")
    folder = tmp_path / "top" / "folder"
    folder.mkdir(parents=True)
    (folder / "own").write_text("x")
    listdir = os.listdir

    def racing(descriptor: int) -> list[str]:
        names = listdir(descriptor)
        if "folder" in names:
            folder.rename(tmp_path / "moved")
            folder.symlink_to(victim)
        return names

    monkeypatch.setattr(os, "listdir", racing)
    assert {entry.path.name: entry.kind for entry in held_tree(tmp_path / "top")} == {
        "top": "a folder", "folder": "a symbolic link",
    }  # fmt: skip


def test_a_folder_that_was_entered_stays_the_one_that_is_walked(tmp_path: Path) -> None:
    victim = tmp_path / "etc"
    victim.mkdir()
    (victim / "own").write_text("x")
    folder = tmp_path / "top" / "folder"
    folder.mkdir(parents=True)
    (folder / "own").write_text("x")
    for entry in held_tree(tmp_path / "top"):
        if entry.path == folder:
            folder.rename(tmp_path / "moved")
            folder.symlink_to(victim)
        elif entry.is_plain_file:
            entry.change_mode(0o604)
    assert mode_of(victim / "own") == mode_of(victim / "own") & 0o666
    assert mode_of(victim / "own") != 0o604
    assert mode_of(tmp_path / "moved" / "own") == 0o604


def test_what_vanishes_is_left_out_and_deep_folders_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DEPTH", 3)
    (tmp_path / "1" / "2" / "3" / "4" / "5").mkdir(parents=True)
    assert [entry.path.name for entry in held_tree(tmp_path / "1")] == ["1", "2", "3", "4"]
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda descriptor: [*listdir(descriptor), "gone"])
    assert "gone" not in {entry.path.name for entry in held_tree(tmp_path / "1")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")
def test_the_owner_is_changed_by_the_descriptor(tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("x")
    target = tmp_path / "top"
    target.write_text("x")

    def give(entry: Held) -> None:
        target.unlink()
        os.link(victim, target)
        entry.change_owner(65532, 65532)

    for entry in held(target):
        give(entry)
    assert victim.stat().st_uid == 0
