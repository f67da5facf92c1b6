"""What passes between the owner and the machine that runs a release: a `Destination` one way, a `Bundle` the other.

A target says at which `Destination` a release would run. The owner prepares the release for it and hands over a
`Bundle`. Neither value holds code of the other side, so that targets need no access to the owner's keys.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sealserve.deployment import Deployment
from sealserve.enclave.launch.broker_addresses import broker_addresses
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.measurement import connection_age_of, load_enclave, port_of, rest_port_of
from sealserve.sealing.release_index import INDEX_FILE, parse_index


class BrokerPlace(StrEnum):
    """Where the owner's broker runs, which decides what of the owner's the target needs."""

    PROCESS = "process"
    """It is a process in the owner's workspace, and reads the workspace itself."""
    CONTAINER = "container"
    """It is a container of this machine, which mounts the files that it reads."""
    CLUSTER = "cluster"
    """It is a pod, which gets a copy of what it reads: for trials only, since the cluster then has the keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclavePlace:
    """An enclave that a destination needs.

    Args:
        name: The enclave's name.
        port: Where its server listens. The port is measured.
        in_use: Whether it runs, so that an enclave of this name that exists must stay as it is.
    """

    name: str
    port: int
    in_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a release is to run.

    Args:
        deployment: The deployment as it is there: in containers, for example, the broker has a name of its own.
        enclaves: The enclaves that are needed there.
        in_image: Whether enclaves trust the files of the server's image. By default they trust this machine's.
        inventory: A file that lists what the image has; by default the image is measured here.
        on_this_machine: Whether the host's folder of this workspace is where the host reads the release.
        store: The folder that packed releases are put into for hosts to fetch, or None.
        broker: Where the owner's broker runs.
    """

    deployment: Deployment
    enclaves: tuple[EnclavePlace, ...]
    in_image: bool = False
    inventory: Path | None = None
    on_this_machine: bool = True
    store: Path | None = None
    broker: BrokerPlace = BrokerPlace.PROCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveFacts:
    """What a host may know of an enclave. Everything but the digest is measured.

    Args:
        name: The enclave's name.
        port: Where its server listens for gRPC.
        broker: Name and port of the broker that it connects to.
        memory: Its size in bytes.
        manifest: SHA-256 of its manifest, in hexadecimal.
        rest_port: Where its server listens for REST, or None if REST is off.
        connection_age: After how many seconds its server drains a connection, or None if that is not known.
    """

    name: str
    port: int
    broker: tuple[str, int]
    memory: int
    manifest: str
    rest_port: int | None = None
    connection_age: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnersBroker:
    """What a target needs to know of the owner's broker, which it starts.

    Args:
        needs_passphrase: Whether the file of the master key is encrypted under a passphrase.
        files: For a broker in the cluster, what it reads: path in the workspace and content. These are the owner's
            keys.
    """

    needs_passphrase: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A release that is ready to run at its destination.

    Args:
        folder: The release's folder.
        size: The bytes of its sealed files.
        enclaves: Its enclaves, ordered by name.
        broker: The owner's broker, or None if it runs on another machine and is not this machine's to start.
    """

    folder: Path
    size: int
    enclaves: tuple[EnclaveFacts, ...]
    broker: OwnersBroker | None = None

    @property
    def name(self) -> str:
        """The release's name: that of its folder."""
        return self.folder.name

    def enclave(self, name: str) -> EnclaveFacts | None:
        """Return the enclave of that name, or None."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)


def read_bundle(folder: Path, names: Iterable[str], *, broker: OwnersBroker | None = None) -> Bundle:
    """Return the bundle of a release's folder. The release is not verified: that is its enclaves' task.

    Args:
        folder: The release's folder.
        names: The names of the enclaves that the destination needs.
        broker: The owner's broker, if this machine starts it.

    Raises:
        SealserveError: The index, or an enclave, is damaged.
    """
    index = parse_index((folder / INDEX_FILE).read_bytes(), name=str(folder / INDEX_FILE))
    loaded = [load_enclave(folder, name) for name in sorted(names)]
    return Bundle(
        folder=folder,
        size=sum(file.size for file in index.files),
        enclaves=tuple(describe_enclave(item.name, item.manifest, item.manifest_bytes) for item in loaded),
        broker=broker,
    )


def describe_enclave(name: str, manifest: EnclaveManifest, content: bytes) -> EnclaveFacts:
    """Return what a host may know of an enclave.

    Args:
        name: The enclave's name.
        manifest: Its manifest.
        content: The manifest's exact bytes.
    """
    return EnclaveFacts(
        name=name,
        port=port_of(manifest),
        rest_port=rest_port_of(manifest),
        connection_age=connection_age_of(manifest),
        broker=broker_addresses(manifest.loader.env["SECRET_PROVISION_SERVERS"])[0],
        memory=manifest.enclave_size,
        manifest=hashlib.sha256(content).hexdigest(),
    )
