"""The networks and containers of the Docker target, as values. Compose files and commands are generated from them.

Every container has the same restrictions: no capabilities, no new privileges, a read-only root file system, a non-root
user, a bounded log and a bounded number of processes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from sealserve.terms import EVERY_ADDRESS

LOG_FILES: Final = 3
LOG_SIZE: Final = "10m"
MOST_PROCESSES: Final = 4096  # threads also count
REST_FACT: Final = "rest"
"""The fact with a replica's REST port. A replica without REST lacks it."""
AGE_FACT: Final = "connection-age"
"""The fact with the age in seconds at which a replica drains a connection."""
NO_HOST_ADDRESS: Final = "com.docker.network.bridge.inhibit_ipv4"
"""Docker assigns no address to the bridge, so the network cannot reach even the host (bridge network driver)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network of the deployment.

    Args:
        name: A short name, such as ``link-0``.
        subnet: Its eight addresses.
        internal: Whether containers in it can reach nothing outside it, including the host.
    """

    name: str
    subnet: IPv4Network
    internal: bool

    def address(self, number: int) -> IPv4Address:
        """Return one of its addresses. Number 1 is the gateway."""
        return self.subnet.network_address + number


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A container's membership in a network: its fixed address and its DNS names there."""

    network: str
    address: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or folder of this machine that is mounted into a container."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A writable folder in memory. Only the container's user can read it. ``size`` is in bytes."""

    target: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A port of this machine that Docker forwards to a port of a container."""

    address: str
    port: int
    target: int

    @property
    def host_address(self) -> str | None:
        """The address of this machine in Docker's form. None for every address of both IP families.

        Docker publishes ``[::]`` for IPv6 only. Without an address, it publishes for both families.
        """
        return None if self.address == EVERY_ADDRESS else self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container.

    Args:
        name: Its name in the deployment: its role, and for a replica also its release.
        role: ``broker``, ``nginx``, ``replica-0``, ...
        image: The image's name.
        command: Arguments for its entry point.
        networks: Its networks at the start. Published ports lead to the first one.
        mounts: Files of this machine.
        tmpfs: Writable folders in memory.
        published: Ports of this machine.
        devices: Devices of this machine.
        groups: Supplementary group IDs of its user.
        user: ``UID:GID``.
        health: A command that succeeds when the container is ready. It makes no connection.
        grace: Seconds between SIGTERM and SIGKILL when it is stopped.
        seccomp: A file with the allowed system calls. None for Docker's default profile.
        after: The roles of the containers that should be ready first.
        facts: Further values whose change requires a new container, such as digests of its configuration.
    """

    name: str
    role: str
    image: str
    command: tuple[str, ...] = ()
    networks: tuple[Attachment, ...]
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    published: tuple[Published, ...] = ()
    devices: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    user: str
    health: str
    grace: int = 15
    seccomp: Path | None = None
    after: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest that shows whether a running container matches its description. Networks are excluded: they change."""
        # The age comes from the manifest, whose digest is also a fact. So replicas without this fact still match.
        facts = {name: value for name, value in self.facts.items() if name != AGE_FACT}
        described = {**asdict(self), "networks": None, "facts": facts}
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def listens(port: int) -> str:
    """Return a command that succeeds if a program listens on ``port`` in the container's network namespace.

    Source: proc_pid_net(5): local address ``ADDRESS:PORT`` in hexadecimal; state 0A is LISTEN.
    """
    return f"grep -Eq ':{port:04X} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6"


def exists(path: str) -> str:
    """Return a command that succeeds if a file exists."""
    return f"test -f {path}"
