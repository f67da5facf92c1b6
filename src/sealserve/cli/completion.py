"""Values that the shell completes: targets, releases and the parts of a deployment.

A completion reads names of files and nothing else: it runs at each TAB, and it must neither fail nor print.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealserve.terms import TargetKind
from sealserve.workspace import Workspace, WorkspaceMissingError, find

_PARTS = ("broker", "nginx", "pcs", "platform", "replica-0", "replica-1", "supervisor")


def targets(incomplete: str) -> list[str]:
    """Return the targets that begin like ``incomplete``."""
    return _beginning(incomplete, TargetKind)


def releases(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of the releases that the owner or the host has, the newest first."""
    workspace = _workspace(ctx)
    if workspace is None:
        return []
    found: dict[str, float] = {}
    for folder in (workspace.owner.releases, workspace.host.releases):
        with contextlib.suppress(OSError):
            found |= {path.name: path.stat().st_mtime for path in folder.iterdir() if path.is_dir()}
    return _beginning(incomplete, sorted(found, key=lambda name: -found[name]))


def parts(ctx: Any, incomplete: str) -> list[str]:
    """Return the parts of a deployment: those that every local one has, and the replicas that have logged."""
    return _beginning(incomplete, dict.fromkeys((*_PARTS, *sorted(_logged(_workspace(ctx))))))


def _logged(workspace: Workspace | None) -> Iterator[str]:
    if workspace is not None:
        with contextlib.suppress(OSError):
            yield from (path.stem for path in workspace.host.logs.glob("replica-*.log"))


def _workspace(ctx: Any) -> Workspace | None:
    """Return the workspace of the folder that the command line names so far."""
    with contextlib.suppress(WorkspaceMissingError, OSError):
        return find(Path(ctx.params.get("directory") or Path()))
    return None


def _beginning(incomplete: str, names: Any) -> list[str]:
    return [str(name) for name in names if str(name).startswith(incomplete)]
