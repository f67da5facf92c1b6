"""The layout of the Docker deployment: its networks and containers, and their reachability.

::

    this machine's port ── front ── NGINX ── link-0 ── replica-0
                                     └────── link-1 ── replica-1
    link-0, link-1, ... ── broker ── collateral ── the simulated vendor's service (on SGX: a network that leads outside)

Each replica has its own network. Only NGINX and the broker are also on this network, and NGINX listens only on
``front``. So a replica can reach the broker, but no other replica, not this machine and no outside address. IP
addresses are fixed, so that NGINX finds a restarted replica again. Docker's own DNS resolves names.

On a machine that is only the host, a relay takes the broker's place on these networks. The relay is also NGINX. It
forwards each connection, byte for byte, to the broker on its own machine.
"""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from sealserve.cluster.container_layout import (
    SCRATCH_SIZE,
    WORKSPACE_FOLDER,
)
from sealserve.cluster.docker import keystore_files
from sealserve.cluster.docker.ownership import QUOTING
from sealserve.cluster.docker.parts import (
    AGE_FACT,
    REST_FACT,
    Attachment,
    Container,
    Mount,
    Network,
    Published,
    Tmpfs,
    exists,
    listens,
)
from sealserve.cluster.docker.served import Served
from sealserve.cluster.replica import Content, describe_replica
from sealserve.cluster.target import BROKER, DRAIN_SECONDS, NGINX, PCS, PLATFORM, REPLICA
from sealserve.containers.recipes import ImageName, reference
from sealserve.deployment import Deployment
from sealserve.deployment.replica_limit import SHARED_NETWORKS
from sealserve.host.facts import AESM_FOLDER
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT
from sealserve.terms import EVERY_IPV4_ADDRESS, PlatformKind
from sealserve.workspace import DEPLOYMENT_FILE, FOLDER, Workspace

RELAY: Final = "relay"
_TEMPORARY: Final = "/tmp"  # noqa: S108  # the container's own folder
_READY: Final = ("--ready-file", f"{_TEMPORARY}/ready")
_NGINX_ADDRESS: Final = 2
_BROKER_ADDRESS: Final = 3
_REPLICA_ADDRESS: Final = 4


class ContainerLayout:
    """The networks and containers of a deployment.

    Args:
        workspace: The workspace, with the folders of the roles that this machine has.
        deployment: The deployment that the workspace describes.
        broker_here: Whether the owner's broker runs as a container here. If not, a relay to it takes its place.
        user: The containers' user, ``UID:GID``.
        folder: The folder with the configuration files of the containers.
        groups: Supplementary group IDs of a replica's user, for its devices.
        seccomp: For gramine-direct, the file with the seccomp profile.
    """

    def __init__(
        self,
        workspace: Workspace,
        deployment: Deployment,
        *,
        broker_here: bool,
        user: str,
        folder: Path,
        groups: tuple[int, ...] = (),
        seccomp: Path | None = None,
    ) -> None:
        self._workspace = workspace
        self._deployment = deployment
        self._broker_here = broker_here
        self._user = user
        self._folder = folder
        self._groups = groups
        self._seccomp = seccomp

    @property
    def simulated(self) -> bool:
        """Whether the enclaves are simulated."""
        return self._deployment.platform is PlatformKind.SIMULATED

    @property
    def workspace(self) -> Workspace:
        """The workspace, with the folders of the roles that this machine has."""
        return self._workspace

    @property
    def user(self) -> str:
        """The containers' user, ``UID:GID``."""
        return self._user

    @property
    def folder(self) -> Path:
        """The folder on this machine with the containers' configuration files."""
        return self._folder

    @property
    def front(self) -> Network:
        """NGINX's network, which its published port leads to."""
        return Network(name="front", subnet=self._deployment.docker.network(0), internal=False)

    @property
    def collateral(self) -> Network:
        """The network where the broker requests collateral, or where the relay reaches the broker.

        It is internal in simulation, unless the broker needs a service outside: see `keystore_files.leads_outside`.
        """
        outside = keystore_files.leads_outside(self._deployment)
        internal = self.simulated and self._broker_here and not outside
        name = "collateral" if self._broker_here else "outside"
        return Network(name=name, subnet=self._deployment.docker.network(1), internal=internal)

    def link(self, number: int) -> Network:
        """Return the network of one replica. It is internal, unless the replica sends traces to a collector outside."""
        subnet = self._deployment.docker.network(SHARED_NETWORKS + number)
        return Network(name=f"link-{number}", subnet=subnet, internal=self._deployment.server.traces.endpoint is None)

    @property
    def links(self) -> range:
        """The possible numbers of replicas' networks."""
        return range(self._deployment.docker.networks - SHARED_NETWORKS)

    @property
    def front_address(self) -> str:
        """The address that NGINX listens on. It is on NGINX's own network, so that no replica can reach it."""
        return str(self.front.address(_NGINX_ADDRESS))

    @property
    def network_owner(self) -> str:
        """The role of the container that replicas connect to: the broker, or the relay to it."""
        return BROKER if self._broker_here else RELAY

    def upstream(self, number: int) -> str:
        """Return the address of the replica on a link."""
        return str(self.link(number).address(_REPLICA_ADDRESS))

    def nginx_on(self, number: int) -> Attachment:
        """Return NGINX's address on a link."""
        link = self.link(number)
        return Attachment(network=link.name, address=str(link.address(_NGINX_ADDRESS)))

    def network_owner_on(self, number: int, served: Served) -> Attachment:
        """Return the address of the broker or the relay on a link, with the measured name as its alias."""
        link = self.link(number)
        return Attachment(network=link.name, address=str(link.address(_BROKER_ADDRESS)), aliases=(served.broker[0],))

    def nginx(self, served: Served) -> Container:
        """Return the container of NGINX. It holds no key. Its configuration is replaced while it runs.

        Args:
            served: The release that it forwards to. The REST port is published if this release has REST. Docker
                publishes ports only when it creates a container. So NGINX is replaced when REST is turned on or off.
        """
        service = self._deployment.service
        published = [Published(address=service.listen, port=service.port, target=SERVICE_PORT)]
        if served.rest_port is not None:
            published.append(Published(address=service.listen, port=service.rest_port, target=REST_PORT))
        return Container(
            name=NGINX,
            role=NGINX,
            image=self._image(ImageName.FRONT),
            networks=(Attachment(network=self.front.name, address=self.front_address),),
            mounts=(Mount(source=self._folder / NGINX, target="/etc/sealserve"),),
            tmpfs=(Tmpfs(target="/run/sealserve", size=SCRATCH_SIZE),),
            published=tuple(published),
            user=self._user,
            health=listens(SERVICE_PORT),
        )

    def services(self, served: Served) -> Iterator[Container]:
        """Yield the services that replicas need, in the order in which they should start."""
        if self._broker_here:
            if self.simulated:
                yield self._pcs()
            yield self._broker()
        else:
            yield self._relay(served)
        if self.simulated:
            yield self._platform()

    def replica(self, index: int, number: int, served: Served) -> Container:
        """Return the container of a replica.

        Args:
            index: The replica's number.
            number: The number of its link.
            served: The release that it serves.
        """
        link = self.link(number)
        described = describe_replica(
            self._deployment,
            release=served.folder.name,
            size=served.size,
            enclave=served.enclave,
            port=served.port,
            rest_port=served.rest_port,
        )
        in_memory = {Content.SCRATCH, Content.MEMORY}
        return Container(
            name=f"{REPLICA}{index}-{served.folder.name.rpartition('-')[2]}-{number}",
            role=f"{REPLICA}{index}",
            image=described.image,
            command=described.command,
            networks=(Attachment(network=link.name, address=self.upstream(number)),),
            mounts=tuple(
                Mount(source=self._source(mount.content, served), target=mount.target, read_only=mount.read_only)
                for mount in described.mounts
                if mount.content not in in_memory
            ),
            tmpfs=tuple(
                Tmpfs(target=mount.target, size=mount.size) for mount in described.mounts if mount.content in in_memory
            ),
            devices=described.devices,
            groups=self._groups,
            user=self._user,
            health=listens(served.port),
            grace=DRAIN_SECONDS,
            seccomp=self._seccomp,
            after=(self.network_owner, *([PLATFORM] if self.simulated else [])),
            facts={
                "release": served.folder.name,
                "manifest": served.manifest,
                **({} if served.rest_port is None else {REST_FACT: str(served.rest_port)}),
                **({} if served.connection_age is None else {AGE_FACT: str(served.connection_age)}),
            },
        )

    def _source(self, content: Content, served: Served) -> Path:
        """Return the path on this machine of a mount's content."""
        match content:
            case Content.SETTINGS:
                return self._folder / DEPLOYMENT_FILE
            case Content.RELEASE:
                return served.folder
            case Content.QUOTING:
                return self._folder / QUOTING if self.simulated else Path(AESM_FOLDER)
        raise AssertionError(content)

    def _broker(self) -> Container:
        place, owner = f"{WORKSPACE_FOLDER}/{FOLDER}/owner", self._workspace.owner
        return Container(
            name=BROKER,
            role=BROKER,
            image=self._image(ImageName.BROKER),
            command=("broker", "run", "--directory", WORKSPACE_FOLDER, *_READY),
            networks=(Attachment(network=self.collateral.name, address=str(self.collateral.address(_BROKER_ADDRESS))),),
            # It sees only the files that it needs, and no folder that could contain another key, a model or a release.
            mounts=(
                *self._own_mounts(),
                *(Mount(source=path, target=f"{place}/{path.name}") for path in self._broker_files()),
                *(Mount(source=path, target=f"{place}/{path.name}") for path in (owner.broker_tls, owner.trust)),
                *(Mount(source=path, target=f"{place}/{path.name}") for path in self._issuing()),
                *(Mount(source=path, target=f"{place}/{path.name}") for path in self._administrators()),
                *(
                    Mount(source=path, target=f"{place}/{path.name}", read_only=False)
                    for path in (owner.database.parent, owner.audit_head.parent, owner.collateral)
                ),
                *keystore_files.mounts(self._deployment.keystore),
                *keystore_files.collateral_mounts(self._deployment.broker),
                *keystore_files.database_mounts(self._deployment.database),
                *keystore_files.notification_mounts(self._deployment.broker.notifications),
            ),
            tmpfs=(*self._scratch(), Tmpfs(target=place, size=SCRATCH_SIZE)),
            user=self._user,
            health=exists(_READY[1]),
            after=(PCS,) if self.simulated else (),
            facts={
                # The broker reloads its certificate and its master key, so their new content needs no new container.
                "settings": _settings(self._deployment),
                "keys": keystore_files.versions(self._constant_keys()),
                "master_key": keystore_files.mounted(self._master_key()),
                "keystore": keystore_files.version(self._deployment.keystore),
                **keystore_files.collateral_facts(self._deployment.broker),
                **keystore_files.database_facts(self._deployment.database),
                **keystore_files.notification_facts(self._deployment.broker.notifications),
            },
        )

    def _broker_files(self) -> list[Path]:
        """Return the files of the broker's keys."""
        return [*self._master_key(), *self._constant_keys()]

    def _master_key(self) -> list[Path]:
        """Return the file of the master key, which does not exist if a key service holds the key."""
        path = self._workspace.owner.master_key
        return [path] if path.is_file() else []

    def _constant_keys(self) -> list[Path]:
        """Return the files of the keys that the broker reads once, when it starts."""
        owner = self._workspace.owner
        paths = (owner.audit_signing_key, owner.row_key, owner.token_signing_key)
        return [path for path in paths if path.is_file()]

    def _issuing(self) -> list[Path]:
        """Return the folder with the certificate of the issuing CA, if there is one. The broker reloads it."""
        folder = self._workspace.owner.issuing
        return [folder] if folder.is_dir() else []

    def _administrators(self) -> list[Path]:
        """Return the folder with which the broker verifies remote administrators, if it needs the folder."""
        folder = self._workspace.owner.administrators
        return [folder] if self._deployment.broker.admin_port is not None and folder.is_dir() else []

    def _pcs(self) -> Container:
        vendor = f"{WORKSPACE_FOLDER}/{FOLDER}/vendor"
        return Container(
            name=PCS,
            role=PCS,
            image=self._image(ImageName.BROKER),
            command=("simulated", "pcs", "--directory", WORKSPACE_FOLDER, "--listen", EVERY_IPV4_ADDRESS, *_READY),
            networks=(
                Attachment(
                    network=self.collateral.name, address=str(self.collateral.address(_NGINX_ADDRESS)), aliases=(PCS,)
                ),
            ),
            mounts=(*self._own_mounts(), Mount(source=self._workspace.vendor.root, target=vendor)),
            tmpfs=self._scratch(),
            user=self._user,
            health=exists(_READY[1]),
        )

    def _platform(self) -> Container:
        host = f"{WORKSPACE_FOLDER}/{FOLDER}/host"
        return Container(
            name=PLATFORM,
            role=PLATFORM,
            image=self._image(ImageName.BROKER),
            command=("simulated", "platform", "--directory", WORKSPACE_FOLDER, *_READY),
            networks=(),
            mounts=(
                *self._own_mounts(),
                Mount(source=self._workspace.host.platform, target=f"{host}/platform"),
                Mount(source=self._folder / QUOTING, target=f"{host}/run", read_only=False),
            ),
            tmpfs=self._scratch(),
            user=self._user,
            health=exists(_READY[1]),
        )

    def _relay(self, served: Served) -> Container:
        return Container(
            name=RELAY,
            role=RELAY,
            image=self._image(ImageName.FRONT),
            networks=(Attachment(network=self.collateral.name, address=str(self.collateral.address(_BROKER_ADDRESS))),),
            mounts=(Mount(source=self._folder / RELAY, target="/etc/sealserve"),),
            tmpfs=(Tmpfs(target="/run/sealserve", size=SCRATCH_SIZE),),
            user=self._user,
            health=listens(served.broker[1]),
            facts={"configuration": _digest(self._folder / RELAY)},
        )

    def _own_mounts(self) -> tuple[Mount, ...]:
        return (Mount(source=self._folder / DEPLOYMENT_FILE, target=f"{WORKSPACE_FOLDER}/{DEPLOYMENT_FILE}"),)

    def _scratch(self) -> tuple[Tmpfs, ...]:
        return (
            Tmpfs(target=_TEMPORARY, size=SCRATCH_SIZE),
            Tmpfs(target=f"{WORKSPACE_FOLDER}/{FOLDER}", size=SCRATCH_SIZE),
        )

    def _image(self, name: ImageName) -> str:
        return reference(self._deployment.images.prefix, name, self._deployment.images.tag)


def free_links(layout: ContainerLayout, used: set[int]) -> Iterator[int]:
    """Yield the numbers of links that no replica uses."""
    return (number for number in layout.links if number not in used)


def first_links(layout: ContainerLayout, count: int) -> list[int]:
    """Return the link numbers for the replicas of a new deployment."""
    return list(islice(layout.links, count))


def _settings(described: Deployment) -> str:
    """Return a digest of the settings that the broker reads once, when it starts."""
    sections = (described.broker, described.keystore, described.database)
    text = "\n".join((described.platform.value, *(section.model_dump_json() for section in sections)))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.suffix != ".key":
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
