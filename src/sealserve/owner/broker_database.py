"""The broker's database of a workspace: an SQLite file, or the PostgreSQL database that ``sealserve.toml`` names."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection

from sealserve import deployment
from sealserve.broker import audit
from sealserve.broker.codes import BrokerCode
from sealserve.broker.copying import copied_before, copy_rows, is_empty
from sealserve.broker.database import Database
from sealserve.broker.head_file import kept_head
from sealserve.deployment import DatabaseSection
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import require_first_use
from sealserve.sealing.release_index import INDEX_FILE
from sealserve.workspace import Workspace

_LOG: Final = logging.getLogger(__name__)
_IMPORTED: Final = ".imported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The result of an import.

    Args:
        rows: Number of rows in the file, of all tables.
        audit_rows: Number of rows of the audit log, which was verified.
        database: The name of the database that now contains the rows.
        former: The file that contained the rows. It is no longer used.
    """

    rows: int
    audit_rows: int
    database: str
    former: Path


def database_settings(workspace: Workspace) -> DatabaseSection:
    """Return the settings from ``sealserve.toml``, or the defaults if the file does not exist."""
    path = workspace.deployment_file
    return deployment.read(path).database if path.is_file() else DatabaseSection()


def is_shared(workspace: Workspace) -> bool:
    """Return whether the database is on a server, so that brokers on other machines can use it too."""
    return database_settings(workspace).url is not None


def may_exist(workspace: Workspace) -> bool:
    """Return whether a database could exist. For a database on a server, this does not connect to the server."""
    return workspace.owner.database.exists() or is_shared(workspace)


@contextlib.contextmanager
def open_database(workspace: Workspace, *, create: bool) -> Iterator[Database]:
    """Open the broker's database.

    Args:
        workspace: The owner's workspace.
        create: Create the database if it does not exist. Otherwise, a database that was never created is opened as an
            empty read-only database in memory.

    Raises:
        IdentityLostError: The database is missing, but releases whose keys it contained, or a signed head of its log,
            exist.
        UnavailableError: `owner.database-empty`: The same for a database on a server.
        UnavailableError: `broker.database` if the database cannot be opened.
    """
    settings = database_settings(workspace)
    with _on_server(workspace, settings, create) if settings.url else _in_file(workspace, create) as database:
        yield database


@contextlib.contextmanager
def _in_file(workspace: Workspace, create: bool) -> Iterator[Database]:
    path, former = workspace.owner.database, workspace.owner.former_database
    if not path.exists() and not former.exists():
        require_first_use("The broker's database", path, evidence(workspace))
        if not create:
            with Database.empty(str(path)) as database:
                yield database
            return
        _LOG.info("creating the broker's database %s", path)
    if not path.exists():
        workspace.create()  # a workspace of an earlier version does not have the database's folder
    with Database.open(path, former=former) as database:
        yield database


@contextlib.contextmanager
def _on_server(workspace: Workspace, settings: DatabaseSection, create: bool) -> Iterator[Database]:
    if settings.dangerous_unverified_server:
        _LOG.warning("database.dangerous_unverified_server: the certificate of the database server may not be verified")
    database = _connect(settings, create=False)
    if database is not None:  # another program, or an interrupted import, can have created tables without rows
        try:
            with database.read() as connection:
                empty_tables = is_empty(connection)
            if empty_tables:
                _require_no_evidence(workspace, settings)
        except BaseException:
            database.close()
            raise
    else:  # the server has no tables yet
        _require_no_evidence(workspace, settings)
        if not create:
            with Database.empty(str(settings.parsed)) as empty:
                yield empty
            return
        database = _connect(settings, create=True)
        _LOG.info("created the broker's tables in %s", settings.parsed)
    assert database is not None  # noqa: S101  # the second attempt creates the tables
    with database:
        yield database


def _require_no_evidence(workspace: Workspace, settings: DatabaseSection) -> None:
    """Check that no file shows that the database had rows before. Otherwise, an empty database hides a wrong URL."""
    for file in (*evidence(workspace), workspace.owner.database, workspace.owner.former_database):
        if file.exists():
            raise OwnerCode.DATABASE_EMPTY.error(
                f"The database {settings.parsed} is empty: expected the rows of the broker, because {file} "
                "depends on them.",
                hint="Check database.url. To copy the rows of owner/database/broker.sqlite to the server, run "
                "`sealserve broker import`.",
            )


def import_database(workspace: Workspace, keys: Sequence[Ed25519PublicKey]) -> Imported:
    """Copy the rows of the workspace's SQLite file to the empty PostgreSQL database of ``sealserve.toml``.

    The file is renamed at the end. If the import fails, neither database changes. If it was interrupted before the
    rename, the next import only renames the file.

    Args:
        workspace: The owner's workspace.
        keys: The keys that verify heads of the audit log, as `Owner.audit_keys` returns them.

    Raises:
        InputError: `owner.database-import`: ``sealserve.toml`` names no server, the file does not exist, or the
            database on the server is not empty.
        VerificationError: The audit log in the file does not verify, or lacks the row of the head outside of it.
        UnavailableError: `broker.database`: A broker still uses the file, or the server failed.
    """
    settings, path = database_settings(workspace), workspace.owner.database
    if settings.url is None:
        raise OwnerCode.DATABASE_IMPORT.error(
            "The import needs a PostgreSQL database: expected database.url in sealserve.toml.",
            hint="Set database.url to the URL of an empty database.",
        )
    if not path.exists():
        raise OwnerCode.DATABASE_IMPORT.error(
            f"There is no database to import: {path} does not exist.",
            hint="It was imported before, and the rows are on a server: check database.url."
            if path.with_name(path.name + _IMPORTED).exists()
            else "Restore a backup first: `sealserve restore`.",
        )
    # 1. Upgrade the file to the current tables.
    Database.open(path, former=workspace.owner.former_database).close()
    with _exclusive(path) as content, Database.loaded(content, str(path)) as source:
        # 2. Was an earlier import interrupted before step 5? The log on the server may have grown since, so the newest
        #    head outside of the database can be newer than the file.
        before = None
        if (existing := _connect(settings, create=False)) is not None:
            with existing, source.read() as reading, existing.read() as connection:
                if (before := copied_before(reading, connection)) is None:
                    _check_empty(existing, connection)
        # 3. Copy no log that was tampered with: the copy would look like a new, complete log.
        kept = kept_head(workspace.owner.audit_head) if before is None else None
        with source.read() as reading:
            rows, _ = audit.verify_chain(reading, keys[0], former_keys=keys[1:], kept=() if kept is None else (kept,))
        # 4. Copy in one transaction.
        if (count := before) is None:
            target = _connect(settings, create=True)
            assert target is not None  # noqa: S101  # it creates the tables
            with target, source.read() as reading, target.write() as writing:
                _check_empty(target, writing)
                count = copy_rows(reading, writing)
        # 5. The copy is durable: retire the file, so that no broker continues with it.
        former = path.with_name(path.name + _IMPORTED)
        path.rename(former)
    return Imported(rows=count, audit_rows=rows, database=str(settings.parsed), former=former)


def _check_empty(database: Database, connection: Connection) -> None:
    if not is_empty(connection):
        raise OwnerCode.DATABASE_IMPORT.error(
            f"The database {database.name} is not empty: expected a database without keys, releases and audit rows.",
            hint="Create an empty database, and set database.url to it.",
        )


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[bytes]:
    """Lock an SQLite file that no other process uses, and yield its content."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=1)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()  # fails if another process has the file open
            connection.execute("BEGIN EXCLUSIVE")
            yield connection.serialize()
    except sqlite3.Error as error:
        raise BrokerCode.DATABASE.error(
            f"The database {path} cannot be imported: {error}.",
            hint="Stop the broker that uses the database, and run the command again.",
        ) from error


def _connect(settings: DatabaseSection, *, create: bool) -> Database | None:
    assert settings.parsed is not None  # noqa: S101  # the callers check it
    return Database.connect(
        settings.parsed, password_file=settings.password_file, ca_file=settings.ca_file, create=create
    )


def evidence(workspace: Workspace) -> Iterable[Path]:
    """Return files that exist only if the database existed before."""
    return (*workspace.owner.releases.glob(f"*/{INDEX_FILE}"), workspace.owner.audit_head)
