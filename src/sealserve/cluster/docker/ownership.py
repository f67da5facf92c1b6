"""The user that the containers run as, and the files of the workspace that this user gets.

Containers run as the user who owns the workspace. If that is root, they run as `SERVICE_USER`, who gets the files that
the containers need and nothing else: no key of a certificate authority, no enclave signing key, no index signing key
and no model. Root continues to use all of it.

Root changes owners while containers run, and a container is not trusted. So no folder is given to the user unless the
container that mounts it has to create files there (`_written`), root never follows a name in such a folder
(`sealserve.held_tree`), and what is not a plain file or folder is refused.
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
"""Folder of the simulated quoting enclave's socket, below the folder of the containers' configuration."""

_GROUP_READS: Final = stat.S_IRGRP | stat.S_IXGRP
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def container_user(workspace: Workspace) -> str:
    """Return ``UID:GID`` of the containers of a workspace."""
    found = workspace.root.stat()
    if found.st_uid == 0:
        return f"{SERVICE_USER}:{SERVICE_USER}"
    return f"{found.st_uid}:{found.st_gid}"


def give(workspace: Workspace, user: str, *, configuration: Path, release: Path | None = None) -> None:
    """Give the containers' user what its containers need, if the workspace belongs to root.

    Args:
        workspace: The workspace of the deployment.
        user: ``UID:GID`` of the containers.
        configuration: Folder of the containers' configuration, in a folder that belongs to root.
        release: A release whose files the containers open for writing: Gramine on SGX does. Its folders stay root's,
            so that a container can change a file's content but cannot replace a file.

    Raises:
        InputError: `docker.unsafe-file`: A link or a file with several names is in the way.
    """
    if os.geteuid() != 0 or user != f"{SERVICE_USER}:{SERVICE_USER}":
        return
    # 1. Take back the folders that older versions gave away.
    for found in chain(held(workspace.owner.root), held_tree(configuration)):
        if found.is_folder or found.is_plain_file:
            found.change_owner(0, 0)
    # 2. What containers read: the files are theirs, since a private file needs mode 0600; the folders stay root's.
    for path in _read(workspace):
        _each(held_tree(path), _give_for_reading)
    # 3. What containers write; and the simulated vendor, whose folder is always private to its owner (mode 0700).
    for path in (*_written(workspace), workspace.vendor.root):
        _each(held_tree(path), _give_whole)
    _each(held(configuration / QUOTING), _give_whole)
    if release is not None:
        _each(held_tree(release), _give_file)


def take_back(workspace: Workspace) -> None:
    """Make root the owner of everything again, when no container runs any more."""
    if os.geteuid() != 0 or workspace.root.stat().st_uid != 0:
        return
    given = (*_read(workspace), *_written(workspace), workspace.vendor.root, workspace.host.releases)
    for found in chain(held(workspace.owner.root), *map(held_tree, given)):
        if found.is_folder or found.is_plain_file:  # what else a container left there is of no use to anybody
            found.change_owner(0, 0)
            found.change_mode(stat.S_IMODE(found.status.st_mode) & ~_OTHERS_WRITE)


def _read(workspace: Workspace) -> Iterator[Path]:
    """Yield what containers mount read-only."""
    owner = workspace.owner
    yield from (owner.master_key, owner.audit_signing_key, owner.broker_tls, owner.trust, workspace.host.platform)


def _written(workspace: Workspace) -> Iterator[Path]:
    """Yield the folders that the broker's container writes to: SQLite makes files beside its database."""
    yield from (workspace.owner.database.parent, workspace.owner.audit_head.parent)


def _each(entries: Iterator[Held], change: Callable[[Held], None]) -> None:
    for found in entries:
        if not (found.is_folder or found.is_plain_file):
            raise ClusterCode.DOCKER_UNSAFE_FILE.error(
                f"The containers need {found.path}: expected a plain file or folder, got {found.kind}.",
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
