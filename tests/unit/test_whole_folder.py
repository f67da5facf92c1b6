import errno
import shutil
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.killing import killed_at

from sealserve import whole_folder
from sealserve.atomic_file import OutputExistsError
from sealserve.codes import SealserveCode
from sealserve.whole_folder import Staging, appearing, staging


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_bytes(b"new")


def test_a_folder_appears_whole_with_its_mode(tmp_path: Path) -> None:
    with appearing(tmp_path / "a" / "b", mode=0o750) as folder:
        fill(folder)
        assert names(tmp_path / "a") == [folder.name]
    assert names(tmp_path / "a") == ["b"]
    assert (tmp_path / "a" / "b" / "below" / "file").read_bytes() == b"new"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o750


def test_a_failure_leaves_nothing_not_even_the_folders_above(tmp_path: Path) -> None:
    def fail() -> None:
        with appearing(tmp_path / "a" / "b") as folder:
            fill(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


def test_a_folder_above_that_others_use_stays(tmp_path: Path) -> None:
    def fail() -> None:
        with appearing(tmp_path / "a" / "b"):
            (tmp_path / "a" / "theirs").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path / "a") == ["theirs"]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_is_there_is_never_replaced(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "x"
    if kind == "file":
        place.touch()
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("nowhere")
    with pytest.raises(OutputExistsError, match="x already exists"), appearing(place):
        pass
    assert names(tmp_path) == ["x"]


def test_staging_never_replaces_what_appeared_meanwhile(tmp_path: Path) -> None:
    def publish() -> None:
        with appearing(tmp_path / "x") as folder:
            fill(folder)
            (tmp_path / "x").mkdir()
            (tmp_path / "x" / "file").write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        publish()
    assert (tmp_path / "x" / "file").read_bytes() == b"theirs"
    assert names(tmp_path) == ["x"]


def test_staging_loses_a_race_without_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_bytes(b"theirs")
    monkeypatch.setattr("sealserve.whole_folder.refuse_existing", lambda _: None)  # it looked just before
    with pytest.raises(OutputExistsError, match="x already exists"), staging(tmp_path, "x") as stage:
        stage.publish(tmp_path / "x")
    assert (tmp_path / "x" / "file").read_bytes() == b"theirs"
    assert names(tmp_path) == ["x"]


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    with (
        raises(SealserveCode.FILE_DISK_FULL, match="The disk is full: nothing can be written to"),
        staging(tmp_path, "x"),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_a_parent_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(SealserveCode.FILE_UNWRITABLE, match="cannot be written to"), staging(tmp_path / "file", "x"):
        pass


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), staging(tmp_path, "x"):
        raise PermissionError(13, "Permission denied")


def test_a_replaced_folder_is_the_new_one_whole(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    for _ in range(2):  # the second time it replaces the new one
        with staging(tmp_path, "x") as stage:
            fill(stage.folder)
            stage.replace(tmp_path / "x")
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["below"]


def test_killed_at_any_step_it_is_whole_or_absent_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    place = tmp_path / "x"

    def work() -> None:
        with appearing(place) as folder:
            fill(folder)

    step = 0
    while killed_at(step, work):
        assert not place.exists() or (place / "below" / "file").read_bytes() == b"new"
        assert len(names(tmp_path)) <= 1
        if place.exists():
            (place / "below" / "file").unlink()
            (place / "below").rmdir()
            place.rmdir()
        step += 1
    assert step > 8
    assert names(tmp_path) == ["x"]


def test_an_interrupted_replacement_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "x"
    place.mkdir()
    (place / "old").touch()

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_folder, "_sync", interrupt)
    with pytest.raises(KeyboardInterrupt), staging(tmp_path, "x") as stage:  # noqa: PT012
        fill(stage.folder)
        stage.replace(place)
    assert names(tmp_path) == ["x"]
    assert names(place) == ["old"]


def test_without_an_exchange_a_failure_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "x"
    place.mkdir()
    (place / "old").touch()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(whole_folder, "exchange", lambda *_: False)
    monkeypatch.setattr(Staging, "_appear", fail)
    with pytest.raises(OSError, match="no"), staging(tmp_path, "x") as stage:  # noqa: PT012
        fill(stage.folder)
        stage.replace(place)
    assert names(tmp_path) == ["x"]
    assert names(place) == ["old"]


def test_an_exchange_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError):
        whole_folder.exchange(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("exchanged", [True, False])
def test_killed_while_it_replaces_it_is_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exchanged: bool
) -> None:
    """Where folders cannot be exchanged, it can also be absent."""
    place = tmp_path / "x"
    if not exchanged:
        monkeypatch.setattr(whole_folder, "exchange", lambda *_: False)

    def work() -> None:
        with staging(tmp_path, "x") as stage:
            fill(stage.folder)
            stage.replace(place)

    seen = set()
    step = 0
    while True:
        if not place.exists():
            place.mkdir()
        (place / "old").touch()
        if not killed_at(step, work):
            break
        seen.add(tuple(names(place)) if place.exists() else None)
        for leftover in tmp_path.glob(".x.*"):  # the time to remove it would change what the same step number means
            shutil.rmtree(leftover)
        step += 1
    assert seen == {("old",), ("below",)} | (set() if exchanged else {None})
    assert names(tmp_path) == ["x"]


def test_a_folder_that_is_being_filled_is_no_leftover(tmp_path: Path) -> None:
    with staging(tmp_path, "x") as first, staging(tmp_path, "x") as second, staging(tmp_path, "x.y"):
        assert first.folder.is_dir()
        assert second.folder.is_dir()
    assert names(tmp_path) == []


def test_only_leftovers_of_the_same_name_are_removed(tmp_path: Path) -> None:
    kept = [".x.0123456789ab", ".y.0123456789ab.partial", ".x.0123.partial", ".x.0123456789abc.partial"]
    for name in (*kept, ".x.0123456789ab.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / ".x.aaaaaaaaaaaa.partial").symlink_to(kept[0])
    with appearing(tmp_path / "x"):
        pass
    assert names(tmp_path) == sorted([*kept, ".x.aaaaaaaaaaaa.partial", "x"])
