"""The Docker deployment: which networks and containers there are, and who can reach whom.

::

    this machine's port ── front ── NGINX ── link-0 ── replica-0
                                     └────── link-1 ── replica-1
    link-0, link-1, ... ── broker ── collateral ── the simulated vendor's service (on SGX: a network that leads outside)

Each replica is on a network of its own, where only NGINX, which listens on ``front`` alone, and the broker are beside
it: so a replica reaches the broker and nothing else, neither another replica nor this machine nor the world. Addresses
are fixed, so that NGINX finds a replica again that was restarted; names are resolved by Docker's own DNS.

Where this machine is only the host, a relay takes the broker's place on these networks: NGINX again, which passes the
connection on, byte for byte, to the broker on its own machine.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from sealserve.cluster.docker import keystore_files
from sealserve.cluster.docker.ownership import QUOTING
from sealserve.cluster.docker.parts import (
    Attachment,
    Container,
    Mount,
    Network,
    Published,
    Tmpfs,
    exists,
    listens,
)
from sealserve.cluster.target import DRAIN_SECONDS, Role
from sealserve.containers.recipes import ImageName, images_for, reference
from sealserve.deployment import Deployment
from sealserve.deployment.replica_limit import SHARED_NETWORKS
from sealserve.terms import PlatformKind
from sealserve.workspace import DEPLOYMENT_FILE, FOLDER, Workspace

NGINX: Final = "nginx"
BROKER: Final = "broker"
RELAY: Final = "relay"
PLATFORM: Final = "platform"
PCS: Final = "pcs"
REPLICA: Final = "replica-"
ENCLAVE: Final = "server"
"""The enclave of every replica: each has an address of its own, so all can have one port, and one measurement."""

FRONT_PORT: Final = 8500
SERVER_PORT: Final = 8500
PCS_PORT: Final = 8081
AESM_FOLDER: Final = Path("/var/run/aesmd")
"""Where aesmd's socket is. The folder is mounted: a mounted socket would be a dead one when aesmd restarts."""

ENCLAVE_DEVICE: Final = "/dev/sgx_enclave"
"""All that gramine-sgx opens (Gramine 1.9, pal/src/host/linux-sgx/host_framework.c); provisioning is aesmd's."""

_PLACE: Final = "/workspace"
_TEMPORARY: Final = "/tmp"  # noqa: S108  # the container's own
_READY: Final = ("--ready-file", f"{_TEMPORARY}/ready")
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # in a container, whose networks are its own
_SCRATCH: Final = 64 * 2**20
_SLACK: Final = 64 * 2**20  # what the server writes beside the model
_NGINX_ADDRESS: Final = 2
_BROKER_ADDRESS: Final = 3
_REPLICA_ADDRESS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A release as the host has it, and the enclave in it that every replica runs.

    Args:
        folder: The release.
        enclave: The enclave's name.
        port: Where its server listens; measured.
        broker: Name and port of the broker that it connects to; measured.
        size: The bytes of its sealed files.
        manifest: The digest of its manifest.
    """

    folder: Path
    enclave: str
    port: int
    broker: tuple[str, int]
    size: int
    manifest: str


class Plan:
    """What runs where.

    Args:
        workspace: With the parts of the machines that this one is.
        deployment: What it describes.
        role: Which machine this is.
        user: Whom the containers run as, ``UID:GID``.
        folder: Where the configuration files of NGINX and of the containers are.
        groups: Further groups of a replica's user, for its devices.
        seccomp: For gramine-direct, the file with what it may call.
    """

    def __init__(
        self,
        workspace: Workspace,
        deployment: Deployment,
        *,
        role: Role,
        user: str,
        folder: Path,
        groups: tuple[int, ...] = (),
        seccomp: Path | None = None,
    ) -> None:
        self._workspace = workspace
        self._deployment = deployment
        self._role = role
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
        """With the parts of the machines that this one is."""
        return self._workspace

    @property
    def user(self) -> str:
        """Whom the containers run as, ``UID:GID``."""
        return self._user

    @property
    def folder(self) -> Path:
        """Where the containers' configuration files are on this machine."""
        return self._folder

    @property
    def front(self) -> Network:
        """NGINX's network, which its published port leads to."""
        return Network(name="front", subnet=self._deployment.docker.network(0), internal=False)

    @property
    def collateral(self) -> Network:
        """Where the broker asks for collateral, or the relay reaches the broker.

        It is internal in simulation, unless the broker needs a key management service.
        """
        outside = keystore_files.leads_outside(self._deployment.keystore)
        internal = self.simulated and self._role is Role.ALL and not outside
        name = "collateral" if self._role is Role.ALL else "outside"
        return Network(name=name, subnet=self._deployment.docker.network(1), internal=internal)

    def link(self, number: int) -> Network:
        """Return the network of one replica."""
        subnet = self._deployment.docker.network(SHARED_NETWORKS + number)
        return Network(name=f"link-{number}", subnet=subnet, internal=True)

    @property
    def links(self) -> range:
        """The numbers that replicas' networks may have."""
        return range(self._deployment.docker.networks - SHARED_NETWORKS)

    @property
    def front_address(self) -> str:
        """Where NGINX listens: on its own network only, so that no replica reaches it."""
        return str(self.front.address(_NGINX_ADDRESS))

    @property
    def keeper(self) -> str:
        """The role of what replicas connect to: the broker, or the relay to it."""
        return BROKER if self._role is Role.ALL else RELAY

    def upstream(self, number: int) -> str:
        """Return the address of the replica on a link."""
        return str(self.link(number).address(_REPLICA_ADDRESS))

    def nginx_on(self, number: int) -> Attachment:
        """Return NGINX's place on a link."""
        link = self.link(number)
        return Attachment(network=link.name, address=str(link.address(_NGINX_ADDRESS)))

    def keeper_on(self, number: int, bundle: Bundle) -> Attachment:
        """Return the place of the broker, or the relay, on a link: under the measured name."""
        link = self.link(number)
        return Attachment(network=link.name, address=str(link.address(_BROKER_ADDRESS)), aliases=(bundle.broker[0],))

    def nginx(self) -> Container:
        """Return the container of NGINX. It holds no key; its configuration is replaced while it runs."""
        service = self._deployment.service
        return Container(
            name=NGINX,
            role=NGINX,
            image=self._image(ImageName.FRONT),
            networks=(Attachment(network=self.front.name, address=self.front_address),),
            mounts=(Mount(source=self._folder / NGINX, target="/etc/sealserve"),),
            tmpfs=(Tmpfs(target="/run/sealserve", size=_SCRATCH),),
            published=(Published(address=service.listen, port=service.port, target=FRONT_PORT),),
            user=self._user,
            health=listens(FRONT_PORT),
        )

    def services(self, bundle: Bundle) -> Iterator[Container]:
        """Yield what replicas need, in the order in which it should start."""
        if self._role is Role.ALL:
            if self.simulated:
                yield self._pcs()
            yield self._broker()
        else:
            yield self._relay(bundle)
        if self.simulated:
            yield self._platform()

    def replica(self, index: int, number: int, bundle: Bundle) -> Container:
        """Return the container of a replica.

        Args:
            index: Which replica.
            number: Of its link.
            bundle: What it serves.
        """
        link = self.link(number)
        place = f"{_PLACE}/{FOLDER}/host/releases/{bundle.folder.name}"
        command: tuple[str, ...] = ("enclave", "run", "--directory", _PLACE, "--name", bundle.enclave)
        command = (*command, "--release", place)
        memory: tuple[Tmpfs, ...] = (Tmpfs(target=_TEMPORARY, size=_SCRATCH),)
        mounts: tuple[Mount, ...] = (Mount(source=bundle.folder, target=place, read_only=self.simulated),)
        devices: tuple[str, ...] = ()
        if self.simulated:
            memory = (*memory, Tmpfs(target="/release", size=bundle.size + _SLACK))
            mounts = (*mounts, Mount(source=self._folder / QUOTING, target="/quoting"))
            command = (*command, "--quoting-socket", "/quoting/quoting.sock")
        else:
            mounts = (*mounts, Mount(source=AESM_FOLDER, target=str(AESM_FOLDER)))
            devices = (ENCLAVE_DEVICE,)
        return Container(
            name=f"{REPLICA}{index}-{bundle.folder.name.rpartition('-')[2]}-{number}",
            role=f"{REPLICA}{index}",
            image=self._image(images_for(self._deployment.platform)[-1]),
            command=command,
            networks=(Attachment(network=link.name, address=self.upstream(number)),),
            mounts=(*self._own_mounts(), *mounts),
            tmpfs=memory,
            devices=devices,
            groups=self._groups,
            user=self._user,
            health=listens(bundle.port),
            grace=DRAIN_SECONDS,
            seccomp=self._seccomp,
            after=(self.keeper, *([PLATFORM] if self.simulated else [])),
            facts={"release": bundle.folder.name, "manifest": bundle.manifest},
        )

    def _broker(self) -> Container:
        place, owner = f"{_PLACE}/{FOLDER}/owner", self._workspace.owner
        return Container(
            name=BROKER,
            role=BROKER,
            image=self._image(ImageName.BROKER),
            command=("broker", "run", "--directory", _PLACE, *_READY),
            networks=(Attachment(network=self.collateral.name, address=str(self.collateral.address(_BROKER_ADDRESS))),),
            # It sees the files that it needs, and no folder in which another key, a model or a release could lie.
            mounts=(
                *self._own_mounts(),
                *(Mount(source=path, target=f"{place}/{path.name}") for path in self._broker_files()),
                *(Mount(source=path, target=f"{place}/{path.name}") for path in (owner.broker_tls, owner.trust)),
                *(
                    Mount(source=path, target=f"{place}/{path.name}", read_only=False)
                    for path in (owner.database.parent, owner.audit_head.parent)
                ),
                *keystore_files.mounts(self._deployment.keystore),
            ),
            tmpfs=(*self._scratch(), Tmpfs(target=place, size=_SCRATCH)),
            user=self._user,
            health=exists(_READY[1]),
            after=(PCS,) if self.simulated else (),
            facts={
                "certificate": _digest(owner.broker_tls),
                "keys": keystore_files.versions(self._broker_files()),
                "keystore": keystore_files.version(self._deployment.keystore),
            },
        )

    def _broker_files(self) -> list[Path]:
        """Return the broker's keys. Where a service holds the master key, there is no file of it."""
        owner = self._workspace.owner
        return [path for path in (owner.master_key, owner.audit_signing_key) if path.is_file()]

    def _pcs(self) -> Container:
        vendor = f"{_PLACE}/{FOLDER}/vendor"
        return Container(
            name=PCS,
            role=PCS,
            image=self._image(ImageName.BROKER),
            command=("simulated", "pcs", "--directory", _PLACE, "--listen", _EVERYWHERE, *_READY),
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
        host = f"{_PLACE}/{FOLDER}/host"
        return Container(
            name=PLATFORM,
            role=PLATFORM,
            image=self._image(ImageName.BROKER),
            command=("simulated", "platform", "--directory", _PLACE, *_READY),
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

    def _relay(self, bundle: Bundle) -> Container:
        return Container(
            name=RELAY,
            role=RELAY,
            image=self._image(ImageName.FRONT),
            networks=(Attachment(network=self.collateral.name, address=str(self.collateral.address(_BROKER_ADDRESS))),),
            mounts=(Mount(source=self._folder / RELAY, target="/etc/sealserve"),),
            tmpfs=(Tmpfs(target="/run/sealserve", size=_SCRATCH),),
            user=self._user,
            health=listens(bundle.broker[1]),
            facts={"configuration": _digest(self._folder / RELAY)},
        )

    def _own_mounts(self) -> tuple[Mount, ...]:
        return (Mount(source=self._folder / DEPLOYMENT_FILE, target=f"{_PLACE}/{DEPLOYMENT_FILE}"),)

    def _scratch(self) -> tuple[Tmpfs, ...]:
        return (
            Tmpfs(target=_TEMPORARY, size=_SCRATCH),
            Tmpfs(target=f"{_PLACE}/{FOLDER}", size=_SCRATCH),
        )

    def _image(self, name: ImageName) -> str:
        return reference(self._deployment.images.prefix, name, self._deployment.images.tag)


def free_links(plan: Plan, used: set[int]) -> Iterator[int]:
    """Yield the numbers of links that no replica has."""
    return (number for number in plan.links if number not in used)


def first_links(plan: Plan, count: int) -> list[int]:
    """Return the numbers of the links of a new deployment's replicas."""
    return list(islice(plan.links, count))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.suffix != ".key":
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
