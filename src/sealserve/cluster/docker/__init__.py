"""The Docker target: see `sealserve.cluster.docker.target`."""

import shutil
from collections.abc import Sequence

from sealserve.cluster.docker.fleet import Fleet, project_name
from sealserve.cluster.docker.logs import log_file
from sealserve.cluster.docker.ownership import take_back
from sealserve.cluster.docker.target import DockerTarget
from sealserve.cluster.target import Tell
from sealserve.containers.engine import Engine
from sealserve.deployment import Deployment
from sealserve.workspace import FOLDER, Workspace

__all__ = ["DockerTarget", "open_target", "running", "stop_all"]


def open_target(workspace: Workspace, deployment: Deployment, *, tell: Tell) -> DockerTarget:
    """Return the Docker target; see `TargetModule`."""
    return DockerTarget(workspace, deployment, tell=tell)


def running(workspace: Workspace) -> Sequence[str]:
    """Return the roles of a workspace's containers."""
    fleet = Fleet(Engine(), project_name(workspace))
    return [container.role for container in fleet.containers()]


def stop_all(workspace: Workspace, *, tell: Tell) -> Sequence[str]:
    """Stop and remove every container and network of a workspace, and return the roles. Logs are retained."""
    fleet = Fleet(Engine(), project_name(workspace))
    stopped = []
    for container in fleet.containers():
        tell(f"stopping {container.role}")
        fleet.remove(container, log=log_file(workspace, container))
        stopped.append(container.role)
    fleet.remove_networks()
    take_back(workspace)
    shutil.rmtree(workspace.host.run / FOLDER, ignore_errors=True)
    return stopped
