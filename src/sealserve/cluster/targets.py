"""The available targets, and the target that a workspace's deployment runs on.

A target's module is imported only when it is needed: the local target requires neither Docker nor Kubernetes.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from sealserve.atomic_file import write_file
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.processes import Phase
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.cluster.target import Target, TargetModule, Tell, quietly
from sealserve.deployment import Deployment
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.workspace import Workspace

MODULES: Final = {
    "local": "sealserve.cluster.local.target",
    "docker": "sealserve.cluster.docker",
    "kubernetes": "sealserve.cluster.kubernetes.target",
}
"""The module of every target, by its name in ``sealserve.toml``."""

_RECORD: Final = "target"


def open_target(
    workspace: Workspace,
    deployment: Deployment,
    kind: str | None = None,
    *,
    tell: Tell = quietly,
) -> Target:
    """Return a target: ``kind``, or else the target that the deployment runs on, or else the one in sealserve.toml.

    Raises:
        InputError: `target.unsupported` if the target does not exist, or cannot run this deployment.
    """
    chosen = kind or in_use(workspace) or deployment.target.kind
    return _module(chosen).open_target(workspace, deployment, tell=tell)


def check_replicas(workspace: Workspace, deployment: Deployment, kind: str | None, replicas: int) -> None:
    """Check that a target can run a number of replicas.

    Args:
        workspace: The workspace of the deployment.
        deployment: The deployment that the workspace describes.
        kind: The target. None selects it as `open_target` does.
        replicas: The requested number.

    Raises:
        InputError: `target.unsupported` if the number exceeds the target's limit.
    """
    chosen = kind or in_use(workspace) or deployment.target.kind
    limit = deployment.replica_limit(chosen)
    if replicas > limit.most:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The target {chosen} runs at most {limit.most} replicas, got {replicas}: {limit.reason}.",
            hint=f"Request at most {limit.most} replicas.",
        )


def claim(workspace: Workspace, kind: str) -> None:
    """Record that the deployment runs on a target, so that other commands use the same target.

    Raises:
        InputError: `target.busy` if it runs on a different target.
    """
    before = in_use(workspace)
    if before not in {None, kind} and _module(str(before)).running(workspace):
        raise ClusterCode.TARGET_BUSY.error(
            f"The deployment already runs on the target {before!r}.", hint="Stop it there with `sealserve down`."
        )
    write_file(_record(workspace), kind.encode())


def forget(workspace: Workspace) -> None:
    """Remove the record of the deployment's target, after everything was stopped."""
    _record(workspace).unlink(missing_ok=True)


def in_use(workspace: Workspace) -> str | None:
    """Return the name of the target that the deployment was started on, or None."""
    try:
        kind = read_regular(_record(workspace), follow_links=False).decode(errors="replace").strip()
    except InputFileMissingError:
        return None
    return kind if kind in MODULES else None


def may_serve(workspace: Workspace, kind: str, release: str) -> bool:
    """Return whether a target serves a release now or soon, although the `up` to this release was interrupted."""
    # A cluster continues a roll-out after the command has ended. This machine has no record of it.
    return kind == "kubernetes" or ReleaseRecord(workspace).serving() == release


def running(workspace: Workspace) -> Sequence[str]:
    """Return the roles of a workspace's running parts."""
    return _module(in_use(workspace) or "local").running(workspace)


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> Sequence[str]:
    """Stop all parts of a workspace, and return their roles."""
    stopped = _module(in_use(workspace) or "local").stop_all(workspace, tell=tell)
    forget(workspace)
    return stopped


def undo(workspace: Workspace, before: Sequence[str], *, tell: Tell = quietly) -> Sequence[str]:
    """Stop the parts that a failed command has started, and return their roles. Logs are retained.

    On Kubernetes, objects that a failed command created remain, so that the cluster's tools can show the reason.

    Args:
        workspace: The workspace of the deployment.
        before: The roles of the parts that ran before the command.
        tell: Called with a short progress text before each step.
    """
    kind = in_use(workspace) or "local"
    if kind == "kubernetes":
        return ()
    if not before:
        return stop_all(workspace, tell=tell)
    if kind != "local":
        return ()  # a failed roll-out removes its own replicas
    from sealserve.cluster.local import owner_services  # noqa: PLC0415  # imported on demand, as every target's module

    # A leaving replica ran before the command, under a different name, and may still have connections.
    known = owner_services.registry(workspace).all().items()
    started = [
        name
        for name, process in known
        if process.is_alive() and name not in before and process.phase is not Phase.LEAVING
    ]
    return owner_services.stop_roles(workspace, *started, tell=tell)


def _module(kind: str) -> TargetModule:
    if kind not in MODULES:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The target {kind!r} does not exist.", hint=f"Use one of {', '.join(MODULES)}."
        )
    return cast("TargetModule", importlib.import_module(MODULES[kind]))


def _record(workspace: Workspace) -> Path:
    return workspace.host.run / _RECORD
