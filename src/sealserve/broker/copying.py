"""Copies of all rows of a database, between SQLite and PostgreSQL."""

from typing import Final

from sqlalchemy import Connection, func, insert, select

from sealserve.broker.stored_key import RELEASE_KEYS
from sealserve.broker.tables import AUDIT, KEYS, METADATA, REVISION, SCHEMA

_BATCH: Final = 500


def copy_rows(source: Connection, target: Connection) -> int:
    """Copy the rows of all tables and return the number of rows of data.

    Args:
        source: A transaction of a database with the current tables.
        target: A writing transaction of a database with the current tables, without rows of data.
    """
    count = 0
    for table in METADATA.sorted_tables:  # referenced tables come first
        if table in (REVISION, SCHEMA):
            target.execute(table.delete())
        with source.execute(select(table), execution_options={"yield_per": _BATCH}) as found:
            for rows in found.mappings().partitions(_BATCH):
                target.execute(insert(table), [dict(row) for row in rows])
                count += 0 if table in (REVISION, SCHEMA) else len(rows)
    return count


def copied_before(source: Connection, target: Connection) -> int | None:
    """Return the number of rows in ``source`` if an earlier copy of them is complete, or `None` without such a copy.

    The log of ``target`` may have grown since. It must contain the last row of the log of ``source``. The target
    must also contain each release key.

    Args:
        source: A transaction of a database with the current tables, whose log was verified.
        target: A transaction of a database with the current tables.
    """
    last = source.execute(select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)).first()
    if last is not None and target.execute(select(AUDIT.c.hash).where(AUDIT.c.seq == last.seq)).scalar() != last.hash:
        return None
    # A rotation deletes the private keys of former issuing CAs.
    keys = set(source.execute(select(KEYS.c.key_id).where(RELEASE_KEYS)).scalars())
    if (last is None and not keys) or not keys <= set(target.execute(select(KEYS.c.key_id)).scalars()):
        return None
    tables = (table for table in METADATA.sorted_tables if table not in (REVISION, SCHEMA))
    return sum(source.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)


def is_empty(connection: Connection) -> bool:
    """Return whether a database with the current tables has no rows of data."""
    tables = (table for table in METADATA.sorted_tables if table not in (REVISION, SCHEMA))
    return all(connection.execute(select(table).limit(1)).first() is None for table in tables)
