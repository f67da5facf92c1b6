"""The database file: concurrent first openers wait, links are not followed, an earlier location is moved."""

import contextlib
import multiprocessing
import os
import sqlite3
import threading
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select
from tests.harness.errors import raises

from sealserve.broker import database_file, sqlite_engine
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.database_file import opening
from sealserve.broker.tables import KEYS

ROUNDS, OPENERS = 12, 8
ROW = {"key_id": "0" * 32, "wrapper": "file", "format": 2, "wrapped": b"w", "created": "t"}


def open_at_once(folder: Path, begin: Barrier, failures: "SimpleQueue[str]") -> None:
    for number in range(ROUNDS):
        begin.wait()
        try:
            with Database.open(folder / f"{number}.sqlite") as opened, opened.write() as connection:
                connection.execute(select(func.count()).select_from(KEYS)).scalar_one()
        except BaseException as error:  # noqa: BLE001  # reported by the test's thread
            failures.put(repr(error))


def test_many_processes_open_a_new_database_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begin, failures = context.Barrier(OPENERS), context.SimpleQueue()
    processes = [context.Process(target=open_at_once, args=(tmp_path, begin, failures)) for _ in range(OPENERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert failures.empty(), failures.get()
    assert [process.exitcode for process in processes] == [0] * OPENERS


def test_the_switch_to_wal_is_tried_again_while_it_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)

    class Busy:
        left = 3

        def execute(self, statement: str) -> None:
            assert statement == "PRAGMA journal_mode = WAL"
            self.left -= 1
            if self.left:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY if self.left == 1 else sqlite3.SQLITE_BUSY
                raise error

    sqlite_engine._switch_to_wal(Busy())  # type: ignore[arg-type]
    assert len(waited) == 2
    monkeypatch.setattr(sqlite_engine, "BUSY_SECONDS", -1.0)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        sqlite_engine._switch_to_wal(Busy())  # type: ignore[arg-type]


def test_a_folder_that_stays_locked_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_file, "BUSY_SECONDS", 0.0)
    with opening(tmp_path / "broker.sqlite"), raises(BrokerCode.DATABASE, match="has locked its folder"):
        Database.open(tmp_path / "broker.sqlite")
    Database.open(tmp_path / "broker.sqlite").close()


@pytest.mark.parametrize("name", ["broker.sqlite", "broker.sqlite-wal", "broker.sqlite-shm", "broker.sqlite-journal"])
@pytest.mark.parametrize("kind", ["a symbolic link", "a file with 2 hard links", "a pipe"])
def test_what_is_no_file_of_its_own_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    victim, folder = tmp_path / "shadow", tmp_path / "database"
    folder.mkdir()
    victim.write_text("root's")
    victim.chmod(0o644)
    if kind == "a symbolic link":
        (folder / name).symlink_to(victim)
    elif kind == "a pipe":
        os.mkfifo(folder / name)
    else:
        os.link(victim, folder / name)
    with raises(BrokerCode.DATABASE, match=f"{name} is {kind}") as caught:
        Database.open(folder / "broker.sqlite")
    assert caught.value.code == "broker.database"
    assert (victim.stat().st_mode & 0o777, victim.read_text()) == (0o644, "root's")


def test_a_link_that_takes_the_files_place_after_the_check_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, victim = tmp_path / "database", tmp_path / "victim.sqlite"
    folder.mkdir()
    Database.open(victim).close()
    before = victim.read_bytes()
    prepare = sqlite_engine._prepare

    def racing(*arguments: object) -> None:
        (folder / "broker.sqlite").unlink()
        (folder / "broker.sqlite").symlink_to(victim)
        prepare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite_engine, "_prepare", racing)
    with raises(
        BrokerCode.DATABASE,
        match=r"The database .*broker\.sqlite cannot be opened: the path leads to another file, "
        r".*victim\.sqlite",
    ):
        Database.open(folder / "broker.sqlite")
    assert victim.read_bytes() == before


def test_opening_again_drops_no_lock_of_this_process(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite"
    with Database.open(path) as opened, opened.write() as connection:
        connection.execute(insert(KEYS).values(ROW))
        with opening(path):  # opens and closes the file
            pass
        other = multiprocessing.get_context("spawn").Process(target=_write_without_waiting, args=(path,))
        other.start()
        other.join()
        assert other.exitcode == 7


def _write_without_waiting(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            raise SystemExit(7) from None


def test_a_database_is_moved_from_its_earlier_place(tmp_path: Path) -> None:
    former, path = tmp_path / "broker.sqlite", tmp_path / "database" / "broker.sqlite"
    path.parent.mkdir()
    with Database.open(former) as old, old.write() as connection:
        connection.execute(insert(KEYS).values(ROW))
    with Database.open(path, former=former) as moved, moved.read() as connection:
        assert connection.execute(select(KEYS.c.key_id)).scalar_one() == ROW["key_id"]
    assert not list(tmp_path.glob("broker.sqlite*"))
    Database.open(path, former=former).close()


def test_a_database_that_is_in_use_stays_in_its_earlier_place(tmp_path: Path) -> None:
    former, path = tmp_path / "broker.sqlite", tmp_path / "database" / "broker.sqlite"
    path.parent.mkdir()
    with Database.open(former) as old, old.read() as connection:
        connection.execute(select(KEYS.c.key_id)).all()
        with raises(BrokerCode.DATABASE, match=r"cannot be moved to .*: database is locked") as caught:
            Database.open(path, former=former)
    assert caught.value.hint == "Stop the broker that uses the database, and run the command again."
    assert former.is_file()
    assert not path.exists()


def test_a_link_in_the_earlier_place_is_not_moved(tmp_path: Path) -> None:
    former, path = tmp_path / "broker.sqlite", tmp_path / "database" / "broker.sqlite"
    path.parent.mkdir()
    (tmp_path / "victim").write_text("x")
    former.symlink_to(tmp_path / "victim")
    with raises(
        BrokerCode.DATABASE,
        match=r"The database .*broker\.sqlite cannot be opened: the path is a symbolic link, but a "
        r"regular file is expected",
    ):
        Database.open(path, former=former)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_root_makes_the_file_for_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65532, 65532)
    with Database.open(tmp_path / "broker.sqlite") as opened, opened.write() as connection:
        connection.execute(insert(KEYS).values(ROW))
        assert {found.stat().st_uid for found in tmp_path.iterdir()} == {65532}


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    opened: list[Database] = []
    threads = [
        threading.Thread(target=lambda: opened.append(Database.open(tmp_path / "broker.sqlite"))) for _ in range(8)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in opened:
        database.close()
    assert len(opened) == 8
    assert time.monotonic() - began < database_file.BUSY_SECONDS
