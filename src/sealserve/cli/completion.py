"""Shell completion of values: targets, releases, the parts of a deployment, users, models and labels.

A completion reads file names, `sealserve.toml` and the register of users, but never a key. It runs each time a person
presses TAB, so it must neither fail nor print.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealserve.errors import SealserveError
from sealserve.terms import TargetKind
from sealserve.workspace import Workspace, find

if TYPE_CHECKING:
    from sealserve.deployment import ModelSection

_PARTS = ("broker", "nginx", "pcs", "platform", "replica-0", "replica-1", "supervisor")
_FAULTS = contextlib.suppress(SealserveError, OSError, ValueError)
"""Errors that a completion ignores. The verb reports them when it runs."""


def targets(incomplete: str) -> list[str]:
    """Return the targets that begin with ``incomplete``."""
    return _beginning(incomplete, TargetKind)


def releases(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of the owner's and the host's releases, newest first."""
    workspace = _workspace(ctx)
    if workspace is None:
        return []
    found: dict[str, float] = {}
    for folder in (workspace.owner.releases, workspace.host.releases):
        with contextlib.suppress(OSError):
            found |= {path.name: path.stat().st_mtime for path in folder.iterdir() if path.is_dir()}
    return _beginning(incomplete, sorted(found, key=lambda name: -found[name]))


def presets(incomplete: str) -> list[str]:
    """Return the names of the preset policies."""
    return _beginning(incomplete, ("strict", "cloud-smt"))


def policies(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of the preset policies, and of the releases."""
    return [*presets(incomplete), *releases(ctx, incomplete)]


def parts(ctx: Any, incomplete: str) -> list[str]:
    """Return the parts of a local deployment, and each replica that has a log file."""
    return _beginning(incomplete, dict.fromkeys((*_PARTS, *sorted(_logged(_workspace(ctx))))))


def users(ctx: Any, incomplete: str) -> list[str]:
    """Return the users in the register who are not revoked."""
    from sealserve.owner import users as register  # noqa: PLC0415  # `--help` of many verbs loads this module

    workspace = _workspace(ctx)
    with _FAULTS:
        return _beginning(incomplete, register.names(workspace) if workspace else ())
    return []


def audit_codes(incomplete: str) -> list[str]:
    """Return the codes that rows of the audit log can have."""
    from sealserve.cli.audit_codes import known_codes  # noqa: PLC0415  # as above

    return _beginning(incomplete, known_codes())


def models(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of the deployment's models."""
    return _beginning(incomplete, sorted({model.name for model in _models(ctx)}))


def labels(ctx: Any, incomplete: str) -> list[str]:
    """Return the labels of the deployment's models."""
    return _beginning(incomplete, sorted({label for model in _models(ctx) for label in model.labels}))


def _models(ctx: Any) -> "Sequence[ModelSection]":
    from sealserve import deployment  # noqa: PLC0415  # as above

    workspace = _workspace(ctx)
    with _FAULTS:
        return deployment.read(workspace.deployment_file).models if workspace else ()
    return ()


def _logged(workspace: Workspace | None) -> Iterator[str]:
    if workspace is not None:
        with contextlib.suppress(OSError):
            yield from (path.stem for path in workspace.host.logs.glob("replica-*.log"))


def _workspace(ctx: Any) -> Workspace | None:
    """Return the workspace of the folder in the incomplete command line, or None."""
    with _FAULTS:
        return find(Path(ctx.params.get("directory") or Path()))
    return None


def _beginning(incomplete: str, names: Any) -> list[str]:
    return [str(name) for name in names if str(name).startswith(incomplete)]
