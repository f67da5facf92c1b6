"""The local target: vendor, platform, broker, replicas and NGINX as processes of this machine.

Replicas share this machine's network, and the port is measured (decision 3). So each replica needs an enclave of its
own, with a port that is free.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sealserve.addresses import usable_address
from sealserve.atomic_file import write_file
from sealserve.bundle import Bundle, Destination, EnclavePlace
from sealserve.cluster import host_only, owner_services, ports
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.launch_log import read_restarts, read_steps
from sealserve.cluster.log_files import read_logs
from sealserve.cluster.owner_services import (
    OwnerServices,
    own_command,
    process_status,
    registry,
    running_process,
    stop_roles,
    stop_services,
)
from sealserve.cluster.processes import Process, start_time, uninterrupted, wait_ready
from sealserve.cluster.target import (
    BROKER,
    DRAIN_SECONDS,
    NGINX,
    PCS,
    PLATFORM,
    REPLICA,
    REPLICA_SECONDS,
    LogLine,
    PartStatus,
    Scaled,
    State,
    Tell,
    drain_seconds,
    no_log,
    quietly,
)
from sealserve.deployment import Deployment
from sealserve.enclave.measurement import load_enclave, port_of
from sealserve.errors import SealserveError
from sealserve.ingress.nginx import Nginx, worker_user
from sealserve.ingress.nginx_config import NginxConfig, Upstream, render
from sealserve.ingress.nginx_program import find_nginx
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace

ATTEMPTS: Final = 10
"""Starts of a replica whose server crashes, with growing pauses: four minutes, and ten requests to the broker."""


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
        self._release_file = workspace.host.run / "release"

    @property
    def services(self) -> OwnerServices:
        """The vendor's service, the platform and the broker."""
        return self._services

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Check that a release could be started here; see `Target.check`.

        Raises:
            InputError: `target.host-incomplete`: This machine is only the host, and something was not copied to it.
            InputError: `target.foreign-release`: The workspace's owner did not build the release.
            InputError: `target.busy`: Another release runs.
            PortTakenError: Another program has a port.
        """
        if not broker_here:
            self._refuse_other(release.name)
            host_only.require_platform(self._workspace)
            return
        # Only the broker of the workspace that built a release has the release's key.
        if release.resolve() != (self._workspace.owner.releases / release.name).resolve():
            raise ClusterCode.TARGET_FOREIGN_RELEASE.error(
                f"{release} is not one of the workspace's own releases.",
                hint="`sealserve release list` shows those; give a name, or the beginning of an id.",
            )
        self._refuse_other(release.name)
        # What is left of a part that was killed may hold its port: `up` clears it, and looks at the ports then.
        if all(process.is_alive() for process in self._registry.all().values()):
            self._refuse_taken_ports()

    def destination(self, release: str, replicas: int) -> Destination:
        """Return this machine as the place of a release; see `Target.destination`.

        An enclave that exists keeps its port, unless another program has the port now. If this machine is the owner's
        too, enclaves that were built and not shipped yet count as well.
        """
        built = host_only.built_folder(self._workspace, release)
        places: list[EnclavePlace] = []
        for index in range(replicas):
            name = f"{REPLICA}{index}"
            in_use = running_process(self._workspace, name) is not None
            port = _built_port(built, name)
            taken = {place.port for place in places}
            if port is None or port in taken or not (in_use or ports.is_free(port)):
                port = next(port for port in iter(ports.find_free, None) if port not in taken)
            places.append(EnclavePlace(name=name, port=port, in_use=in_use))
        return Destination(deployment=self._deployment, enclaves=tuple(places))

    def up(self, bundle: Bundle, replicas: int) -> Sequence[str]:
        """Start what does not run: afterwards ``replicas`` enclaves of a release serve behind NGINX.

        Args:
            bundle: The release.
            replicas: How many.

        Returns:
            Nothing: this target does not roll from one release to the next.

        Raises:
            InputError: `target.busy`: Another release runs.
            SealserveError: A part did not start; what runs goes on running.
        """
        self._refuse_other(bundle.name)
        # 1. Clear what is left of parts that were killed: NGINX's workers hold its port.
        for process in self._registry.all().values():
            if not process.is_alive():
                process.stop()
        if bundle.broker is None:
            host_only.require_enclaves(bundle, replicas)
        self._refuse_taken_ports(owner_here=bundle.broker is not None)
        # 2. Start what replicas attest themselves with. A broker on another machine has the vendor's service there.
        if bundle.broker is not None:
            self._services.start_vendor()
        self._services.start_platform()
        if bundle.broker is not None:
            self._services.start_broker()
        # 3. Start the replicas, all at once, and wait for them.
        write_file(self._release_file, bundle.name.encode())
        self._start_replicas(bundle, replicas)
        # 4. Let NGINX pass connections on to them.
        self.start_front()
        return ()

    def release(self) -> str:
        """Return the name of the release that was started last.

        Raises:
            InputError: `target.not-up`: None was.
        """
        try:
            name = read_regular(self._release_file, follow_links=False).decode(errors="replace")
        except InputFileMissingError as error:
            raise ClusterCode.TARGET_NOT_UP.error(
                "No release was started yet.", hint="`sealserve up` starts one."
            ) from error
        return Path(name).name

    def start_replica(self, bundle: Bundle, index: int) -> Process:
        """Start a replica's enclave, unless it runs; it is not waited for."""
        name = f"{REPLICA}{index}"
        if (running := running_process(self._workspace, name)) is not None:
            return running
        self._tell(f"starting {name}")
        port = port_of(load_enclave(bundle.folder, name).manifest)
        ports.require_free(port, name)
        command = ["enclave", "run", "--name", name, "--release", str(bundle.folder), "--attempts", str(ATTEMPTS)]
        log = self._workspace.host.logs / f"{name}.log"
        return self._registry.start(name, own_command(self._workspace, command), log=log, port=port)

    def wait_replica(self, process: Process) -> None:
        """Wait until a replica serves. Its port opens only when the model is available.

        Raises:
            ProcessEndedError: It ended before; the message has the reason that it logged.
        """
        if not _serves(process):
            self._tell(f"{process.role} attests itself, opens the release and loads the model")
            wait_ready(process, lambda: _serves(process), seconds=REPLICA_SECONDS)

    def start_front(self) -> Nginx:
        """Start NGINX in front of the replicas that run, or let it read the new list."""
        nginx = self._nginx(self.replicas())
        if nginx.pid is None:
            self._tell("starting NGINX")
            with uninterrupted():
                nginx.start()
                self._remember(nginx)
        else:
            nginx.reload(nginx.config)
        return nginx

    def _remember(self, nginx: Nginx) -> None:
        if (pid := nginx.pid) is not None:
            port, log = self._deployment.service.port, str(nginx.config.error_log)
            self._registry.add(Process(role=NGINX, pid=pid, started=start_time(pid) or 0, port=port, log=log))

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
        running = self.replicas()
        # More: start those that are missing, then let NGINX know them.
        if bundle is not None:
            self._start_replicas(bundle, replicas)
            self.start_front()
            return
        # Fewer: NGINX forgets them first, their connections move, and they finish the requests that run.
        leaving = running[replicas:]
        nginx = self._nginx(running[:replicas])
        if nginx.pid is not None:
            nginx.reload(nginx.config)
            age = self._deployment.server.longest_connection_seconds
            self._tell(f"open connections move to the replicas that stay, within {age} s")
            nginx.wait_drained(timeout=drain_seconds(self._deployment))
        for process in leaving:
            self._tell(f"{process.role} finishes its requests")
            process.stop(grace=DRAIN_SECONDS)
            self._registry.remove(process.role)

    def replicas(self) -> list[Process]:
        """Return the replicas that run, in order."""
        found = [process for role, process in self._registry.all().items() if role.startswith(REPLICA)]
        return sorted(
            (process for process in found if process.is_alive()),
            key=lambda process: int(process.role.removeprefix(REPLICA)),
        )

    def status(self) -> list[PartStatus]:
        """Return the state of every part that was started."""
        return [self._status(process) for process in self._registry.all().values()]

    def logs(self, part: str | None, *, last: int, follow: bool) -> Iterator[LogLine]:
        """Yield what the parts logged, each part's last lines first; see `Target.logs`."""
        folders = (self._workspace.owner.logs, self._workspace.host.logs)
        known = {path.stem: path for folder in folders for path in sorted(folder.glob("*.log"))}
        chosen = {name: path for name, path in known.items() if part in {None, name, _part(name)}}
        if not chosen:
            raise no_log(part, list(dict.fromkeys(map(_part, known))))
        lines = read_logs(chosen, last=last, follow=follow)
        return (LogLine(_part(line.part), line.text) for line in lines)

    def down(self) -> list[str]:
        """Stop everything that was started; return the roles. See `stop_all`."""
        return stop_all(self._workspace, tell=self._tell)

    def _start_replicas(self, bundle: Bundle, replicas: int) -> None:
        for process in [self.start_replica(bundle, index) for index in range(replicas)]:
            self.wait_replica(process)

    def _refuse_other(self, release: str) -> None:
        if self.replicas() and (running := self.release()) != release:
            raise ClusterCode.TARGET_BUSY.error(
                f"The release {running} runs, and this is {release}.",
                hint="`sealserve down` first: this target does not roll from one release to the next.",
            )

    def _refuse_taken_ports(self, *, owner_here: bool = True) -> None:
        service = self._deployment.service
        nginx = self._nginx([])
        render(replace(nginx.config, upstreams=[Upstream("127.0.0.1", 1)]))  # what it cannot take is said now
        if nginx.pid is None:
            ports.require_free(service.port, "NGINX (service.port)", service.listen)
        if owner_here:
            self._services.require_free_ports()

    def _status(self, process: Process) -> PartStatus:
        found = process_status(process)
        if process.role.startswith(REPLICA):
            restarts, reason = read_restarts(Path(process.log), process.pid)
            found = replace(found, restarts=restarts)
            if process.is_alive():
                state = State.SERVING if _serves(process) else _progress(Path(process.log))
                found = replace(found, state=state, detail=reason)
        elif process.role == NGINX and process.is_alive():
            service = self._deployment.service
            found = replace(found, state=State.SERVING, detail=f"{service.name} at {service.endpoint}")
        return found

    def _nginx(self, replicas: list[Process]) -> Nginx:
        service = self._deployment.service
        program = find_nginx()
        folder = self._workspace.host.run / "nginx"
        folder.mkdir(parents=True, exist_ok=True)
        config = NginxConfig(
            listen=usable_address(service.listen),
            port=service.port,
            service_name=service.name,
            upstreams=[Upstream("127.0.0.1", process.port) for process in replicas if process.port is not None],
            run_folder=folder,
            log_folder=self._workspace.host.logs,
            stream_module=program.stream_module,
            user=worker_user(),
            drain_timeout=drain_seconds(self._deployment),
        )
        return Nginx(program, config)


def open_target(workspace: Workspace, deployment: Deployment, *, tell: Tell) -> LocalTarget:
    """Return the local target; see `TargetModule`."""
    return LocalTarget(workspace, deployment, tell=tell)


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> list[str]:
    """Stop everything that runs of a workspace, in the order in which requests come; return the roles.

    Only the record of what was started is needed: neither the deployment file nor NGINX.
    """
    started = registry(workspace).all()
    replicas = sorted(role for role in started if role.startswith(REPLICA))
    others = sorted(set(started) - {NGINX, *replicas, BROKER, PLATFORM, PCS})
    return [*stop_roles(workspace, NGINX, *replicas, *others, tell=tell), *stop_services(workspace, tell=tell)]


def running(workspace: Workspace) -> list[str]:
    """Return the roles of what runs of a workspace."""
    return owner_services.running(workspace)


def _built_port(release: Path, name: str) -> int | None:
    """Return the port of an enclave that exists, or None if there is none that could start."""
    try:
        return port_of(load_enclave(release, name).manifest)
    except SealserveError:
        return None


def _part(log: str) -> str:
    """Return the part that wrote a log: NGINX writes two, ``nginx-access`` and ``nginx-error``."""
    return NGINX if log.startswith(f"{NGINX}-") else log


def _serves(replica: Process) -> bool:
    return ports.is_listening(replica.port or 0, session=replica.pid)


def _progress(log: Path) -> State:
    steps = {step.name for step in read_steps(log)}
    return State.ATTESTED if "key" in steps and "ended" not in steps else State.STARTING
