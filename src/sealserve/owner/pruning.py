"""Remove releases that are no longer needed: the owner's copy, the host's copy, and the packed file in the store.

A release is kept if it serves, if a roll-back would serve it, if the broker still releases its key, or if it is one of
the newest. The broker's records, the audit log and the key of a removed release stay.
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
from sealserve.owner import drift, release_statements, releases
from sealserve.owner.broker_database import may_exist
from sealserve.owner.owner import Owner
from sealserve.sealing.release_index import INDEX_FILE
from sealserve.workspace import Workspace

_GOING: Final = ".pruned-"
"""Prefix of a copy's name during its removal. If `prune` is killed, the next `prune` removes such copies."""
_TAR: Final = ".tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of a release.

    Args:
        path: A folder, or a packed file.
        size: Size in bytes.
    """

    path: Path
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """A release and its copies.

    Args:
        name: The release's name.
        kept: Reason why the release is kept, or None if it can be removed.
        copies: All copies of the release.
    """

    name: str
    kept: str | None
    copies: tuple[Copy, ...]

    @property
    def size(self) -> int:
        """Size of all copies in bytes."""
        return sum(copy.size for copy in self.copies)


def plan(
    workspace: Workspace, deployment: Deployment, *, in_use: Mapping[str, str], keep: int, now: datetime
) -> tuple[Prunable, ...]:
    """Return all releases of this machine, oldest first, with the reason why each is kept. Nothing is changed.

    Args:
        workspace: The owner's workspace, or the workspace of a host.
        deployment: Supplies the folder of packed releases.
        in_use: Releases that the deployment needs: the reason, by the release's name.
        keep: Number of newest releases that are always kept.
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
    """Remove the releases that can be removed, and leftovers of an earlier call that was killed.

    Raises:
        OSError: A copy cannot be removed. Earlier copies in the list are already removed.
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
            # Rename the folder first, so that other commands never see an incomplete release under its name.
            going = copy.path.with_name(f"{_GOING}{copy.path.name}")
            copy.path.rename(going)
            _delete(going)
        drift.forget(workspace, release.name)
        release_statements.forget(workspace, release.name)


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
    """Return the releases whose key the broker still releases, because their enclaves may run or start again."""
    if not may_exist(workspace):
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
