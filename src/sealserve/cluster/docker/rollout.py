"""A roll-out in containers: replicas are replaced one at a time, and NGINX always has replicas that serve."""

from collections.abc import Iterator, Sequence
from typing import Final

from sealserve.cluster.docker.configuration import write_front
from sealserve.cluster.docker.fleet import Fleet, Running
from sealserve.cluster.docker.layout import ContainerLayout, free_links
from sealserve.cluster.docker.logs import log_file
from sealserve.cluster.docker.parts import Container
from sealserve.cluster.docker.served import Served
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.cluster.target import DRAIN_SECONDS, NGINX, REPLICA, REPLICA_SECONDS, Tell, drain_seconds
from sealserve.deployment import Deployment
from sealserve.ingress.nginx_config import Upstream
from sealserve.workspace import Workspace

START_SECONDS: Final = 60
"""Maximum time for a service or NGINX to start."""


class Rollout:
    """The replicas of one release, in place of the replicas that run.

    Args:
        workspace: The workspace. The logs of removed containers are saved in it.
        deployment: The deployment that the workspace describes.
        fleet: The containers of the deployment.
        layout: How the containers are described.
        served: The release that the replicas should serve.
        tell: Called with a short progress text before each step.
    """

    def __init__(
        self,
        workspace: Workspace,
        deployment: Deployment,
        *,
        fleet: Fleet,
        layout: ContainerLayout,
        served: Served,
        tell: Tell,
    ) -> None:
        self._workspace = workspace
        self._deployment = deployment
        self._fleet = fleet
        self._layout = layout
        self._served = served
        self._tell = tell
        self._record = ReleaseRecord(workspace)

    def run(self, replicas: int) -> None:
        """Make exactly ``replicas`` replicas serve, without interrupting the service."""
        leaving = [old for old in self._fleet.replicas() if int(old.role.removeprefix(REPLICA)) >= replicas]
        for index in range(replicas):
            olds = [old for old in self._fleet.replicas() if old.role == f"{REPLICA}{index}"]
            fitting = [old for old in olds if self._fits(old, index)]
            for container in fitting[:1]:
                self._wait(container)
            if not fitting:
                self._start(index)
            self._retire([old for old in olds if old not in fitting[:1]])
        self._retire(leaving)
        self._front()  # NGINX may have ended, or a killed `up` did not start it

    def planned(self, replicas: int) -> Iterator[Container]:
        """Yield the replicas as `run` would leave them. Replicas that match their description keep their links."""
        found = self._fleet.replicas()
        used = {old.link for old in found if old.link is not None}
        for index in range(replicas):
            olds = [old for old in found if old.role == f"{REPLICA}{index}" and old.link is not None]
            fitting = [old.link for old in olds if self._fits(old, index)]
            number = fitting[0] if fitting and fitting[0] is not None else next(free_links(self._layout, used))
            used = used.difference(old.link for old in olds) | {number}
            yield self._layout.replica(index, number, self._served)

    def link_all(self) -> None:
        """Connect the network owner and NGINX, which may be new, to the networks of the running replicas."""
        for replica in self._fleet.replicas():
            if replica.link is not None:
                self._connect(replica.link)

    def _connect(self, number: int) -> None:
        for role, place in (
            (self._layout.network_owner, self._layout.network_owner_on(number, self._served)),
            (NGINX, self._layout.nginx_on(number)),
        ):
            if (container := self._fleet.find(role)) is not None:
                self._fleet.connect(container, place)

    def _fits(self, old: Running, index: int) -> bool:
        return old.link is not None and self._fleet.fits(old, self._layout.replica(index, old.link, self._served))

    def _start(self, index: int) -> None:
        used = {replica.link for replica in self._fleet.replicas() if replica.link is not None}
        number = next(free_links(self._layout, used))
        self._tell(f"starting {REPLICA}{index}")
        started: Running | None = None
        try:
            self._fleet.ensure_network(self._layout.link(number))
            self._connect(number)
            started = self._fleet.start(self._layout.replica(index, number, self._served))
            self._wait(started)
        except BaseException:
            # The old replicas continue to serve. NGINX does not send connections to the new replica yet.
            if started is not None:
                self._fleet.remove(started, log=log_file(self._workspace, started), grace=0)
            self._fleet.remove_networks(self._layout.link(number).name)
            raise
        # From now on this release serves users, even if a later replica does not start.
        self._record.serve(self._served.folder.name)
        self._front()

    def _wait(self, replica: Running) -> None:
        if not self._fleet.is_ready(replica):
            self._tell(f"{replica.role} attests itself, opens the release and loads the model")
        self._fleet.wait(replica, seconds=REPLICA_SECONDS)

    def _retire(self, leaving: Sequence[Running]) -> None:
        """Remove replicas from NGINX's list. Then let them finish their requests, and stop them."""
        if leaving:
            self._front(without={old.id for old in leaving})
            self._drain(leaving)
        for old in leaving:
            self._tell(f"{old.role} finishes its requests")
            self._fleet.remove(old, log=log_file(self._workspace, old))
            if old.link is not None:
                self._fleet.remove_networks(self._layout.link(old.link).name)

    def _drain(self, leaving: Sequence[Running]) -> None:
        """Wait until the connections of leaving replicas have ended at their maximum age.

        The age is fixed by the release that leaves, regardless of ``sealserve.toml``. A request that arrives while a
        server shuts down is lost, because gRPC rejects it before a handler could answer.
        """
        if (nginx := self._fleet.find(NGINX)) is not None and nginx.is_running:
            seconds = drain_seconds(self._deployment, (replica.connection_age for replica in leaving))
            self._tell(f"moving open connections to the other replicas, within {seconds - DRAIN_SECONDS} s")
            if not self._fleet.wait_drained(nginx, seconds=seconds):
                self._tell(f"closing connections that are still open after {seconds} s, with their replicas")

    def _front(self, without: set[str] | None = None) -> None:
        """Start NGINX in front of the running replicas, or make it load the new list."""
        passed = [
            (replica, self._layout.upstream(replica.link))
            for replica in self._fleet.replicas()
            if replica.link is not None and replica.id not in (without or ())
        ]
        upstreams = [Upstream(address, self._served.port) for _, address in passed]
        # During a roll-out that turns REST on or off, some replicas have it and others do not.
        has_rest = self._served.rest_port is not None
        rest = [Upstream(address, found.rest_port) for found, address in passed if has_rest and found.rest_port]
        write_front(self._layout, self._deployment, upstreams, rest, ages=[found.connection_age for found, _ in passed])
        described, before = self._layout.nginx(self._served), self._fleet.find(NGINX)
        if before is None or not self._fleet.fits(before, described):
            self._tell("starting NGINX")
        nginx = self._fleet.ensure(described)
        self.link_all()
        self._fleet.wait(nginx, seconds=START_SECONDS)
        if before is not None and nginx.id == before.id:
            # Reload even if the file has not changed: a killed `up` may have written it without this step.
            self._fleet.reload_nginx(nginx)
