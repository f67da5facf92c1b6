"""The owner's services in simulation, as processes of this machine: the vendor's service, the platform and the broker.

The local target runs all three. The Kubernetes target runs the vendor's service and the broker on the owner's machine,
outside the cluster. Each service is a `sealserve` command. This module starts it and holds no key.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from sealserve.cluster import ports
from sealserve.cluster.local import service_settings
from sealserve.cluster.local.orphans import describe, find_orphans, require_no_orphans
from sealserve.cluster.local.part_commands import nginx_folder, ready_file, service_command, supervisor_command
from sealserve.cluster.local.process_status import endings_of, process_status
from sealserve.cluster.local.processes import Process, Registry, wait_ready
from sealserve.cluster.local.supervision import restart_history, supervisor
from sealserve.cluster.local.supervision.requests import Supervision
from sealserve.cluster.local.supervision.state_files import RECORD
from sealserve.cluster.target import (
    BROKER,
    DRAIN_SECONDS,
    PCS,
    PLATFORM,
    REPLICA,
    SUPERVISOR,
    PartStatus,
    Tell,
    quietly,
)
from sealserve.deployment import Deployment
from sealserve.pcs_address import pcs_url
from sealserve.workspace import Workspace

_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 15


class OwnerServices:
    """The owner's services of a deployment on this machine.

    Args:
        workspace: The workspace of the services.
        deployment: The deployment that the workspace describes.
        tell: Called with a short progress text before each step.
    """

    def __init__(self, workspace: Workspace, deployment: Deployment, *, tell: Tell = quietly) -> None:
        self._workspace = workspace
        self._deployment = deployment
        self._tell = tell
        self._registry = registry(workspace)
        self._supervision = Supervision(workspace.host.run)

    def start_supervisor(self) -> None:
        """Start the supervisor unless it runs. From then on, it starts the parts and restarts them if they end."""
        if running_process(self._workspace, SUPERVISOR) is None or not self._supervision.is_there():
            self._tell(f"starting {SUPERVISOR}")
            stop_roles(self._workspace, SUPERVISOR)
            log = self._workspace.host.logs / f"{SUPERVISOR}.log"
            process = self._registry.start(SUPERVISOR, supervisor_command(self._workspace), log=log)
            wait_ready(process, self._supervision.is_there, seconds=_START_SECONDS)

    def start(self, *roles: str) -> None:
        """Start the services of ``roles`` that do not run, and wait until each is ready.

        The services start at the same time: most of a start is the import of Python modules.

        Args:
            roles: `PCS`, `PLATFORM` or `BROKER`.

        Raises:
            ProcessEndedError: A service ended before it was ready. The others keep running.
        """
        started = [(self._begin(role), ready_file(self._workspace, role)) for role in roles]
        for process, ready in started:
            wait_ready(process, ready.exists, seconds=_START_SECONDS)

    def require_free_ports(self) -> None:
        """Check that no other program uses the ports of the services that do not run.

        Raises:
            PortTakenError: A port is in use. The message names the setting.
            UnavailableError: `process.orphans` if processes of an earlier run may use the ports.
        """
        require_no_orphans(self._workspace, list(self._registry.all().values()))  # they may use the ports
        broker, pcs_port = self._deployment.broker, urlsplit(pcs_url(self._deployment)).port or 0
        if not self._listens(BROKER, broker.port):
            ports.require_free(broker.port, "the broker (broker.port)", broker.listen)
        if not self._listens(PCS, pcs_port):
            ports.require_free(pcs_port, "the simulated PCS (broker.collateral_url)")

    def _listens(self, role: str, port: int) -> bool:
        """Return whether a service runs on a port. Before a restart with a new setting, it has a different port."""
        process = running_process(self._workspace, role)
        return process is not None and process.port == port

    def ports(self) -> Mapping[str, int | None]:
        """Return each service's port, by role. The platform uses a Unix socket instead."""
        return {PCS: urlsplit(pcs_url(self._deployment)).port, PLATFORM: None, BROKER: self._deployment.broker.port}

    def status(self) -> list[PartStatus]:
        """Return the status of each process of the workspace that was started on this machine."""
        processes = self._registry.all().values()
        endings = endings_of(self._workspace, processes)
        return [process_status(process, endings.get(process)) for process in processes]

    def _begin(self, role: str) -> Process:
        """Start the process of a service, unless it runs with its present settings. Do not wait for it."""
        ready, command = ready_file(self._workspace, role), service_command(self._workspace, role)
        process = running_process(self._workspace, role)
        if process is not None and service_settings.has_changed(self._workspace, self._deployment, role):
            self._tell(f"restarting {role}, because its settings changed")
            stop_roles(self._workspace, role)
            process = None
        if process is None:
            self._tell(f"starting {role}")
            service_settings.remember(self._workspace, self._deployment, role)
            ready.unlink(missing_ok=True)
            logs = self._workspace.owner.logs if role == BROKER else self._workspace.host.logs
            process = self._registry.start(role, command, log=logs / f"{role}.log", port=self.ports()[role])
        else:
            self._registry.adopt(process, command)
        return process


def registry(workspace: Workspace) -> Registry:
    """Return the record of a workspace's processes on this machine."""
    return Registry(workspace.host.run / RECORD)


def running_process(workspace: Workspace, role: str) -> Process | None:
    """Return the process of a role, or None if it does not run."""
    process = registry(workspace).all().get(role)
    return process if process is not None and process.is_alive() else None


def running(workspace: Workspace) -> list[str]:
    """Return the roles of a workspace's running processes on this machine."""
    return [role for role, process in registry(workspace).all().items() if process.is_alive()]


def stop_roles(workspace: Workspace, *roles: str, tell: Tell = quietly) -> list[str]:
    """Stop the recorded processes with ``roles``, in that order, and return their roles."""
    record = registry(workspace)
    started: Mapping[str, Process] = record.all()
    stopped = [role for role in roles if role in started]
    for role in stopped:
        tell(f"stopping {role}")
        _stop(started[role])
        record.remove(role)
    if not record.all():
        nginx, run = nginx_folder(workspace), workspace.host.run
        ready = [ready_file(workspace, role) for role in (PCS, PLATFORM, BROKER)]
        for leftover in (nginx / "nginx.pid", nginx / "nginx.lock", *ready, run / supervisor.SOCKET,
                         run / restart_history.FILE):  # fmt: skip
            leftover.unlink(missing_ok=True)
    return stopped


def stop_services(workspace: Workspace, *, tell: Tell = quietly) -> list[str]:
    """Stop the owner's services of a workspace, and return the roles that were recorded."""
    return stop_roles(workspace, BROKER, PLATFORM, PCS, tell=tell)


def orphans(workspace: Workspace) -> list[Process]:
    """Return the running parts of a workspace that are missing from the record."""
    return find_orphans(workspace, list(registry(workspace).all().values()))


def stop_orphans(workspace: Workspace, *, tell: Tell = quietly) -> list[str]:
    """Stop the running parts that are missing from the record, and return a description of each."""
    stopped = orphans(workspace)
    for orphan in stopped:
        tell(f"stopping {describe(orphan)}")
        _stop(orphan)
    return [describe(orphan) for orphan in stopped]


def _stop(process: Process) -> None:
    """Stop a process. A replica gets more time, to finish its requests."""
    process.stop(grace=DRAIN_SECONDS if process.role.startswith(REPLICA) else _STOP_SECONDS)
