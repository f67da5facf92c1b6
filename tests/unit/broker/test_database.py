import contextlib
import sqlite3
import threading
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import String, func, insert, select
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises

from sealserve.broker.audit_entry import Decision
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.stored_time import from_text, to_text
from sealserve.broker.tables import AUDIT, KEYS


def _key(number: int) -> dict[str, object]:
    return {"key_id": f"{number:032x}", "wrapper": "file", "format": 2, "wrapped": b"w", "created": "t"}


def test_each_decision_and_code_fits_into_its_column() -> None:  # PostgreSQL rejects a longer text, SQLite does not
    columns = {column.name: column.type for column in AUDIT.columns if isinstance(column.type, String)}
    assert max(map(len, Decision)) <= (columns["decision"].length or 0)
    assert max(len(code) for code in list(BrokerCode)) <= (columns["code"].length or 0)


@ONLY_SQLITE
def test_the_file_and_what_sqlite_puts_beside_it_are_private(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        connection.execute(insert(KEYS).values(_key(1)))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes) >= {"broker.sqlite", "broker.sqlite-wal"}
    assert set(modes.values()) == {0o600}


def test_a_file_that_others_could_read_is_made_private_again(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite"
    Database.open(path).close()
    path.chmod(0o644)
    Database.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["what?", "50%25", "a#b", "sp ace", "file:x"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    Database.open(folder / "broker.sqlite").close()
    assert {path.name for path in tmp_path.iterdir()} == {name}
    made = list(folder.iterdir())
    assert [path.name for path in made if path.stat().st_size] == ["broker.sqlite"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in made)


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(insert(KEYS).values(_key(1)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(KEYS)).scalar_one() == 0


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite"
    path.write_bytes(b"this is no database, " * 100)
    with raises(BrokerCode.DATABASE, match=r"broker\.sqlite failed: file is not a database") as caught:
        Database.open(path)
    assert caught.value.code == "broker.database"


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with raises(BrokerCode.DATABASE, match=r"cannot be opened: No such file or directory"):
        Database.open(tmp_path / "nowhere" / "broker.sqlite")


def test_no_statement_shows_its_values_in_an_error(database: Database) -> None:
    row = {**_key(1), "wrapped": b"sealed-bytes"}
    with raises(BrokerCode.DATABASE, match="(?i)unique") as caught, database.write() as connection:
        connection.execute(insert(KEYS).values([row, row]))
    assert "sealed-bytes" not in str(caught.value) + str(caught.value.__cause__)


@ONLY_SQLITE
@pytest.mark.parametrize(
    ("change", "reason", "hint"),
    [
        ("UPDATE keys SET wrapper = CAST(x'80ff' AS TEXT)", "Could not decode to UTF-8 column 'wrapper'[.]", "restore"),
        ("DROP TABLE keys", "no such table: keys", "differ from the tables that sealserve creates"),
        ("PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'x'", "malformed database schema", "is damaged"),
        (f"CREATE TRIGGER t BEFORE DELETE ON keys BEGIN SELECT RAISE(ABORT, '{'x' * 1000}'); END", "x{500}[.]",
         "Another program changed"),
    ],
)  # fmt: skip
def test_the_hint_names_the_fix_of_this_failure(
    database: Database, tmp_path: Path, change: str, reason: str, hint: str
) -> None:
    with database.write() as connection:
        connection.execute(insert(KEYS).values(_key(1)))
    database.close()  # an open connection would still use the former tables
    with contextlib.closing(sqlite3.connect(tmp_path / "broker.sqlite")) as connection:
        connection.executescript(change)
    with raises(BrokerCode.DATABASE, match=reason) as caught, database.write() as connection:
        connection.execute(select(KEYS)).all()
        connection.execute(KEYS.delete())
    assert hint in str(caught.value.hint)


@ONLY_SQLITE
def test_a_locked_file_and_a_full_disk_have_their_own_hints(database: Database) -> None:
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    with raises(BrokerCode.DATABASE, match="full") as caught, database.write() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.execute(insert(KEYS).values(_key(1) | {"wrapped": b"x" * 1_000_000}))
    assert caught.value.hint == "Free space on the disk of the file."


def test_writers_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite"
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            with Database.open(path) as opened:
                for number in range(first, first + 10):
                    with opened.write() as connection:
                        count = connection.execute(select(func.count()).select_from(KEYS)).scalar_one()
                        connection.execute(insert(KEYS).values({**_key(number), "created": str(count)}))
        except BaseException as error:  # noqa: BLE001  # reported by the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 60, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with Database.open(path) as opened, opened.read() as connection:
        seen = sorted(int(text) for text in connection.execute(select(KEYS.c.created)).scalars())
    assert seen == list(range(60))  # the values that each writer read were still valid when it committed


@ONLY_SQLITE
def test_a_write_survives_without_a_clean_close(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        connection.execute(insert(KEYS).values(_key(1)))
    other = sqlite3.connect(tmp_path / "broker.sqlite")
    try:
        assert other.execute("SELECT count(*) FROM keys").fetchone() == (1,)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        other.close()


def test_times_come_back_as_they_were(now: datetime) -> None:
    assert to_text(now) == "2026-11-23T12:00:00.000000+00:00"
    assert from_text(to_text(now)) == now
    with pytest.raises(ValueError, match="time zone"):
        to_text(now.replace(tzinfo=None))
