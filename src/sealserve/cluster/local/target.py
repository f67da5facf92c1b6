"""The local target: vendor, platform, broker, replicas and NGINX as processes of this machine.

Replicas share this machine's network, and their ports are measured (decision 3). So each replica needs its own enclave
with a free port. For REST, the next port must be free too. A new release starts next to the old release, with
different ports (decision 78).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sealserve.bundle import Bundle, Destination, EnclavePlace
from sealserve.cluster import ports, wanted
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import host_only, owner_services
from sealserve.cluster.local.difference import A_FREE_PORT, LocalState, difference
from sealserve.cluster.local.front import LocalFront
from sealserve.cluster.local.logs import local_logs
from sealserve.cluster.local.orphans import describe, require_no_orphans
from sealserve.cluster.local.owner_services import (
    OwnerServices,
    registry,
    stop_roles,
    stop_services,
)
from sealserve.cluster.local.process_status import deployment_status
from sealserve.cluster.local.processes import Phase, Process
from sealserve.cluster.local.replicas import LocalReplicas, built_ports, has_rest, number
from sealserve.cluster.logs.merge import LogLine
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.cluster.target import (
    BROKER,
    DRAIN_SECONDS,
    NGINX,
    PCS,
    PLATFORM,
    REPLICA,
    SUPERVISOR,
    PartStatus,
    Scaled,
    Tell,
    drain_seconds,
    quietly,
)
from sealserve.deployment import Deployment
from sealserve.deployment.endpoints import endpoints_of
from sealserve.enclave.launch.gramine_sgx import find_loader
from sealserve.errors import SealserveError
from sealserve.ingress.nginx import Nginx
from sealserve.ingress.nginx_config import render
from sealserve.interruptions import uninterrupted
from sealserve.regular_file import read_regular
from sealserve.tcp_ports import rest_port_beside
from sealserve.terms import RuntimeKind
from sealserve.workspace import Workspace


class LocalTarget:
    """A deployment on this machine.

    Args:
        workspace: The workspace, with the folders of all three roles.
        deployment: The deployment that the workspace describes.
        tell: Called with a short progress text before each step.
    """

    def __init__(self, workspace: Workspace, deployment: Deployment, *, tell: Tell = quietly) -> None:
        if deployment.runtime is RuntimeKind.SGX:
            raise ClusterCode.TARGET_UNSUPPORTED.error(
                "The local target runs only simulated enclaves, but sealserve.toml has platform = 'sgx'.",
                hint="Set platform = 'simulated' to try the deployment here, or choose a different target.kind.",
            )
        self._workspace = workspace
        self._deployment = deployment
        self._tell = tell
        self._registry = registry(workspace)
        self._services = OwnerServices(workspace, deployment, tell=tell)
        self._replicas = LocalReplicas(workspace, tell=tell, runtime=deployment.runtime)
        self._front = LocalFront(workspace, deployment, tell=tell)
        self._record = ReleaseRecord(workspace)

    @property
    def services(self) -> OwnerServices:
        """The vendor's service, the platform and the broker."""
        return self._services

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Check that this machine could start a release; see `Target.check`.

        Raises:
            UnavailableError: `gramine.loader-missing` if the platform is gramine-direct, and it is not installed.
            InputError: `target.host-incomplete` if this machine is only the host and a file was not copied to it.
            InputError: `target.foreign-release` if the workspace's owner did not build the release.
            PortTakenError: A different program uses a port.
            UnavailableError: `process.orphans` if processes of an earlier run still run.
        """
        if self._deployment.runtime is RuntimeKind.GRAMINE_DIRECT:
            find_loader(RuntimeKind.GRAMINE_DIRECT)
        if not broker_here:
            host_only.require_platform(self._workspace)
        # Only the broker of the workspace that built a release has the key of this release.
        elif release.resolve() != (self._workspace.owner.releases / release.name).resolve():
            raise ClusterCode.TARGET_FOREIGN_RELEASE.error(
                f"{release} is not a release of this workspace.",
                hint="Choose a release from `sealserve release list`, by its name or the beginning of its ID.",
            )
        require_no_orphans(self._workspace, list(self._registry.all().values()))
        # A killed part may leave processes that use its port. `up` stops them, and checks the ports after that.
        if all(process.is_alive() for process in self._registry.all().values()):
            built = has_rest(host_only.built_folder(self._workspace, release.name))
            rest = self._deployment.server.rest if built is None else built
            self._refuse_taken_ports(owner_here=broker_here, rest=rest)

    def destination(self, release: str, replicas: int) -> Destination:
        """Return this machine as the destination of a release; see `Target.destination`.

        An existing enclave keeps its port, unless a different program uses the port now. If this machine is also the
        owner's, enclaves that were built but not shipped yet count as existing.

        Only the owner's record shows whether a release has REST. So each new enclave gets a port whose next port is
        also free.
        """
        built = host_only.built_folder(self._workspace, release)
        places: list[EnclavePlace] = []
        reserved: set[int] = set()
        for index in range(replicas):
            name = f"{REPLICA}{index}"
            in_use = any(self._replicas.running(name, release, phase) for phase in (Phase.CURRENT, Phase.NEXT))
            chosen = built_ports(built, name)
            if not chosen or reserved.intersection(chosen) or not (in_use or _are_free(chosen)):
                pairs = ((port, rest_port_beside(port)) for port in iter(ports.find_free, None))
                chosen = next(pair for pair in pairs if not reserved.intersection(pair) and _are_free(pair))
            reserved.update(chosen)
            places.append(EnclavePlace(name=name, port=chosen[0], in_use=in_use))
        return Destination(deployment=self._deployment, enclaves=tuple(places))

    def up(self, bundle: Bundle, replicas: int) -> Sequence[str]:
        """Start every part that does not run, and roll from another release to this one. See `Target.up`.

        Raises:
            SealserveError: A part did not start. Previous replicas continue to serve, and the new ones are stopped.
        """
        # 1. Stop the remains of killed parts, such as NGINX's workers, which hold its port.
        for process in self._registry.all().values():
            if not process.is_alive():
                process.stop()
        owner_here = bundle.broker is not None
        if not owner_here:
            host_only.require_enclaves(bundle, replicas)
        self._refuse_taken_ports(owner_here=owner_here, rest=any(enclave.rest_port for enclave in bundle.enclaves))
        # 2. Start the supervisor, which starts the other parts, and the services that replicas need for attestation.
        #    If the broker is on a different machine, the vendor's service also runs there.
        self._services.start_supervisor()
        self._services.start(*(PCS, PLATFORM, BROKER) if owner_here else (PLATFORM,))
        # 3. Start the replicas, and make NGINX send new connections to them. Replicas of the old release serve until
        #    then. A killed `up` may have left some of them in the phase "leaving": their release is also replaced.
        before = self._replicas.started(Phase.CURRENT, Phase.LEAVING)
        if any(process.release != bundle.name for process in before if process.phase is Phase.CURRENT):
            self._roll(bundle, replicas)
        else:
            self._replicas.stop(self._replicas.started(Phase.NEXT))  # remains of a killed roll-out
            self._replicas.start_all(bundle, replicas)
            surplus = [process for process in self._replicas.started(Phase.CURRENT) if number(process) >= replicas]
            self._replicas.move([(surplus, Phase.LEAVING)])
            self.start_front()
        self._record.serve(bundle.name)
        # 4. Let the replicas without new connections finish their requests, then stop them.
        self._finish_leaving()
        return sorted({process.release for process in before} - {bundle.name, ""})

    def _roll(self, bundle: Bundle, replicas: int) -> None:
        """Start replicas of a new release next to the old replicas, and move new connections to them.

        If this fails or is interrupted, the old replicas continue to serve, and the new ones are stopped. If it is
        killed, the next `up` reuses or stops the new ones. `down` stops all of them.
        """
        old = self._replicas.started(Phase.CURRENT)
        # 1. Keep new replicas of this release that a killed `up` has started.
        left = self._replicas.started(Phase.NEXT)
        self._replicas.stop(
            process
            for process in left
            if process.release != bundle.name or number(process) >= replicas or not process.is_alive()
        )
        try:
            # 2. Start all new replicas and wait until all serve. NGINX does not send them connections yet.
            new = self._replicas.start_all(bundle, replicas, phase=Phase.NEXT)
            # 3. Exchange the phases of old and new in the record, then update NGINX. With this order, a kill between
            #    the two steps never leaves a replica that has connections but is recorded as unused.
            with uninterrupted():
                self._replicas.move([(old, Phase.LEAVING), (new, Phase.CURRENT)])
                try:
                    self.start_front()
                except BaseException:
                    # NGINX may have sent connections to the new replicas, so these finish their requests first.
                    self._replicas.move([(new, Phase.LEAVING), (old, Phase.CURRENT)])
                    with contextlib.suppress(SealserveError):
                        self.start_front()
                        self._finish_leaving()
                    raise
        except BaseException:
            self._replicas.stop(self._replicas.started(Phase.NEXT))
            raise

    def _finish_leaving(self) -> None:
        """Wait until leaving replicas have no connections, then stop them."""
        leaving = self._replicas.started(Phase.LEAVING)
        if any(process.is_alive() for process in leaving):
            # An enclave drains connections at the age that its release fixes, regardless of sealserve.toml.
            seconds = drain_seconds(self._deployment, (process.connection_age for process in leaving))
            self._tell(f"moving open connections to the remaining replicas, within {seconds - DRAIN_SECONDS} s")
            if not self._front.nginx([]).wait_drained(timeout=seconds):
                self._tell(f"closing connections that are still open after {seconds} s, with their replicas")
        self._replicas.stop(leaving)

    def difference(self, bundle: Bundle, replicas: int) -> str:
        """Return a unified diff of what `up` would change; see `Target.difference`."""
        planned: dict[str, int | None] = {}
        described: list[Process] = []
        for role in [f"{REPLICA}{index}" for index in range(replicas)]:
            built = built_ports(host_only.built_folder(self._workspace, bundle.name), role)
            enclave = bundle.enclave(role)
            port = built[0] if enclave is not None and built[:1] == (enclave.port,) else A_FREE_PORT
            rest_port = None if enclave is None or not enclave.rest_port else rest_port_beside(port)
            age = None if enclave is None else enclave.connection_age
            planned[role] = port
            described.append(
                Process(role=role, pid=0, started=0, port=port, rest_port=rest_port, connection_age=age, log="")
            )
        config = self._front.nginx(described).config
        alive = {process.role: process for process in self._registry.all().values()
                 if process.phase is Phase.CURRENT and process.is_alive()}  # fmt: skip
        front = read_regular(config.config_file, follow_links=False).decode(errors="replace") if NGINX in alive else ""
        running = LocalState(
            release=self.release() if self.replicas() else None,
            ports={role: process.port for role, process in alive.items()},
            front=front,
        )
        services = self._services.ports() if bundle.broker is not None else {PLATFORM: None}
        wanted = LocalState(
            release=bundle.name,
            ports={**services, **planned, NGINX: self._deployment.service.port},
            front=render(config),
        )
        return difference(running, wanted)

    def previous_release(self) -> str:
        """Return the name of the release that was served before the current release; see `Target.previous_release`."""
        running = self.replicas()
        return self._record.previous(running[0].release if running else None)

    def release(self) -> str:
        """Return the name of the release that runs, or that was served last.

        Raises:
            InputError: `target.not-up` if no release was started yet.
        """
        running = self.replicas()
        name = (running[0].release if running else "") or self._record.serving()
        if name is None:
            raise ClusterCode.TARGET_NOT_UP.error(
                "The deployment is not running: no release was started yet.", hint="Start it with `sealserve up`."
            )
        return name

    def start_replica(self, bundle: Bundle, index: int) -> Process:
        """Start a replica's enclave unless it runs. This does not wait until it serves."""
        return self._replicas.start(bundle, index)

    def wait_replica(self, process: Process) -> None:
        """Wait until a replica serves; see `LocalReplicas.wait`."""
        self._replicas.wait(process)

    def start_front(self) -> Nginx:
        """Start NGINX, or make the running NGINX load the current list of replicas."""
        return self._front.start(self.replicas())

    def to_scale(self, replicas: int) -> Scaled | None:
        """Return the release that runs, if replicas must be added: each new replica needs its own enclave."""
        running = self.replicas()
        if not running:
            raise ClusterCode.TARGET_NOT_UP.error(
                "The deployment is not running: it has no replicas to scale.", hint="Start it with `sealserve up`."
            )
        if replicas <= len(running):
            return None
        release = self.release()
        return Scaled(release=release, broker_here=host_only.is_owners(self._workspace, release))

    def scale(self, replicas: int, bundle: Bundle | None) -> None:
        """Start or stop replicas until ``replicas`` run; see `Target.scale`."""
        # To scale up, start the missing replicas. To scale down, mark the replicas with the highest numbers.
        if bundle is not None:
            self._replicas.start_all(bundle, replicas)
        self._replicas.move([(self.replicas()[replicas:], Phase.LEAVING)])
        # NGINX loads the new list first. Then connections move, and leaving replicas finish their requests.
        self.start_front()
        self._finish_leaving()

    def replicas(self) -> list[Process]:
        """Return the running replicas that get new connections, ordered by number."""
        return [process for process in self._replicas.started(Phase.CURRENT) if process.is_alive()]

    def status(self) -> list[PartStatus]:
        """Return the status of every existing part."""
        release = self.release() if self.replicas() else ""
        return deployment_status(self._workspace, self._deployment, self._registry.all().values(), release=release)

    def expected(self, replicas: int) -> Sequence[str]:
        """Return the roles of the parts that should exist."""
        served = self._record.serving()
        alone = wanted.read(self._workspace).host_only
        if alone is None:  # an earlier version of sealserve started the deployment
            alone = served is not None and not host_only.is_owners(self._workspace, served)
        owners = () if alone else (BROKER, PCS)
        return (SUPERVISOR, NGINX, *(f"{REPLICA}{index}" for index in range(replicas)), PLATFORM, *owners)

    def endpoints(self) -> Mapping[str, str]:
        """Return where users reach the service."""
        replicas = self._replicas.started(Phase.CURRENT)
        rest = any(replica.rest_port for replica in replicas) if replicas else None
        return endpoints_of(self._deployment, rest=rest).by_protocol

    def logs(self, part: str | None, selection: LogSelection) -> Iterator[LogLine]:
        """Yield the log lines of the parts; see `Target.logs`."""
        return local_logs(self._workspace, part, selection)

    def down(self) -> list[str]:
        """Stop all parts and return their roles. See `stop_all`."""
        return stop_all(self._workspace, tell=self._tell)

    def _refuse_taken_ports(self, *, owner_here: bool, rest: bool) -> None:
        self._front.require_free_ports(rest=rest)
        if owner_here:
            self._services.require_free_ports()


def open_target(workspace: Workspace, deployment: Deployment, *, tell: Tell) -> LocalTarget:
    """Return the local target; see `TargetModule`."""
    return LocalTarget(workspace, deployment, tell=tell)


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> list[str]:
    """Stop all parts of a workspace, NGINX first, then the replicas, and return their roles.

    This requires neither the deployment file nor the program NGINX. Parts that are missing from the record are found
    by their command lines.
    """
    started = registry(workspace).all()
    replicas = sorted(role for role in started if role.startswith(REPLICA))
    others = sorted(set(started) - {SUPERVISOR, NGINX, *replicas, BROKER, PLATFORM, PCS})
    return [
        *stop_roles(workspace, SUPERVISOR, NGINX, *replicas, *others, tell=tell),
        *stop_services(workspace, tell=tell),
        *owner_services.stop_orphans(workspace, tell=tell),
    ]


def running(workspace: Workspace) -> list[str]:
    """Return the roles of a workspace's running parts, including orphans."""
    return [*owner_services.running(workspace), *map(describe, owner_services.orphans(workspace))]


def _are_free(numbers: Sequence[int]) -> bool:
    return all(map(ports.is_free, numbers))
