"""Statements of each key release, which the driver executes directly.

SQLAlchemy compiles a statement once and caches it. But it still builds a context, parameters and a result object for
each execution, which take about ten times as long as the execution in SQLite. A prepared statement keeps the compiled
text, and the names of the parameters and columns.

Values pass through unchanged: use only columns whose types need no conversion, which are all columns of
`sealserve.broker.tables`.
"""

from typing import Any, Final

from sqlalchemy import ClauseElement, Connection, Select
from sqlalchemy.exc import DBAPIError


class Prepared:
    """A statement with named parameters (`bindparam`). Several threads may use it.

    Args:
        statement: A query or an ``INSERT``. It has no parameter that stands for a list of values.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self.statement: Final = statement
        columns = statement.selected_columns if isinstance(statement, Select) else ()
        self._columns = [str(column.key) for column in columns]
        self._compiled: dict[str, tuple[str, dict[str, Any], list[str] | None]] = {}  # by the kind of database

    def rows(self, connection: Connection, **values: object) -> list[dict[str, Any]]:
        """Return the rows of a query, each with its values by column.

        Raises:
            SQLAlchemyError: The database failed.
        """
        return [dict(zip(self._columns, row, strict=True)) for row in self._execute(connection, values).fetchall()]

    def first(self, connection: Connection, **values: object) -> dict[str, Any] | None:
        """Return the first row of a query, or `None`. Use it for queries of at most one row.

        Raises:
            SQLAlchemyError: The database failed.
        """
        found = self.rows(connection, **values)
        return found[0] if found else None

    def execute(self, connection: Connection, **values: object) -> int:
        """Execute a statement without a result, and return the number of rows that it wrote.

        Raises:
            SQLAlchemyError: The database failed.
        """
        count: int = self._execute(connection, values).rowcount
        return count

    def _execute(self, connection: Connection, values: dict[str, object]) -> Any:
        text, defaults, positions = self._compiled.get(connection.dialect.name) or self._compile(connection)
        given = {**defaults, **{name: _plain(value) for name, value in values.items()}}
        return run(connection, text, given if positions is None else [given[name] for name in positions])

    def _compile(self, connection: Connection) -> tuple[str, dict[str, Any], list[str] | None]:
        compiled = self.statement.compile(dialect=connection.dialect)
        parameters = getattr(compiled, "params", {}) or {}
        defaults = {name: _plain(value) for name, value in parameters.items()}
        positions = getattr(compiled, "positiontup", None)
        self._compiled[connection.dialect.name] = result = str(compiled), defaults, positions
        return result


def run(connection: Connection, text: str, parameters: Any = ()) -> Any:
    """Let the driver execute a text, and return the driver's cursor.

    Raises:
        SQLAlchemyError: The database failed.
    """
    driver: Any = connection.connection.driver_connection
    try:
        return driver.execute(text, parameters)
    except connection.dialect.loaded_dbapi.Error as error:
        # The error of the engine's other statements, so that callers handle both in the same way.
        raise DBAPIError.instance(
            text, None, error, connection.dialect.loaded_dbapi.Error, hide_parameters=True, dialect=connection.dialect
        ) from error


def _plain(value: object) -> object:
    """Return the text of an enumeration's value, because drivers convert enumerations in their own way."""
    return str(value) if isinstance(value, str) else value


def rows(connection: Connection, query: Select[Any] | Prepared, **values: object) -> list[dict[str, Any]]:
    """Return the rows of a query, each with its values by column."""
    if isinstance(query, Prepared):
        return query.rows(connection, **values)
    return [row._asdict() for row in connection.execute(query, values)]


def first(connection: Connection, query: Select[Any] | Prepared, **values: object) -> dict[str, Any] | None:
    """Return the first row of a query, or None."""
    if isinstance(query, Prepared):
        return query.first(connection, **values)
    row = connection.execute(query, values).first()
    return None if row is None else row._asdict()
