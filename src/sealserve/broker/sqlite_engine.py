"""The broker's database in one private SQLite file."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database_file import BUSY_SECONDS, DatabaseFile
from sealserve.broker.prepared import run
from sealserve.broker.tables import METADATA
from sealserve.broker.write_turn import SUFFIX, TurnError, WriteTurn

SYNCHRONOUS: Final = "FULL"
"""When SQLite waits for the disk: before the end of each commit, so that audit rows survive a power failure.

Source: https://www.sqlite.org/pragma.html#pragma_synchronous
"""

_WRITE: Final = "sealserve_write"
_POLL_SECONDS: Final = 0.01
_LONGEST_REASON: Final = 500
_ACCESS: Final = "Check that its file and folder are readable and writable, and that its disk is not full."
_DAMAGED: Final = "The file is damaged: restore a backup with `sealserve restore`."
_CHANGED: Final = (
    "The tables differ from the tables that sealserve creates, or a row has content that sealserve never writes. "
    "Another program changed the database: restore a backup with `sealserve restore`."
)
_LOCKED: Final = "Another process holds the lock for too long: run `fuser` on the file to find it, and end it."
_HINTS: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_CANTOPEN: _ACCESS,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FULL: "Free space on the disk of the file.",
    sqlite3.SQLITE_IOERR: _ACCESS,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_PERM: _ACCESS,
    sqlite3.SQLITE_READONLY: _ACCESS,
}
"""The hints by the primary error code of SQLite."""


class SqliteEngine:
    """Transactions in an SQLite database.

    Args:
        engine: The SQLAlchemy engine.
        name: The database's name in messages.
        file: The database's file. None for a database in memory.
    """

    def __init__(self, engine: Engine, *, name: str, file: DatabaseFile | None = None) -> None:
        self.engine = engine
        self.name = name
        self._file = file
        self._turn: WriteTurn | None = None
        if file is not None:
            self._turn = turn = WriteTurn(Path(file.resolved + SUFFIX))
            event.listen(engine, "engine_disposed", lambda _: turn.close())

    @classmethod
    def of_file(cls, file: DatabaseFile) -> Self:
        """Return the database in an existing, private file."""
        url = URL.create("sqlite+pysqlite", database=str(file.path))  # in a text, a "?" in the path would end it
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
        _prepare(engine, file)
        return cls(engine, name=str(file.path), file=file)

    @classmethod
    def empty(cls, name: str, *, read_only: bool = True) -> Self:
        """Return a database in memory with empty tables."""
        engine = create_engine("sqlite://", poolclass=StaticPool, hide_parameters=True)
        METADATA.create_all(engine)
        if read_only:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA query_only = ON")
        return cls(engine, name=name)

    @classmethod
    def loaded(cls, content: bytes, name: str) -> Self:
        """Return a database in memory with the content of an SQLite file."""
        made = cls(create_engine("sqlite://", poolclass=StaticPool, hide_parameters=True), name=name)
        with made.engine.connect() as connection:
            _driver(connection).deserialize(content)
        return made

    def options(self, *, write: bool) -> dict[str, Any]:
        """Return the execution options of a transaction."""
        return {_WRITE: write}

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other thread and no other process writes. See `sealserve.broker.write_turn`."""
        try:
            with contextlib.nullcontext() if self._turn is None else self._turn.taken(BUSY_SECONDS):
                yield
        except TurnError as error:
            raise BrokerCode.DATABASE.error(f"The database {self.name} failed: {error}.", hint=_LOCKED) from error

    def begun(self, connection: Connection, *, write: bool) -> None:
        """Check that the file is still in place. ``BEGIN IMMEDIATE`` has already taken the lock."""
        del connection, write
        if self._file is not None:
            self._file.check_in_place()

    def explain(self, error: SQLAlchemyError) -> tuple[str, str]:
        """Return the reason of a failure, without values of the database, and a hint."""
        cause = getattr(error, "orig", None)
        if not isinstance(cause, sqlite3.Error):
            return type(error).__name__, _ACCESS
        if (code := getattr(cause, "sqlite_errorcode", None)) is None:  # the module raised the error, not SQLite
            return str(cause).partition(" with text ")[0], _CHANGED
        return f"{cause!s:.{_LONGEST_REASON}}", _HINTS.get(code & 0xFF, _CHANGED)

    def snapshot(self, connection: Connection) -> bytes:
        """Return a copy of the database as the content of an SQLite file."""
        with contextlib.closing(sqlite3.connect(":memory:")) as copy:
            _driver(connection).backup(copy)
            return copy.serialize()

    def risks(self, connection: Connection) -> list[str]:
        """Return nothing: this module chooses all settings of the file."""
        del connection
        return []


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101  # the engines of this module
    return driver


def _prepare(engine: Engine, file: DatabaseFile) -> None:
    # By default, the sqlite3 module begins transactions late and implicitly. This code turns that off and begins each
    # transaction itself. A writing transaction takes SQLite's write lock immediately, so its reads hold until commit.
    def on_connect(dbapi: Any, _record: object) -> None:
        dbapi.isolation_level = None
        cursor = dbapi.cursor()
        opened = cursor.execute("PRAGMA database_list").fetchone()[2]
        if opened != file.resolved:  # a link replaced the file after it was checked
            dbapi.close()
            raise BrokerCode.DATABASE.error(
                f"The database {file.path} cannot be opened: the path leads to another file, {opened}.",
                hint="Remove the link, and check that no other user can write to the folder.",
            )
        cursor.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            _switch_to_wal(cursor)
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = ON")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        run(connection, "BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Switch to write-ahead logging. SQLite fails immediately while another process reads, so retry here."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(_POLL_SECONDS)
