"""Removing the copies of releases that nothing needs any more: at the owner, at the host, and packed for the store.

A release is kept if it serves, if a roll-back returns to it, if the broker still releases its key, or if it is one of
the newest. What the broker and its audit log know of a removed release stays, and so does its key.
"""

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sealserve.broker import admin
from sealserve.broker.releases import Release
from sealserve.broker.standing import check_standing
from sealserve.deployment import Deployment
from sealserve.errors import VerificationError
from sealserve.owner import drift, releases
from sealserve.owner.owner import Owner
from sealserve.sealing.release_index import INDEX_FILE
from sealserve.workspace import Workspace

_GOING: Final = ".pruned-"
"""How the name of a copy begins that is being removed. The next `prune` removes what a killed one has left."""
_TAR: Final = ".tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of a release.

    Args:
        path: A folder, or the packed file.
        size: Its bytes.
    """

    path: Path
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """A release and its copies.

    Args:
        name: The release's name.
        kept: Why it is kept, or None if it can be removed.
        copies: Where it is.
    """

    name: str
    kept: str | None
    copies: tuple[Copy, ...]

    @property
    def size(self) -> int:
        """The bytes of all copies."""
        return sum(copy.size for copy in self.copies)


def plan(
    workspace: Workspace, deployment: Deployment, *, in_use: Mapping[str, str], keep: int, now: datetime
) -> tuple[Prunable, ...]:
    """Return every release that is here, oldest first, and whether it can be removed. Nothing is changed.

    Args:
        workspace: The owner's, or one that is only the host's.
        deployment: Says where packed releases are.
        in_use: Why a release is needed by the deployment, by its name.
        keep: How many of the newest releases are kept in any case.
        now: The time on the owner's clock.
    """
    places = _places(workspace, deployment)
    newest = [name for name, _ in sorted(places.items(), key=lambda item: _built(item[1]), reverse=True)]
    usable = _usable(workspace, now)
    reasons = dict.fromkeys(newest[:keep], "one of the newest") | usable | dict(in_use)
    return tuple(
        Prunable(
            name=name,
            kept=reasons.get(name),
            copies=tuple(Copy(path=path, size=_size(path)) for path in places[name]),
        )
        for name in reversed(newest)
    )


def remove(workspace: Workspace, deployment: Deployment, found: Collection[Prunable]) -> None:
    """Remove releases that can be removed, and what an earlier call that was killed has left.

    Raises:
        OSError: A copy cannot be removed. Those before it are gone.
    """
    for parent in (workspace.owner.releases, workspace.host.releases):
        for left in parent.glob(f"{_GOING}*"):
            _delete(left)
    if (store := deployment.kubernetes.store.folder) is not None:
        for left in store.glob(f"{_GOING}*{_TAR}"):
            _delete(left)
    for release in found:
        if release.kept is not None:
            continue
        for copy in release.copies:
            # A folder disappears at once under its name, so that no command takes half of it for a release.
            going = copy.path.with_name(f"{_GOING}{copy.path.name}")
            copy.path.rename(going)
            _delete(going)
        drift.forget(workspace, release.name)


def _places(workspace: Workspace, deployment: Deployment) -> Mapping[str, Sequence[Path]]:
    places: dict[str, list[Path]] = {}
    for parent in (workspace.owner.releases, workspace.host.releases):
        for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
            if releases.is_release(folder) and not folder.is_symlink():
                places.setdefault(folder.name, []).append(folder)
    store = deployment.kubernetes.store.folder
    for name, found in places.items():
        if store is not None and (tar := store / f"{name}{_TAR}").is_file() and not tar.is_symlink():
            found.append(tar)
    return places


def _built(copies: Sequence[Path]) -> int:
    return min((path / INDEX_FILE).stat().st_mtime_ns for path in copies if path.is_dir())


def _usable(workspace: Workspace, now: datetime) -> dict[str, str]:
    """Return the releases whose key the broker still releases: an enclave of one may run, or be started again."""
    if not workspace.owner.database.exists():
        return {}
    with Owner.open(workspace).database() as database:
        known = [row.release for row in admin.every_release(database)]
    return {release.name: f"{release.state} at the broker" for release in known if _gets_key(release, now)}


def _gets_key(release: Release, now: datetime) -> bool:
    try:
        check_standing(release.state, release.deadline, now)
    except VerificationError:
        return False
    return True


def _size(path: Path) -> int:
    if path.is_file():
        return path.lstat().st_size
    return sum(Path(root, name).lstat().st_size for root, _, names in os.walk(path) for name in names)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
