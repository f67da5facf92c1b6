"""The broker's database: its serialized transactions. `sealserve.broker.tables` defines the tables.

The default is SQLite in one private file. `sealserve.broker.sqlite_engine` and `sealserve.broker.postgresql_engine`
contain the code for each kind of database.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from sealserve.broker import row_authentication
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database_file import opening
from sealserve.broker.migration import bring_up_to_date
from sealserve.broker.sqlite_engine import SqliteEngine
from sealserve.deployment.database_url import PostgresqlUrl


class DatabaseEngine(Protocol):
    """The differences between kinds of databases."""

    engine: Engine
    name: str

    def options(self, *, write: bool) -> dict[str, Any]:
        """Return the execution options of a transaction."""

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for the time of a writing transaction."""

    def begun(self, connection: Connection, *, write: bool) -> None:
        """Complete the beginning of a transaction. Only one writing transaction of all processes gets this far."""

    def explain(self, error: SQLAlchemyError) -> tuple[str, str]:
        """Return the reason of a failure, without values of the database, and a hint."""

    def snapshot(self, connection: Connection) -> bytes:
        """Return a copy of the database as the content of an SQLite file."""

    def risks(self, connection: Connection) -> list[str]:
        """Return what weakens the database, although it can be used."""


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
    """The broker's database. Several threads may use it. Several processes may use the same database.

    Args:
        engine: The kind of database. The tables must exist, as after `open` and `connect`.
    """

    def __init__(self, engine: DatabaseEngine) -> None:
        self._engine = engine
        self.name = engine.name
        """The database's name in messages. It never contains a password."""
        self.exists = True
        """Whether the database is stored somewhere. `empty` represents a database that is not."""
        self.history: row_authentication.History | None = None
        """Authenticates the rows that decisions read. Without it, neither reading nor writing uses tags."""

    @classmethod
    def open(cls, path: Path, *, former: Path | None = None) -> Self:
        """Open the database in the file at ``path``. If the file does not exist, create it with mode 0600.

        An older database is upgraded in one transaction. Older versions of sealserve then reject it.

        Args:
            path: The file, in an existing folder.
            former: An earlier location of the file. If the file is there, it is moved to ``path``.

        Raises:
            UnavailableError: `broker.database` if the database cannot be opened.
            InputError: `broker.database-version` if a newer version of sealserve wrote the database.
        """
        with opening(path, former=former) as file:
            database = cls(SqliteEngine.of_file(file))
            database._prepare()
        return database

    @classmethod
    def connect(
        cls, url: PostgresqlUrl, *, password_file: Path | None = None, ca_file: Path | None = None, create: bool = True
    ) -> Self | None:
        """Connect to a PostgreSQL database.

        The tables are created or upgraded in one transaction, as in `open`.

        Args:
            url: The database.
            password_file: A private file with the password.
            ca_file: The CA that verifies the server's certificate.
            create: Whether to create the tables if the database has none.

        Returns:
            The database, or None if it has no tables and ``create`` is `False`.

        Raises:
            ModuleNotFoundError: The extra ``postgresql`` is not installed.
            UnavailableError: `broker.database` if the server cannot be reached, or is not suitable.
            InputError: `broker.database-version` if a newer version of sealserve wrote the database.
        """
        from sealserve.broker.postgresql_engine import PostgresqlEngine  # noqa: PLC0415  # it needs an extra

        database = cls(PostgresqlEngine(url, password_file=password_file, ca_file=ca_file))
        try:
            with database.read() as connection:
                is_new = not inspect(connection).get_table_names()
        except BaseException:
            database.close()
            raise
        if is_new and not create:
            database.close()
            return None
        database._prepare()
        return database

    @classmethod
    def empty(cls, name: str) -> Self:
        """Return an empty, read-only database in memory. It represents a database that does not exist yet.

        Args:
            name: The database's name in messages.
        """
        database = cls(SqliteEngine.empty(name))
        database.exists = False
        return database

    @classmethod
    def loaded(cls, content: bytes, name: str) -> Self:
        """Return a database in memory with the content of an SQLite file, as `snapshot` returns it.

        Args:
            content: The content of the file, with the current tables.
            name: The database's name in messages.
        """
        return cls(SqliteEngine.loaded(content, name))

    def _prepare(self) -> None:
        try:
            with self.write() as connection:  # only one process at a time creates or upgrades the tables
                bring_up_to_date(connection, name=self.name)
        except BaseException:
            self.close()
            raise

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
        with self.read() as connection:
            return self._engine.snapshot(connection)

    def risks(self) -> list[str]:
        """Return what weakens the database, although it can be used: one phrase for each risk.

        Raises:
            UnavailableError: `broker.database` if the database failed.
        """
        with self.read() as connection:
            return self._engine.risks(connection)

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        session = self.history.session() if self.history else None
        options = {**self._engine.options(write=write), row_authentication.OPTION: session}
        try:
            with (
                self._engine.turn() if write else contextlib.nullcontext(),
                self._engine.engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                self._engine.begun(connection, write=write)
                yield connection
            if session is not None:
                session.committed()
        except SQLAlchemyError as error:
            reason, hint = self._engine.explain(error)
            raise BrokerCode.DATABASE.error(f"The database {self.name} failed: {reason}.", hint=hint) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
