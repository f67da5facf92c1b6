"""Check that the database returned the row that a query asked for.

A tag proves that a row is genuine, but not that it answers the query. The administrator of a database can change the
answer, with a view in place of a table, or with another operator ``=`` in the search path of PostgreSQL. The genuine
approval of one platform would then also approve every other platform.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table

from sealserve.broker.codes import BrokerCode


def check_wanted(table: Table, row: Mapping[str, Any], **wanted: object) -> None:
    """Check that ``row`` has the wanted values.

    Args:
        table: The table of the row.
        row: The row, by column.
        wanted: The values by column, as in the condition of the query.

    Raises:
        VerificationError: `broker.database-authentication` if the database returned another row.
    """
    for name, value in wanted.items():
        if row[name] != value:
            raise BrokerCode.DATABASE_AUTHENTICATION.error(
                f"The database returned another row of the table {table.name}: expected the {name} {value!s:.64}, got "
                f"{row[name]!s:.64}.",
                hint="Compare the tables, the views and the search path of the database with a new database. Another "
                "program changed them.",
            )
