"""The local target: vendor, platform, broker, replicas and NGINX as processes of this machine.

Replicas share this machine's network, and their ports are measured (decision 3). So each replica needs an enclave of
its own, with a port that is free; for REST, the port beside it must be free too. A new release starts beside the old
one, with ports of its own (decision 78).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sealserve.addresses import usable_address
from sealserve.bundle import Bundle, Destination, EnclavePlace
from sealserve.cluster import ports, wanted
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import host_only, owner_services
from sealserve.cluster.local.difference import A_FREE_PORT, LocalState, difference
from sealserve.cluster.local.logs import local_logs
from sealserve.cluster.local.orphans import describe, require_no_orphans
from sealserve.cluster.local.owner_services import (
    OwnerServices,
    registry,
    running_process,
    stop_roles,
    stop_services,
)
from sealserve.cluster.local.part_commands import nginx_folder
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
from sealserve.errors import SealserveError
from sealserve.ingress.nginx import Nginx, worker_user
from sealserve.ingress.nginx_config import NginxConfig, RestRoute, Upstream, render
from sealserve.ingress.nginx_program import find_nginx
from sealserve.interruptions import uninterrupted
from sealserve.regular_file import read_regular
from sealserve.tcp_ports import rest_port_beside
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace


class LocalTarget:
    """A deployment on this machine.

    Args:
        workspace: With all three machines' parts.
        deployment: What it describes.
        tell: Called with a few words before each thing that is done.
    """

    def __init__(self, workspace: Workspace, deployment: Deployment, *, tell: Tell = quietly) -> None:
        if deployment.platform is not PlatformKind.SIMULATED:
            raise ClusterCode.TARGET_UNSUPPORTED.error(
                "The local target runs simulated enclaves only, and sealserve.toml says platform = 'sgx'.",
                hint="Set platform = 'simulated' to try it here.",
            )
        self._workspace = workspace
        self._deployment = deployment
        self._tell = tell
        self._registry = registry(workspace)
        self._services = OwnerServices(workspace, deployment, tell=tell)
        self._replicas = LocalReplicas(workspace, tell=tell)
        self._record = ReleaseRecord(workspace)

    @property
    def services(self) -> OwnerServices:
        """The vendor's service, the platform and the broker."""
        return self._services

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Check that a release could be started here; see `Target.check`.

        Raises:
            InputError: `target.host-incomplete`: This machine is only the host, and something was not copied to it.
            InputError: `target.foreign-release`: The workspace's owner did not build the release.
            PortTakenError: Another program has a port.
            UnavailableError: `process.orphans`: Processes of an earlier run still run.
        """
        if not broker_here:
            host_only.require_platform(self._workspace)
        # Only the broker of the workspace that built a release has the release's key.
        elif release.resolve() != (self._workspace.owner.releases / release.name).resolve():
            raise ClusterCode.TARGET_FOREIGN_RELEASE.error(
                f"{release} is not one of the workspace's own releases.",
                hint="`sealserve release list` shows those; give a name, or the beginning of an id.",
            )
        require_no_orphans(self._workspace, list(self._registry.all().values()))
        # What is left of a part that was killed may hold its port: `up` clears it, and looks at the ports then.
        if all(process.is_alive() for process in self._registry.all().values()):
            built = has_rest(host_only.built_folder(self._workspace, release.name))
            rest = self._deployment.server.rest if built is None else built
            self._refuse_taken_ports(owner_here=broker_here, rest=rest)

    def destination(self, release: str, replicas: int) -> Destination:
        """Return this machine as the place of a release; see `Target.destination`.

        An enclave that exists keeps its port, unless another program has the port now. If this machine is the owner's
        too, enclaves that were built and not shipped yet count as well.

        Whether a release has REST is the owner's record, so each enclave that is to be built gets the port beside its
        own as well.
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
        """Start what does not run, and roll from another release to this one. See `Target.up`.

        Raises:
            SealserveError: A part did not start. Replicas that served go on serving, and the new ones are stopped.
        """
        # 1. Clear what is left of parts that were killed: NGINX's workers hold its port.
        for process in self._registry.all().values():
            if not process.is_alive():
                process.stop()
        owner_here = bundle.broker is not None
        if not owner_here:
            host_only.require_enclaves(bundle, replicas)
        self._refuse_taken_ports(owner_here=owner_here, rest=any(enclave.rest_port for enclave in bundle.enclaves))
        # 2. Start the supervisor, which starts the other parts, and what replicas attest themselves with. If the
        #    broker is on another machine, the vendor's service is there too.
        self._services.start_supervisor()
        self._services.start(*(PCS, PLATFORM, BROKER) if owner_here else (PLATFORM,))
        # 3. Start the replicas, and let NGINX pass new connections to them. Replicas of another release serve until
        #    then. An `up` that was killed may have left some of them leaving: their release is replaced, too.
        before = self._replicas.started(Phase.CURRENT, Phase.LEAVING)
        if any(process.release != bundle.name for process in before if process.phase is Phase.CURRENT):
            self._roll(bundle, replicas)
        else:
            self._replicas.stop(self._replicas.started(Phase.NEXT))  # of a roll-out that was killed
            self._replicas.start_all(bundle, replicas)
            surplus = [process for process in self._replicas.started(Phase.CURRENT) if number(process) >= replicas]
            self._replicas.move([(surplus, Phase.LEAVING)])
            self.start_front()
        self._record.serve(bundle.name)
        # 4. Let the replicas that NGINX no longer lists finish their requests, and stop them.
        self._finish_leaving()
        return sorted({process.release for process in before} - {bundle.name, ""})

    def _roll(self, bundle: Bundle, replicas: int) -> None:
        """Start replicas of a release beside those of another release, and pass new connections to the new ones.

        If this fails or is interrupted, the old ones go on serving, and the new ones are stopped. If it is killed, the
        next `up` takes over the new ones or stops them; `down` stops all.
        """
        old = self._replicas.started(Phase.CURRENT)
        # 1. Keep the new replicas that an `up` of the same release has started before it was killed.
        left = self._replicas.started(Phase.NEXT)
        self._replicas.stop(
            process
            for process in left
            if process.release != bundle.name or number(process) >= replicas or not process.is_alive()
        )
        try:
            # 2. Start all new replicas, and wait until all of them serve. NGINX does not know them yet.
            new = self._replicas.start_all(bundle, replicas, phase=Phase.NEXT)
            # 3. Exchange the roles of old and new in the record, then in NGINX. In this order, a kill between the two
            #    leaves no replica that has connections and counts as one that was never used.
            with uninterrupted():
                self._replicas.move([(old, Phase.LEAVING), (new, Phase.CURRENT)])
                try:
                    self.start_front()
                except BaseException:
                    # NGINX may have passed connections to the new ones: they leave like any other replica.
                    self._replicas.move([(new, Phase.LEAVING), (old, Phase.CURRENT)])
                    with contextlib.suppress(SealserveError):
                        self.start_front()
                        self._finish_leaving()
                    raise
        except BaseException:
            self._replicas.stop(self._replicas.started(Phase.NEXT))
            raise

    def _finish_leaving(self) -> None:
        """Wait until the replicas that NGINX no longer lists have no connection, and stop them."""
        leaving = self._replicas.started(Phase.LEAVING)
        if any(process.is_alive() for process in leaving):
            # An enclave drains connections at its own age: that of the release, whatever sealserve.toml says now.
            seconds = drain_seconds(self._deployment, (process.connection_age for process in leaving))
            self._tell(f"open connections move to the replicas that stay, within {seconds - DRAIN_SECONDS} s")
            if not self._nginx([]).wait_drained(timeout=seconds):
                self._tell(f"some connections are still open after {seconds} s, and end with their replicas")
        self._replicas.stop(leaving)

    def difference(self, bundle: Bundle, replicas: int) -> str:
        """Return, as a unified diff, what `up` would change; see `Target.difference`."""
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
        config = self._nginx(described).config
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
        """Return the name of the release that was served before this one; see `Target.previous_release`."""
        running = self.replicas()
        return self._record.previous(running[0].release if running else None)

    def release(self) -> str:
        """Return the name of the release that runs, or that was served last.

        Raises:
            InputError: `target.not-up`: No release was started yet.
        """
        running = self.replicas()
        name = (running[0].release if running else "") or self._record.serving()
        if name is None:
            raise ClusterCode.TARGET_NOT_UP.error("No release was started yet.", hint="`sealserve up` starts one.")
        return name

    def start_replica(self, bundle: Bundle, index: int) -> Process:
        """Start a replica's enclave, unless it runs; it is not waited for."""
        return self._replicas.start(bundle, index)

    def wait_replica(self, process: Process) -> None:
        """Wait until a replica serves; see `LocalReplicas.wait`."""
        self._replicas.wait(process)

    def start_front(self) -> Nginx:
        """Start NGINX in front of the replicas that run, or let it read the new list."""
        nginx = self._nginx(self.replicas())
        if nginx.pid is None:
            self._tell("starting NGINX")
            nginx.config.run_folder.mkdir(parents=True, exist_ok=True)
            self._start_nginx(nginx)
        else:
            nginx.reload(nginx.config)
        if (process := running_process(self._workspace, NGINX)) is not None:
            self._registry.adopt(process, nginx.command)
        return nginx

    def _start_nginx(self, nginx: Nginx) -> None:
        port, log = self._deployment.service.port, nginx.config.error_log
        process = self._registry.start(NGINX, nginx.prepare(), log=log, port=port, directory=Path("/"))
        try:
            nginx.wait_started(process.is_alive)
        except BaseException:
            process.stop()
            self._registry.remove(NGINX)
            raise

    def to_scale(self, replicas: int) -> Scaled | None:
        """Return the release that runs if there are to be more replicas: each needs an enclave of its own."""
        running = self.replicas()
        if not running:
            raise ClusterCode.TARGET_NOT_UP.error(
                "There are no replicas to scale.", hint="Start the deployment with `sealserve up`."
            )
        if replicas <= len(running):
            return None
        release = self.release()
        return Scaled(release=release, broker_here=host_only.is_owners(self._workspace, release))

    def scale(self, replicas: int, bundle: Bundle | None) -> None:
        """Start or stop replicas until there are ``replicas``; see `Target.scale`."""
        # More: start the replicas that are missing. Fewer: mark those with the highest numbers.
        if bundle is not None:
            self._replicas.start_all(bundle, replicas)
        self._replicas.move([(self.replicas()[replicas:], Phase.LEAVING)])
        # NGINX reads the new list first. Then connections move, and replicas that leave finish their requests.
        self.start_front()
        self._finish_leaving()

    def replicas(self) -> list[Process]:
        """Return the replicas that run and get new connections, ordered by number."""
        return [process for process in self._replicas.started(Phase.CURRENT) if process.is_alive()]

    def status(self) -> list[PartStatus]:
        """Return the state of every part that there is."""
        release = self.release() if self.replicas() else ""
        return deployment_status(self._workspace, self._deployment, self._registry.all().values(), release=release)

    def expected(self, replicas: int) -> Sequence[str]:
        """Return the roles of the parts that there should be."""
        served = self._record.serving()
        alone = wanted.read(self._workspace).host_only
        if alone is None:  # an earlier version started it
            alone = served is not None and not host_only.is_owners(self._workspace, served)
        owners = () if alone else (BROKER, PCS)
        return (SUPERVISOR, NGINX, *(f"{REPLICA}{index}" for index in range(replicas)), PLATFORM, *owners)

    def endpoints(self) -> Mapping[str, str]:
        """Return where users reach the service."""
        replicas = self._replicas.started(Phase.CURRENT)
        rest = any(replica.rest_port for replica in replicas) if replicas else None
        return endpoints_of(self._deployment, rest=rest).by_protocol

    def logs(self, part: str | None, selection: LogSelection) -> Iterator[LogLine]:
        """Yield what the parts logged; see `Target.logs`."""
        return local_logs(self._workspace, part, selection)

    def down(self) -> list[str]:
        """Stop everything that was started; return the roles. See `stop_all`."""
        return stop_all(self._workspace, tell=self._tell)

    def _refuse_taken_ports(self, *, owner_here: bool, rest: bool) -> None:
        service = self._deployment.service
        nginx = self._nginx([])
        render(replace(nginx.config, upstreams=[Upstream("127.0.0.1", 1)]))  # what it cannot take is said now
        if nginx.pid is None:
            ports.require_free(service.port, "NGINX (service.port)", service.listen)
        # An NGINX that runs without REST would begin to listen for it.
        if rest and not _listens(nginx, service.rest_port):
            ports.require_free(service.rest_port, "NGINX (service.rest_port)", service.listen)
        if owner_here:
            self._services.require_free_ports()

    def _nginx(self, replicas: list[Process]) -> Nginx:
        service = self._deployment.service
        program = find_nginx()
        folder = nginx_folder(self._workspace)
        config = NginxConfig(
            listen=usable_address(service.listen),
            port=service.port,
            service_name=service.name,
            upstreams=[Upstream("127.0.0.1", process.port) for process in replicas if process.port is not None],
            rest=RestRoute(
                port=service.rest_port,
                upstreams=[Upstream("127.0.0.1", process.rest_port) for process in replicas if process.rest_port],
            ),
            run_folder=folder,
            log_folder=self._workspace.host.logs,
            stream_module=program.stream_module,
            user=worker_user(),
            drain_timeout=drain_seconds(self._deployment, (process.connection_age for process in replicas)),
        )
        return Nginx(program, config)


def open_target(workspace: Workspace, deployment: Deployment, *, tell: Tell) -> LocalTarget:
    """Return the local target; see `TargetModule`."""
    return LocalTarget(workspace, deployment, tell=tell)


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> list[str]:
    """Stop everything that runs of a workspace, in the order in which requests come; return the roles.

    Neither the deployment file nor NGINX is needed. Parts that the record does not name are found by their command
    lines.
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
    """Return the roles of what runs of a workspace, orphans included."""
    return [*owner_services.running(workspace), *map(describe, owner_services.orphans(workspace))]


def _are_free(numbers: Sequence[int]) -> bool:
    return all(map(ports.is_free, numbers))


def _listens(nginx: Nginx, port: int) -> bool:
    return (pid := nginx.pid) is not None and ports.is_listening(port, session=pid)
