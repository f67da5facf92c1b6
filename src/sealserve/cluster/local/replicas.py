"""The replicas of a local deployment: processes, each with its own enclave and port.

During a roll-out, replicas of two releases run side by side. Their `Phase` distinguishes them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from sealserve.bundle import Bundle
from sealserve.cluster import ports
from sealserve.cluster.local.owner_services import registry
from sealserve.cluster.local.part_commands import replica_command
from sealserve.cluster.local.process_status import serves
from sealserve.cluster.local.processes import Phase, Process, wait_ready
from sealserve.cluster.target import DRAIN_SECONDS, REPLICA, REPLICA_SECONDS, Tell
from sealserve.enclave.measurement import connection_age_of, enclave_names, load_enclave, port_of, rest_port_of
from sealserve.errors import SealserveError
from sealserve.terms import RuntimeKind
from sealserve.workspace import Workspace

ATTEMPTS: Final = 1
"""A replica ends when its server crashes. The deployment's supervisor then restarts it and counts its failures."""


class LocalReplicas:
    """The replicas of a workspace's deployment.

    Args:
        workspace: The workspace of the deployment.
        tell: Called with a short progress text before each step.
        runtime: The runtime of the replicas' enclaves: ``simulated`` or ``gramine-direct``.
    """

    def __init__(self, workspace: Workspace, *, tell: Tell, runtime: RuntimeKind = RuntimeKind.SIMULATED) -> None:
        self._workspace = workspace
        self._runtime = runtime
        self._registry = registry(workspace)
        self._tell = tell

    def started(self, *phases: Phase) -> list[Process]:
        """Return the recorded replicas of some phases, ordered by number. Some may have ended since."""
        found = [process for process in self._registry.all().values() if process.role.startswith(REPLICA)]
        return sorted((process for process in found if process.phase in phases), key=number)

    def running(self, role: str, release: str, phase: Phase) -> Process | None:
        """Return the replica that runs a release in a role, or None."""
        for process in self.started(phase):
            if (process.role, process.release) == (role, release) and process.is_alive():
                return process
        return None

    def start(self, bundle: Bundle, index: int, *, phase: Phase = Phase.CURRENT) -> Process:
        """Start a replica's enclave unless it runs. This does not wait until it serves."""
        role = f"{REPLICA}{index}"
        command = replica_command(self._workspace, role, bundle.folder, attempts=ATTEMPTS, runtime=self._runtime)
        if (process := self.running(role, bundle.name, phase)) is not None:
            self._registry.adopt(process, command)
            return process
        self._tell(f"starting {role}")
        manifest = load_enclave(bundle.folder, role).manifest
        port, rest_port = port_of(manifest), rest_port_of(manifest)
        for one in (port, *([rest_port] if rest_port else [])):
            ports.require_free(one, role)
        log = self._workspace.host.logs / f"{role}.log"
        return self._registry.start(
            role, command, log=log, port=port, rest_port=rest_port, connection_age=connection_age_of(manifest),
            release=bundle.name, phase=phase,
        )  # fmt: skip

    def wait(self, process: Process) -> None:
        """Wait until a replica serves. Its port opens only when the model is available.

        Raises:
            ProcessEndedError: It ended before it served. The message contains the reason from its log.
        """
        if not serves(process):
            self._tell(f"{process.role} attests itself, opens the release and loads the model")
            wait_ready(process, lambda: serves(process), seconds=REPLICA_SECONDS)

    def start_all(self, bundle: Bundle, replicas: int, *, phase: Phase = Phase.CURRENT) -> list[Process]:
        """Start a number of replicas in parallel, unless they run, and wait until all of them serve."""
        processes = [self.start(bundle, index, phase=phase) for index in range(replicas)]
        for process in processes:
            self.wait(process)
        return processes

    def move(self, phases: Sequence[tuple[Iterable[Process], Phase]]) -> None:
        """Move replicas to other phases, with a single write of the record."""
        self._registry.change_phases({process.pid: phase for processes, phase in phases for process in processes})

    def stop(self, processes: Iterable[Process]) -> None:
        """Stop replicas and remove them from the record. A serving replica finishes its requests first."""
        for process in processes:
            leaves = process.phase is Phase.LEAVING
            self._tell(f"{process.role} finishes its requests" if leaves else f"stopping the new {process.role}")
            process.stop(grace=DRAIN_SECONDS)
            self._registry.remove(process.name)


def number(replica: Process) -> int:
    """Return the number of a replica."""
    return int(replica.role.removeprefix(REPLICA))


def built_ports(release: Path, name: str) -> tuple[int, ...]:
    """Return the ports of an existing enclave, gRPC's first. Empty if no valid enclave exists."""
    try:
        manifest = load_enclave(release, name).manifest
        port, rest_port = port_of(manifest), rest_port_of(manifest)
    except SealserveError:
        return ()
    return (port,) if rest_port is None else (port, rest_port)


def has_rest(release: Path) -> bool | None:
    """Return whether the enclaves of a release have a REST API. None if no valid enclave exists."""
    found = [built for name in enclave_names(release) if (built := built_ports(release, name))]
    return any(len(built) > 1 for built in found) if found else None
