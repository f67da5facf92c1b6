"""Files of the owner's workspace for a broker that runs elsewhere: as mounts in a container, or copied to a cluster."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from sealserve import deployment
from sealserve.broker.master_key import needs_passphrase
from sealserve.bundle import BrokerPlace, OwnersBroker
from sealserve.deployment.setting_files import SettingFile, setting_files
from sealserve.owner.broker_database import is_shared
from sealserve.owner.master_key import complete_rotation
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import create_token_key
from sealserve.private_file import read_private_bytes
from sealserve.regular_file import read_regular
from sealserve.workspace import FOLDER, Workspace

_LARGEST: Final = 64 * 2**10


def make_ready(workspace: Workspace) -> None:
    """Create the files that such a broker only reads: it can neither create a key nor complete a rotation.

    Raises:
        SealserveError: A key was lost, or the keystore cannot be opened.
    """
    # A workspace of an earlier version has none of these keys.
    owner = Owner.open(workspace)
    owner.create_audit_key()
    create_token_key(workspace)
    with owner.database(create=True):  # creates the key that authenticates rows
        pass
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
    if place is BrokerPlace.PROCESS:
        return OwnersBroker()
    key = workspace.owner.master_key  # it does not exist if a key service holds the master key
    return OwnersBroker(
        needs_passphrase=key.is_file() and needs_passphrase(read_private_bytes(key, what="master key", limit=_LARGEST)),
        files=_read(workspace) if with_files and place is BrokerPlace.CLUSTER else {},
    )


def _read(workspace: Workspace) -> Mapping[str, bytes]:
    """Return the files that a broker in a cluster reads: content by path in the workspace."""
    files = {str(path.relative_to(workspace.directory)): path.read_bytes() for path in _files(workspace)}
    described = deployment.read(workspace.deployment_file)
    files |= {f"{FOLDER}/{file.place}": _content(file) for file in setting_files(described)}
    if is_shared(workspace):  # the broker in the cluster reaches the database by its URL
        return files
    database = workspace.owner.database
    return {**files, str(database.relative_to(workspace.directory)): _snapshot(database)}


def _files(workspace: Workspace) -> Iterator[Path]:
    owner = workspace.owner
    if owner.master_key.is_file():
        yield owner.master_key
    yield owner.audit_signing_key
    yield owner.row_key
    yield owner.token_signing_key
    for folder in (owner.broker_tls, owner.issuing, owner.trust, workspace.vendor.root):
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _content(file: SettingFile) -> bytes:
    if file.is_private:
        return read_private_bytes(file.path, what=f"secret of {file.section}.{file.name}", limit=_LARGEST)
    return read_regular(file.path)


def _snapshot(database: Path) -> bytes:
    """Return the current content of the database, including the write-ahead log."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.serialize()
