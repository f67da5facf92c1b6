"""The broker's database: its tables and its serialized transactions.

The default is SQLite in one private file. Tables and statements use portable SQL, so that PostgreSQL can replace
SQLite. SQLite-specific code is in `_prepare_sqlite`. Times are ISO 8601 text in UTC, and measurements are lower-case
hex. Both are read back exactly as written, as the audit chain requires.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database_file import BUSY_SECONDS, DatabaseFile, opening

SCHEMA_VERSION: Final = 2
_WRITE: Final = "sealserve_write"
_POLL_SECONDS: Final = 0.01

METADATA: Final = MetaData()

SCHEMA: Final = Table("schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

KEYS: Final = Table(
    "keys",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created", String(32), nullable=False),
)

RELEASES: Final = Table(
    "releases",
    METADATA,
    Column("release_id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("platform", String(16), nullable=False),
    Column("key_id", String(32), ForeignKey("keys.key_id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("deadline", String(32)),
    Column("policy", Text, nullable=False),  # JSON of AppraisalPolicy
    Column("created", String(32), nullable=False),
)

REFERENCE_VALUES: Final = Table(
    "reference_values",
    METADATA,
    Column("measurement", String(128), primary_key=True),  # hexadecimal; up to SHA-512
    Column("release_id", String(64), ForeignKey("releases.release_id"), nullable=False, index=True),
    Column("label", String(64), nullable=False),
    Column("reference", Text, nullable=False),  # JSON, in the format of its kind of evidence
)

PLATFORMS: Final = Table(
    "platforms",
    METADATA,
    Column("platform", String(16), primary_key=True),
    Column("platform_id", String(64), primary_key=True),
    Column("label", String(64), nullable=False),
    Column("enrolled", String(32), nullable=False),
)

EVALUATION_FLOOR: Final = Table(
    "evaluation_floor",
    METADATA,
    Column("anchor", String(64), primary_key=True),  # SHA-256 of the root certificate
    Column("platform", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("seen", String(32), nullable=False),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("time", String(32), nullable=False),
    Column("peer", String(64), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("code", String(64), nullable=False, index=True),
    Column("detail", Text, nullable=False),
    Column("release_id", String(64)),
    Column("platform", String(16)),
    Column("mr_enclave", String(64)),  # each row's hash covers the column names, so they must not change
    Column("mr_signer", String(64)),
    Column("platform_id", String(64)),
    Column("tcb_status", String(64)),
    Column("advisories", Text),
    Column("quote_digest", String(64)),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

AUDIT_HEADS: Final = Table(
    "audit_heads",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("time", String(32), nullable=False),
    Column("signature", String(128), nullable=False),
)


@contextlib.contextmanager
def reading(table: str) -> Iterator[None]:
    """Convert errors from parsing the values of a row into a `broker.database-content` error.

    Args:
        table: The table's name, for the message.

    Raises:
        VerificationError: `broker.database-content` if a value has the wrong type or form.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise BrokerCode.DATABASE_CONTENT.error(
            f"A row of the table {table} in the broker's database has invalid content ({type(error).__name__}).",
            hint="Run `sealserve broker log --verify` to check the audit log, and restore a backup.",
        ) from error


class Database:
    """The broker's database. Several threads may use it. Several processes may use the same file.

    Args:
        engine: The SQLAlchemy engine. The schema must exist, as after `open`.
        name: The database's name in messages.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name

    @classmethod
    def open(cls, path: Path, *, former: Path | None = None) -> Self:
        """Open the database in the file at ``path``. If the file does not exist, create it with mode 0600.

        A database with an older schema is upgraded in one transaction. Older versions of sealserve then reject it.

        Args:
            path: The file, in an existing folder.
            former: An earlier location of the file. If the file is there, it is moved to ``path``.

        Raises:
            UnavailableError: `broker.database` if the database cannot be opened.
            InputError: `broker.database-version` if a newer version of sealserve wrote the database.
        """
        with opening(path, former=former) as file:
            url = URL.create("sqlite+pysqlite", database=str(path))  # a URL as text would be cut at a "?" in the path
            engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
            _prepare_sqlite(engine, file)
            database = cls(engine, str(path))
            try:
                database._make_schema()
            except BaseException:
                database.close()
                raise
        return database

    @classmethod
    def empty(cls, name: str) -> Self:
        """Return an empty, read-only database in memory. It represents a file that does not exist yet.

        Args:
            name: The database's name in messages.
        """
        engine = create_engine("sqlite://", poolclass=StaticPool)
        METADATA.create_all(engine)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        return cls(engine, name)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction with a consistent view of the database.

        Raises:
            UnavailableError: `broker.database` if the database failed.
        """
        with self._transaction(write=False) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a writing transaction. Only one exists at a time. Its changes are durable when this context ends.

        Raises:
            UnavailableError: `broker.database` if the database failed. Nothing is written in this case.
        """
        with self._transaction(write=True) as connection:
            yield connection

    def snapshot(self) -> bytes:
        """Return a consistent copy of the database as the content of an SQLite file.

        Raises:
            UnavailableError: `broker.database` if the database failed.
        """
        with self.read() as connection, contextlib.closing(sqlite3.connect(":memory:")) as copy:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)  # noqa: S101  # `open` always creates an SQLite engine
            source.backup(copy)
            return copy.serialize()

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(**{_WRITE: write}) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or type(error).__name__
            raise BrokerCode.DATABASE.error(
                f"The database {self.name} failed: {reason}.",
                hint="Check that its file is readable and writable, and that its disk is not full.",
            ) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_schema(self) -> None:
        with self.write() as connection:  # only one process at a time creates the tables
            SCHEMA.create(connection, checkfirst=True)
            version = connection.execute(select(SCHEMA.c.version)).scalar()
            if version is None:
                METADATA.create_all(connection)
                connection.execute(insert(SCHEMA).values(version=SCHEMA_VERSION))
            elif version == 1:
                _upgrade_from_1(connection)
            elif version != SCHEMA_VERSION:
                raise BrokerCode.DATABASE_VERSION.error(
                    f"The database {self.name} has schema version {version}, but this version of sealserve supports "
                    f"version {SCHEMA_VERSION}.",
                    hint="Use the version of sealserve that wrote the database.",
                )


def _upgrade_from_1(connection: Connection) -> None:
    """Rewrite the tables whose columns differ in schema 2. The audit log and the keys do not change.

    Schema 1 had one column for each SGX reference value and for each rule of the appraisal policy.
    """
    # Read all rows. The tables are small: one row per release, and one row per enclave of a release.
    releases = [dict(row) for row in connection.execute(text("SELECT * FROM releases")).mappings()]
    references = [dict(row) for row in connection.execute(text("SELECT * FROM reference_values")).mappings()]
    # Recreate the tables, the referring table first, so that their schema equals the schema of a new database.
    for table in ("reference_values", "releases"):
        connection.execute(text(f"DROP TABLE {table}"))
    METADATA.create_all(connection)
    # Convert the columns to JSON.
    with reading("releases"):
        for row in releases:
            tcb, enrolled_only = json.loads(row.pop("tcb_policy")), bool(row.pop("enrolled_platforms_only"))
            policy = {"version": 1, "tcb": tcb, "enrolled_platforms_only": enrolled_only}
            connection.execute(insert(RELEASES).values(**row, policy=_json(policy)))
        for row in references:
            place = {"measurement": row["mr_enclave"], "release_id": row.pop("release_id"), "label": row.pop("label")}
            connection.execute(insert(REFERENCE_VALUES).values(**place, reference=_json(row)))
    connection.execute(update(SCHEMA).values(version=SCHEMA_VERSION))


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def to_text(time: datetime) -> str:
    """Return ``time`` in the format of the database: ISO 8601, UTC, microseconds.

    Raises:
        ValueError: ``time`` lacks a time zone.
    """
    if time.tzinfo is None:
        raise ValueError("a time in the database requires a time zone")
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def from_text(written: str) -> datetime:
    """Parse a time that `to_text` wrote."""
    return datetime.fromisoformat(written)


def _prepare_sqlite(engine: Engine, file: DatabaseFile) -> None:
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
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            _switch_to_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")  # committed audit rows survive a power failure
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = ON")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN")

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
