"""Upgrades of the broker's database to the tables of this version, with Alembic.

``migrations/versions`` has one revision for each change of the tables. A new database is created with the current
tables and needs none of them. A database that a later version wrote is rejected: downgrades are not supported.
"""

import logging
from typing import Final

from sqlalchemy import Connection, insert, inspect, select

from sealserve.broker.codes import BrokerCode
from sealserve.broker.tables import METADATA, REVISION, SCHEMA
from sealserve.errors import SealserveError

_LOG: Final = logging.getLogger(__name__)

HEAD: Final = "0010"
"""The latest revision. It is a constant, so that only an upgrade imports Alembic."""

_BEFORE_ALEMBIC: Final = {1: "0001", 2: "0002"}
_BARRIER: Final = 3  # sealserve 0.2 and earlier reject a database with this number


def bring_up_to_date(connection: Connection, *, name: str) -> None:
    """Create the tables, or upgrade the tables of an earlier version.

    Args:
        connection: A writing transaction. After an error, the caller must roll it back.
        name: The database's name in messages.

    Raises:
        InputError: `broker.database-version` if a later version of sealserve wrote the database.
        VerificationError: `broker.database-content` if a row has content that sealserve never writes.
    """
    tables = set(inspect(connection).get_table_names())
    # Since version 0.3, Alembic's table names the revision.
    if REVISION.name in tables:
        revision = connection.execute(select(REVISION.c.version_num)).scalar()
        if revision != HEAD:
            _upgrade(connection, revision, name=name)
    # Earlier versions wrote a number.
    elif SCHEMA.name in tables and (version := connection.execute(select(SCHEMA.c.version)).scalar()) is not None:
        if version not in _BEFORE_ALEMBIC:
            raise _unsupported(name, f"schema version {version}")
        REVISION.create(connection)
        connection.execute(insert(REVISION).values(version_num=_BEFORE_ALEMBIC[version]))
        _upgrade(connection, _BEFORE_ALEMBIC[version], name=name)
    # The database is new.
    else:
        METADATA.create_all(connection)
        connection.execute(insert(SCHEMA).values(version=_BARRIER))
        connection.execute(insert(REVISION).values(version_num=HEAD))


def _upgrade(connection: Connection, revision: str | None, *, name: str) -> None:
    from alembic import command  # noqa: PLC0415  # only an upgrade needs Alembic, which takes long to import
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "sealserve.broker:migrations")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision not in known:
        raise _unsupported(name, f"revision {revision!r:.40}")
    command.upgrade(config, "head")
    _LOG.info("upgraded the database %s from revision %s to %s", name, revision, HEAD)


def _unsupported(name: str, found: str) -> SealserveError:
    return BrokerCode.DATABASE_VERSION.error(
        f"The database {name} has {found}, but this version of sealserve supports revisions up to {HEAD}.",
        hint="Use the version of sealserve that wrote the database. A downgrade is not supported.",
    )
