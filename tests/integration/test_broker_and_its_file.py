"""A broker process whose SQLite file is locked, damaged or on a full disk: no key without its row, a clear error."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert
from tests.harness.broker_process import PATIENT, Place, place
from tests.harness.errors import raises

from sealserve.broker.database import Database
from sealserve.broker.tables import KEYS
from sealserve.enclave.codes import EnclaveCode

pytestmark = pytest.mark.integration


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, str(tmp_path / "broker.sqlite")) as made:
        yield made


def test_a_full_disk_releases_no_key(site: Place) -> None:
    """No file may grow beyond its present size: the write-ahead log has no room for a row."""
    broker = site.start("limited", kind="limited")
    with raises(EnclaveCode.PROVISIONING_REFUSED):
        while True:  # the log may still have room for a row
            site.ask(broker)
    log = (site.folder / "limited.log").read_text()
    assert "[broker.database]" in log
    assert "Traceback" not in log
    released = len(site.released())
    broker.kill()
    again = site.start("again")
    assert site.ask(again) == site.made.key.reveal()
    assert len(site.released()) == released + 1


def test_a_file_that_another_process_locks_releases_no_key(site: Place) -> None:
    broker = site.start("locked", kind="hasty")
    with closing(sqlite3.connect(site.where, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with raises(EnclaveCode.PROVISIONING_REFUSED):
            site.ask(broker)  # refused after the time that the broker waits for the lock
        other.execute("ROLLBACK")
    log = (site.folder / "locked.log").read_text()
    assert "database is locked" in log
    assert "Traceback" not in log
    assert site.released() == []
    assert site.ask(broker) == site.made.key.reveal()


def test_a_damaged_page_is_an_error_without_a_traceback(site: Place) -> None:
    with Database.open(Path(site.where)) as database, database.write() as connection:
        rows = [
            {"key_id": f"{number:032x}", "wrapper": "file", "format": 2, "wrapped": bytes(500), "created": "t"}
            for number in range(200)
        ]
        connection.execute(insert(KEYS), rows)
    with closing(sqlite3.connect(site.where)) as raw:
        raw.execute("PRAGMA journal_mode = DELETE")
        (size,) = raw.execute("PRAGMA page_size").fetchone()
        definitions = {number for (number,) in raw.execute("SELECT pageno FROM dbstat WHERE name = 'sqlite_schema'")}
    path = Path(site.where)
    content = bytearray(path.read_bytes())
    for page in range(5, len(content) // size + 1):  # the tables' definitions and their revision stay
        if page not in definitions:
            content[(page - 1) * size : page * size] = b"\xa5" * size
    path.write_bytes(content)
    broker = site.start("damaged")  # the first pages are intact
    with raises(EnclaveCode.PROVISIONING_REFUSED):
        site.ask(broker)
    log = (site.folder / "damaged.log").read_text()
    assert "[broker.database] The database" in log
    assert "malformed" in log
    assert "Traceback" not in log


def test_a_file_with_other_content_is_an_error(site: Place) -> None:
    Path(site.where).write_bytes(b"not a database, " * 1000)
    process = site.launch("damaged")
    output, _ = process.communicate(timeout=PATIENT)
    assert process.returncode == 4
    assert "file is not a database" in output
