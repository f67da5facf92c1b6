"""Files of the owner's workspace for a broker that runs elsewhere: as mounts in a container, or copied to a cluster."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from sealserve.broker.master_key import needs_passphrase
from sealserve.bundle import BrokerPlace, OwnersBroker
from sealserve.owner.master_key import complete_rotation
from sealserve.owner.owner import Owner
from sealserve.private_file import read_private_bytes
from sealserve.workspace import Workspace

_LARGEST: Final = 64 * 2**10


def make_ready(workspace: Workspace) -> None:
    """Create the files that such a broker only reads: it can neither create a key nor complete a rotation.

    Raises:
        SealserveError: A key was lost, or the keystore cannot be opened.
    """
    Owner.open(workspace).create_audit_key()  # missing in a workspace of an earlier version
    complete_rotation(workspace)


def describe(workspace: Workspace, place: BrokerPlace, *, with_files: bool) -> OwnersBroker:
    """Return what a target needs from the owner's broker.

    Args:
        workspace: The owner's workspace.
        place: Where the broker runs.
        with_files: Include the files for a broker in a cluster. A dry run must not, because reading the database can
            create files beside it.

    Raises:
        SealserveError: The master key cannot be read, or other users can read it.
    """
    key = workspace.owner.master_key
    if place is BrokerPlace.PROCESS or not key.is_file():
        return OwnersBroker()
    return OwnersBroker(
        needs_passphrase=needs_passphrase(read_private_bytes(key, what="master key", limit=_LARGEST)),
        files=_read(workspace) if with_files and place is BrokerPlace.CLUSTER else {},
    )


def _read(workspace: Workspace) -> Mapping[str, bytes]:
    """Return the files that a broker in a cluster reads: content by path in the workspace."""
    files = {str(path.relative_to(workspace.directory)): path.read_bytes() for path in _files(workspace)}
    database = workspace.owner.database
    return {**files, str(database.relative_to(workspace.directory)): _snapshot(database)}


def _files(workspace: Workspace) -> Iterator[Path]:
    owner = workspace.owner
    yield owner.master_key
    yield owner.audit_signing_key
    for folder in (owner.broker_tls, owner.trust, workspace.vendor.root):
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _snapshot(database: Path) -> bytes:
    """Return the current content of the database, including the write-ahead log."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.serialize()
