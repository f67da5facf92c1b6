"""The targets that there are, and which of them a workspace's deployment runs on.

A target's module is imported when it is asked for: the local one needs neither Docker nor Kubernetes.
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
"""Every target that works, by its name in ``sealserve.toml``."""

_RECORD: Final = "target"


def open_target(
    workspace: Workspace,
    deployment: Deployment,
    kind: str | None = None,
    *,
    tell: Tell = quietly,
) -> Target:
    """Return a workspace's target: the one named, else the one that the deployment runs on, else the described one.

    Raises:
        InputError: `target.unsupported`: There is no such target, or it cannot run this deployment.
    """
    chosen = kind or in_use(workspace) or deployment.target.kind
    return _module(chosen).open_target(workspace, deployment, tell=tell)


def check_replicas(workspace: Workspace, deployment: Deployment, kind: str | None, replicas: int) -> None:
    """Check that a target can run so many replicas.

    Args:
        workspace: Whose deployment it is.
        deployment: What it describes.
        kind: The target; None as in `open_target`.
        replicas: How many are asked for.

    Raises:
        InputError: `target.unsupported`: It cannot.
    """
    chosen = kind or in_use(workspace) or deployment.target.kind
    limit = deployment.replica_limit(chosen)
    if replicas > limit.most:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The target {chosen} runs at most {limit.most} replicas, not {replicas}: {limit.reason}.",
            hint=f"Ask for at most {limit.most} replicas.",
        )


def claim(workspace: Workspace, kind: str) -> None:
    """Remember that the deployment runs on a target, so that the other verbs find it there.

    Raises:
        InputError: `target.busy`: It runs on another one.
    """
    before = in_use(workspace)
    if before not in {None, kind} and _module(str(before)).running(workspace):
        raise ClusterCode.TARGET_BUSY.error(
            f"The deployment runs on the target {before!r} already.", hint="`sealserve down` stops it there."
        )
    write_file(_record(workspace), kind.encode())


def forget(workspace: Workspace) -> None:
    """Forget which target the deployment runs on: nothing runs."""
    _record(workspace).unlink(missing_ok=True)


def in_use(workspace: Workspace) -> str | None:
    """Return the name of the target that the deployment was started on, or None."""
    try:
        kind = read_regular(_record(workspace), follow_links=False).decode(errors="replace").strip()
    except InputFileMissingError:
        return None
    return kind if kind in MODULES else None


def may_serve(workspace: Workspace, kind: str, release: str) -> bool:
    """Return whether a target serves a release by now, or soon will, although the `up` to it was interrupted."""
    # A cluster goes on with a roll-out that nobody waits for. It keeps no record on this machine.
    return kind == "kubernetes" or ReleaseRecord(workspace).serving() == release


def running(workspace: Workspace) -> Sequence[str]:
    """Return the roles of what runs of a workspace."""
    return _module(in_use(workspace) or "local").running(workspace)


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> Sequence[str]:
    """Stop everything that runs of a workspace; return the roles."""
    stopped = _module(in_use(workspace) or "local").stop_all(workspace, tell=tell)
    forget(workspace)
    return stopped


def undo(workspace: Workspace, before: Sequence[str], *, tell: Tell = quietly) -> Sequence[str]:
    """Stop what was started since, because a verb that starts parts failed; return the roles. Logs are kept.

    A cluster keeps what a failed verb made there, so that its own tools can show the reason.

    Args:
        workspace: Whose deployment it is.
        before: The roles of what ran before the verb.
        tell: Called with a few words before each thing that is done.
    """
    kind = in_use(workspace) or "local"
    if kind == "kubernetes":
        return ()
    if not before:
        return stop_all(workspace, tell=tell)
    if kind != "local":
        return ()  # a roll-out: its own undoing knows which replica is whose
    from sealserve.cluster.local import owner_services  # noqa: PLC0415  # as every target's module, when it is asked for

    # A replica that leaves was there before under another name, and may still have connections.
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
            f"The target {kind!r} is not known here.", hint=f"Known: {', '.join(MODULES)}."
        )
    return cast("TargetModule", importlib.import_module(MODULES[kind]))


def _record(workspace: Workspace) -> Path:
    return workspace.host.run / _RECORD
