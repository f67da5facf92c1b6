"""The key that authenticates the rows of the broker's database (`sealserve.broker.row_authentication`).

The key is in a file outside of the database and needs no passphrase. A release can therefore be revoked without the
passphrase of the master key. The existence of the file also states that rows without a tag are no longer accepted.

A database on a server has users besides the owner, and several machines use it. There, the key is created only with an
empty database, by a command of the owner, and the same transaction appends an audit row with a tag. So the database is
never empty afterwards, and no other machine creates a second key. Rows without a tag are never accepted.
"""

import contextlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.broker import row_authentication
from sealserve.broker.audit_end import Known
from sealserve.broker.copying import is_empty
from sealserve.broker.database import Database
from sealserve.broker.head_file import kept_head
from sealserve.broker.row_adoption import adopt
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.errors import SealserveError
from sealserve.owner.broker_database import evidence, is_shared, open_database
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError, require_first_use
from sealserve.private_file import read_private
from sealserve.secret import SecretBytes
from sealserve.workspace import Workspace

_WHAT: Final = "key that authenticates the rows of the broker's database"


def authenticate(workspace: Workspace, database: Database, *, shared: bool, create: bool = True) -> None:
    """Authenticate the rows of a workspace's database from now on. The key is created if it never existed.

    Args:
        workspace: The owner's workspace.
        database: Its database.
        shared: Whether the database is on a server. A missing key is then created only with an empty database.
        create: Whether to create a missing key. The broker does not create the key of a database on a server.

    Raises:
        IdentityLostError: The key is missing, but rows of the database, or files, depend on it.
        UnavailableError: `owner.row-key-missing`: The key is missing and must not be created here.
        InputError: `owner-key.unreadable` if the file contains something else.
        PrivateFileExposedError: Other users can read the key.
        SealserveError: The stored head of the audit log is malformed.
    """
    path = workspace.owner.row_key
    if not path.exists() and not create:
        raise _missing(path, database, "this command does not create it")
    if not path.exists() or _beside(path).exists():
        _create(workspace, database, shared=shared)
    # The audit log must still contain the row of the newest head that was stored outside of the database.
    head = kept_head(workspace.owner.audit_head)
    known = None if head is None else Known(seq=head.seq, hash=head.hash)
    database.history = History(_read(path), known)


def accept(workspace: Workspace) -> None:
    """Accept all rows of the database as genuine, and replace the key that authenticates them.

    The owner does this after the loss or theft of the key. The rows are not verified.

    Raises:
        UnavailableError: `broker.database` if the database failed.
    """
    path = workspace.owner.row_key
    with open_database(workspace, create=False) as database:
        if not database.exists:
            return
        with database.write() as connection:
            _adopt(connection, _beside(path), record=is_shared(workspace))
        _publish(_beside(path), path)


def authenticate_file(workspace: Workspace) -> None:
    """Authenticate the rows of the workspace's SQLite file, before they are imported into a database on a server."""
    if workspace.owner.database.exists() or workspace.owner.former_database.exists():
        with Database.open(workspace.owner.database, former=workspace.owner.former_database) as database:
            authenticate(workspace, database, shared=False)


def _create(workspace: Workspace, database: Database, *, shared: bool) -> None:
    """Create the key, or complete a replacement of the key that was interrupted."""
    path = workspace.owner.row_key
    beside = _beside(path)
    with database.write() as connection:  # only one process at a time creates the key
        is_new = beside.exists() and row_authentication.is_authenticated_by(connection, _read(beside))
        if path.exists() and not is_new:  # the replacement was not committed
            beside.unlink(missing_ok=True)
            return
        if not is_new:
            if shared:
                # The administrator of the server can remove tags and rows, so their absence proves nothing.
                require_first_use(f"The {_WHAT}", path, evidence(workspace))
                if not is_empty(connection):
                    raise _missing(path, database, "the database is not empty")
            elif row_authentication.is_authenticated(connection):
                raise IdentityLostError(f"The {_WHAT}", path, Path(database.name))
            _adopt(connection, beside, record=shared)
            if not row_authentication.is_authenticated(connection):  # the database is empty
                _publish(beside, path)
                return
    _publish(beside, path)


def _missing(path: Path, database: Database, why: str) -> SealserveError:
    return OwnerCode.ROW_KEY_MISSING.error(
        f"The {_WHAT} {database.name} is missing: expected {path}. The key is not created, because {why}.",
        hint="Copy owner/row-key from the owner's machine: see docs/how-to/two-brokers.md. For a new deployment, run "
        "`sealserve release build` on the owner's machine first.",
    )


def _adopt(connection: Connection, beside: Path, *, record: bool) -> None:
    # Write the key first. If the process is interrupted before the commit, nothing uses this key.
    write_file(beside, secrets.token_hex(KEY_SIZE).encode() + b"\n", mode=PRIVATE)
    adopt(connection, _read(beside), now=datetime.now(UTC), record=record)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.next")


def _publish(beside: Path, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process completed this step meanwhile
        beside.replace(path)


def _read(path: Path) -> RowKey:
    with read_private(path, what=_WHAT, limit=2 * KEY_SIZE) as content:
        try:
            return RowKey(SecretBytes(bytes.fromhex(content.reveal().decode("ascii"))))
        except ValueError as error:
            raise OwnerCode.OWNER_KEY_UNREADABLE.error(
                f"The key {path} cannot be read: expected {KEY_SIZE} bytes as hex.",
                hint="Restore the file from a backup.",
            ) from error
