"""The Docker target: broker, NGINX and replicas as containers, on separate networks.

If the owner's broker runs on a different machine, a relay to it takes its place. A roll-out replaces one replica at a
time. Each new replica serves before NGINX stops sending connections to the old one, which finishes its requests.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sealserve.addresses import is_ip_address
from sealserve.bundle import BrokerPlace, Bundle, Destination, EnclavePlace
from sealserve.cluster import ports
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.container_layout import ENCLAVE
from sealserve.cluster.docker.compose import compose_file
from sealserve.cluster.docker.configuration import SECCOMP_FILE, write_configuration, write_front, write_seccomp
from sealserve.cluster.docker.container_status import ended_state, error_of, health_of, read_time
from sealserve.cluster.docker.difference import difference
from sealserve.cluster.docker.fleet import Fleet, Running, project_name
from sealserve.cluster.docker.layout import RELAY, ContainerLayout, first_links
from sealserve.cluster.docker.logs import container_logs
from sealserve.cluster.docker.ownership import container_user, give
from sealserve.cluster.docker.parts import Attachment, Container
from sealserve.cluster.docker.rollout import START_SECONDS, Rollout
from sealserve.cluster.docker.served import Served, for_containers, served_of
from sealserve.cluster.logs.certificate_log import logged_certificate
from sealserve.cluster.logs.merge import LogLine
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.cluster.target import (
    BROKER,
    NGINX,
    PCS,
    PLATFORM,
    REPLICA,
    Health,
    PartStatus,
    Scaled,
    State,
    Tell,
    no_log,
    quietly,
)
from sealserve.containers.engine import Engine
from sealserve.deployment import Deployment
from sealserve.deployment.endpoints import endpoints_of
from sealserve.host.facts import ENCLAVE_DEVICE
from sealserve.ingress.nginx_config import Upstream
from sealserve.tcp_ports import SERVICE_PORT
from sealserve.terms import PlatformKind, RuntimeKind
from sealserve.workspace import Workspace

FOLDER: Final = "docker"
COMPOSE_FOLDER: Final = "compose"  # separate, so that rendering does not change the running deployment
_WITHOUT_PORTS: Final = frozenset({"created", "exited", "dead"})
"""States in which a container holds none of its ports. A restarting container may still hold them."""


class DockerTarget:
    """A deployment in the containers of this machine's Docker engine.

    Args:
        workspace: The workspace, with the folders of the roles that this machine has.
        deployment: The deployment that the workspace describes.
        tell: Called with a short progress text before each step.
        gramine_direct: Whether replicas may use the system calls that gramine-direct needs, also on another platform.
    """

    def __init__(
        self,
        workspace: Workspace,
        deployment: Deployment,
        *,
        tell: Tell = quietly,
        gramine_direct: bool = False,
    ) -> None:
        self._workspace = workspace
        self._deployment = for_containers(deployment)
        self._tell = tell
        self._gramine_direct = gramine_direct or deployment.runtime is RuntimeKind.GRAMINE_DIRECT
        self._engine = Engine()
        self._fleet = Fleet(self._engine, project_name(workspace))
        self._record = ReleaseRecord(workspace)

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Check that this machine could start a release; see `Target.check`."""
        del release, broker_here
        self._engine.require()
        self._require_host()
        service, nginx = self._deployment.service, self._fleet.find(NGINX)
        wanted = {service.port: "service.port"}
        if self._deployment.server.rest:
            wanted[service.rest_port] = "service.rest_port"
        # NGINX is replaced if its ports change. So check a port that only the new container needs before that.
        held = nginx.published if nginx is not None and nginx.status not in _WITHOUT_PORTS else frozenset()
        for port, setting in wanted.items():
            if port not in held:
                ports.require_free(port, f"NGINX ({setting})", service.listen)

    def destination(self, release: str, replicas: int) -> Destination:
        """Return the containers of this machine as the destination of a release; see `Target.destination`.

        Each replica has its own IP address, so a single enclave with a fixed port works for all of them.
        """
        del release, replicas
        return Destination(
            deployment=self._deployment,
            enclaves=(EnclavePlace(name=ENCLAVE, port=SERVICE_PORT),),
            in_image=True,
            broker=BrokerPlace.CONTAINER,
        )

    def up(self, bundle: Bundle, replicas: int) -> Sequence[str]:
        """Start every part that does not run, and replace replicas of other releases one at a time. See `Target.up`.

        Raises:
            UnavailableError: `container.ended` if a container ended early. Old replicas continue to serve.
            SealserveError: A requirement is missing, or the engine rejected a command.
        """
        # 1. Write the files that the containers read.
        served, layout = self._layout(bundle)
        # 2. Create the networks, and start the services that replicas need for attestation.
        for network in (layout.front, layout.collateral):
            self._fleet.ensure_network(network)
        for container in layout.services(served):
            found = self._fleet.find(container.role)
            if found is None or not self._fleet.fits(found, container):
                self._tell(f"starting {container.role}")
            running = self._fleet.ensure(container)
            self._fleet.wait(running, seconds=START_SECONDS)
        # 3. Start the replicas, or replace replicas of another release.
        rollout = self._rollout(layout, served)
        rollout.link_all()
        before = {replica.release for replica in self._fleet.replicas()}
        rollout.run(replicas)
        self._record.serve(bundle.name)
        return sorted(before - {bundle.name})

    def difference(self, bundle: Bundle, replicas: int) -> str:
        """Return a unified diff of the containers that `up` would start, replace or stop. Nothing is changed."""
        served, layout = self._describe(bundle, (self._workspace.host.run / FOLDER).resolve())
        found = self._fleet.containers()
        planned = self._rollout(layout, served).planned(replicas)
        described = [*layout.services(served), *planned, layout.nginx(served)]
        images = {name: self._engine.image(name) for name in {container.image for container in described}}
        return difference(found, described, images)

    def previous_release(self) -> str:
        """Return the name of the release that was served before the current release; see `Target.previous_release`."""
        return self._record.previous()

    def to_scale(self, replicas: int) -> Scaled | None:
        """Return the release that runs; see `Target.to_scale`. A relay shows that the broker runs elsewhere."""
        del replicas
        running = [container for container in self._fleet.replicas() if container.is_running]
        if not running:
            raise ClusterCode.TARGET_NOT_UP.error(
                "The deployment is not running: it has no replicas to scale.", hint="Start it with `sealserve up`."
            )
        return Scaled(release=running[-1].release, broker_here=self._fleet.find(RELAY) is None)

    def scale(self, replicas: int, bundle: Bundle | None) -> None:
        """Start or stop replicas; see `Target.scale`. New replicas serve the release that runs."""
        if bundle is not None:
            served, layout = self._layout(bundle)
            self._rollout(layout, served).run(replicas)

    def status(self) -> Sequence[PartStatus]:
        """Return the status of every existing part."""
        return [self._status(container) for container in self._fleet.containers()]

    def expected(self, replicas: int) -> Sequence[str]:
        """Return the roles of the parts that should exist; see `Target.expected`."""
        relayed = (self._workspace.host.run / FOLDER / RELAY).is_dir()
        simulated = self._deployment.platform is PlatformKind.SIMULATED
        services = (RELAY,) if relayed else (BROKER, PCS) if simulated else (BROKER,)
        return (
            NGINX,
            *(f"{REPLICA}{index}" for index in range(replicas)),
            *services,
            *((PLATFORM,) if simulated else ()),
        )

    def endpoints(self) -> Mapping[str, str]:
        """Return where users reach the service."""
        replicas = self._fleet.replicas()
        rest = any(replica.rest_port for replica in replicas) if replicas else None
        return endpoints_of(self._deployment, rest=rest).by_protocol

    def logs(self, part: str | None, selection: LogSelection) -> Iterator[LogLine]:
        """Yield the log lines of the parts; see `Target.logs`."""
        containers = self._fleet.containers()
        chosen = [container for container in containers if part in {None, container.role, container.name}]
        if not chosen:
            raise no_log(part, [container.role for container in containers])
        names = {container.id: (container.role, container.name) for container in chosen}
        return container_logs(self._engine, names, selection)

    def render(self, bundle: Bundle, replicas: int) -> str:
        """Return a Compose file for the same deployment, and write the configuration files that it refers to.

        Raises:
            SealserveError: A requirement is missing, or the engine rejected a command.
        """
        served, layout = self._layout(bundle, COMPOSE_FOLDER)
        numbers = first_links(layout, replicas)
        write_front(
            layout,
            self._deployment,
            [Upstream(layout.upstream(number), served.port) for number in numbers],
            [Upstream(layout.upstream(number), served.rest_port) for number in numbers if served.rest_port is not None],
            ages=[served.connection_age],
        )
        give(self._workspace, container_user(self._workspace), configuration=layout.folder)
        services = [
            _with(container, [layout.network_owner_on(number, served) for number in numbers])
            if container.role == layout.network_owner
            else container
            for container in layout.services(served)
        ]
        nginx = _with(layout.nginx(served), [layout.nginx_on(number) for number in numbers])
        servers = [layout.replica(index, number, served) for index, number in enumerate(numbers)]
        networks = [layout.front, layout.collateral, *(layout.link(number) for number in numbers)]
        return compose_file(self._fleet.project, networks, [*services, *servers, nginx])

    def _describe(self, bundle: Bundle, folder: Path) -> tuple[Served, ContainerLayout]:
        """Return the served release and the layout, with the files that the containers read in ``folder``."""
        layout = ContainerLayout(
            self._workspace,
            self._deployment,
            broker_here=bundle.broker is not None,
            user=container_user(self._workspace),
            folder=folder,
            groups=self._device_groups(),
            seccomp=folder / SECCOMP_FILE if self._gramine_direct else None,
        )
        return served_of(bundle), layout

    def _layout(self, bundle: Bundle, folder_name: str = FOLDER) -> tuple[Served, ContainerLayout]:
        """Return the served release and the layout, and write the files that the containers read."""
        folder = self._workspace.host.run / folder_name
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        served, layout = self._describe(bundle, folder := folder.resolve())
        if self._gramine_direct:
            write_seccomp(folder)
        write_configuration(
            layout,
            self._deployment,
            served,
            broker=self._broker_elsewhere(served) if bundle.broker is None else None,
            needs_passphrase=bundle.broker is not None and bundle.broker.needs_passphrase,
        )
        opened_for_writing = self._deployment.runtime is not RuntimeKind.SIMULATED  # by Gramine
        give(
            self._workspace,
            layout.user,
            configuration=folder,
            release=bundle.folder if opened_for_writing else None,
        )
        return served, layout

    def _rollout(self, layout: ContainerLayout, served: Served) -> Rollout:
        return Rollout(
            self._workspace, self._deployment, fleet=self._fleet, layout=layout, served=served, tell=self._tell
        )

    def _broker_elsewhere(self, served: Served) -> Upstream:
        broker = self._deployment.broker
        host, port = broker.reached_at or served.broker[0], served.broker[1]
        if not is_ip_address(host):
            try:  # resolve it here: inside the container, the name refers to the relay itself
                found = socket.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
            except OSError as error:
                raise ClusterCode.TARGET_UNSUPPORTED.error(
                    f"The broker's name {host} does not resolve on this machine: {error.strerror}.",
                    hint="Set broker.reached_at in sealserve.toml to the broker's address from this machine.",
                ) from error
            host = str(found[0][4][0])
        return Upstream(host, port)

    def _status(self, container: Running) -> PartStatus:
        service = self._deployment.service
        state, health, detail = State.RUNNING, health_of(container), ""
        log = self._fleet.log_of_run(container)
        error = error_of(container, log)
        certificate = None
        if not container.is_running:
            state = ended_state(container, error)
        elif container.role == NGINX:
            state, detail = State.SERVING, f"{service.name} at {service.endpoint}"
        elif container.role.startswith(REPLICA):
            state = self._progress(container)
            health = Health.HEALTHY if state is State.SERVING else Health.UNKNOWN
            certificate = logged_certificate(log)
        return PartStatus(
            role=container.role,
            state=state,
            health=health,
            port=service.port if container.role == NGINX else None,
            pid=container.pid,
            instance=container.name,
            release=container.release,
            started=read_time(container.started),
            restarts=container.restarts,
            error=error.text if error else "",
            error_time=error.time if error else None,
            certificate=certificate,
            detail=detail,
        )

    def _progress(self, container: Running) -> State:
        if container.health == "healthy" or self._fleet.is_ready(container):
            return State.SERVING
        attested = any("step=key " in line for line in self._fleet.log(container, last=100))
        return State.ATTESTED if attested else State.STARTING

    def _require_host(self) -> None:
        if (
            self._deployment.platform is PlatformKind.SGX
            and not Path(ENCLAVE_DEVICE).exists()
            and not self._gramine_direct
        ):
            raise ClusterCode.TARGET_UNSUPPORTED.error(
                f"This machine has no {ENCLAVE_DEVICE}, but sealserve.toml has platform = 'sgx'.",
                hint="Run `sealserve doctor host` to see what is missing, or set platform = 'simulated'.",
            )

    def _device_groups(self) -> tuple[int, ...]:
        device = Path(ENCLAVE_DEVICE)
        return (device.stat().st_gid,) if self._deployment.platform is PlatformKind.SGX and device.exists() else ()


def _with(container: Container, places: Sequence[Attachment]) -> Container:
    return replace(container, networks=(*container.networks, *places))
