"""The containers and networks of a deployment, found by labels. The engine is the only record, so none can be lost."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.docker import commands
from sealserve.cluster.docker.parts import AGE_FACT, REST_FACT, Attachment, Container, Network
from sealserve.cluster.local.processes import wait_until
from sealserve.cluster.target import NGINX, REPLICA
from sealserve.containers.build import require_image
from sealserve.containers.engine import Engine, EngineAbsentError, EngineRefusedError
from sealserve.ingress.nginx import DRAINING_TITLE, WORKER_TITLE
from sealserve.log_line import parse
from sealserve.workspace import Workspace

_POLL_SECONDS: Final = 0.3
_LAST_LINES: Final = 50


def project_name(workspace: Workspace) -> str:
    """Return the prefix of a workspace's container and network names. It differs for each workspace."""
    folder = str(workspace.directory.resolve())
    return f"sealserve-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A container that the engine has.

    Args:
        id: The engine's ID.
        name: Its full name.
        role: Its role.
        image: The ID of its image.
        digest: The digest of the description that it was created from.
        release: The release that a replica serves. Empty for other containers.
        rest_port: The port of a replica for REST. None for other containers, and if REST is off.
        connection_age: Age in seconds at which a replica drains a connection. None where it is unknown.
        status: ``created``, ``running``, ``exited``, ...
        health: ``starting``, ``healthy``, ``unhealthy``, or empty.
        ready: The command that succeeds inside it when it is ready.
        pid: Its main process on this machine, or None.
        networks: The short names of its networks.
        restarts: Number of restarts by Docker.
        started: Start of its last run, as the engine writes it.
        finished: End of its last run. The year 1 if no run has ended.
        exit_status: Exit status of its last run.
        out_of_memory: Whether its last run ended because it ran out of memory.
        error: Why the engine could not start it. Empty otherwise.
        published: The ports of this machine that lead to it while it runs.
    """

    id: str
    name: str
    role: str
    image: str
    digest: str
    release: str
    status: str
    health: str
    ready: str
    pid: int | None
    networks: frozenset[str]
    restarts: int
    rest_port: int | None = None
    connection_age: int | None = None
    started: str = ""
    finished: str = ""
    exit_status: int = 0
    out_of_memory: bool = False
    error: str = ""
    published: frozenset[int] = frozenset()

    @property
    def is_running(self) -> bool:
        """Whether its process runs. A container that the engine keeps restarting does not count."""
        return self.status == "running"

    @property
    def link(self) -> int | None:
        """The number of a replica's network."""
        numbers = [int(name.removeprefix("link-")) for name in self.networks if name.startswith("link-")]
        return numbers[0] if self.role.startswith(REPLICA) and numbers else None


class Fleet:
    """The containers and networks of one deployment.

    Args:
        engine: The Docker engine.
        project: The prefix of their names.
    """

    def __init__(self, engine: Engine, project: str) -> None:
        self._engine = engine
        self.project = project

    def containers(self) -> list[Running]:
        """Return every container, in display order: NGINX, the replicas, then the others."""
        ids = self._engine.labelled("container", f"{commands.PROJECT}={self.project}")
        return sorted(map(self._running, self._engine.inspect("container", *ids)), key=_order)

    def find(self, role: str) -> Running | None:
        """Return a container with a role, or None. If several have the role, the first one is returned."""
        return next((container for container in self.containers() if container.role == role), None)

    def replicas(self) -> list[Running]:
        """Return the containers of replicas, including stopped ones."""
        return [container for container in self.containers() if container.role.startswith(REPLICA)]

    def ensure_network(self, network: Network) -> None:
        """Create a network unless it exists.

        Raises:
            UnavailableError: `docker.subnet-taken` if another network uses its addresses.
        """
        name = f"{self.project}-{network.name}"
        found = self._engine.inspect("network", name)
        if found:
            subnets = [config.get("Subnet") for config in found[0]["IPAM"]["Config"]]
            if subnets == [str(network.subnet)]:
                return
            self._engine.run("network", "rm", name)  # created with a different docker.subnet
        try:
            self._engine.run(*commands.network_create(network, self.project))
        except EngineRefusedError as error:
            if "overlap" in error.message:
                raise ClusterCode.DOCKER_SUBNET_TAKEN.error(
                    f"The subnet {network.subnet} overlaps with another Docker network.",
                    hint="Set docker.subnet in sealserve.toml to private addresses that are unused on this machine.",
                ) from error
            raise

    def ensure(self, container: Container) -> Running:
        """Make a container run as described: keep a container that matches, and replace one that does not."""
        for found in self.containers():
            if found.role == container.role:
                if self.fits(found, container):
                    return found
                self.remove(found)
        return self.start(container)

    def fits(self, found: Running, described: Container) -> bool:
        """Whether a container runs exactly as it is described, with the image that currently has the described name."""
        return (
            found.is_running
            and found.digest == described.digest
            and (image := self._engine.image(described.image)) is not None
            and image.id == found.image
        )

    def start(self, container: Container) -> Running:
        """Create a container and start it. A missing image is pulled only if its name contains a registry or path.

        Raises:
            InputError: `image.missing` if the engine lacks an image whose name contains no registry.
        """
        if "/" in container.image and self._engine.image(container.image) is None:
            self._engine.run("pull", "--quiet", container.image)
        require_image(self._engine, container.image)
        created = self._engine.run(*commands.container_create(container, self.project)).strip()
        try:
            for place in container.networks[1:]:
                self._engine.run(*commands.network_connect(created, place, self.project))
            self._engine.run("container", "start", created)
        except BaseException:
            self._discard(created)
            raise
        return self._running(self._engine.inspect("container", created)[0])

    def connect(self, container: Running, place: Attachment) -> None:
        """Connect a running container to a further network, unless it is already connected."""
        if place.network not in container.networks:
            self._engine.run(*commands.network_connect(container.id, place, self.project))

    def wait(self, container: Running, *, seconds: float) -> None:
        """Wait until a container is ready.

        Raises:
            UnavailableError: `container.ended` if it ended before. The message contains the reason from its log.
            UnavailableError: `container.not-ready` if it was not ready within ``seconds``.
        """

        def ended() -> bool:
            found = self._engine.inspect("container", container.id)
            return not found or found[0]["State"]["Status"] != "running" or found[0]["RestartCount"] > 0

        if not wait_until(lambda: self.is_ready(container) or ended(), seconds=seconds, interval=_POLL_SECONDS):
            raise ClusterCode.CONTAINER_NOT_READY.error(
                f"{container.role} was not ready within {seconds:.0f} s.",
                hint=f"Read its log with `docker logs {container.name}`.",
            )
        if ended() and not self.is_ready(container):
            raise ClusterCode.CONTAINER_ENDED.error(
                f"{container.role} ended before it was ready: {self.last_error(container)}",
                hint="Old replicas continue to serve. To return to the previous release, run `sealserve up --rollback`."
                if container.role.startswith(REPLICA)
                else None,
            )

    def is_ready(self, container: Running) -> bool:
        """Return whether a container is ready now. The engine's health status changes only at the next check."""
        with suppress(EngineRefusedError):
            self._engine.run("container", "exec", container.id, "sh", "-c", container.ready)
            return True
        return False

    def reload_nginx(self, nginx: Running, *, seconds: float = 15) -> None:
        """Make NGINX load its configuration again, and wait until new connections use it.

        Raises:
            UnavailableError: `container.not-ready` if it did not load the configuration before the timeout.
        """
        before = self._workers(nginx, WORKER_TITLE)
        self._engine.run("container", "kill", "--signal", "HUP", nginx.id)
        if not wait_until(
            lambda: bool(now := self._workers(nginx, WORKER_TITLE)) and not now & before, seconds=seconds
        ):
            raise ClusterCode.CONTAINER_NOT_READY.error(
                f"NGINX did not load its new configuration within {seconds:.0f} s: {self.last_error(nginx)}",
                hint=f"Read its log with `docker logs {nginx.name}`.",
            )

    def wait_drained(self, nginx: Running, *, seconds: float) -> bool:
        """Wait until no connection from before the last reload is left. Return whether that happened in time."""
        return wait_until(lambda: not self._workers(nginx, DRAINING_TITLE), seconds=seconds, interval=_POLL_SECONDS)

    def remove(self, container: Running, *, log: Path | None = None, grace: int | None = None) -> None:
        """Stop a container, wait for its grace period at most, and remove it with its anonymous volumes.

        Args:
            container: The container.
            log: File to save its log to. None discards the log.
            grace: Seconds before it is killed. None for its own setting.
        """
        with suppress(EngineAbsentError):
            self._engine.run("container", "stop", *(["--time", str(grace)] if grace is not None else []), container.id)
        if log is not None:
            with suppress(EngineRefusedError):
                log.parent.mkdir(parents=True, exist_ok=True)
                write_file(log, self._engine.run_merged("logs", container.id).encode(), mode=PRIVATE)
        self._discard(container.id)

    def remove_networks(self, *names: str) -> None:
        """Remove the deployment's networks with these short names, or all, after disconnecting their containers."""
        for found in self._engine.inspect(
            "network", *self._engine.labelled("network", f"{commands.PROJECT}={self.project}")
        ):
            if not names or found["Labels"].get(commands.NETWORK) in names:
                for container in found["Containers"]:
                    with suppress(EngineRefusedError):
                        self._engine.run("network", "disconnect", "--force", found["Id"], container)
                with suppress(EngineAbsentError):
                    self._engine.run("network", "rm", found["Id"])

    def networks(self) -> set[str]:
        """Return the short names of the existing networks."""
        ids = self._engine.labelled("network", f"{commands.PROJECT}={self.project}")
        return {found["Labels"][commands.NETWORK] for found in self._engine.inspect("network", *ids)}

    def last_error(self, container: Running) -> str:
        """Return the last line of a container's log with an error, or else the last line."""
        lines = [line for line in self.log(container, last=_LAST_LINES) if line.strip()]
        errors = [line for line in lines if "error[" in line or "[emerg]" in line]
        return parse((errors or lines or ["its log is empty."])[-1].strip()).text

    def log(self, container: Running, *, last: int) -> Iterator[str]:
        """Yield the last lines of a container's log."""
        with suppress(EngineAbsentError):
            yield from self._engine.run_merged("logs", "--tail", str(last), container.id).splitlines()

    def log_of_run(self, container: Running) -> Sequence[str]:
        """Return the last log lines of a container's current run, each with the engine's time."""
        since = ["--since", container.started] if container.started else []
        with suppress(EngineRefusedError):
            options = ["--timestamps", "--tail", str(_LAST_LINES), *since]
            return self._engine.run_merged("logs", *options, container.id).splitlines()
        return ()

    def _discard(self, container: str) -> None:
        with suppress(EngineAbsentError):
            self._engine.run("container", "rm", "--force", "--volumes", container)

    def _workers(self, nginx: Running, title: str) -> set[str]:
        lines = self._engine.run("container", "top", nginx.id, "-eo", "pid,args").splitlines()
        return {line.split()[0] for line in lines if line.endswith(title)}

    def _running(self, found: dict[str, Any]) -> Running:
        labels, state = found["Config"]["Labels"], found["State"]
        prefix = f"{self.project}-"
        return Running(
            id=found["Id"],
            name=found["Name"].lstrip("/"),
            role=labels[commands.ROLE],
            image=found["Image"],
            digest=labels.get(commands.DIGEST, ""),
            release=labels.get(f"{commands.FACT}release", ""),
            rest_port=int(labels.get(f"{commands.FACT}{REST_FACT}", 0)) or None,
            connection_age=int(labels.get(f"{commands.FACT}{AGE_FACT}", 0)) or None,
            status=state["Status"],
            health=(state.get("Health") or {}).get("Status", ""),
            ready=found["Config"].get("Healthcheck", {}).get("Test", ["", ""])[-1],
            pid=state.get("Pid") or None,
            networks=frozenset(
                name.removeprefix(prefix) for name in found["NetworkSettings"]["Networks"] if name.startswith(prefix)
            ),
            restarts=found["RestartCount"],
            started=state.get("StartedAt", ""),
            finished=state.get("FinishedAt", ""),
            exit_status=state.get("ExitCode", 0),
            out_of_memory=state.get("OOMKilled", False),
            error=state.get("Error", ""),
            published=frozenset(
                int(binding["HostPort"])
                for bindings in (found.get("HostConfig", {}).get("PortBindings") or {}).values()
                for binding in bindings or ()
                if binding.get("HostPort")
            ),
        )


def _order(container: Running) -> tuple[int, int, str]:
    if container.role == NGINX:
        return (0, 0, container.name)
    if container.role.startswith(REPLICA):
        return (1, int(container.role.removeprefix(REPLICA)), container.name)
    return (2, 0, container.name)
