"""The user that the containers run as, and the workspace files that this user owns.

Containers run as the user who owns the workspace. If that is root, they run as `SERVICE_USER`, who owns only the files
that the containers need. These do not include the keys of a certificate authority, enclave signing keys, index signing
keys or models. Root can still use all of the files.

Root changes owners while containers run, and a container is not trusted. So a folder is given to the user only if the
container that mounts it has to create files there (`_written`). Root never follows a name in such a folder
(`sealserve.held_tree`), and rejects every entry that is not a regular file or folder.
"""

import os
import stat
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from sealserve.cluster.codes import ClusterCode
from sealserve.containers.recipes import SERVICE_USER
from sealserve.held_tree import Held, held, held_tree
from sealserve.workspace import Workspace

QUOTING: Final = "quoting"
"""Folder of the simulated quoting enclave's socket, inside the folder of the containers' configuration."""

_GROUP_READS: Final = stat.S_IRGRP | stat.S_IXGRP
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def container_user(workspace: Workspace) -> str:
    """Return ``UID:GID`` for the containers of a workspace."""
    found = workspace.root.stat()
    if found.st_uid == 0:
        return f"{SERVICE_USER}:{SERVICE_USER}"
    return f"{found.st_uid}:{found.st_gid}"


def give(workspace: Workspace, user: str, *, configuration: Path, release: Path | None = None) -> None:
    """Give the containers' user the files that its containers need, if the workspace belongs to root.

    Args:
        workspace: The workspace of the deployment.
        user: ``UID:GID`` of the containers.
        configuration: Folder of the containers' configuration, in a folder that belongs to root.
        release: A release whose files the containers open for writing, as Gramine on SGX does. Root keeps its folders,
            so that a container can change a file's content but cannot replace a file.

    Raises:
        InputError: `docker.unsafe-file` if an entry is a link or a file with several hard links.
    """
    if os.geteuid() != 0 or user != f"{SERVICE_USER}:{SERVICE_USER}":
        return
    # 1. Take back the folders that older versions of sealserve gave away.
    for found in chain(held(workspace.owner.root), held_tree(configuration)):
        if found.is_folder or found.is_plain_file:
            found.change_owner(0, 0)
    # 2. Files that containers read: the user owns them, since a private file has mode 0600. Root keeps the folders.
    for path in _read(workspace):
        _each(held_tree(path), _give_for_reading)
    # 3. Files that containers write, and the simulated vendor, whose folder is always private to its owner (mode 0700).
    for path in (*_written(workspace), workspace.vendor.root):
        _each(held_tree(path), _give_whole)
    _each(held(configuration / QUOTING), _give_whole)
    if release is not None:
        _each(held_tree(release), _give_file)


def take_back(workspace: Workspace) -> None:
    """Make root the owner of all files again, after the last container was stopped."""
    if os.geteuid() != 0 or workspace.root.stat().st_uid != 0:
        return
    given = (*_read(workspace), *_written(workspace), workspace.vendor.root, workspace.host.releases)
    for found in chain(held(workspace.owner.root), *map(held_tree, given)):
        if found.is_folder or found.is_plain_file:  # other entries that a container left are not needed
            found.change_owner(0, 0)
            found.change_mode(stat.S_IMODE(found.status.st_mode) & ~_OTHERS_WRITE)


def _read(workspace: Workspace) -> Iterator[Path]:
    """Yield the files and folders that containers mount read-only."""
    owner = workspace.owner
    yield from (owner.master_key, owner.audit_signing_key, owner.row_key, owner.token_signing_key)
    yield from (owner.broker_tls, owner.issuing, owner.trust, owner.administrators, workspace.host.platform)


def _written(workspace: Workspace) -> Iterator[Path]:
    """Yield the folders that the broker's container writes to. SQLite creates files next to its database."""
    yield from (workspace.owner.database.parent, workspace.owner.audit_head.parent, workspace.owner.collateral)


def _each(entries: Iterator[Held], change: Callable[[Held], None]) -> None:
    for found in entries:
        if not (found.is_folder or found.is_plain_file):
            raise ClusterCode.DOCKER_UNSAFE_FILE.error(
                f"{found.path} is not usable for the containers: expected a regular file with one name, or a folder, "
                f"got {found.kind}.",
                hint="Remove it, and run `sealserve up` again.",
            )
        change(found)


def _give_whole(found: Held) -> None:
    found.change_owner(SERVICE_USER, SERVICE_USER)


def _give_file(found: Held) -> None:
    if not found.is_folder:
        found.change_owner(SERVICE_USER, SERVICE_USER)


def _give_for_reading(found: Held) -> None:
    if found.is_folder:
        found.change_owner(0, SERVICE_USER)
        found.change_mode(stat.S_IMODE(found.status.st_mode) | _GROUP_READS)
    else:
        found.change_owner(SERVICE_USER, SERVICE_USER)
