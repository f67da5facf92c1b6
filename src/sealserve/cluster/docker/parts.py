"""What the Docker target is made of: networks and containers, as values. Compose files and commands are made of them.

Every container is confined alike: no capability, no new privileges, a read-only root file system, a user that is not
root, a bounded log, a bounded number of processes.
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
MOST_PROCESSES: Final = 4096  # threads count as well
REST_FACT: Final = "rest"
"""The fact of a replica that names its REST port; a replica without REST does not have it."""
AGE_FACT: Final = "connection-age"
"""The fact of a replica that names after how many seconds it drains a connection."""
NO_HOST_ADDRESS: Final = "com.docker.network.bridge.inhibit_ipv4"
"""Docker gives the bridge no address: not even the host can be reached from the network (bridge network driver)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network of the deployment's own.

    Args:
        name: Short, such as ``link-0``.
        subnet: Its addresses: eight.
        internal: Whether nothing outside of it, the host included, can be reached from it.
    """

    name: str
    subnet: IPv4Network
    internal: bool

    def address(self, number: int) -> IPv4Address:
        """Return one of its addresses; 1 is the gateway's."""
        return self.subnet.network_address + number


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A container's place in a network: its fixed address, and the names that others find it by."""

    network: str
    address: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or folder of this machine in a container."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """Memory that a container may write files to: only its user can look in. ``size`` is in bytes."""

    target: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A port of this machine that leads to one of a container's."""

    address: str
    port: int
    target: int

    @property
    def host_address(self) -> str | None:
        """The address of this machine as Docker takes it; None for every address of both IP families.

        Docker publishes ``[::]`` for IPv6 alone. Without an address it publishes for both families.
        """
        return None if self.address == EVERY_ADDRESS else self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container.

    Args:
        name: Its name in the deployment: its role, and for a replica its release as well.
        role: ``broker``, ``nginx``, ``replica-0``, ...
        image: The image's name.
        command: The arguments of its entry point.
        networks: Where it is when it starts; the first one is where published ports lead to.
        mounts: Files of this machine.
        tmpfs: Memory for files.
        published: Ports of this machine.
        devices: Devices of this machine.
        groups: Further groups of its user, by number.
        user: ``UID:GID``.
        health: A command that succeeds when it is ready; it makes no connection.
        grace: Seconds between the request to end and the end.
        seccomp: A file with the system calls that it may make; None for Docker's own list.
        after: The roles of the containers that should be ready before.
        facts: What else makes it another container: digests of its configuration.
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
        """What tells whether a container that runs is still the described one. Its networks change as others come."""
        # The age is the manifest's, whose digest is a fact, too: replicas without this fact are not other ones.
        facts = {name: value for name, value in self.facts.items() if name != AGE_FACT}
        described = {**asdict(self), "networks": None, "facts": facts}
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def listens(port: int) -> str:
    """Return a command that succeeds if something listens on ``port`` in the container's own network namespace.

    Source: proc_pid_net(5): local address ``ADDRESS:PORT`` in hexadecimal; state 0A is LISTEN.
    """
    return f"grep -Eq ':{port:04X} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6"


def exists(path: str) -> str:
    """Return a command that succeeds if there is a file."""
    return f"test -f {path}"
