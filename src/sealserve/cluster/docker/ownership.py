"""Whom the containers run as, and what of the workspace is theirs.

They run as the user who owns the workspace. If that is root, they run as a user of their own (`SERVICE_USER`), who is
given what they need of the workspace and nothing else: neither the authorities' keys, nor the enclave signing key, nor
a model. Root goes on using all of it.
"""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from sealserve.broker.openssl_settings import FILE_NAME
from sealserve.containers.recipes import SERVICE_USER
from sealserve.workspace import Workspace


def container_user(workspace: Workspace) -> str:
    """Return ``UID:GID`` of the containers of a workspace."""
    found = workspace.root.stat()
    if found.st_uid == 0:
        return f"{SERVICE_USER}:{SERVICE_USER}"
    return f"{found.st_uid}:{found.st_gid}"


def give(workspace: Workspace, user: str, *folders: Path) -> None:
    """Give the containers' user what its containers need, if it owns nothing by itself.

    Args:
        workspace: Of the deployment.
        user: ``UID:GID``.
        folders: What is needed beside the broker's, the vendor's and the platform's files.
    """
    if os.geteuid() == 0 and user == f"{SERVICE_USER}:{SERVICE_USER}":
        for path in (*_needed(workspace), *chain.from_iterable(map(_all, folders))):
            os.chown(path, SERVICE_USER, SERVICE_USER, follow_symlinks=False)


def take_back(workspace: Workspace) -> None:
    """Make what was given root's again, when nothing runs any more."""
    if os.geteuid() == 0 and workspace.root.stat().st_uid == 0:
        for path in (*_needed(workspace), *_all(workspace.host.releases)):
            os.chown(path, 0, 0, follow_symlinks=False)


def _needed(workspace: Workspace) -> Iterator[Path]:
    yield from _owner(workspace)
    yield from _all(workspace.vendor.root)
    yield from _all(workspace.host.platform)


def _owner(workspace: Workspace) -> Iterator[Path]:
    """Yield what the broker reads and writes of the owner's folder."""
    owner = workspace.owner
    if owner.root.is_dir():
        yield owner.root
        yield from (path for path in owner.root.glob(f"{owner.database.name}*") if path.is_file())
        single = (owner.master_key, owner.index_signing_key, owner.root / FILE_NAME)
        yield from (path for path in single if path.is_file())
        yield from _all(owner.broker_tls)
        yield from _all(owner.trust)


def _all(folder: Path) -> Iterator[Path]:
    if folder.is_dir() and not folder.is_symlink():
        yield folder
        for parent, folders, files in os.walk(folder):
            yield from (Path(parent, name) for name in (*folders, *files))
